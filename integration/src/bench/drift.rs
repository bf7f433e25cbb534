//! What others do to a node's kernel: from the sending of their request to the
//! notification that the last object is back. Beside it the same done and
//! undone by hand, with the same clock, while the daemon is stopped.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipam::{Family, Subnet};
use netlink::addr::{self, AddrSpec};
use netlink::fdb;
use netlink::link::{self, LinkInfo};
use netlink::monitor::Group;
use netlink::neigh;
use netlink::route::{self, RouteMatch, TABLE_MAIN};
use netlink::{Request, Socket};
use nix::sys::signal::Signal;

use super::hand;
use super::net_conf;
use super::report::{Report, median};
use super::store::{End, Fake, Store};
use super::watch::{Mark, Watch};
use crate::cluster::{Cluster, Node};
use crate::demo::Stack;
use crate::underlay::Wiring;

mod rules;

const ROUNDS: usize = 11;

/// Peers when the link is deleted.
const PEERS: u32 = 100;

/// Between two: the daemon has come to rest.
const QUIET: Duration = Duration::from_millis(100);

/// The MTU that somebody sets.
const OTHER_MTU: u32 = 1300;

const FLAGS: [&str; 2] = ["--iface=eth0", "--ip-masq"];

/// What is done to a node.
#[derive(Clone, Copy, Debug)]
enum Drift {
    Route,
    Neighbour,
    Forwarding,
    Address,
    Mtu,
    Down,
    Deleted,
}

/// A node whose tunnel of one family is touched.
struct Target<'a> {
    node: &'a Node,
    family: Family,
    socket: Socket,
    watch: Watch,
    /// The tunnel's device as the daemon made it.
    device: LinkInfo,
    own: IpAddr,
    /// Every peer, and its nexthop object.
    peers: Vec<(u32, End)>,
}

pub(super) fn run(report: &mut Report<'_>) -> Result<()> {
    for family in Family::ALL {
        let (mut one, fakes) = cluster(1)?;
        for (drift, what) in [
            (Drift::Route, "a route deleted"),
            (Drift::Neighbour, "a neighbour deleted"),
            (Drift::Forwarding, "a forwarding entry deleted"),
            (Drift::Address, "the address deleted"),
            (Drift::Mtu, "another MTU"),
            (Drift::Down, "the link set down"),
        ] {
            measure(&mut one, &fakes, family, drift, what, report)?;
        }
        let (mut many, fakes) = cluster(PEERS)?;
        let what = format!("the link deleted, {PEERS} peers");
        measure(&mut many, &fakes, family, Drift::Deleted, &what, report)?;
    }
    rules::run(report)
}

/// A node with so many peers.
fn cluster(peers: u32) -> Result<(Cluster, Vec<Fake>)> {
    let mut conf = net_conf(Stack::Dual);
    conf["EnableNFTables"] = true.into();
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf)?;
    let mut store =
        Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
    let fakes = Fake::first(Stack::Dual, peers)?;
    store.put(&fakes)?;
    cluster.start(&FLAGS)?;
    Ok((cluster, fakes))
}

fn measure(
    cluster: &mut Cluster,
    fakes: &[Fake],
    family: Family,
    drift: Drift,
    what: &str,
    report: &mut Report<'_>,
) -> Result<()> {
    // One that has not mended anything yet: after many repairs it slows down.
    let Node { daemon, host, .. } = cluster.node_mut(0);
    let daemon = daemon.as_mut().context("daemon")?;
    daemon.restart(host, Signal::SIGTERM)?;
    daemon.wait_ready(host)?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let mut target = Target::new(cluster.node(0), family, fakes)?;
        let repaired = target.repaired(drift)?;
        let mut target = Target::new(cluster.node(0), family, fakes)?;
        let by_hand = target.by_hand(drift)?;
        // The first round warms up.
        if round > 0 {
            ours.push(repaired);
            floors.push(by_hand);
        }
    }
    // What was made by hand lacks a sysctl.
    std::thread::sleep(QUIET);
    cluster.assert_settled()?;
    let what = format!("{family}: {what}, until mended");
    report.row(&what, median(&ours), median(&floors), "floor: by hand");
    Ok(())
}

// === impl Target ===

impl<'a> Target<'a> {
    /// Looks at the node, which is to be at rest.
    fn new(node: &'a Node, family: Family, fakes: &[Fake]) -> Result<Self> {
        let watch = Watch::start(&node.host, &Group::ALL)?;
        std::thread::sleep(QUIET);
        let mut socket = hand::socket(&node.host)?;
        let device = link::by_name(&mut socket, hand::name(family))?;
        let key = match family {
            Family::V4 => "FLANNEL_SUBNET",
            Family::V6 => "FLANNEL_IPV6_SUBNET",
        };
        let own: Subnet = node.env(key)?.parse()?;
        let mut peers = Vec::new();
        for end in fakes.iter().filter_map(|f| f.0.get(family)) {
            let found = route::exact(&mut socket, end.subnet, TABLE_MAIN)?;
            let route = found.first().context("no route to a peer")?;
            let id = route.nexthop.context("a route without nexthop")?;
            peers.push((id, *end));
        }
        let own = own.base();
        Ok(Self { node, family, socket, watch, device, own, peers })
    }

