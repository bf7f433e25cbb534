//! The daemon's life: what it needs before it can work, then the loop.

mod events;

use std::collections::BTreeSet;
use std::io::Read as _;

use anyhow::{Context, Result, anyhow, bail};
use ipam::PerFamily;
use ipam::daemon_state::Phase;
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use overlay::{IfName, Mac, vxlan};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::events::{Health, Loop};
use crate::cli::{self, Options};
use crate::facts::{self, Uplink};
use crate::files::{Saved, StateDir, SubnetFile};
use crate::monitor::{self, Interest};
use crate::own_lease::{LEASE_TTL, Params};
use crate::reconcile::{Reconciler, Setup};
use crate::report::Reporter;
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
    saved.config = Some(config.text.reveal().clone());
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
        hangup,
        reporter,
        disk,
        saved,
        subnet_file,
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
