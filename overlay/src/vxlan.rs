//! The vxlan backend: one tunnel device per family, and for each peer a
//! forwarding entry, a neighbour and a route (B-20..B-31); with
//! `DirectRouting`, only a route to a peer on the same network.

use std::cell::OnceCell;
use std::collections::btree_map::{Entry, VacantEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::NetConf;
use ipam::netconf::backend::VxlanOptions;
use ipam::{Family, PerFamily, Subnet};

mod data;
#[cfg(test)]
mod tests;

pub use data::{DataError, lease_attrs, mac_of};

use crate::{
    Addr, Caps, Desired, Facts, Fdb, FdbKey, IfName, Link, LinkKind, Mac,
    Neigh, NeighKey, Nexthop, Node, Plan, PlanError, Route, RouteKey,
    SkipReason, Skipped, Vxlan, nexthop,
};

/// The name of this backend in net-conf and leases.
pub const TYPE: &str = "vxlan";

/// One family's tunnel on this node.
#[derive(Clone, Copy)]
struct Tunnel {
    link: IfName,
    subnet: Subnet,
    mac: Mac,
}

/// A peer in one family, as it is going to be reached.
#[derive(Clone, Copy)]
struct Peer<'a> {
    key: &'a SubnetKey,
    subnet: Subnet,
    public: IpAddr,
    /// `None` when it is reached without the tunnel.
    mac: Option<Mac>,
}

/// Where an object is put once all of a peer's have their places: found once,
/// as there are thousands. `None` for one that is there already.
struct Place<'a, K, V>(Option<(VacantEntry<'a, K, V>, V)>);

/// The kernel would hold another peer's object there.
struct Taken;

struct Planner<'a> {
    node: &'a Node,
    facts: &'a Facts,
    options: &'a VxlanOptions,
    leases: &'a BTreeMap<SubnetKey, LeaseAttrs>,
    /// The addresses of all nodes, once they are needed.
    nodes: OnceCell<BTreeSet<IpAddr>>,
    tunnels: PerFamily<Tunnel>,
    plan: Plan,
    /// Those planned so far.
    peers: Vec<Peer<'a>>,
}

/// The tunnel device's name (B-20): `flannel.<VNI>`, `flannel-v6.<VNI>`.
///
/// # Errors
/// [`PlanError::Name`] when the VNI has too many digits for it.
pub fn device_name(family: Family, vni: u32) -> Result<IfName, PlanError> {
    let name = match family {
        Family::V4 => format!("flannel.{vni}"),
        Family::V6 => format!("flannel-v6.{vni}"),
    };
    IfName::new(&name).ok_or(PlanError::Name { vni, name })
}

/// Bytes that the tunnel adds to a packet: Ethernet, VXLAN, UDP and the
/// outer IP header (W-20: upstream counts 50 for both).
#[must_use]
pub const fn overhead(underlay: Family) -> u32 {
    match underlay {
        Family::V4 => 14 + 8 + 8 + 20,
        Family::V6 => 14 + 8 + 8 + 40,
    }
}

/// What `node` should hold; `leases` are all there are, this node's own among
/// them or not.
///
/// # Errors
/// [`PlanError`] when an enabled family lacks something on this node.
/// Nothing that a peer's lease says is an error: see [`Plan::skipped`].
pub fn plan(
    node: &Node,
    facts: &Facts,
    conf: &NetConf,
    options: &VxlanOptions,
    leases: &BTreeMap<SubnetKey, LeaseAttrs>,
) -> Result<Plan, PlanError> {
    let mut planner = Planner::new(node, facts, conf, options, leases)?;
    // Of two leases for one subnet the one with the families in use here is
    // more likely to be the living one: the other is from before a family
    // was switched on or off.
    let in_use =
        |key: &SubnetKey| key.subnets().families().eq(conf.enabled.families());
    for (key, attrs) in leases.iter().filter(|(key, _)| in_use(key)) {
        planner.add_peer(key, attrs);
    }
    for (key, attrs) in leases.iter().filter(|(key, _)| !in_use(key)) {
        planner.add_peer(key, attrs);
    }
    planner.warn_of_shared_addresses();
    planner.plan.skipped.sort();
    planner.plan.desired.pack();
    Ok(planner.plan)
}

