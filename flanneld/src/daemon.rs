//! The daemon's life: what it needs before it can work, then the loop.

mod events;
mod reconfigure;
mod remember;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipam::daemon_state::Phase;
use ipam::lease::Lease;
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use ipam::subnet_env::Previous;
use ipam::{PerFamily, Subnet};
use overlay::{IfName, Mac, vxlan};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{interval, sleep};

use self::events::{Health, Loop};
use self::remember::{PATIENCE, Remembered};
use crate::cli::Options;
use crate::facts::{self, InterfaceOptions, Uplink};
use crate::files::{self, Saved, StateDir, SubnetFile};
use crate::metrics::Metrics;
use crate::monitor::{Interest, Underlay};
use crate::notify::Watchdog;
use crate::own_lease::{LEASE_TTL, Params};
use crate::reconcile::{Former, Reconciler, STUCK, Setup, stuck};
use crate::report::Reporter;
use crate::rules::{self, Keeper};
use crate::store::StoreStatus;
use crate::store::etcd::{Config, Etcd};
use crate::worker::{Newest, Worker};
use crate::world::{Kernel, KernelError};

/// Runs until something ends it that no waiting can mend.
///
/// # Errors
/// A flag, configuration or host that cannot work; never a store that does
/// not answer.
pub async fn run(
    options: &Options,
    metrics: Metrics,
    hangup: Signal,
    reporter: &mut Reporter,
) -> Result<()> {
    let mut before = Before { lost: None, reporter };
    let mut disk = StateDir::new(&options.state_dir, &options.subnet_file)?;
    let load = move || {
        let (saved, peers) = (disk.load(), disk.peers());
        (disk, saved, peers)
    };
    let (disk, mut saved, peers) =
        read("the disk of --state-dir", load, &mut before).await?;
    let disk = Worker::spawn("disk", disk)?;
    let store = options.etcd.clone();
    let open = move || Etcd::new(store);
    let (mut etcd, mut status) =
        read("the disk of the files for TLS", open, &mut before).await??;
    metrics.show_store(status.clone());

    let lost = remember::lapse(&saved);
    before.lost = lost.as_deref();
    before.say(
        Phase::WaitingForStore,
        &format!(
            "asking etcd at {} for the network configuration",
            options.etcd.endpoints.join(", ")
        ),
    );
    let known = || Remembered::of(&saved, &peers);
    let (config, known) =
        match wait_config(&etcd, &mut status, &mut before, known).await {
            Start::Told(config) => (config, None),
            Start::Remembered(known) => (known.config.clone(), Some(known)),
        };
    let conf = config.netconf.clone();
    let vxlan = vxlan_of(&conf)?;

    // etcd looks up the leases while the host is looked at.
    etcd.follow();
    let open = async || Ok(spawn_blocking(Kernel::open).await??);
    let kernel =
        wait_for("waiting for the kernel: ", open, false, &mut before).await?;
    let own_port = kernel.port();
    let kernel = Worker::spawn_followed("kernel", kernel)?;
    let choose = async || {
        let (interface, conf) = (options.interface.clone(), conf.clone());
        let job =
            move |kernel: &mut _| choose_uplink(kernel, &interface, &conf);
        kernel.run(job).await?
    };
    let again = saved.lease.is_some();
    let uplink =
        wait_for("waiting for the interface: ", choose, again, &mut before)
            .await?;
    let (known_macs, families) = (saved.macs, conf.enabled);
    let ask = async || {
        let job = move |kernel: &mut _| {
            device_macs(kernel, families, &vxlan, known_macs)
        };
        kernel.run(job).await?
    };
    let macs =
        wait_for("waiting for the kernel: ", ask, false, &mut before).await?;
    saved.set_config(config.text.reveal());
    for (family, mac) in macs.iter() {
        saved.macs.set(family, Some(*mac));
    }
    let remembered = saved.clone();
    disk.post(move |disk| disk.save(&remembered));

    let ways = Arc::new(AtomicBool::new(vxlan.direct_routing));
    let underlay = Underlay::new(uplink.index, uplink.name);
    let interest = Interest {
        devices: devices(&conf, vxlan.vni).collect(),
        underlay: underlay.clone(),
        networks: conf.networks.iter().map(|(_, n)| *n).collect(),
        ways: Arc::clone(&ways),
        own_port,
        overruns: Arc::clone(metrics.overruns()),
    };
    let former = former(&saved, &conf, &vxlan);
    let file = SubnetFile::new(&options.subnet_file);
    let look = move || file.previous();
    let previous = read("the disk of --subnet-file", look, &mut before).await?;
    let setup = rules::Setup {
        wishes: options.rules,
        nftables: conf.nftables,
        networks: enabled_networks(&conf),
        former: former_networks(&former, &previous, &conf),
    };
    let rules =
        Keeper::spawn(setup, metrics.clone()).context("starting a thread")?;
    let setup = Setup {
        former,
        conf: conf.clone(),
        vxlan,
        uplink,
        ways,
        underlay,
        recent: before.reporter.recent().clone(),
        interface: options.interface.clone(),
        macs,
        blackhole: options.blackhole,
    };
    let mut reconciler = Reconciler::new(setup, kernel);

    let attrs = reconciler.attrs()?;
    let params = Params {
        ranges: config.ranges,
        attrs: attrs.clone(),
        previous: previous.subnets,
        recorded: saved.lease.as_ref().map(|l| (l.key, l.lease_id)),
        margin: options.renew_margin,
        ttl: LEASE_TTL,
    };
    let mut health = Health::default();
    match known {
        Some(Remembered { key, ends, peers, .. }) => {
            health.remembered(key, ends);
            rules.lease(key);
            reconciler.remember(Lease { key, attrs }, peers, Instant::now());
        }
        None => before.say(Phase::AcquiringLease, "taking a subnet in etcd"),
    }
    health.was_lost(lost);
    let store = etcd.run(params, config.text.clone());
    Loop {
        config,
        reconciler,
        rules,
        ip_masq: options.rules.masquerade,
        store,
        status,
        deaf: Some(interest),
        disturbances: mpsc::channel(1).1,
        hangup,
        subnet_news: files::watch(&options.subnet_file)
            .context("a thread for the subnet file")?,
        repairs: metrics.repairs().clone(),
        metrics,
        watchdog: Watchdog::new(),
        reporter,
        disk,
        saves: Newest::default(),
        peer_saves: Newest::default(),
        saved,
        env: None,
        peers_due: None,
        written: None,
        health,
    }
    .run()
    .await
}

