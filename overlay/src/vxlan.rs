//! The vxlan backend: one tunnel device per family, and for each peer a
//! forwarding entry, a neighbour and a route (B-20..B-31); with
//! `DirectRouting`, only a route to a peer on the same network.

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
    Addr, Desired, Facts, Fdb, FdbKey, IfName, Key, Link, LinkKind, Mac, Neigh,
    NeighKey, Nexthop, Node, Plan, PlanError, Route, RouteKey, SkipReason,
    Skipped, Vxlan, nexthop,
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

/// A peer in one family.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Peer {
    key: SubnetKey,
    public: IpAddr,
    /// `None` when it is reached without the tunnel.
    mac: Option<Mac>,
}

struct Planner<'a> {
    node: &'a Node,
    facts: &'a Facts,
    options: &'a VxlanOptions,
    tunnels: PerFamily<Tunnel>,
    plan: Plan,
    /// Peers planned so far by their subnet's base address.
    by_base: BTreeMap<IpAddr, Peer>,
    /// The first peer planned with each published address.
    by_public: BTreeMap<IpAddr, Peer>,
    /// The first peer planned with each forwarding entry.
    by_fdb: BTreeMap<FdbKey, Peer>,
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
    let mut planner = Planner::new(node, facts, conf, options)?;
    // Of two leases for one subnet the one with the families in use here is
    // more likely to be the living one: the other is from before a family
    // was switched on or off.
    let in_use =
        |key: &SubnetKey| key.subnets().families().eq(conf.enabled.families());
    for (key, attrs) in leases.iter().filter(|(key, _)| in_use(key)) {
        planner.add_peer(*key, attrs);
    }
    for (key, attrs) in leases.iter().filter(|(key, _)| !in_use(key)) {
        planner.add_peer(*key, attrs);
    }
    planner.plan.skipped.sort();
    Ok(planner.plan)
}

/// All keys that a peer's lease may have objects under, planned or not: what
/// a pass must look at when the lease appears, changes (both its old and new
/// attributes) or goes. A change may concern other peers as well (two leases
/// with one subnet): [`Desired::changed_keys`] between the plans knows.
#[must_use]
pub fn peer_keys(
    vni: u32,
    key: &SubnetKey,
    attrs: &LeaseAttrs,
) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for (family, subnet) in key.subnets().iter() {
        keys.insert(Key::Route(RouteKey::new(*subnet)));
        let Ok(link) = device_name(family, vni) else { continue };
        let ip = subnet.base();
        keys.insert(Key::Neigh(NeighKey { link, ip }));
        keys.insert(Key::Nexthop(nexthop::id(link, ip)));
        if let Some(mac) =
            attrs.data.get(family).and_then(|data| mac_of(data).ok())
        {
            keys.insert(Key::Fdb(FdbKey { link, mac }));
        }
    }
    keys
}

// === impl Planner ===

impl<'a> Planner<'a> {
    fn new(
        node: &'a Node,
        facts: &'a Facts,
        conf: &NetConf,
        options: &'a VxlanOptions,
    ) -> Result<Self, PlanError> {
        let mut out = Self {
            node,
            facts,
            options,
            tunnels: PerFamily::default(),
            plan: Plan {
                desired: Desired::default(),
                mtu: u32::MAX,
                skipped: Vec::new(),
                warnings: Vec::new(),
            },
            by_base: BTreeMap::new(),
            by_public: BTreeMap::new(),
            by_fdb: BTreeMap::new(),
        };
        let outer_mtu = out.outer_mtu();
        for family in conf.enabled.families() {
            out.plan.desired.networks.extend(conf.networks.get(family));
            out.add_tunnel(family, outer_mtu)?;
        }
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
        let mtu = outer.saturating_sub(overhead(family));
        let least = match family {
            Family::V4 => 68,
            Family::V6 => 1280,
        };
        if mtu < least {
            return Err(PlanError::Mtu { family, outer, inner: mtu, least });
        }
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
        desired.links.insert(link, Link { kind, mac, mtu, up: true });
        desired
            .addrs
            .insert((link, Addr { ip: subnet.base(), len: family.bits() }));
        self.plan.mtu = self.plan.mtu.min(mtu);
        self.tunnels.set(family, Some(Tunnel { link, subnet, mac }));
        Ok(())
    }

    fn add_peer(&mut self, key: SubnetKey, attrs: &LeaseAttrs) {
        if key == self.node.key {
            return;
        }
        if attrs.backend_type != TYPE {
            let name = attrs.backend_type.clone();
            return self.skip(key, None, SkipReason::OtherBackend(name));
        }
        for family in Family::ALL {
            if let Err(reason) = self.add_family(family, key, attrs) {
                self.skip(key, Some(family), reason);
            }
        }
    }

