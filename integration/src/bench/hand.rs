//! The kernel programmed without any care, through prepared messages: what
//! floors are made of.

use anyhow::{Context, Result, ensure};
use ipam::{Family, PerFamily};
use netlink::fdb::{self, FdbSpec};
use netlink::link::Mac;
use netlink::link::vxlan::{self, VxlanSpec};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::route::{self, PROTOCOL_BOOT, RouteSpec, TABLE_MAIN};
use netlink::{NetNs, Request, Socket, link};

use super::store::{End, Fake};
use crate::cluster::Node;
use crate::host::Host;
use crate::underlay::Uplink;

/// The devices of a node's tunnels, by index.
pub(super) type Tunnels = PerFamily<u32>;

/// Routes that the kernel makes (`RTPROT_KERNEL`).
const PROTOCOL_KERNEL: u8 = 2;

/// Nexthop objects of the second family's peers start here.
const SECOND: u32 = 100_000;

/// A socket in the host's namespace.
pub(super) fn socket(host: &Host) -> Result<Socket> {
    Ok(Socket::open_in(&NetNs::open(host.netns())?)?)
}

/// The name of a family's tunnel device (B-3).
pub(super) const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

/// As if no daemon had ever run on the node.
pub(super) fn wipe(node: &Node) -> Result<()> {
    let line = "ip link del flannel.1 2>/dev/null; \
                ip link del flannel-v6.1 2>/dev/null; \
                ip nexthop flush 2>/dev/null; \
                rm -rf /run/flannel /var/lib/flannel";
    node.host.cmd(&["sh", "-c", line]).map(drop)
}

/// The request for a tunnel device as both daemons make it, up.
pub(super) fn device(
    family: Family,
    uplink: &Uplink,
    parent: u32,
    mac: Option<Mac>,
) -> Result<Request> {
    let (local, mtu) = match family {
        Family::V4 => (&uplink.v4, 1450),
        Family::V6 => (&uplink.v6, 1430),
    };
    Ok(vxlan::add(&VxlanSpec {
        name: name(family).to_owned(),
        vni: 1,
        parent: Some(parent),
        local: Some(local.parse().context("address of the underlay")?),
        port: None,
        learning: false,
        gbp: false,
        mac,
        mtu: Some(mtu),
        txqlen: None,
        up: true,
    }))
}

/// The objects of one peer.
pub(super) fn peer(index: u32, id: u32, end: &End) -> [Request; 4] {
    let End { subnet, public: dst, mac } = *end;
    let ip = subnet.base();
    [
        fdb::set(&FdbSpec { index, mac, dst }),
        neigh::set(&NeighSpec { index, ip, mac }),
        nexthop::add(&NexthopSpec {
            id,
            oif: index,
            gateway: ip,
            onlink: true,
            protocol: PROTOCOL_BOOT,
        }),
        route::add(&RouteSpec { nexthop: Some(id), ..RouteSpec::to(subnet) }),
    ]
}

/// The objects of all `fakes`.
pub(super) fn peers(tunnels: &Tunnels, fakes: &[Fake]) -> Vec<Request> {
    let mut out = Vec::new();
    for (family, index) in tunnels.iter() {
        let first = if family == Family::V4 { 1 } else { SECOND };
        for (id, fake) in (first..).zip(fakes) {
            let end = fake.0.get(family);
            out.extend(end.into_iter().flat_map(|e| peer(*index, id, e)));
        }
    }
    out
}

/// Carries all of them out; none may fail.
pub(super) fn send(socket: &mut Socket, requests: &[Request]) -> Result<()> {
    let answers = socket.batch(requests).into_iter();
    Ok(answers.collect::<Result<(), _>>()?)
}

/// What a node knows of its peers in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    neighbours: usize,
    forwarding: usize,
    routes: usize,
}

impl Counts {
    /// Those of the calling thread's namespace; `None` without the device.
    pub(super) fn read(family: Family) -> Result<Option<Self>> {
        let mut socket = Socket::open()?;
        let index = match link::by_name(&mut socket, name(family)) {
            Ok(link) => link.index,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let neighs = neigh::list(&mut socket, family, Some(index))?;
        let neighs = neighs.complete()?;
        let fdb = fdb::list(&mut socket, index)?.complete()?;
        Ok(Some(Self {
            neighbours: neighs.iter().filter(|n| n.permanent()).count(),
            forwarding: fdb.iter().filter(|e| e.dst.is_some()).count(),
            routes: routes(&mut socket, family, index)?,
        }))
    }

    /// Whether there is each object of `count` peers.
    pub(super) fn ensure(self, count: usize) -> Result<()> {
        let all = Self { neighbours: count, forwarding: count, routes: count };
        ensure!(self == all, "{self:?} instead of {count} of each");
        Ok(())
    }
}

/// Routes to peers over the device.
fn routes(socket: &mut Socket, family: Family, oif: u32) -> Result<usize> {
    let table = Some(TABLE_MAIN);
    let filter =
        route::Filter { family, table, oif: Some(oif), protocol: None };
    let routes = route::list(socket, filter)?.complete()?;
    // The kernel's own lead to the device's addresses.
    let to_peers = routes.iter().filter(|r| r.protocol != PROTOCOL_KERNEL);
    Ok(to_peers.count())
}