// === before the loop ===

/// What a start goes by.
enum Start {
    /// The configuration in the store.
    Told(Config),
    /// The store does not answer: what the last run knew.
    Remembered(Remembered),
}

/// Tells what is waited for, and never hides that the lease is lost: the CNI
/// plugin must not take addresses of its subnet.
struct Before<'a> {
    lost: Option<&'a str>,
    reporter: &'a mut Reporter,
}

impl Before<'_> {
    fn say(&mut self, phase: Phase, reason: &str) {
        match self.lost {
            Some(lost) => {
                let reason = format!("{lost}; {reason}");
                self.reporter.say(Phase::LeaseLost, &reason);
            }
            None => self.reporter.say(phase, reason),
        }
    }
}

/// Waits for a network configuration and says meanwhile what is missing. A
/// store that does not answer is waited for only as long as nothing `known`
/// would do.
async fn wait_config(
    etcd: &Etcd,
    status: &mut watch::Receiver<StoreStatus>,
    before: &mut Before<'_>,
    known: impl Fn() -> Option<Remembered>,
) -> Start {
    let mut config = std::pin::pin!(etcd.config());
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    let mut patient = true;
    let mut watchdog = Watchdog::new();
    loop {
        // A store that answers knows better.
        let answers = status.borrow().config.is_some();
        if !patient
            && !answers
            && let Some(known) = known()
        {
            return Start::Remembered(known);
        }
        tokio::select! {
            () = watchdog.feed() => {}
            config = &mut config => return Start::Told(config),
            () = &mut patience, if patient => patient = false,
            Ok(()) = status.changed() => {
                let status = status.borrow_and_update();
                let phase = match status.store {
                    Some(_) => Phase::WaitingForStore,
                    None => Phase::WaitingForConfig,
                };
                let reason = status.reason().unwrap_or_default();
                drop(status);
                before.say(phase, &reason);
            }
        }
    }
}

