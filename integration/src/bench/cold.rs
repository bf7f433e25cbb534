//! A daemon that starts where thousands of leases are in the store already,
//! until the last peer's objects are in the kernel.

use std::fs::read_to_string;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipam::lease::SubnetKey;
use ipam::{Family, PerFamily, Subnet};
use netlink::link;

use super::gate::Gate;
use super::hand::{self, Counts, Tunnels};
use super::report::{Report, median};
use super::store::{End, Fake, Store, hex};
use super::{command, net_conf};
use crate::cluster::{Cluster, Node};
use crate::daemon::binary;
use crate::demo::Stack;
use crate::peers::Peers;
use crate::poll::poll_until;
use crate::underlay::Wiring;

/// How many peers, and how often each is started.
struct Size {
    stack: Stack,
    count: u32,
    rounds: usize,
    slow_rounds: usize,
}

const SIZES: [Size; 3] = [
    Size { stack: Stack::V4, count: 1_000, rounds: 9, slow_rounds: 5 },
    Size { stack: Stack::Dual, count: 1_000, rounds: 9, slow_rounds: 3 },
    Size { stack: Stack::V4, count: 5_000, rounds: 7, slow_rounds: 3 },
];

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    SIZES.iter().try_for_each(|size| size.run(peers, report))
}

// === impl Size ===

impl Size {
    fn run(
        &self,
        peers: Option<&Peers>,
        report: &mut Report<'_>,
    ) -> Result<()> {
        let Self { stack, count, .. } = *self;
        let cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf(stack))?;
        let (node, url) = (cluster.node(0), cluster.etcd.url());
        let fakes = Fake::first(stack, count)?;
        let mut store = Store::connect(cluster.underlay.middle(), &url)?;
        store.put(&fakes)?;
        let from_node = &mut Store::connect(&node.host, &url)?;

        let program = binary("flanneld")?;
        let version = [program.display().to_string(), "--version".to_owned()];
        let ours = command(&program, &url);
        let upstream = peers.map(|p| command(&p.flanneld(), &url));
        let target = self.settled(node, &ours)?;
        let (mut a, mut b, mut floors, mut ip) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            fresh(node, &mut store)?;
            a.push(self.time(node, &ours, target)?);
            fresh(node, &mut store)?;
            let exec = Gate::new(&node.host, &version)?.time_to_end()?;
            floors.push(exec + self.floor(node, from_node, &fakes)?);
            if round >= self.slow_rounds {
                continue;
            }
            if stack == Stack::V4 {
                fresh(node, &mut store)?;
                ip.push(exec + ip_batch(node, from_node, &fakes)?);
            }
            if let Some(upstream) = &upstream {
                fresh(node, &mut store)?;
                b.push(self.time(node, upstream, target)?);
            }
        }
        let kind = if stack == Stack::Dual { "dual-stack " } else { "" };
        let what = format!("{count} {kind}peers from cold");
        if upstream.is_some() {
            report.row(&what, median(&a), median(&b), "upstream");
        }
        let note = "floor: exec, read the leases, batches";
        report.row(&what, median(&a), median(&floors), note);
        if stack == Stack::V4 {
            let note = "the same with `ip -batch`, `bridge -batch`";
            report.row(&what, median(&a), median(&ip), note);
        }
        report.alone("  each peer of them", median(&a) / count);
        Ok(())
    }

    /// How many prefixes the kernel's tables have when all peers are in.
    fn settled(
        &self,
        node: &Node,
        words: &[String],
    ) -> Result<PerFamily<usize>> {
        let (stack, count) = (self.stack, self.count as usize);
        let gate = Gate::new(&node.host, words)?;
        let all = move || complete(stack, count).is_ok();
        let (_, _running) = gate.time_until(&node.host, "all objects", all)?;
        let mut target = PerFamily::default();
        for family in stack.families() {
            let family = *family;
            let there = node.host.run(move || prefixes(family))?;
            target.set(family, Some(there));
        }
        Ok(target)
    }

    /// From exec to the last peer's route; the daemon ends afterwards.
    fn time(
        &self,
        node: &Node,
        words: &[String],
        target: PerFamily<usize>,
    ) -> Result<Duration> {
        let (stack, count) = (self.stack, self.count as usize);
        let gate = Gate::new(&node.host, words)?;
        let all = move || {
            let enough = |f: &Family| {
                prefixes(*f).is_ok_and(|n| Some(&n) >= target.get(*f))
            };
            stack.families().iter().all(enough)
        };
        let (took, _running) = gate.time_until(&node.host, "peers", all)?;
        // The route is the last of a peer's objects: the others must be there.
        let limit = Duration::from_secs(1);
        node.host.run(move || {
            poll_until("all objects", limit, || complete(stack, count))
        })?;
        Ok(took)
    }

    /// Reads the leases, then sends what was prepared for them.
    fn floor(
        &self,
        node: &Node,
        store: &mut Store,
        fakes: &[Fake],
    ) -> Result<Duration> {
        let mut socket = hand::socket(&node.host)?;
        let parent = link::by_name(&mut socket, "eth0")?.index;
        let mut tunnels = Tunnels::default();
        for family in self.stack.families() {
            let device = hand::device(*family, &node.uplink, parent, None)?;
            socket.request(&device)?;
            let link = link::by_name(&mut socket, hand::name(*family))?;
            tunnels.set(*family, Some(link.index));
        }
        let requests = hand::peers(&tunnels, fakes);
        let start = Instant::now();
        ensure!(store.read_all()? >= fakes.len(), "leases are missing");
        let sent = socket.batch(&requests);
        let took = start.elapsed();
        sent.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(took)
    }
}

/// As if no daemon had ever run, but with the others' leases.
fn fresh(node: &Node, store: &mut Store) -> Result<()> {
    let mut own = PerFamily::default();
    for subnet in node.subnets().unwrap_or_default() {
        let subnet: Subnet = subnet.parse()?;
        own.set(subnet.family(), Some(subnet));
    }
    if !own.is_empty() {
        store.delete(SubnetKey::new(own)?)?;
    }
    hand::wipe(node)
}

/// Prefixes in the calling thread's tables: a look that costs little.
fn prefixes(family: Family) -> Result<usize> {
    let file = match family {
        Family::V4 => "fib_triestat",
        Family::V6 => "rt6_stats",
    };
    let text = read_to_string(format!("/proc/thread-self/net/{file}"))?;
    let number = match family {
        Family::V4 => {
            let (_, rest) = text.split_once("Prefixes:").context(file)?;
            rest.split_whitespace().next().map(str::parse)
        }
        // The fourth is the count of entries.
        Family::V6 => {
            let word = text.split_whitespace().nth(3);
            word.map(|w| usize::from_str_radix(w, 16))
        }
    };
    Ok(number.context(file)??)
}

/// Whether all objects of so many peers are there.
fn complete(stack: Stack, count: usize) -> Result<()> {
    for family in stack.families() {
        Counts::read(*family)?.context("no device")?.ensure(count)?;
    }
    Ok(())
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
    for End { subnet, public, mac } in fakes.iter().filter_map(|f| f.0.v4) {
        let (base, mac) = (subnet.base(), hex(mac));
        ip += &format!(
            "neigh add {base} lladdr {mac} dev flannel.1\n\
             route add {subnet} via {base} dev flannel.1 onlink\n"
        );
        bridge += &format!("fdb add {mac} dev flannel.1 dst {public}\n");
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
