//! Looking at the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::{Family, Subnet};
use netlink::addr::AddrInfo;
use netlink::fdb::FdbInfo;
use netlink::link::LinkInfo;
use netlink::link::vxlan::VxlanInfo;
use netlink::neigh::NeighInfo;
use netlink::nexthop::NexthopInfo;
use netlink::route::{RouteInfo, RouteKind, TABLE_MAIN};
use netlink::{addr, fdb, link, neigh, nexthop, route};
use nix::errno::Errno;
use overlay::{
    Addr, Fdb, FdbKey, IfName, Key, Link, LinkKind, Mac, Neigh, NeighKey,
    Nexthop, Observed, Route, RouteKey, Scope, Vxlan,
};

use super::{Kernel, KernelError, PROTOCOL, PROTOCOL_KERNEL, PROTOCOL_RA};

/// From this many keys on, reading whole tables is cheaper than asking for
/// each object.
const MANY: usize = 64;

/// A look in progress.
struct Look<'a> {
    kernel: &'a mut Kernel,
    out: Observed,
    /// Names of all devices met so far, by index.
    names: BTreeMap<u32, IfName>,
    /// The ways of all nexthop objects met so far, by id.
    ways: BTreeMap<u32, Way>,
}

/// Where a route or nexthop object leads.
#[derive(Clone, Copy, Default)]
struct Way {
    gateway: Option<IpAddr>,
    oif: Option<u32>,
    onlink: bool,
}

pub(super) fn observe(
    kernel: &mut Kernel,
    scope: &Scope,
) -> Result<Observed, KernelError> {
    kernel.indexes.clear();
    let mut look = Look {
        kernel,
        out: Observed::default(),
        names: BTreeMap::new(),
        ways: BTreeMap::new(),
    };
    match scope {
        Scope::Full(claim) => look.everything(&claim.links, &claim.networks)?,
        Scope::Keys(keys) if keys.len() >= MANY => {
            let links = keys.iter().filter_map(Key::link).collect();
            let networks: Vec<_> = keys.iter().filter_map(dst_of).collect();
            look.everything(&links, &networks)?;
        }
        Scope::Keys(keys) => look.objects(keys)?,
    }
    Ok(look.out)
}

/// The destination of a route's key.
const fn dst_of(key: &Key) -> Option<Subnet> {
    match key {
        Key::Route(key) => Some(key.dst),
        Key::Link(_)
        | Key::Addr(..)
        | Key::Fdb(_)
        | Key::Neigh(_)
        | Key::Nexthop(_) => None,
    }
}

// === impl Look ===