// === impl Planner ===

impl<'a> Planner<'a> {
    fn new(
        node: &'a Node,
        facts: &'a Facts,
        conf: &NetConf,
        options: &'a VxlanOptions,
        leases: &'a BTreeMap<SubnetKey, LeaseAttrs>,
    ) -> Result<Self, PlanError> {
        let mut out = Self {
            node,
            facts,
            options,
            leases,
            nodes: OnceCell::new(),
            tunnels: PerFamily::default(),
            plan: Plan {
                desired: Desired::default(),
                mtu: u32::MAX,
                skipped: Vec::new(),
                warnings: Vec::new(),
            },
            peers: Vec::new(),
        };
        let outer_mtu = out.outer_mtu();
        for family in conf.enabled.families() {
            out.plan.desired.networks.extend(conf.networks.get(family));
            out.add_tunnel(family, outer_mtu)?;
        }
        let families = conf.enabled.families().count();
        out.peers.reserve_exact(leases.len() * families);
        Ok(out)
    }

    /// The MTU option, but no more than the interface carries: the kernel
    /// would cut the device's down to that without a word (W-20).
    fn outer_mtu(&mut self) -> u32 {
        let uplink = &self.facts.uplink;
        match self.options.mtu {
            Some(asked) if asked > uplink.mtu => {
                self.plan.warnings.push(format!(
                    "the backend's MTU option {asked} exceeds the MTU {} of \
                     {}, which is used instead",
                    uplink.mtu, uplink.name
                ));
                uplink.mtu
            }
            Some(asked) => asked,
            None => uplink.mtu,
        }
    }

    /// What fits into the family's tunnel. Where the option leaves less than
    /// the family needs, but the interface does not, it is what that needs:
    /// upstream accepts such an option, as it counts shorter headers (W-20).
    fn inner_mtu(
        &mut self,
        family: Family,
        outer: u32,
    ) -> Result<u32, PlanError> {
        let inner = outer.saturating_sub(overhead(family));
        let least = match family {
            Family::V4 => 68,
            Family::V6 => 1280,
        };
        if inner >= least {
            return Ok(inner);
        }
        let needed = least + overhead(family);
        if self.facts.uplink.mtu < needed {
            return Err(PlanError::Mtu { family, outer, inner, least });
        }
        self.plan.warnings.push(format!(
            "the backend's MTU option {outer} leaves {inner} bytes inside the \
             {family} tunnel, less than the {least} that {family} needs: packets \
             between nodes are up to {needed} bytes long"
        ));
        Ok(least)
    }

    /// The device with its address (B-20, B-21, B-25).
    fn add_tunnel(
        &mut self,
        family: Family,
        outer: u32,
    ) -> Result<(), PlanError> {
        let link = device_name(family, self.options.vni)?;
        let subnet = self
            .node
            .key
            .get(family)
            .ok_or(PlanError::NoSubnet(family, self.node.key))?;
        let local = *self
            .node
            .public
            .get(family)
            .ok_or(PlanError::NoPublicAddress(family))?;
        let mac =
            *self.facts.macs.get(family).ok_or(PlanError::NoMac(family))?;
        let mtu = self.inner_mtu(family, outer)?;
        let vxlan = Vxlan {
            vni: self.options.vni,
            parent: self.facts.uplink.index,
            local,
            port: self.options.port,
            learning: self.options.learning,
            gbp: self.options.gbp,
        };
        let desired = &mut self.plan.desired;
        let kind = LinkKind::Vxlan(vxlan);
        desired
            .links
            .insert(link, Link { kind, mac, mtu, up: true, master: None });
        desired.addrs.insert((link, Addr::new(subnet.base(), family.bits())));
        self.plan.mtu = self.plan.mtu.min(mtu);
        self.tunnels.set(family, Some(Tunnel { link, subnet, mac }));
        Ok(())
    }

