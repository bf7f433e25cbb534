//! Upstream's daemon and ours take a node over from each other. Upstream is
//! played by its own netlink requests, sent literally.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Node};
use integration::demo::Stack;
use integration::pod::Pod;
use integration::probe::{At, Probe};
use integration::underlay::Wiring;
use integration::upstream::{Device, Peer};
use netlink::Socket;
use nix::sys::signal::Signal;

const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

/// A number from one line of `ip -o link show`.
fn link(node: &Node, name: &str) -> Result<(u32, [u8; 6])> {
    let text = node.host.ip(&format!("-o link show {name}"))?;
    let index = text.split(':').next().context("index")?.parse()?;
    let mac =
        text.split("link/ether ").nth(1).and_then(|t| t.split(' ').next());
    let mac = mac.context("no Ethernet address")?;
    let bytes: Vec<u8> = mac
        .split(':')
        .map(|b| u8::from_str_radix(b, 16))
        .collect::<Result<_, _>>()?;
    Ok((index, bytes.as_slice().try_into()?))
}

/// What upstream knows of `node` as a peer, in the family with that index.
fn as_peer(node: &Node, family: usize) -> Result<Peer> {
    Ok(Peer {
        subnet: node.subnets()?[family].parse()?,
        public: [&node.uplink.v4, &node.uplink.v6][family].parse()?,
        mac: link(node, DEVICES[family])?.1,
    })
}

/// What upstream on `node` does at start and for `peer`, per family.
fn upstream(node: &Node, peer: &Node, create: bool) -> Result<()> {
    for (family, device) in DEVICES.into_iter().enumerate() {
        let own = node.subnets()?[family].parse::<ipam::Subnet>()?;
        let (parent, _) = link(node, "eth0")?;
        let local = [&node.uplink.v4, &node.uplink.v6][family].parse()?;
        let (_, mac) = if create {
            (0, [2, 0, 0, 0, 9, family as u8])
        } else {
            link(node, device)?
        };
        let device_spec =
            Device { name: device, vni: 1, parent, local, mac, mtu: 1450 };
        let peer_spec = as_peer(peer, family)?;
        let index = if create {
            node.host.run(move || device_spec.create(&mut Socket::open()?))?;
            link(node, device)?.0
        } else {
            // B-23: it exists, all compared attributes are equal: reused.
            let error =
                node.host.run(move || device_spec.create(&mut Socket::open()?));
            ensure!(error.is_err(), "upstream's create must meet the device");
            link(node, device)?.0
        };
        node.host.run(move || -> Result<()> {
            let mut socket = Socket::open()?;
            if create {
                device_spec.configure(&mut socket, index, own)?;
            }
            peer_spec.add(&mut socket, index)
        })?;
    }
    Ok(())
}

/// Lines of `ip monitor` about the overlay while `job` runs.
fn changes_during(
    node: &Node,
    job: impl FnOnce() -> Result<()>,
) -> Result<Vec<String>> {
    node.host.cmd(&["sh", "-c", "setpriv --pdeathsig KILL ip monitor link address route nexthop > /run/monitor.log 2>&1 & echo $! > /run/monitor.pid; sleep 0.3"])?;
    job()?;
    std::thread::sleep(Duration::from_millis(200));
    let pid = node.host.read("/run/monitor.pid")?;
    node.host.cmd(&["kill", pid.trim()])?;
    let text = node.host.read("/run/monitor.log")?;
    Ok(text
        .lines()
        .filter(|l| l.contains("flannel"))
        .map(str::to_owned)
        .collect())
}

/// What upstream left is adopted without a flap: the device stays, its MAC
/// is the one that is published again, and running traffic loses nothing.
#[test]
fn a_node_that_upstream_set_up_is_adopted() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let (a, b) = (
        Pod::add(&cluster.node(0).host, "a")?,
        Pod::add(&cluster.node(1).host, "b")?,
    );
    // Take node 1 back to what upstream leaves on a node.
    if let Some(daemon) = cluster.node_mut(0).daemon.as_mut() {
        daemon.stop(Signal::SIGTERM)?;
    }
    for device in DEVICES {
        cluster.node(0).host.ip(&format!("link del {device}"))?;
    }
    cluster.node(0).host.cmd(&["rm", "-rf", "/var/lib/flannel"])?;
    upstream(cluster.node(0), cluster.node(1), true)?;
    let before: Vec<_> = DEVICES
        .iter()
        .map(|d| link(cluster.node(0), d))
        .collect::<Result<_>>()?;
    // Node 2 must learn node 1's new Ethernet addresses: that is what the
    // restarted daemon publishes.
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.start_again(&node.host)?;
    node.wait_ready()?;
    cluster.wait_joined()?;
    for (device, before) in DEVICES.iter().zip(&before) {
        assert_eq!(
            &link(cluster.node(0), device)?,
            before,
            "{device} was made anew"
        );
    }
    for to in Stack::Dual.addresses(&b)? {
        a.ping(&cluster.node(0).host, &to)?;
    }
    cluster.assert_settled()
}

/// Upstream starts on a node of ours: it reuses the device, overwrites the
/// peer's objects with its own, and removes them when the peer goes. Then ours
/// starts again. Traffic runs through all of it.
#[test]
fn upstream_takes_a_node_over_and_gives_it_back() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let (a, b) = (
        Pod::add(&cluster.node(0).host, "a")?,
        Pod::add(&cluster.node(1).host, "b")?,
    );
    if let Some(daemon) = cluster.node_mut(0).daemon.as_mut() {
        daemon.stop(Signal::SIGTERM)?;
    }
    let ends = (
        At { node: &cluster.node(0).host, pod: &a },
        At { node: &cluster.node(1).host, pod: &b },
    );
    let mut probes = Vec::new();
    for to in Stack::Dual.addresses(&b)? {
        probes.push(Probe::start(ends.0, ends.1, &to)?);
    }
    upstream(cluster.node(0), cluster.node(1), false)?;
    for line in cluster.node(0).host.ip("route")?.lines() {
        ensure!(
            !line.contains("nhid"),
            "upstream's replace left ours in place: {line}"
        );
    }
    // And back: plain routes are as good as ours; nothing is rewritten.
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.start_again(&node.host)?;
    node.wait_ready()?;
    cluster.assert_settled()?;
    for probe in probes {
        probe.assert_whole(1)?;
    }
    // B-33: upstream removes a peer of ours.
    for (family, device) in DEVICES.into_iter().enumerate() {
        let [node, peer] = [cluster.node(0), cluster.node(1)];
        let spec = as_peer(peer, family)?;
        let index = link(node, device)?.0;
        let host = &node.host;
        let daemon = node.daemon.as_ref().context("daemon")?;
        // Frozen, so that it does not put back what is removed.
        daemon.signal(Signal::SIGSTOP)?;
        host.run(move || spec.remove(&mut Socket::open()?, index))?;
        daemon.signal(Signal::SIGCONT)?;
    }
    Ok(())
}

/// A restart of ours on a node of ours sends nothing to the kernel that shows.
#[test]
fn a_restart_is_silent() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let mut daemon = cluster.node_mut(0).daemon.take().context("daemon")?;
    let node = cluster.node(0);
    let seen = changes_during(node, || {
        daemon.restart(&node.host, Signal::SIGTERM)?;
        daemon.wait_ready(&node.host)
    })?;
    assert!(seen.is_empty(), "{seen:#?}");
    Ok(())
}
