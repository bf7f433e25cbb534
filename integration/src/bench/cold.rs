//! A daemon that starts where thousands of leases are in the store already,
//! until the last peer's objects are in the kernel.

use std::fs::read_to_string;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipam::Family;
use netlink::fdb::{self, FdbSpec};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::route::{self, RouteSpec};
use netlink::{Socket, link};

use super::gate::Gate;
use super::report::{Report, median};
use super::start::device;
use super::store::{Fake, Store};
use super::{command, net_conf};
use crate::cluster::{Cluster, Node};
use crate::daemon::binary;
use crate::peers::Peers;
use crate::underlay::Wiring;

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    for (count, rounds, slow_rounds) in [(1_000, 9, 5), (5_000, 7, 3)] {
        sized(peers, report, count, rounds, slow_rounds)?;
    }
    Ok(())
}

fn sized(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
    count: u32,
    rounds: usize,
    slow_rounds: usize,
) -> Result<()> {
    let cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf())?;
    let (node, url) = (cluster.node(0), cluster.etcd.url());
    let fakes = Fake::first(count)?;
    let mut store = Store::connect(cluster.underlay.middle(), &url)?;
    store.put(&fakes)?;
    let from_node = &mut Store::connect(&node.host, &url)?;

    let program = binary("flanneld")?;
    let version = [program.display().to_string(), "--version".to_owned()];
    let ours = command(&program, &url);
    let upstream = peers.map(|p| command(&p.flanneld(), &url));
    let target = settled_prefixes(node, &ours, count)?;
    let (mut a, mut b, mut floors, mut ip) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        fresh(node, &mut store)?;
        a.push(time(node, &ours, target, count)?);
        fresh(node, &mut store)?;
        let exec = Gate::new(&node.host, &version)?.time_to_end()?;
        floors.push(exec + floor(node, from_node, &fakes)?);
        if round >= slow_rounds {
            continue;
        }
        fresh(node, &mut store)?;
        ip.push(exec + ip_batch(node, from_node, &fakes)?);
        if let Some(upstream) = &upstream {
            fresh(node, &mut store)?;
            b.push(time(node, upstream, target, count)?);
        }
    }
    let what = format!("{count} peers from cold");
    if upstream.is_some() {
        report.row(&what, median(&a), median(&b), "upstream");
    }
    let note = "floor: exec, read the leases, batches";
    report.row(&what, median(&a), median(&floors), note);
    let note = "the same with `ip -batch`, `bridge -batch`";
    report.row(&what, median(&a), median(&ip), note);
    report.alone("  each peer of them", median(&a) / count);
    Ok(())
}

/// As if no daemon had ever run, but with the others' leases.
fn fresh(node: &Node, store: &mut Store) -> Result<()> {
    if let Ok(own) = node.env("FLANNEL_SUBNET") {
        let own: ipam::Subnet = own.parse()?;
        let key = format!("/coreos.com/network/subnets/{}-24", own.base());
        store.delete(&key)?;
    }
    node.host.cmd(&[
        "sh",
        "-c",
        "ip link del flannel.1 2>/dev/null; ip nexthop flush 2>/dev/null; \
         rm -rf /run/flannel /var/lib/flannel",
    ])?;
    Ok(())
}

/// How many prefixes the kernel's table has when all peers are in.
fn settled_prefixes(
    node: &Node,
    words: &[String],
    count: u32,
) -> Result<usize> {
    let gate = Gate::new(&node.host, words)?;
    let all = move || routes().is_ok_and(|n| n == count as usize);
    let (_, _running) = gate.time_until(&node.host, "all routes", all)?;
    node.host.run(prefixes)
}

fn time(
    node: &Node,
    words: &[String],
    target: usize,
    count: u32,
) -> Result<Duration> {
    let gate = Gate::new(&node.host, words)?;
    let all = move || prefixes().is_ok_and(|n| n >= target);
    let (took, _running) = gate.time_until(&node.host, "all peers", all)?;
    // The route is the last of a peer's objects: the others must be there.
    node.host.run(move || complete(count as usize))?;
    Ok(took)
}