    fn add_peer(&mut self, key: &'a SubnetKey, attrs: &LeaseAttrs) {
        if *key == self.node.key {
            return;
        }
        if attrs.backend_type != TYPE {
            let name = attrs.backend_type.to_string();
            return self.skip(key, None, SkipReason::OtherBackend(name));
        }
        for family in Family::ALL {
            // the node or the peer may not have it
            let Some(tunnel) = self.tunnels.get(family).copied() else {
                continue;
            };
            let Some(subnet) = key.get(family) else { continue };
            let outcome = self
                .peer(tunnel, key, subnet, attrs)
                .and_then(|peer| self.add_objects(tunnel, peer));
            if let Err(reason) = outcome {
                self.skip(key, Some(family), reason);
            }
        }
    }

    /// How to reach a peer in one family.
    fn peer(
        &self,
        tunnel: Tunnel,
        key: &'a SubnetKey,
        subnet: Subnet,
        attrs: &LeaseAttrs,
    ) -> Result<Peer<'a>, SkipReason> {
        if subnet.overlaps(&tunnel.subnet) {
            return Err(SkipReason::OwnSubnet(tunnel.subnet));
        }
        if !is_unicast(subnet) {
            return Err(SkipReason::NotUnicast);
        }
        if let Some(ip) = self.node_inside(subnet) {
            return Err(SkipReason::NodeInside(ip));
        }
        let family = subnet.family();
        let public =
            *attrs.public.get(family).ok_or(SkipReason::NoPublicAddress)?;
        if self.node.public.get(family) == Some(&public)
            || self.facts.uplink.addrs.contains(&public)
        {
            return Err(SkipReason::OwnAddress(public));
        }
        if self.is_direct(subnet, public) {
            return Ok(Peer { key, subnet, public, mac: None });
        }
        let data = attrs.data.get(family).ok_or(SkipReason::NoMac)?;
        match mac_of(data) {
            Ok(mac) if mac == tunnel.mac => Err(SkipReason::OwnMac(mac)),
            Ok(mac) => Ok(Peer { key, subnet, public, mac: Some(mac) }),
            Err(DataError::NoMac) => Err(SkipReason::NoMac),
            Err(other @ (DataError::Json(_) | DataError::BadMac(_))) => {
                Err(SkipReason::BadData(other.to_string()))
            }
        }
    }

    /// A node's address inside a subnet that is no part of our networks: a
    /// route there would lead the nodes' own traffic into the tunnel.
    fn node_inside(&self, subnet: Subnet) -> Option<IpAddr> {
        let networks = &self.plan.desired.networks;
        if networks.iter().any(|network| network.covers(&subnet)) {
            return None;
        }
        let nodes = self.nodes.get_or_init(|| {
            let peers = self.leases.values().flat_map(|l| l.public.iter());
            let all = self.node.public.iter().chain(peers).map(|(_, ip)| *ip);
            all.chain(self.facts.uplink.addrs.iter().copied()).collect()
        });
        nodes.range(subnet.base()..=subnet.last()).next().copied()
    }

    /// Whether the peer is reached without the tunnel (B-31). Not with a
    /// subnet outside the networks: its route, on a device of others, could
    /// not be told from another daemon's once the lease is gone.
    fn is_direct(&self, subnet: Subnet, public: IpAddr) -> bool {
        let networks = &self.plan.desired.networks;
        self.options.direct_routing
            && self.facts.direct.contains(&public)
            && networks.iter().any(|network| network.covers(&subnet))
    }

    /// Adds what reaches the peer, unless one of its objects is another
    /// peer's with other contents: the kernel holds one per key, and the two
    /// would take turns in it.
    fn add_objects(
        &mut self,
        Tunnel { link, .. }: Tunnel,
        peer: Peer<'a>,
    ) -> Result<(), SkipReason> {
        let Peer { subnet, public, mac, .. } = peer;
        let ip = subnet.base();
        let same_base = |other: &Peer<'_>| other.subnet.base() == ip;
        let caps = self.facts.caps;
        let Desired { fdb, neighs, nexthops, routes, .. } =
            &mut self.plan.desired;
        let tunnel = if let Some(mac) = mac {
            let key = FdbKey { link, mac };
            let Ok(fdb) = Place::of(fdb, key, Fdb::new(public)) else {
                let holder = self.holder(&peer, |p| p.mac == Some(mac));
                return Err(SkipReason::MacTaken(mac, holder));
            };
            let neigh = Neigh { mac, permanent: true };
            let key = NeighKey { link, ip };
            let Ok(neigh) = Place::of(neighs, key, neigh) else {
                let holder = self.holder(&peer, same_base);
                return Err(SkipReason::SubnetTaken(holder));
            };
            Some((fdb, neigh))
        } else {
            None
        };
        let route = match mac {
            Some(_) => tunnel_route(nexthops, caps, link, ip),
            None => direct_route(public),
        };
        let Ok(route) = Place::of(routes, RouteKey::new(subnet), route) else {
            let holder = self.holder(&peer, same_base);
            return Err(SkipReason::SubnetTaken(holder));
        };
        if let Some((fdb, neigh)) = tunnel {
            fdb.take();
            neigh.take();
        }
        route.take();
        self.peers.push(peer);
        Ok(())
    }

    /// The lease of the peer of the same family that `has` an object.
    fn holder(
        &self,
        peer: &Peer<'_>,
        has: impl Fn(&Peer<'_>) -> bool,
    ) -> SubnetKey {
        let family = peer.subnet.family();
        let mut others = self.peers.iter();
        let holder = others.find(|p| p.subnet.family() == family && has(p));
        *holder.unwrap_or(peer).key
    }

    fn skip(
        &mut self,
        key: &SubnetKey,
        family: Option<Family>,
        reason: SkipReason,
    ) {
        self.plan.skipped.push(Skipped { key: *key, family, reason });
    }

    /// Names nodes that publish one address with different devices behind
    /// it: one took the wrong interface (P23), or one of the leases is from
    /// its past.
    fn warn_of_shared_addresses(&mut self) {
        let tunnelled = self.peers.iter().filter(|peer| peer.mac.is_some());
        let mut peers: Vec<_> = tunnelled.collect();
        peers.sort_by_key(|peer| (peer.public, peer.mac, peer.key));
        for (first, other) in peers.iter().zip(peers.iter().skip(1)) {
            if first.public == other.public && first.mac != other.mac {
                self.plan.warnings.push(format!(
                    "leases {} and {} publish the same address {} with \
                     different Ethernet addresses; if these are two nodes, \
                     the daemon of one has chosen the wrong interface",
                    first.key, other.key, first.public
                ));
            }
        }
    }
}

