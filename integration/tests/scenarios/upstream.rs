//! Upstream's own daemon (v0.28.9) beside ours in one cluster, and in turns
//! on one node. Tier 4: where upstream's programs are missing, each test says
//! that it is skipped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::kernel;
use integration::peers::Peers;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::probe::{At, Probe, transfer};
use integration::underlay::Wiring;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const FLAGS: [&str; 1] = ["--iface=eth0"];

/// Who runs a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    Upstream,
}
use Who::{Ours, Upstream};

/// A cluster of these nodes, all joined.
fn cluster(
    peers: &Peers,
    wiring: Wiring,
    conf: &Value,
    nodes: &[Who],
) -> Result<Cluster> {
    let count = u8::try_from(nodes.len())?;
    let mut cluster = Cluster::new(wiring, count, conf)?;
    for (n, who) in nodes.iter().enumerate() {
        start(peers, &mut cluster, n, *who)?;
    }
    cluster.wait_joined()?;
    Ok(cluster)
}

/// Starts node `n` and waits until it is ready.
fn start(
    peers: &Peers,
    cluster: &mut Cluster,
    n: usize,
    who: Who,
) -> Result<()> {
    match who {
        Ours => cluster.start_one(n, &FLAGS)?,
        Upstream => peers.start(cluster, n)?,
    }
    cluster.node_mut(n).wait_ready()
}

/// Ends node `n`'s daemon for good.
fn stop(cluster: &mut Cluster, n: usize) -> Result<()> {
    let mut daemon = cluster.node_mut(n).daemon.take().context("daemon")?;
    let upstreams = daemon.log().contains("main.go");
    if upstreams { daemon.end() } else { daemon.stop(Signal::SIGTERM) }
}

/// A full pass of ours on node `n` finds nothing to do.
fn settled(cluster: &Cluster, n: usize) -> Result<()> {
    let daemon = cluster.node(n).daemon.as_ref().context("daemon")?;
    daemon.assert_settled().with_context(|| format!("node {n}"))
}

/// A pod on every node.
fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let add = |(n, node): (usize, &integration::cluster::Node)| {
        Pod::add(&node.host, &format!("pod{n}"))
    };
    cluster.nodes.iter().enumerate().map(add).collect()
}

/// Every pod pings every other at each of its addresses.
fn ping_all(cluster: &Cluster, pods: &[Pod], stack: Stack) -> Result<()> {
    for (n, from) in pods.iter().enumerate() {
        for (m, to) in pods.iter().enumerate().filter(|(m, _)| *m != n) {
            for address in stack.addresses(to)? {
                from.ping(&cluster.node(n).host, &address)
                    .with_context(|| format!("node {n} to node {m}"))?;
            }
        }
    }
    Ok(())
}

fn end<'a>(cluster: &'a Cluster, pods: &'a [Pod], n: usize) -> At<'a> {
    At { node: &cluster.node(n).host, pod: &pods[n] }
}

/// Runs `job` while datagrams flow from the pod of node `from` to that of node
/// `to` and back; none may be lost.
fn nothing_lost(
    cluster: &mut Cluster,
    pods: &[Pod],
    (from, to): (usize, usize),
    job: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let mut probes = Vec::new();
    for (from, to) in [(from, to), (to, from)] {
        for address in Stack::Dual.addresses(&pods[to])? {
            let ends = (end(cluster, pods, from), end(cluster, pods, to));
            probes.push(Probe::start(ends.0, ends.1, &address)?);
        }
    }
    job(cluster)?;
    // A little longer than the resolution of what is asserted.
    std::thread::sleep(Duration::from_millis(300));
    for probe in probes {
        probe.assert_whole(301)?;
    }
    Ok(())
}