impl Look<'_> {
    /// All that is on the devices `links`, and all routes into `networks`.
    fn everything(
        &mut self,
        links: &BTreeSet<IfName>,
        networks: &[Subnet],
    ) -> Result<(), KernelError> {
        for name in links {
            let Some(index) = self.link(*name)? else { continue };
            let socket = &mut self.kernel.socket;
            for info in addr::list(socket, None, Some(index))?.complete()? {
                self.addr(*name, &info);
            }
            let socket = &mut self.kernel.socket;
            for info in fdb::list(socket, index)?.complete()? {
                self.fdb(*name, &info);
            }
            for family in Family::ALL {
                let socket = &mut self.kernel.socket;
                for info in
                    neigh::list(socket, family, Some(index))?.complete()?
                {
                    self.neigh(*name, &info);
                }
            }
        }
        self.kernel.blackholes.clear();
        if self.kernel.nexthop_objects {
            for info in
                nexthop::list(&mut self.kernel.socket, None)?.complete()?
            {
                self.nexthop(&info)?;
            }
        }
        for family in Family::ALL {
            for info in self.routes(family)? {
                self.route(&info, |dst| {
                    networks.iter().any(|n| n.covers(dst))
                })?;
            }
        }
        Ok(())
    }

    /// These objects only.
    fn objects(&mut self, keys: &BTreeSet<Key>) -> Result<(), KernelError> {
        // Devices first: the others' keys name them.
        let links: BTreeSet<_> = keys.iter().filter_map(Key::link).collect();
        let mut addrs_read = BTreeSet::new();
        for name in &links {
            self.link(*name)?;
        }
        let mut absent: BTreeSet<Family> = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        for key in keys {
            let index = key
                .link()
                .and_then(|name| self.kernel.indexes.get(&name).copied());
            let socket = &mut self.kernel.socket;
            match (*key, index) {
                (Key::Addr(name, _), Some(index))
                    if addrs_read.insert(name) =>
                {
                    let dump = addr::list(socket, None, Some(index))?;
                    for info in dump.complete()? {
                        self.addr(name, &info);
                    }
                }
                (Key::Fdb(key), Some(index)) => {
                    if let Some(info) =
                        found(fdb::get(socket, index, key.mac.0))?
                    {
                        self.fdb(key.link, &info);
                    }
                }
                (Key::Neigh(key), Some(index)) => {
                    if let Some(info) =
                        found(neigh::get(socket, index, key.ip))?
                    {
                        self.neigh(key.link, &info);
                    }
                }
                (Key::Nexthop(id), _) if self.kernel.nexthop_objects => {
                    if let Some(info) = found(nexthop::get(socket, id))? {
                        self.nexthop(&info)?;
                    }
                }
                (Key::Route(key), _) => {
                    wanted.insert(key.dst);
                    if self.kernel.taken.remove(&key.dst) {
                        absent.insert(key.dst.family());
                        continue;
                    }
                    // A look-up answers at once where the route is the one
                    // in use, and where a wider one or none is: then it is
                    // not there. Otherwise only the table knows. (It may be
                    // there and out of use; setting it is refused then, and
                    // the pass that follows reads the table.)
                    match route::lookup_entry(socket, key.dst.base()) {
                        Ok(info) if is(&info, key) => {
                            self.route(&info, |_| true)?;
                        }
                        Ok(info) if is_wider(&info, key) => {}
                        Err(e) if is_no_way(&e) => {}
                        _ => {
                            absent.insert(key.dst.family());
                        }
                    }
                }
                _ => {}
            }
        }
        for family in absent {
            for info in self.routes(family)? {
                if wanted.contains(&info.dst) {
                    self.route(&info, |_| true)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the device `name` and gives its index.
    fn link(&mut self, name: IfName) -> Result<Option<u32>, KernelError> {
        let socket = &mut self.kernel.socket;
        let Some(info) = found(link::by_name(socket, name.as_str()))? else {
            return Ok(None);
        };
        self.kernel.indexes.insert(name, info.index);
        self.names.insert(info.index, name);
        self.out.links.insert(name, as_link(&info));
        Ok(Some(info.index))
    }

    fn addr(&mut self, link: IfName, info: &AddrInfo) {
        let local = match info.ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if !local {
            let AddrInfo { ip, len, peer, .. } = *info;
            self.out.addrs.insert((link, Addr { ip, len, peer }));
        }
    }

    fn fdb(&mut self, link: IfName, info: &FdbInfo) {
        // An entry without destination leads nowhere by itself: the kernel's
        // own for unknown addresses.
        if let Some(dst) = info.dst {
            let key = FdbKey { link, mac: Mac(info.mac) };
            // Only what differs from the device's own is told.
            let odd =
                info.port.is_some() || info.vni.is_some() || info.via.is_some();
            let permanent = info.permanent();
            self.out.fdb.insert(key, Fdb { dst, permanent, odd });
        }
    }

    fn neigh(&mut self, link: IfName, info: &NeighInfo) {
        let key = NeighKey { link, ip: info.ip };
        let mac = Mac(info.mac.unwrap_or_default());
        self.out.neighs.insert(key, Neigh { mac, permanent: info.permanent() });
    }

    fn nexthop(&mut self, info: &NexthopInfo) -> Result<(), KernelError> {
        self.ways.insert(info.id, Way::of(info));
        if !overlay::nexthop::is_ours(info.id) {
            return Ok(());
        }
        let nexthop = Nexthop {
            link: self.name(info.oif)?,
            gateway: info.gateway,
            onlink: info.onlink,
            ours: info.protocol == PROTOCOL,
        };
        self.out.nexthops.insert(info.id, nexthop);
        Ok(())
    }

    /// All routes of a family's main table.
    fn routes(
        &mut self,
        family: Family,
    ) -> Result<Vec<RouteInfo>, KernelError> {
        let filter = route::Filter {
            family,
            table: Some(TABLE_MAIN),
            oif: None,
            protocol: None,
        };
        Ok(route::list(&mut self.kernel.socket, filter)?.complete()?)
    }

    /// Takes a route in if it is on a device of ours, carries our number, or
    /// its destination `counts`.
    fn route(
        &mut self,
        info: &RouteInfo,
        counts: impl Fn(&Subnet) -> bool,
    ) -> Result<(), KernelError> {
        if !is_plain(info) {
            return Ok(());
        }
        // Another daemon on this host has its own (D-80).
        if info.kind == RouteKind::Blackhole
            && info.protocol == PROTOCOL
            && counts(&info.dst)
        {
            self.kernel.blackholes.insert((info.dst, info.metric));
        }
        if info.kind != RouteKind::Unicast
            || matches!(info.protocol, PROTOCOL_KERNEL | PROTOCOL_RA)
        {
            return Ok(());
        }
        let way = self.way(info)?;
        let ours = info.protocol == PROTOCOL;
        let on_ours = way.oif.is_some_and(|oif| {
            self.names
                .get(&oif)
                .is_some_and(|name| self.out.links.contains_key(name))
        });
        if !(ours || on_ours || counts(&info.dst)) {
            return Ok(());
        }
        let route = Route {
            gateway: way.gateway,
            link: self.name(way.oif)?,
            onlink: way.onlink,
            nexthop: info.nexthop,
            ours,
        };
        let key = RouteKey { dst: info.dst, metric: info.metric };
        self.out.routes.entry(key).or_insert(route);
        Ok(())
    }

    /// Where a route leads. For one that points to a nexthop object the kernel
    /// may tell the id alone (`net.ipv4.nexthop_compat_mode=0`).
    fn way(&mut self, info: &RouteInfo) -> Result<Way, KernelError> {
        let Some(id) = info.nexthop.filter(|_| info.oif.is_none()) else {
            let RouteInfo { gateway, oif, onlink, .. } = *info;
            return Ok(Way { gateway, oif, onlink });
        };
        if let Some(way) = self.ways.get(&id) {
            return Ok(*way);
        }
        let object = found(nexthop::get(&mut self.kernel.socket, id))?;
        let way = object.as_ref().map(Way::of).unwrap_or_default();
        self.ways.insert(id, way);
        Ok(way)
    }

    /// The name of the device with that index; `None` when it is gone.
    fn name(
        &mut self,
        index: Option<u32>,
    ) -> Result<Option<IfName>, KernelError> {
        let Some(index) = index else { return Ok(None) };
        if let Some(name) = self.names.get(&index) {
            return Ok(Some(*name));
        }
        let info = found(link::by_index(&mut self.kernel.socket, index))?;
        let name = info.and_then(|info| IfName::new(&info.name));
        if let Some(name) = name {
            self.names.insert(index, name);
        }
        Ok(name)
    }
}

// === impl Way ===

impl Way {
    const fn of(info: &NexthopInfo) -> Self {
        let NexthopInfo { gateway, oif, onlink, .. } = *info;
        Self { gateway, oif, onlink }
    }
}

/// Whether a look-up's answer is the route of that key.
fn is(info: &RouteInfo, key: RouteKey) -> bool {
    info.dst == key.dst
        && info.metric == key.metric
        && info.table == TABLE_MAIN
        && is_plain(info)
}

/// Whether a route is for all packets to its destination. One for a type of
/// service or for some sources stands beside it, and is none of ours.
const fn is_plain(info: &RouteInfo) -> bool {
    info.tos == 0 && info.src_len == 0
}

/// Whether a look-up ended at a route of the same table that a route of that
/// key would have come before.
fn is_wider(info: &RouteInfo, key: RouteKey) -> bool {
    info.table == TABLE_MAIN && info.dst.len() < key.dst.len()
}

/// Whether a look-up said that there is no route at all.
fn is_no_way(error: &netlink::Error) -> bool {
    matches!(error.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH))
}

fn found<T>(
    answer: Result<T, netlink::Error>,
) -> Result<Option<T>, KernelError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn as_link(info: &LinkInfo) -> Link {
    let kind = match &info.vxlan {
        Some(vxlan) if is_odd(vxlan) => {
            LinkKind::Other("vxlan, with attributes of others".to_owned())
        }
        Some(vxlan) => LinkKind::Vxlan(Vxlan {
            vni: vxlan.vni,
            parent: vxlan.parent.unwrap_or(0),
            local: vxlan.local.unwrap_or(Family::V4.unspecified()),
            port: vxlan.port,
            learning: vxlan.learning,
            gbp: vxlan.gbp,
        }),
        None => LinkKind::Other(info.kind.clone().unwrap_or_default()),
    };
    Link {
        kind,
        mac: Mac(info.mac.unwrap_or_default()),
        mtu: info.mtu,
        up: info.up,
        master: info.master,
    }
}

/// Whether the device does something besides sending to the destinations in
/// its table: no daemon of flannel's makes such a one (B-23).
const fn is_odd(vxlan: &VxlanInfo) -> bool {
    vxlan.collect_metadata
        || vxlan.group.is_some()
        || vxlan.proxy
        || vxlan.rsc
        || vxlan.l2miss
        || vxlan.l3miss
}
