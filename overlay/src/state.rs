//! The objects a flannel node has in its kernel, keyed by what the kernel
//! identifies them by. [`Desired`] is what should be there, [`Observed`] what
//! is; both hold the same object types, so that a difference is a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipam::{Family, Subnet};

use crate::{IfName, Mac};

/// The identity of one kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A link by name.
    Link(IfName),
    /// An address with its prefix length on a link.
    Addr(IfName, Addr),
    /// A forwarding entry.
    Fdb(FdbKey),
    /// A neighbour entry.
    Neigh(NeighKey),
    /// A nexthop object by id.
    Nexthop(u32),
    /// A route of the main table.
    Route(RouteKey),
}

/// A device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What the device is, with the attributes that only a new device takes.
    pub kind: LinkKind,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the bridge, VRF or other master it belongs to, which takes
    /// its traffic: never wanted.
    pub master: Option<u32>,
}

/// The kind of a device with its kind's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// `vxlan`
    Vxlan(Vxlan),
    /// Any other kind, in words for a log line (`dummy`, `vxlan with
    /// external`; empty for a physical device); only ever observed.
    Other(String),
}

/// VXLAN attributes (B-21). `learning`, `parent` and, within its family,
/// `local` are changed on a live device, all others are not.
///
/// A device with a feature that ours never have (external mode, a group,
/// L2 or L3 misses, proxy, GPE, …) is observed as [`LinkKind::Other`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Index of the underlay interface; 0 for none.
    pub parent: u32,
    /// Source address of outer packets: the published address (B-21). An
    /// observed device without one has the unspecified address here.
    pub local: IpAddr,
    /// UDP destination port; always the effective one (8472 by default).
    pub port: u16,
    /// Source address learning.
    pub learning: bool,
    /// Group-based policy extension.
    pub gbp: bool,
}

/// An address on a link: the address itself, its prefix length, and the other
/// end's address if it has one (`ip address add … peer …`), which the length
/// is about then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
    /// The other end's address; never wanted.
    pub peer: Option<IpAddr>,
}

/// Identity of a forwarding entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey {
    /// The vxlan device.
    pub link: IfName,
    /// The peer's device address.
    pub mac: Mac,
}

/// A forwarding entry: which node has that Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// The peer's published address.
    pub dst: IpAddr,
    /// Set by a person or program, never ages out (`NUD_PERMANENT` or
    /// `NUD_NOARP`); `false` for one the device learned by itself.
    pub permanent: bool,
    /// It has a UDP port, a VNI or a device of its own instead of the
    /// tunnel's: never wanted.
    pub odd: bool,
}

/// Identity of a neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighKey {
    /// The device.
    pub link: IfName,
    /// The neighbour's address.
    pub ip: IpAddr,
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neigh {
    /// Its Ethernet address; all zero when the kernel has none for it.
    pub mac: Mac,
    /// Never ages out (`NUD_PERMANENT`).
    pub permanent: bool,
}

/// A nexthop object (`RTM_NEWNEXTHOP`): a gateway on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// The device; `None` for a foreign object of another shape (group,
    /// blackhole).
    pub link: Option<IfName>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The gateway is taken to be on the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Whether it carries our protocol number. Never a reason to rewrite.
    pub ours: bool,
}

/// Identity of a route in the main table: the kernel holds one route per
/// destination and metric that counts, the first it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The destination.
    pub dst: Subnet,
    /// `RTA_PRIORITY`; see [`RouteKey::new`] for the one ours have.
    pub metric: u32,
}