fn every_pair(stack: Stack, name: &str) -> Result<()> {
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    let nodes = [Ours, Upstream, Ours];
    for wiring in [Wiring::OneSegment, Wiring::Routed] {
        let cluster = cluster(&peers, wiring, &stack.net_conf(), &nodes)?;
        let pods = pods(&cluster)?;
        ping_all(&cluster, &pods, stack)?;
        for (from, to) in [(0, 1), (1, 2)] {
            for address in stack.addresses(&pods[to])? {
                let ends = [from, to].map(|n| end(&cluster, &pods, n));
                transfer(ends[0], ends[1], &address, 8 << 20)?;
            }
        }
        settled(&cluster, 0)?;
        settled(&cluster, 2)?;
    }
    Ok(())
}

#[test]
fn every_pair_of_pods_with_ipv4() -> Result<()> {
    every_pair(Stack::V4, "upstream::every_pair_of_pods_with_ipv4")
}

#[test]
fn every_pair_of_pods_with_both_families() -> Result<()> {
    every_pair(Stack::Dual, "upstream::every_pair_of_pods_with_both_families")
}

/// Either daemon restarts, politely or not, under traffic between its node and
/// one of the other kind.
#[test]
fn restarts_in_a_mixed_cluster_lose_nothing() -> Result<()> {
    let name = "upstream::restarts_in_a_mixed_cluster_lose_nothing";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    let conf = Stack::Dual.net_conf();
    let mut cluster =
        cluster(&peers, Wiring::OneSegment, &conf, &[Ours, Upstream])?;
    let pods = pods(&cluster)?;
    let (leases, before) =
        (cluster.leases()?.len(), kernel::overlay(&cluster.node(0).host)?);
    nothing_lost(&mut cluster, &pods, (0, 1), |cluster| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            for n in [0, 1] {
                let node = cluster.node_mut(n);
                let daemon = node.daemon.as_mut().context("daemon")?;
                daemon.restart(&node.host, signal)?;
                node.wait_ready()?;
            }
        }
        settled(cluster, 0)
    })?;
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);
    assert_eq!(cluster.leases()?.len(), leases, "no second lease was taken");
    Ok(())
}

