//! The daemon's life: what it needs before it can work, then the loop.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use ipam::PerFamily;
use ipam::daemon_state::Phase;
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use ipam::subnet_env::{Networks, SubnetEnv};
use overlay::{IfName, Mac, vxlan};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::cli::{self, Options};
use crate::clock;
use crate::facts::{self, Uplink};
use crate::files::{Saved, SavedLease, StateDir, SubnetFile};
use crate::monitor::{self, Disturbance, Interest};
use crate::own_lease::{LEASE_TTL, Params};
use crate::reconcile::{Passed, Reconciler, Setup};
use crate::report::Reporter;
use crate::store::etcd::{Config, Etcd, Store};
use crate::store::{Held, StoreEvent, StoreStatus};
use crate::worker::Worker;
use crate::world::Kernel;

/// Everything is compared this often although nothing said that it changed.
const SLOW_CHECK: Duration = Duration::from_secs(60);

/// Runs until something ends it that no waiting can mend.
///
/// # Errors
/// A flag, configuration or host that cannot work; never a store that does
/// not answer.
pub async fn run(options: &Options, reporter: &mut Reporter) -> Result<()> {
    let mut disk = StateDir::new(&options.state_dir, &options.subnet_file)?;
    let mut saved = disk.load();
    let subnet_file = SubnetFile::new(&options.subnet_file);
    let (etcd, mut status) = Etcd::new(options.etcd.clone())?;

    let config = wait_config(&etcd, &mut status, reporter).await;
    let options_of_backend = vxlan_of(&config.netconf)?;

    let mut kernel = Kernel::open()?;
    let uplink = choose_uplink(&mut kernel, options, &config.netconf)?;
    let macs = device_macs(
        &mut kernel,
        &config.netconf,
        &options_of_backend,
        saved.macs,
    )?;
    let former = former_devices(&saved, &config.netconf, &options_of_backend);
    saved.macs = macs;
    saved.config = Some(config.text.clone());
    disk.save(&saved);

    let params = Params {
        ranges: config.ranges,
        attrs: vxlan::lease_attrs(
            &uplink.public,
            &macs,
            options_of_backend.vni,
        )?,
        previous: subnet_file.previous().subnets,
        recorded: saved.lease.as_ref().map(|l| (l.key, l.lease_id)),
        margin: options.renew_margin,
        ttl: LEASE_TTL,
    };
    reporter.say(Phase::AcquiringLease, "taking a subnet in etcd");
    let store = etcd.run(params);

    let interest = Interest::new(
        interesting(&uplink, &config.netconf, &options_of_backend)?,
        options_of_backend.direct_routing,
        kernel.port(),
    );
    let disturbances = monitor::spawn(interest.clone())?;
    let setup = Setup {
        conf: config.netconf.clone(),
        vxlan: options_of_backend,
        uplink: uplink.name,
        public: uplink.public,
        macs,
        former,
    };
    let reconciler =
        Reconciler::new(setup, Worker::spawn("kernel", kernel)?, interest);
    Loop {
        conf: config.netconf,
        reconciler,
        store,
        status,
        disturbances,
        reporter,
        disk,
        saved,
        subnet_file,
        wrong: Wrong::default(),
    }
    .run()
    .await
}

/// The loop's state besides the reconciler's.
struct Loop<'a> {
    conf: NetConf,
    reconciler: Reconciler,
    store: Store,
    status: watch::Receiver<StoreStatus>,
    disturbances: mpsc::Receiver<Disturbance>,
    reporter: &'a mut Reporter,
    disk: StateDir,
    saved: Saved,
    subnet_file: SubnetFile,
    wrong: Wrong,
}

/// What is wrong at the moment, part by part.
#[derive(Default)]
struct Wrong {
    /// There was no complete pass yet.
    pass: Option<String>,
    passed_once: bool,
    /// The own lease is lost.
    lease: Option<String>,
}

// === impl Loop ===