// === impl Place ===

impl<'a, K: Ord, V: PartialEq> Place<'a, K, V> {
    /// The place of `key`, unless something else than `value` is in it.
    fn of(
        map: &'a mut BTreeMap<K, V>,
        key: K,
        value: V,
    ) -> Result<Self, Taken> {
        match map.entry(key) {
            Entry::Vacant(entry) => Ok(Self(Some((entry, value)))),
            Entry::Occupied(entry) if *entry.get() == value => Ok(Self(None)),
            Entry::Occupied(_) => Err(Taken),
        }
    }

    fn take(self) {
        if let Some((entry, value)) = self.0 {
            entry.insert(value);
        }
    }
}

/// The route by way of the peer's subnet base address (B-28, B-29), if
/// possible through a nexthop object.
fn tunnel_route(
    nexthops: &mut BTreeMap<u32, Nexthop>,
    caps: Caps,
    link: IfName,
    gateway: IpAddr,
) -> Route {
    let object = Nexthop {
        link: Some(link),
        gateway: Some(gateway),
        onlink: true,
        ours: true,
    };
    let nexthop = caps.nexthop_objects.then(|| {
        let id = nexthop::id(link, gateway);
        let first = nexthops.entry(id).or_insert(object);
        (*first == object).then_some(id)
    });
    Route {
        gateway: Some(gateway),
        link: Some(link),
        onlink: true,
        nexthop: nexthop.flatten(),
        ours: true,
    }
}

/// Whether pods can have addresses there.
fn is_unicast(subnet: Subnet) -> bool {
    let ip = subnet.base();
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

/// A plain route by way of the peer itself (B-31). No nexthop object:
/// upstream could not delete it.
const fn direct_route(public: IpAddr) -> Route {
    Route {
        gateway: Some(public),
        link: None,
        onlink: false,
        nexthop: None,
        ours: true,
    }
}