    /// One family of a peer. The node or the peer may not have it.
    fn add_family(
        &mut self,
        family: Family,
        key: SubnetKey,
        attrs: &LeaseAttrs,
    ) -> Result<(), SkipReason> {
        let Some(&tunnel) = self.tunnels.get(family) else { return Ok(()) };
        let Some(subnet) = key.get(family) else { return Ok(()) };
        if subnet.overlaps(&tunnel.subnet) {
            return Err(SkipReason::OwnSubnet(tunnel.subnet));
        }
        let public =
            *attrs.public.get(family).ok_or(SkipReason::NoPublicAddress)?;
        if self.node.public.get(family) == Some(&public)
            || self.facts.uplink.addrs.contains(&public)
        {
            return Err(SkipReason::OwnAddress(public));
        }
        let mac = if self.is_direct(subnet, public) {
            None
        } else {
            let data = attrs.data.get(family).ok_or(SkipReason::NoMac)?;
            match mac_of(data) {
                Ok(mac) if mac == tunnel.mac => {
                    return Err(SkipReason::OwnMac(mac));
                }
                Ok(mac) => Some(mac),
                Err(DataError::NoMac) => return Err(SkipReason::NoMac),
                Err(other) => {
                    return Err(SkipReason::BadData(other.to_string()));
                }
            }
        };
        let peer = Peer { key, public, mac };
        self.claim(tunnel, subnet, peer)?;
        match mac {
            Some(mac) => self.add_tunnel_route(tunnel, subnet, public, mac),
            None => self.add_direct_route(subnet, public),
        }
        Ok(())
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

    /// Refuses a peer whose objects are another one's with other contents:
    /// the kernel holds one object per key, and without this the two would
    /// take turns in it.
    fn claim(
        &mut self,
        tunnel: Tunnel,
        subnet: Subnet,
        peer: Peer,
    ) -> Result<(), SkipReason> {
        if let Some(first) = self.by_base.get(&subnet.base())
            && (first.public, first.mac) != (peer.public, peer.mac)
        {
            return Err(SkipReason::SubnetTaken(first.key));
        }
        if let Some(mac) = peer.mac {
            let key = FdbKey { link: tunnel.link, mac };
            let first = *self.by_fdb.entry(key).or_insert(peer);
            if first.public != peer.public {
                return Err(SkipReason::MacTaken(mac, first.key));
            }
            self.note_shared_address(peer);
        }
        self.by_base.insert(subnet.base(), peer);
        Ok(())
    }

    /// Forwarding entry, neighbour, and route by way of the peer's subnet
    /// base address (B-28, B-29).
    fn add_tunnel_route(
        &mut self,
        Tunnel { link, .. }: Tunnel,
        dst: Subnet,
        public: IpAddr,
        mac: Mac,
    ) {
        let gateway = dst.base();
        let desired = &mut self.plan.desired;
        desired
            .fdb
            .insert(FdbKey { link, mac }, Fdb { dst: public, permanent: true });
        desired.neighs.insert(
            NeighKey { link, ip: gateway },
            Neigh { mac, permanent: true },
        );
        let nexthop = self.facts.caps.nexthop_objects.then(|| {
            let object = Nexthop {
                link: Some(link),
                gateway: Some(gateway),
                onlink: true,
                ours: true,
            };
            let id = nexthop::id(link, gateway);
            let first = desired.nexthops.entry(id).or_insert(object);
            (*first == object).then_some(id)
        });
        let route = Route {
            gateway: Some(gateway),
            link: Some(link),
            onlink: true,
            nexthop: nexthop.flatten(),
            ours: true,
        };
        desired.routes.insert(RouteKey::new(dst), route);
    }

    /// A plain route by way of the peer itself (B-31). No nexthop object:
    /// upstream could not delete it.
    fn add_direct_route(&mut self, dst: Subnet, public: IpAddr) {
        let route = Route {
            gateway: Some(public),
            link: None,
            onlink: false,
            nexthop: None,
            ours: true,
        };
        self.plan.desired.routes.insert(RouteKey::new(dst), route);
    }

    fn skip(
        &mut self,
        key: SubnetKey,
        family: Option<Family>,
        reason: SkipReason,
    ) {
        self.plan.skipped.push(Skipped { key, family, reason });
    }

    /// Names two nodes that publish one address with different devices
    /// behind it: one took the wrong interface (P23), or one of the leases is
    /// from its past.
    fn note_shared_address(&mut self, peer: Peer) {
        let first = *self.by_public.entry(peer.public).or_insert(peer);
        if first.mac != peer.mac {
            self.plan.warnings.push(format!(
                "leases {} and {} publish the same address {} with different \
                 Ethernet addresses; if these are two nodes, the daemon of \
                 one has chosen the wrong interface",
                first.key, peer.key, peer.public
            ));
        }
    }
}
