//! From exec to a readable `subnet.env`, etcd being there: on a node that
//! never ran a daemon, and on one whose daemon stopped a moment ago.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipam::Family;
use netlink::addr::{self, AddrSpec};
use netlink::link;

use super::gate::Gate;
use super::hand;
use super::report::{Report, median};
use super::store::{Fake, Store};
use super::{Who, command, net_conf};
use crate::cluster::{Cluster, Node, SUBNET_ENV};
use crate::daemon::binary;
use crate::demo::Stack;
use crate::peers::Peers;
use crate::underlay::Wiring;

const ROUNDS: usize = 11;

/// Samples of one round each.
#[derive(Default)]
struct Samples {
    ours: Vec<Duration>,
    ours_again: Vec<Duration>,
    upstream: Vec<Duration>,
    upstream_again: Vec<Duration>,
    exec: Vec<Duration>,
    floor: Vec<Duration>,
    etcdctl: Vec<Duration>,
}

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    of(Stack::V4, ROUNDS, peers, report)?;
    of(Stack::Dual, ROUNDS / 2, peers, report)
}

fn of(
    stack: Stack,
    rounds: usize,
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf(stack))?;
    let (node, url) = (cluster.node(0), cluster.etcd.url());
    let mut store = Store::connect(cluster.underlay.middle(), &url)?;
    let mut s = Samples::default();
    let ours = binary("flanneld")?;
    // The first round warms up.
    for round in 0..=rounds {
        let mut programs = vec![(Who::Ours, ours.clone())];
        programs.extend(peers.map(|p| (Who::Upstream, p.flanneld())));
        for (who, program) in programs {
            fresh(node, &mut store)?;
            let first = time(node, &command(&program, &url))?;
            let again = time(node, &command(&program, &url))?;
            let (a, b) = match who {
                Who::Ours => (&mut s.ours, &mut s.ours_again),
                Who::Upstream => (&mut s.upstream, &mut s.upstream_again),
            };
            a.push(first);
            b.push(again);
        }
        let version = [ours.display().to_string(), "--version".to_owned()];
        s.exec.push(Gate::new(&node.host, &version)?.time_to_end()?);
        fresh(node, &mut store)?;
        s.floor.push(floor(node, &mut store, stack)?);
        s.etcdctl.push(etcdctl(&cluster)?);
        if round == 0 {
            s = Samples::default();
        }
    }
    let exec = median(&s.exec);
    let kind = if stack == Stack::Dual { ", dual-stack" } else { "" };
    let first = format!("start to subnet.env, a new node{kind}");
    let again = format!("start to subnet.env, a restart{kind}");
    if peers.is_some() {
        report.row(&first, median(&s.ours), median(&s.upstream), "upstream");
    }
    let note = "floor: exec, two store writes, the device";
    report.row(&first, median(&s.ours), exec + median(&s.floor), note);
    let note = "one `etcdctl get`";
    report.row(&first, median(&s.ours), median(&s.etcdctl), note);
    if peers.is_some() {
        let upstream = median(&s.upstream_again);
        report.row(&again, median(&s.ours_again), upstream, "upstream");
    }
    let note = "the same binary with --version";
    report.row(&again, median(&s.ours_again), exec, note);
    Ok(())
}

/// As if no daemon had ever run.
fn fresh(node: &Node, store: &mut Store) -> Result<()> {
    store.clear()?;
    hand::wipe(node)
}

/// From exec to a readable file; the daemon ends afterwards.
fn time(node: &Node, words: &[String]) -> Result<Duration> {
    node.host.cmd(&["rm", "-f", SUBNET_ENV])?;
    let gate = Gate::new(&node.host, words)?;
    let there = || std::fs::read(SUBNET_ENV).is_ok();
    let (took, _running) = gate.time_until(&node.host, SUBNET_ENV, there)?;
    Ok(took)
}

/// What the store and the kernel take by themselves: an etcd lease, a key,
/// devices that are up and have their addresses.
fn floor(node: &Node, store: &mut Store, stack: Stack) -> Result<Duration> {
    let mut socket = hand::socket(&node.host)?;
    let parent = link::by_name(&mut socket, "eth0")?.index;
    let fake = Fake::number(stack, 0)?;
    let start = Instant::now();
    store.read_all()?;
    store.grant()?;
    store.put_one(&fake)?;
    for (family, end) in fake.0.iter() {
        let device = hand::device(family, &node.uplink, parent, None)?;
        socket.request(&device)?;
        let index = link::by_name(&mut socket, hand::name(family))?.index;
        let own = AddrSpec {
            index,
            ip: end.subnet.base(),
            len: family.bits(),
            nodad: family == Family::V6,
            broadcast: None,
        };
        socket.request(&addr::add(&own))?;
    }
    let took = start.elapsed();
    hand::wipe(node)?;
    Ok(took)
}

fn etcdctl(cluster: &Cluster) -> Result<Duration> {
    let start = Instant::now();
    cluster.ctl(&["get", "/coreos.com/network/config"]).context("etcdctl")?;
    Ok(start.elapsed())
}