impl Loop<'_> {
    async fn run(mut self) -> Result<()> {
        let mut slow = interval(SLOW_CHECK);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        slow.reset();
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
        let mut asked = false;
        loop {
            let due = self.reconciler.due();
            let alarm = sleep_until(due.unwrap_or_else(Instant::now).into());
            tokio::select! {
                // What was heard goes into the pass that is due.
                biased;
                event = self.store.events.recv() => {
                    self.heard(event.ok_or_else(|| anyhow!("the store ended"))?);
                }
                Some(news) = self.disturbances.recv() => {
                    tracing::debug!("{}", news.0);
                    self.reconciler.mark_everything(Instant::now());
                }
                Ok(()) = self.status.changed() => self.report(),
                Some(()) = hangup.recv() => {
                    asked = true;
                    self.reconciler.mark_everything(Instant::now());
                }
                _ = slow.tick() => self.reconciler.mark_everything(Instant::now()),
                () = alarm, if due.is_some() => {
                    let result = self.reconciler.pass().await;
                    self.passed(result, std::mem::take(&mut asked));
                }
            }
        }
    }

    fn heard(&mut self, event: StoreEvent) {
        match &event {
            StoreEvent::Held(held) => {
                tracing::info!("this node's lease is {}", held.lease.key);
                self.wrong.lease = None;
                self.saved.lease = Some(saved_lease(held));
                self.disk.save(&self.saved);
            }
            StoreEvent::Lost { key, why } => {
                let text = format!("lease {key} is lost: {why}");
                tracing::warn!(
                    "{text}; acquiring another, the kernel stays as it is"
                );
                self.wrong.lease = Some(text);
            }
            StoreEvent::Synced { leases, revision } => {
                tracing::info!(
                    "{} other leases at revision {revision}",
                    leases.len()
                );
            }
            StoreEvent::Upsert(lease) => tracing::info!("peer {}", lease.key),
            StoreEvent::Remove(key) => tracing::info!("peer {key} is gone"),
        }
        self.reconciler.heard(event, Instant::now());
        self.report();
    }

    fn passed(&mut self, result: Result<Passed>, asked: bool) {
        let before = self.wrong.pass.take();
        let failure = match &result {
            Ok(passed) => self.count(passed, asked),
            Err(error) => Some(format!("{error:#}")),
        };
        if failure.is_some() && failure != before {
            tracing::warn!(
                "a pass failed, another follows: {}",
                failure.as_deref().unwrap_or_default()
            );
        } else if failure.is_none() && before.is_some() {
            tracing::info!("passes succeed again");
        }
        self.wrong.pass = failure;
        self.report();
    }

    /// Logs what a pass did and, when it was complete, writes the subnet
    /// file. Gives what went wrong.
    fn count(&mut self, passed: &Passed, asked: bool) -> Option<String> {
        let Passed { changed, failed, peers, .. } = passed;
        if asked {
            let failed = failed.len();
            tracing::info!(
                "pass on request: changes={changed} failed={failed} peers={peers}"
            );
        } else if *changed > 0 {
            tracing::info!("pass: changes={changed} peers={peers}");
        }
        if let [first, rest @ ..] = failed.as_slice() {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" (and {} more)", rest.len())
            };
            return Some(format!("{first}{more}"));
        }
        let env = SubnetEnv {
            families: PerFamily::from_fn(|family| {
                Some(Networks {
                    network: *self.conf.networks.get(family)?,
                    subnet: passed.lease.key.get(family)?,
                })
            }),
            mtu: passed.mtu,
            // Nobody masquerades in this version; saying so lets the CNI
            // plugin's bridge do it.
            ip_masq: false,
        };
        match self.subnet_file.write(&env) {
            Ok(changed) => {
                if changed {
                    tracing::info!("wrote the subnet file");
                }
                self.wrong.passed_once = true;
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// Tells how far the daemon is.
    fn report(&mut self) {
        let store = self.status.borrow_and_update().reason();
        let Wrong { pass, passed_once, lease } = &self.wrong;
        let why = lease.as_ref().or(pass.as_ref()).or(store.as_ref());
        let text = why.map_or("", String::as_str);
        let phase = if lease.is_some() {
            Phase::LeaseLost
        } else if *passed_once {
            // A store that does not answer leaves the data plane working.
            if pass.is_some() { Phase::Degraded } else { Phase::Ready }
        } else if self.reconciler.has_lease() {
            Phase::Programming
        } else {
            Phase::AcquiringLease
        };
        let text = if text.is_empty() && phase == Phase::AcquiringLease {
            "taking a subnet in etcd"
        } else {
            text
        };
        let text = if text.is_empty() && phase == Phase::Programming {
            "waiting for the other nodes' leases and the first pass"
        } else {
            text
        };
        self.reporter.say(phase, text);
    }
}

// === before the loop ===

/// Waits for a network configuration and says meanwhile what is missing.
async fn wait_config(
    etcd: &Etcd,
    status: &mut watch::Receiver<StoreStatus>,
    reporter: &mut Reporter,
) -> Config {
    let mut config = std::pin::pin!(etcd.config());
    loop {
        tokio::select! {
            config = &mut config => return config,
            Ok(()) = status.changed() => {
                let reason = status.borrow_and_update().reason();
                reporter.say(Phase::WaitingForConfig, reason.as_deref().unwrap_or_default());
            }
        }
    }
}

/// The backend's options, if this version has the backend.
fn vxlan_of(conf: &NetConf) -> Result<VxlanOptions> {
    let notes = cli::netconf(conf).map_err(|line| anyhow!(line))?;
    let Backend::Vxlan(options) = &conf.backend else {
        bail!("backend {} is not built", conf.backend.type_name());
    };
    for note in notes {
        note.log();
    }
    Ok(*options)
}

fn choose_uplink(
    kernel: &mut Kernel,
    options: &Options,
    conf: &NetConf,
) -> Result<Uplink> {
    let view = facts::read(kernel.socket())?;
    let socket = kernel.socket();
    let lookup = |to| facts::path_to(socket, to);
    let uplink =
        facts::select(&view, &options.interface, conf.enabled, lookup)?;
    let join = |ips: &PerFamily<std::net::IpAddr>| {
        ips.iter().map(|(_, ip)| ip.to_string()).collect::<Vec<_>>().join(", ")
    };
    tracing::info!(
        "interface {} (MTU {}), own address {}, published {}",
        uplink.name,
        uplink.mtu,
        join(&uplink.addrs),
        join(&uplink.public)
    );
    Ok(uplink)
}

/// The Ethernet address of each enabled family's device: that of the device
/// there is, so that peers keep reaching it, else the one remembered, else a
/// random one (B-22).
fn device_macs(
    kernel: &mut Kernel,
    conf: &NetConf,
    options: &VxlanOptions,
    remembered: PerFamily<Mac>,
) -> Result<PerFamily<Mac>> {
    let mut macs = PerFamily::default();
    for family in conf.enabled.families() {
        let name = vxlan::device_name(family, options.vni)?;
        let mac = match (kernel.vxlan_mac(name)?, remembered.get(family)) {
            (Some(mac), _) => mac,
            (None, Some(mac)) => *mac,
            (None, None) => random_mac()?,
        };
        macs.set(family, Some(mac));
    }
    Ok(macs)
}

/// Locally administered, unicast.
fn random_mac() -> Result<Mac> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom for an Ethernet address")?;
    let [first, ..] = &mut bytes;
    *first = (*first & !1) | 2;
    Ok(Mac(bytes))
}