    /// How long the daemon takes.
    fn repaired(&mut self, drift: Drift) -> Result<Duration> {
        self.watch.forget();
        let damage = self.damage(drift)?;
        let start = Instant::now();
        self.socket.request(&damage)?;
        let end = self.watch.all(self.marks(drift)).with_context(|| {
            format!("after {drift:?}:\n{}", self.node.log())
        })?;
        Ok(end.duration_since(start))
    }

    /// How long it takes whoever knows what to do.
    fn by_hand(&mut self, drift: Drift) -> Result<Duration> {
        let daemon = self.node.daemon.as_ref().context("daemon")?;
        daemon.signal(Signal::SIGSTOP)?;
        self.watch.forget();
        let damage = self.damage(drift)?;
        let start = Instant::now();
        self.socket.request(&damage)?;
        self.undo(drift)?;
        let end = self.watch.all(self.marks(drift))?;
        daemon.signal(Signal::SIGCONT)?;
        Ok(end.duration_since(start))
    }

    fn peer(&self) -> Result<(u32, End)> {
        self.peers.first().copied().context("no peer")
    }

    fn damage(&self, drift: Drift) -> Result<Request> {
        let index = self.device.index;
        let (id, End { subnet, mac, .. }) = self.peer()?;
        Ok(match drift {
            Drift::Route => route::delete(&RouteMatch {
                dst: subnet,
                table: TABLE_MAIN,
                metric: None,
                gateway: None,
                oif: None,
                nexthop: Some(id),
                protocol: None,
                kind: None,
            }),
            Drift::Neighbour => neigh::delete(index, subnet.base()),
            Drift::Forwarding => fdb::delete(index, mac),
            Drift::Address => addr::delete(index, self.own, self.family.bits()),
            Drift::Mtu => link::set(index).mtu(OTHER_MTU).build(),
            Drift::Down => link::set(index).down().build(),
            Drift::Deleted => link::delete(index),
        })
    }

    /// What must be told of before all is well.
    fn marks(&self, drift: Drift) -> Vec<Mark> {
        let mut marks = Vec::new();
        let link = matches!(drift, Drift::Mtu | Drift::Down | Drift::Deleted);
        if link {
            let (name, mtu) = (self.device.name.clone(), self.device.mtu);
            marks.push(Mark::Link { name, up: true, mtu });
        }
        // IPv4 keeps them on a link that is down.
        let down = matches!(drift, Drift::Down) && self.family == Family::V6;
        let addr = down || matches!(drift, Drift::Address | Drift::Deleted);
        if addr {
            marks.push(Mark::Addr(self.own));
        }
        let gone = matches!(drift, Drift::Down | Drift::Deleted);
        for (_, End { subnet, mac, .. }) in &self.peers {
            if gone || matches!(drift, Drift::Route) {
                marks.push(Mark::Route(*subnet));
            }
            if gone || matches!(drift, Drift::Neighbour) {
                marks.push(Mark::Neigh(subnet.base()));
            }
            if matches!(drift, Drift::Forwarding | Drift::Deleted) {
                marks.push(Mark::Fdb(*mac));
            }
        }
        marks
    }

    fn undo(&mut self, drift: Drift) -> Result<()> {
        let mut index = self.device.index;
        if matches!(drift, Drift::Deleted) {
            let parent = link::by_name(&mut self.socket, "eth0")?.index;
            let (uplink, mac) = (&self.node.uplink, self.device.mac);
            let made = hand::device(self.family, uplink, parent, mac)?;
            self.socket.request(&made)?;
            index = link::by_name(&mut self.socket, &self.device.name)?.index;
        }
        let address = addr::add(&AddrSpec {
            index,
            ip: self.own,
            len: self.family.bits(),
            nodad: self.family == Family::V6,
            broadcast: None,
        });
        let up = link::set(index).up().build();
        let (id, end) = self.peer()?;
        let [forwarding, neighbour, nexthop, route] =
            hand::peer(index, id, &end);
        let requests = match drift {
            Drift::Route => vec![route],
            Drift::Neighbour => vec![neighbour],
            Drift::Forwarding => vec![forwarding],
            Drift::Address => vec![address],
            Drift::Mtu => vec![link::set(index).mtu(self.device.mtu).build()],
            Drift::Down if self.family == Family::V4 => {
                vec![up, neighbour, nexthop, route]
            }
            Drift::Down => vec![up, address, neighbour, nexthop, route],
            Drift::Deleted => {
                let all = self.peers.iter();
                let all = all.flat_map(|(id, end)| hand::peer(index, *id, end));
                std::iter::once(address).chain(all).collect()
            }
        };
        hand::send(&mut self.socket, &requests)
    }
}