/// A unicast route. One that points to a nexthop object has that object's
/// device, gateway and flag filled in, as the kernel itself reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The device; in a desired route `None` lets the kernel find it by the
    /// gateway (B-31).
    pub link: Option<IfName>,
    /// The gateway is taken to be on the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// The nexthop object it points to. Routes that differ in nothing else
    /// are equal: see [`diff`](crate::diff()).
    pub nexthop: Option<u32>,
    /// Whether it carries our protocol number. Never a reason to rewrite.
    pub ours: bool,
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Devices.
    pub links: BTreeMap<IfName, Link>,
    /// Addresses on our devices.
    pub addrs: BTreeSet<(IfName, Addr)>,
    /// The flannel networks. A foreign address on a device of ours is removed
    /// inside them (B-5; on an IPv6 device any of that family is), a route
    /// with our protocol number on somebody else's device as well.
    pub networks: Vec<Subnet>,
    /// Forwarding entries.
    pub fdb: BTreeMap<FdbKey, Fdb>,
    /// Neighbour entries.
    pub neighs: BTreeMap<NeighKey, Neigh>,
    /// Nexthop objects by id: what each is to be *when a route needs it*.
    /// One that no route uses is not created, and removed if there.
    pub nexthops: BTreeMap<u32, Nexthop>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
}

/// What the kernel holds, within a [`Scope`](crate::Scope).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Devices of our names.
    pub links: BTreeMap<IfName, Link>,
    /// Addresses on them, without IPv6 link-local ones.
    pub addrs: BTreeSet<(IfName, Addr)>,
    /// Forwarding entries on them (`NTF_SELF`).
    pub fdb: BTreeMap<FdbKey, Fdb>,
    /// Unicast neighbour entries on them (no `NUD_NOARP`).
    pub neighs: BTreeMap<NeighKey, Neigh>,
    /// Nexthop objects in our id range ([`nexthop::is_ours`](crate::nexthop::is_ours)).
    pub nexthops: BTreeMap<u32, Nexthop>,
    /// Unicast routes of the main table that are on them, carry our protocol
    /// number or lead into the flannel networks; none that the kernel made by
    /// itself (`RTPROT_KERNEL`, `RTPROT_RA`). Of several with one
    /// destination and metric, the first the kernel lists.
    pub routes: BTreeMap<RouteKey, Route>,
}

// === impl Addr ===

impl Addr {
    /// An address without another end.
    #[must_use]
    pub const fn new(ip: IpAddr, len: u8) -> Self {
        Self { ip, len, peer: None }
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{} peer {peer}/{}", self.ip, self.len),
            None => write!(f, "{}/{}", self.ip, self.len),
        }
    }
}

// === impl Fdb ===

impl Fdb {
    /// The entry that leads to a peer.
    #[must_use]
    pub const fn new(dst: IpAddr) -> Self {
        Self { dst, permanent: true, odd: false }
    }
}

// === impl RouteKey ===

impl RouteKey {
    /// The key of a route of ours to `dst`: no metric is asked for, which
    /// the kernel stores as 0 (IPv4) or 1024 (IPv6).
    #[must_use]
    pub const fn new(dst: Subnet) -> Self {
        let metric = match dst.family() {
            Family::V4 => 0,
            Family::V6 => 1024,
        };
        Self { dst, metric }
    }
}

// === impl Key ===

impl Key {
    /// The device it stands on, as far as the key tells.
    #[must_use]
    pub const fn link(&self) -> Option<IfName> {
        match self {
            Self::Link(link)
            | Self::Addr(link, _)
            | Self::Fdb(FdbKey { link, .. })
            | Self::Neigh(NeighKey { link, .. }) => Some(*link),
            Self::Nexthop(_) | Self::Route(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "link {link}"),
            Self::Addr(link, addr) => write!(f, "address {addr} on {link}"),
            Self::Fdb(FdbKey { link, mac }) => {
                write!(f, "forwarding entry {mac} on {link}")
            }
            Self::Neigh(NeighKey { link, ip }) => {
                write!(f, "neighbour {ip} on {link}")
            }
            Self::Nexthop(id) => write!(f, "nexthop {id}"),
            Self::Route(RouteKey { dst, .. }) => write!(f, "route {dst}"),
        }
    }
}

// === impl Desired ===