/// A node of the other kind joins, is reached, leaves, and leaves nothing
/// behind: seen from ours for upstream's node and from upstream's for ours.
#[test]
fn either_kind_joins_and_leaves_the_other() -> Result<()> {
    let name = "upstream::either_kind_joins_and_leaves_the_other";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    for (at_home, guest) in [(Ours, Upstream), (Upstream, Ours)] {
        let conf = Stack::Dual.net_conf();
        let mut cluster =
            cluster(&peers, Wiring::OneSegment, &conf, &[at_home, Ours])?;
        let before = kernel::overlay(&cluster.node(0).host)?;
        let keys: Vec<_> =
            cluster.leases()?.into_iter().map(|(key, _)| key).collect();

        let n = cluster.add_node()?;
        start(&peers, &mut cluster, n, guest)?;
        cluster.wait_joined()?;
        let pods = pods(&cluster)?;
        ping_all(&cluster, &pods, Stack::Dual)?;

        stop(&mut cluster, n)?;
        for (key, _) in cluster.leases()? {
            if !keys.contains(&key) {
                cluster.ctl(&["del", &key])?;
            }
        }
        let limit = Duration::from_secs(40);
        poll_until("the guest's objects to go", limit, || {
            let now = kernel::overlay(&cluster.node(0).host)?;
            // The pods' bridge came meanwhile; it is not the daemon's.
            let now: Vec<_> =
                now.lines().filter(|l| !l.contains("cni0")).collect();
            let before: Vec<_> = before.lines().collect();
            ensure!(now == before, "before: {before:#?}\nnow: {now:#?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// `DirectRouting`: on one segment both kinds route to each other's nodes
/// directly, across a router both use the tunnel.
#[test]
fn direct_routing_in_a_mixed_cluster() -> Result<()> {
    let name = "upstream::direct_routing_in_a_mixed_cluster";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    let mut conf = Stack::Dual.net_conf();
    conf["Backend"]["DirectRouting"] = json!(true);
    for (wiring, devices) in [
        (Wiring::OneSegment, ["eth0", "eth0"]),
        (Wiring::Routed, ["flannel.1", "flannel-v6.1"]),
    ] {
        let nodes = [Ours, Upstream, Ours];
        let cluster = cluster(&peers, wiring, &conf, &nodes)?;
        let pods = pods(&cluster)?;
        ping_all(&cluster, &pods, Stack::Dual)?;
        for (at, to) in [(0, 1), (1, 0), (1, 2), (0, 2)] {
            let host = &cluster.node(at).host;
            let routes = host.ip("route")? + &host.ip("-6 route")?;
            let subnets = cluster.node(to).subnets()?;
            for (subnet, device) in subnets.iter().zip(devices) {
                let route = routes.lines().find(|l| l.starts_with(subnet));
                let route = route.context("no route")?;
                ensure!(
                    route.contains(&format!("dev {device}")),
                    "node {at}, {wiring:?}: {route}"
                );
            }
        }
        settled(&cluster, 0)?;
    }
    Ok(())
}

/// On one node ours stops, upstream takes over, ours takes over again: the
/// same subnet, the same devices, and traffic never notices.
#[test]
fn a_node_changes_hands_under_traffic() -> Result<()> {
    let name = "upstream::a_node_changes_hands_under_traffic";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    changes_hands(&peers, &Stack::Dual.net_conf(), [Ours, Upstream, Ours])
}

/// The same for a node that upstream set up, on direct routes too.
#[test]
fn a_node_of_upstream_is_taken_over_under_traffic() -> Result<()> {
    let name = "upstream::a_node_of_upstream_is_taken_over_under_traffic";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    let mut conf = Stack::Dual.net_conf();
    changes_hands(&peers, &conf, [Upstream, Ours, Upstream])?;
    conf["Backend"]["DirectRouting"] = json!(true);
    changes_hands(&peers, &conf, [Upstream, Ours, Upstream])
}

fn changes_hands(
    peers: &Peers,
    conf: &Value,
    [first, second, third]: [Who; 3],
) -> Result<()> {
    let nodes = [first, Ours];
    let mut cluster = cluster(peers, Wiring::OneSegment, conf, &nodes)?;
    let pods = pods(&cluster)?;
    let links =
        |cluster: &Cluster| cluster.node(0).host.ip("-o link show type vxlan");
    let (subnets, devices) = (cluster.node(0).subnets()?, links(&cluster)?);
    nothing_lost(&mut cluster, &pods, (0, 1), |cluster| {
        for who in [second, third] {
            stop(cluster, 0)?;
            start(peers, cluster, 0, who)?;
            ensure!(
                cluster.node(0).subnets()? == subnets,
                "another subnet: {:?} instead of {subnets:?}",
                cluster.node(0).subnets()?
            );
            if who == Ours {
                settled(cluster, 0)?;
            }
        }
        Ok(())
    })?;
    assert_eq!(links(&cluster)?, devices, "a device was made anew");
    assert_eq!(cluster.leases()?.len(), 2, "no second lease was taken");
    Ok(())
}

/// W-9: an IPv6-only cluster cannot be mixed: every node of upstream's takes
/// the first such lease for its own. Ours notices, says why, and takes
/// another; it does not fight for the first.
#[test]
fn an_ipv6_only_mix_is_noticed_and_said() -> Result<()> {
    let name = "upstream::an_ipv6_only_mix_is_noticed_and_said";
    let Some(peers) = Peers::or_skip(name) else { return Ok(()) };
    let conf = Stack::V6.net_conf();
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, &conf)?;
    start(&peers, &mut cluster, 0, Ours)?;
    let before = cluster.node(0).subnets()?;
    peers.start(&mut cluster, 1)?;
    let daemon = cluster.node(0).daemon.as_ref().context("daemon")?;
    let limit = Duration::from_secs(40);
    daemon.wait_log("cannot be mixed", 0, limit)?;
    poll_until("another subnet", limit, || {
        ensure!(cluster.node(0).subnets()? != before, "still {before:?}");
        Ok(())
    })
}
