//! The objects a flannel node has in its kernel, keyed by what the kernel
//! identifies them by. [`Desired`] is what should be there, [`Observed`] what
//! is; both hold the same object types, so that a difference is a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipam::{Family, Subnet};

/// A network interface name: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName {
    len: u8,
    bytes: [u8; 15],
}

/// An Ethernet address. Written lower-case with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

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
    /// A route in the main table.
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
}

/// The kind of a device with its kind's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// `vxlan`
    Vxlan(Vxlan),
    /// Any other kind, by its kernel name (empty for a physical one); only
    /// ever observed.
    Other(String),
}

/// VXLAN attributes (B-21). None but `learning` can be changed on a live
/// device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Index of the underlay interface.
    pub parent: u32,
    /// Source address of outer packets: the published address (B-21).
    pub local: IpAddr,
    /// UDP destination port; always the effective one (8472 by default).
    pub port: u16,
    /// Source address learning.
    pub learning: bool,
    /// Group-based policy extension.
    pub gbp: bool,
}

/// An address on a link: the address itself and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
}

/// Identity of a forwarding entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbKey {
    /// The vxlan device.
    pub link: IfName,
    /// The peer's device address.
    pub mac: Mac,
}

/// A permanent forwarding entry: which node has that Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// The peer's published address.
    pub dst: IpAddr,
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
    /// Its Ethernet address.
    pub mac: Mac,
    /// Never ages out (`NUD_PERMANENT`).
    pub permanent: bool,
}

/// A nexthop object (`RTM_NEWNEXTHOP`): a gateway on a device, onlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// The device.
    pub link: IfName,
    /// The gateway.
    pub gateway: IpAddr,
    /// Whether it carries our protocol number.
    pub ours: bool,
}

/// Identity of a route: destination in the main table with metric 0 (IPv4)
/// or the kernel's default metric (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The destination.
    pub dst: Subnet,
}

/// A unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The device; `None` lets the kernel find it by the gateway (B-31).
    pub link: Option<IfName>,
    /// The gateway is taken to be on the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// The nexthop object it points to. Equal routes with and without one
    /// are equal for traffic: see `diff`.
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
    /// Addresses of ours are all inside these networks: a foreign address
    /// outside them is left alone on an IPv4 device (B-5).
    pub networks: Vec<Subnet>,
    /// Forwarding entries.
    pub fdb: BTreeMap<FdbKey, Fdb>,
    /// Neighbour entries.
    pub neighs: BTreeMap<NeighKey, Neigh>,
    /// Nexthop objects by id.
    pub nexthops: BTreeMap<u32, Nexthop>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
}

/// What the kernel holds: everything on our devices, our nexthop objects,
/// and the routes that are ours or stand where one of ours should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Devices of our names.
    pub links: BTreeMap<IfName, Link>,
    /// Addresses on them.
    pub addrs: BTreeSet<(IfName, Addr)>,
    /// Forwarding entries on them.
    pub fdb: BTreeMap<FdbKey, Fdb>,
    /// Neighbour entries on them.
    pub neighs: BTreeMap<NeighKey, Neigh>,
    /// Nexthop objects in our id range.
    pub nexthops: BTreeMap<u32, Nexthop>,
    /// Routes on them or with our protocol number, main table.
    pub routes: BTreeMap<RouteKey, Route>,
}

// === impl IfName ===

impl IfName {
    /// The name `text`, if it is one the kernel would take (1 to 15 bytes, no
    /// slash, no white space).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text
                .bytes()
                .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace());
        if !fits {
            return None;
        }
        let mut bytes = [0; 15];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { len: u8::try_from(text.len()).ok()?, bytes })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..usize::from(self.len))
            .and_then(|b| std::str::from_utf8(b).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Mac ===

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Addr ===

impl Addr {
    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.ip)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}