impl Desired {
    /// The keys of all objects that one of the two has and the other has
    /// not, or has otherwise: what a pass from `self` to `to` must look at.
    #[must_use]
    pub fn changed_keys(&self, to: &Self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        keys.extend(changed(&self.links, &to.links).map(Key::Link));
        keys.extend(
            self.addrs
                .symmetric_difference(&to.addrs)
                .map(|&(link, addr)| Key::Addr(link, addr)),
        );
        keys.extend(changed(&self.fdb, &to.fdb).map(Key::Fdb));
        keys.extend(changed(&self.neighs, &to.neighs).map(Key::Neigh));
        keys.extend(changed(&self.nexthops, &to.nexthops).map(Key::Nexthop));
        keys.extend(changed(&self.routes, &to.routes).map(Key::Route));
        keys
    }

    /// Gives back the room that maps keep which were filled in the order of
    /// their keys: nearly half.
    pub(crate) fn pack(&mut self) {
        pack(&mut self.fdb);
        pack(&mut self.neighs);
        pack(&mut self.nexthops);
        pack(&mut self.routes);
    }

    /// Everything that should stand on `link`, and the link.
    pub fn on_link(&self, link: IfName) -> impl Iterator<Item = Key> {
        let links = self.links.contains_key(&link).then_some(Key::Link(link));
        let addrs = self.addrs.iter().filter(move |(l, _)| *l == link);
        let fdb = self.fdb.keys().filter(move |key| key.link == link);
        let neighs = self.neighs.keys().filter(move |key| key.link == link);
        let nexthops =
            self.nexthops.iter().filter(move |(_, n)| n.link == Some(link));
        let routes =
            self.routes.iter().filter(move |(_, r)| r.link == Some(link));
        links
            .into_iter()
            .chain(addrs.map(|(l, addr)| Key::Addr(*l, *addr)))
            .chain(fdb.copied().map(Key::Fdb))
            .chain(neighs.copied().map(Key::Neigh))
            .chain(nexthops.map(|(id, _)| Key::Nexthop(*id)))
            .chain(routes.map(|(key, _)| Key::Route(*key)))
    }

    /// `keys` with all that the kernel may have dropped together with them,
    /// mostly without a word: with a device or an address of it everything on
    /// the device, with a nexthop object its routes. A device that is not
    /// ours carries the routes without a tunnel. With a route comes its
    /// nexthop object, which tells whether it can be used.
    #[must_use]
    pub fn closure(&self, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        let mut out = keys.clone();
        let mut nexthops = BTreeSet::new();
        let mut links = BTreeSet::new();
        for key in keys {
            match key {
                Key::Link(link) | Key::Addr(link, _) => {
                    links.insert(*link);
                }
                Key::Nexthop(id) => {
                    nexthops.insert(*id);
                }
                Key::Route(key) => {
                    let route = self.routes.get(key);
                    out.extend(route.and_then(|r| r.nexthop).map(Key::Nexthop));
                }
                Key::Fdb(_) | Key::Neigh(_) => {}
            }
        }
        for link in &links {
            out.extend(self.on_link(*link));
        }
        if links.iter().any(|link| !self.links.contains_key(link)) {
            let direct = self.routes.iter().filter(|(_, r)| r.link.is_none());
            out.extend(direct.map(|(key, _)| Key::Route(*key)));
        }
        if !nexthops.is_empty() {
            let used =
                |r: &Route| r.nexthop.is_some_and(|id| nexthops.contains(&id));
            let users = self.routes.iter().filter(|(_, route)| used(route));
            out.extend(users.map(|(key, _)| Key::Route(*key)));
        }
        out
    }
}

fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

fn changed<'a, K: Ord + Copy, V: PartialEq>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    let gone_or_other =
        from.iter().filter(|(k, v)| to.get(k) != Some(v)).map(|(k, _)| *k);
    let new = to.keys().filter(|k| !from.contains_key(k)).copied();
    gone_or_other.chain(new)
}