/// The backend's options; no other backend is taken for usable.
fn vxlan_of(conf: &NetConf) -> Result<VxlanOptions> {
    let Backend::Vxlan(options) = &conf.backend else {
        bail!("backend {} is not built", conf.backend.type_name());
    };
    Ok(*options)
}

/// For an interface that is not there, or not whole, at a start.
const RETRY: Duration = Duration::from_secs(1);

/// What `ask` gives: the interface that carries the tunnels, or what the
/// kernel knows. What passes by itself, as a lack of memory, is waited for,
/// and said in the words of `waiting`. An interface that did its work in an
/// earlier run may be away now, as it may be while the daemon runs: so
/// anything is waited for when the daemon was there before (`again`). Else the
/// flags are wrong.
async fn wait_for<T>(
    waiting: &str,
    mut ask: impl AsyncFnMut() -> Result<T>,
    again: bool,
    before: &mut Before<'_>,
) -> Result<T> {
    let mut watchdog = Watchdog::new();
    let mut next = interval(RETRY);
    let mut said = String::new();
    loop {
        tokio::select! {
            () = watchdog.feed() => continue,
            _ = next.tick() => {}
        }
        match patiently(ask(), stuck, before).await {
            Err(error) if again || is_transient(&error) => {
                let reason = format!("{waiting}{error:#}");
                if reason != said {
                    tracing::warn!("{reason}");
                    before.say(Phase::Starting, &reason);
                    said = reason;
                }
            }
            result => return result,
        }
    }
}

/// What `work` with files on `disk` gives. Nothing runs yet that it could hold
/// up, but a start that waits for a disk has to say so, and to end when it is
/// told to.
async fn read<T: Send + 'static>(
    disk: &str,
    work: impl FnOnce() -> T + Send + 'static,
    before: &mut Before<'_>,
) -> Result<T> {
    let slow = || {
        format!("{disk} has not answered for {} s: it hangs", STUCK.as_secs())
    };
    Ok(patiently(spawn_blocking(work), slow, before).await?)
}

/// Waits for `asked` however long that takes, and says `slow` after a while.
async fn patiently<T>(
    asked: impl Future<Output = T>,
    slow: impl Fn() -> String,
    before: &mut Before<'_>,
) -> T {
    let mut asked = pin!(asked);
    let mut patience = pin!(sleep(STUCK));
    let mut patient = true;
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
            answer = &mut asked => return answer,
            () = watchdog.feed() => {}
            () = &mut patience, if patient => {
                patient = false;
                let reason = slow();
                tracing::warn!("{reason}");
                before.say(Phase::Starting, &reason);
            }
        }
    }
}

/// Whether the kernel may well do it when it is asked again.
fn is_transient(error: &anyhow::Error) -> bool {
    let kernel = match error.downcast_ref() {
        Some(KernelError::Netlink(error)) => Some(error),
        _ => error.downcast_ref::<netlink::Error>(),
    };
    kernel.is_some_and(netlink::Error::is_transient)
}

fn choose_uplink(
    kernel: &mut Kernel,
    options: &InterfaceOptions,
    conf: &NetConf,
) -> Result<Uplink> {
    let view = facts::read(kernel.socket())?;
    let socket = kernel.socket();
    let lookup = |to| facts::path_to(socket, to);
    let uplink = facts::select(&view, options, conf.enabled, lookup)?;
    tracing::info!("{uplink}");
    Ok(uplink)
}