/// Prefixes in the calling thread's IPv4 table: a look that costs little.
fn prefixes() -> Result<usize> {
    let text = read_to_string("/proc/thread-self/net/fib_triestat")?;
    let line = text.lines().find(|l| l.contains("Prefixes:"));
    let word = line.and_then(|l| l.split_whitespace().nth(1));
    Ok(word.context("no prefixes in fib_triestat")?.parse()?)
}

/// Routes over `flannel.1`.
fn routes() -> Result<usize> {
    let mut socket = Socket::open()?;
    let filter = route::Filter {
        family: Family::V4,
        table: Some(route::TABLE_MAIN),
        oif: Some(link::by_name(&mut socket, "flannel.1")?.index),
        protocol: None,
    };
    Ok(route::list(&mut socket, filter)?.complete()?.len())
}

fn complete(count: usize) -> Result<()> {
    let mut socket = Socket::open()?;
    let index = link::by_name(&mut socket, "flannel.1")?.index;
    let neighs = neigh::list(&mut socket, Family::V4, Some(index))?;
    let fdb = fdb::list(&mut socket, index)?.complete()?;
    let (neighs, fdb) = (
        neighs.complete()?.iter().filter(|n| n.permanent()).count(),
        fdb.iter().filter(|e| e.dst.is_some()).count(),
    );
    let routes = routes()?;
    ensure!(
        [neighs, fdb, routes] == [count; 3],
        "{neighs} neighbours, {fdb} forwarding entries and {routes} routes \
         instead of {count} of each"
    );
    Ok(())
}

/// Reads the leases, then sends what was prepared for them.
fn floor(node: &Node, store: &mut Store, fakes: &[Fake]) -> Result<Duration> {
    let (mut socket, index) = node.host.run(|| -> Result<_> {
        let mut socket = Socket::open()?;
        let parent = link::by_name(&mut socket, "eth0")?.index;
        socket.request(&link::vxlan::add(&device(parent)))?;
        let index = link::by_name(&mut socket, "flannel.1")?.index;
        Ok((socket, index))
    })?;
    let mut requests = Vec::new();
    for (id, fake) in (1..).zip(fakes) {
        let base = fake.subnet.base();
        let (mac, dst) = (fake.mac, fake.public.into());
        requests.push(fdb::set(&FdbSpec { index, mac, dst }));
        requests.push(neigh::set(&NeighSpec { index, ip: base, mac }));
        requests.push(nexthop::add(&NexthopSpec {
            id,
            oif: index,
            gateway: base,
            onlink: true,
            protocol: route::PROTOCOL_BOOT,
        }));
        requests.push(route::add(&RouteSpec {
            nexthop: Some(id),
            ..RouteSpec::to(fake.subnet)
        }));
    }
    let start = Instant::now();
    ensure!(store.read_all()? >= fakes.len(), "leases are missing");
    let answers = socket.batch(&requests);
    let took = start.elapsed();
    answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(took)
}

/// The same by iproute2, with plain routes.
fn ip_batch(
    node: &Node,
    store: &mut Store,
    fakes: &[Fake],
) -> Result<Duration> {
    node.host.ip(
        "link add flannel.1 type vxlan id 1 dev eth0 nolearning dstport 8472",
    )?;
    node.host.ip("link set flannel.1 up")?;
    let (mut ip, mut bridge) = (String::new(), String::new());
    for fake in fakes {
        let [a, b, c, d, e, f] = fake.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let (subnet, base) = (fake.subnet, fake.subnet.base());
        ip += &format!(
            "neigh add {base} lladdr {mac} dev flannel.1\n\
             route add {subnet} via {base} dev flannel.1 onlink\n"
        );
        bridge += &format!("fdb add {mac} dev flannel.1 dst {}\n", fake.public);
    }
    node.host.write("/run/ip.batch", &ip)?;
    node.host.write("/run/bridge.batch", &bridge)?;
    let start = Instant::now();
    ensure!(store.read_all()? >= fakes.len(), "leases are missing");
    node.host.run(|| -> Result<()> {
        for (program, file) in
            [("bridge", "/run/bridge.batch"), ("ip", "/run/ip.batch")]
        {
            let status = Command::new(program)
                .args(["-batch", file])
                .stdout(Stdio::null())
                .status()?;
            ensure!(status.success(), "{program} -batch: {status}");
        }
        Ok(())
    })?;
    Ok(start.elapsed())
}
