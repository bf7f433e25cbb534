//! The daemon's life: what it needs before it can work, then the loop.

mod events;

use std::collections::BTreeSet;
use std::io::Read as _;

use anyhow::{Context, Result, anyhow, bail};
use ipam::daemon_state::Phase;
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use ipam::subnet_env::Previous;
use ipam::{PerFamily, Subnet};
use overlay::{IfName, Mac, vxlan};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::events::{Health, Loop};
use crate::cli::{self, Options};
use crate::facts::{self, Uplink};
use crate::files::{Saved, StateDir, SubnetFile};
use crate::monitor::{self, Interest};
use crate::own_lease::{LEASE_TTL, Params};
use crate::reconcile::{Former, Reconciler, Setup};
use crate::report::Reporter;
use crate::rules::{self, Keeper};
use crate::store::StoreStatus;
use crate::store::etcd::{Config, Etcd};
use crate::worker::Worker;
use crate::world::Kernel;

/// Runs until something ends it that no waiting can mend.
///
/// # Errors
/// A flag, configuration or host that cannot work; never a store that does
/// not answer.
pub async fn run(options: &Options, reporter: &mut Reporter) -> Result<()> {
    let hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let mut disk = StateDir::new(&options.state_dir, &options.subnet_file)?;
    let mut saved = disk.load();
    let disk = Worker::spawn("disk", disk)?;
    let subnet_file = SubnetFile::new(&options.subnet_file);
    let (etcd, mut status) = Etcd::new(options.etcd.clone())?;

    reporter.say(
        Phase::WaitingForStore,
        &format!(
            "asking etcd at {} for the network configuration",
            options.etcd.endpoints.join(", ")
        ),
    );
    let config = wait_config(&etcd, &mut status, reporter).await;
    let conf = config.netconf;
    let vxlan = vxlan_of(&conf)?;

    let mut kernel = Kernel::open()?;
    let uplink = choose_uplink(&mut kernel, options, &conf)?;
    let macs = device_macs(&mut kernel, &conf, &vxlan, saved.macs)?;
    saved.set_config(config.text.reveal());
    for (family, mac) in macs.iter() {
        saved.macs.set(family, Some(*mac));
    }
    let remembered = saved.clone();
    disk.post(move |disk| disk.save(&remembered));

    let disturbances = monitor::spawn(Interest {
        devices: devices(&conf, vxlan.vni).collect(),
        uplink: uplink.name,
        networks: conf.networks.iter().map(|(_, n)| *n).collect(),
        ways: vxlan.direct_routing,
        own_port: kernel.port(),
    })?;
    let former = former(&saved, &conf, &vxlan);
    let previous = subnet_file.previous();
    let rules = Keeper::spawn(rules::Setup {
        wishes: options.rules,
        nftables: conf.nftables,
        networks: enabled_networks(&conf),
        former: former_networks(&former, &previous, &conf),
    })
    .context("starting a thread")?;
    let setup = Setup {
        former,
        conf: conf.clone(),
        vxlan,
        uplink,
        interface: options.interface.clone(),
        macs,
    };
    let reconciler = Reconciler::new(setup, Worker::spawn("kernel", kernel)?);

    reporter.say(Phase::AcquiringLease, "taking a subnet in etcd");
    let store = etcd.run(Params {
        ranges: config.ranges,
        attrs: reconciler.attrs()?,
        previous: previous.subnets,
        recorded: saved.lease.as_ref().map(|l| (l.key, l.lease_id)),
        margin: options.renew_margin,
        ttl: LEASE_TTL,
    });
    Loop {
        conf,
        reconciler,
        rules,
        ip_masq: options.rules.masquerade,
        store,
        status,
        disturbances,
        hangup,
        reporter,
        disk,
        saved,
        subnet_file,
        env: None,
        health: Health::default(),
    }
    .run()
    .await
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
                let status = status.borrow_and_update();
                let phase = match status.store {
                    Some(_) => Phase::WaitingForStore,
                    None => Phase::WaitingForConfig,
                };
                let reason = status.reason().unwrap_or_default();
                drop(status);
                reporter.say(phase, &reason);
            }
        }
    }
}

/// The backend's options, if this version has the backend.
fn vxlan_of(conf: &NetConf) -> Result<VxlanOptions> {
    cli::netconf(conf).map_err(|line| anyhow!(line))?;
    let Backend::Vxlan(options) = &conf.backend else {
        bail!("backend {} is not built", conf.backend.type_name());
    };
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
    tracing::info!("{uplink}");
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
