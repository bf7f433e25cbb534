//! The daemon is restarted under running traffic: not one datagram is lost,
//! and the kernel is left as it is.

use std::time::Duration;

use anyhow::Result;
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::kernel;
use integration::pod::Pod;
use integration::probe::{At, Probe};
use integration::underlay::Wiring;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn restarts_lose_nothing(conf: &Value) -> Result<()> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, conf)?;
    cluster.start(&["--iface=eth0"])?;
    let (from, to) = (
        Pod::add(&cluster.node(0).host, "a")?,
        Pod::add(&cluster.node(1).host, "b")?,
    );
    let (env, before) =
        (cluster.node(0).subnets()?, kernel::overlay(&cluster.node(0).host)?);
    let leases = cluster.leases()?.len();

    let ends = (
        At { node: &cluster.node(0).host, pod: &from },
        At { node: &cluster.node(1).host, pod: &to },
    );
    let mut probes = Vec::new();
    for address in Stack::Dual.addresses(&to)? {
        probes.push(Probe::start(ends.0, ends.1, &address)?);
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for n in [0, 1] {
            let node = cluster.node_mut(n);
            let Some(daemon) = node.daemon.as_mut() else { continue };
            daemon.restart(&node.host, signal)?;
            node.wait_ready()?;
        }
    }
    cluster.assert_settled()?;
    // A little longer than the resolution of what is asserted.
    std::thread::sleep(Duration::from_millis(300));
    for probe in probes {
        probe.assert_whole(301)?;
    }
    assert_eq!(cluster.node(0).subnets()?, env);
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);
    assert_eq!(cluster.leases()?.len(), leases, "no second lease was taken");
    Ok(())
}

#[test]
fn a_restart_loses_nothing_in_the_tunnel() -> Result<()> {
    restarts_lose_nothing(&Stack::Dual.net_conf())
}

#[test]
fn a_restart_loses_nothing_on_direct_routes() -> Result<()> {
    let mut conf = Stack::Dual.net_conf();
    conf["Backend"]["DirectRouting"] = json!(true);
    restarts_lose_nothing(&conf)
}