/// Devices that the configuration of the last run had and this one has not.
fn former_devices(
    saved: &Saved,
    conf: &NetConf,
    options: &VxlanOptions,
) -> BTreeSet<IfName> {
    let Some((was, _)) =
        saved.config.as_ref().and_then(|text| NetConf::parse(text).ok())
    else {
        return BTreeSet::new();
    };
    let Backend::Vxlan(then) = &was.backend else { return BTreeSet::new() };
    let is: BTreeSet<_> = devices(conf, options.vni).collect();
    devices(&was, then.vni).filter(|name| !is.contains(name)).collect()
}

fn devices(conf: &NetConf, vni: u32) -> impl Iterator<Item = IfName> {
    let families: Vec<_> = conf.enabled.families().collect();
    families
        .into_iter()
        .filter_map(move |family| vxlan::device_name(family, vni).ok())
}

/// The devices whose changes concern this daemon.
fn interesting(
    uplink: &Uplink,
    conf: &NetConf,
    options: &VxlanOptions,
) -> Result<Vec<IfName>> {
    let mut names = vec![uplink.name];
    for family in conf.enabled.families() {
        names.push(vxlan::device_name(family, options.vni)?);
    }
    Ok(names)
}

/// What a restart needs to know of the lease. Its end is remembered by wall
/// clock: no other clock outlives the machine.
fn saved_lease(held: &Held) -> SavedLease {
    let expires = held.expires.map(|at| {
        let left = at.saturating_sub(clock::since_boot());
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now + left).as_secs()
    });
    SavedLease {
        key: held.lease.key,
        lease_id: held.lease_id,
        mod_revision: held.mod_revision,
        expires,
    }
}