/// The Ethernet address of each enabled family's device: that of the device
/// there is, so that peers keep reaching it, else the one remembered, else a
/// random one (B-22).
fn device_macs(
    kernel: &mut Kernel,
    enabled: PerFamily<()>,
    options: &VxlanOptions,
    remembered: PerFamily<Mac>,
) -> Result<PerFamily<Mac>> {
    let mut macs = PerFamily::default();
    for family in enabled.families() {
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

/// One that nobody else has, by chance (B-22).
fn random_mac() -> Result<Mac> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom for an Ethernet address")?;
    Ok(Mac::local(bytes))
}

/// What earlier configurations had and this one has not.
fn former(saved: &Saved, conf: &NetConf, options: &VxlanOptions) -> Former {
    let mut former = Former::default();
    for text in &saved.former {
        let Ok((was, _)) = NetConf::parse(text) else { continue };
        former.networks.extend(was.networks.iter().map(|(_, n)| *n));
        if let Backend::Vxlan(then) = &was.backend {
            former.devices.extend(devices(&was, then.vni));
        }
    }
    for device in devices(conf, options.vni) {
        former.devices.remove(&device);
    }
    former
}

fn enabled_networks(conf: &NetConf) -> PerFamily<Subnet> {
    PerFamily::from_fn(|family| {
        conf.networks.get(family).copied().filter(|_| conf.is_enabled(family))
    })
}

/// Networks and subnets for which there may be traffic rules although this
/// configuration does not want any: those of earlier runs, by what they left
/// on disk (T-40), and those of families that are not enabled, for which
/// upstream makes rules all the same (W-26).
fn former_networks(
    former: &Former,
    previous: &Previous,
    conf: &NetConf,
) -> BTreeSet<Subnet> {
    let all = [previous.networks, previous.subnets, conf.networks];
    let nets = all.iter().flat_map(|nets| nets.iter().map(|(_, net)| *net));
    let own = enabled_networks(conf);
    nets.chain(former.networks.iter().copied())
        .filter(|net| own.get(net.family()) != Some(net))
        .collect()
}

fn devices(conf: &NetConf, vni: u32) -> impl Iterator<Item = IfName> {
    let families: Vec<_> = conf.enabled.families().collect();
    families
        .into_iter()
        .filter_map(move |family| vxlan::device_name(family, vni).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Files, InstanceLock};
    use crate::health::Readiness;
    use crate::recent::Recent;

    /// What is asked at a start, with those answers one after the other.
    async fn asked(answers: Vec<Result<u32>>) -> Result<u32> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        let lock = InstanceLock::take(&path, false).unwrap();
        let files = Files::spawn(&path, lock).unwrap();
        let readiness = Readiness::not_ready("");
        let mut reporter = Reporter::new(files, readiness, Recent::default());
        let mut before = Before { lost: None, reporter: &mut reporter };
        let mut answers = answers.into_iter();
        let ask = async || answers.next().unwrap();
        wait_for("waiting for the kernel: ", ask, false, &mut before).await
    }

    fn refused(errno: i32) -> netlink::Error {
        netlink::Error::Socket {
            object: "links".to_owned(),
            operation: "recv",
            source: std::io::Error::from_raw_os_error(errno),
        }
    }

    #[tokio::test]
    async fn a_kernel_that_is_short_of_memory_does_not_end_a_start() {
        const ENOBUFS: i32 = 105;
        let wrapped = KernelError::from(refused(ENOBUFS));
        let answers =
            vec![Err(refused(ENOBUFS).into()), Err(wrapped.into()), Ok(7)];
        assert_eq!(asked(answers).await.unwrap(), 7);
        const EPERM: i32 = 1;
        assert!(asked(vec![Err(refused(EPERM).into())]).await.is_err());
    }
}
