use std::net::IpAddr;

use ipam::Subnet;

use crate::wire::uapi::{RTNH_F_DEAD, RTNH_F_LINKDOWN};

/// A route as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// The destination; for a look-up the single address.
    pub dst: Subnet,
    /// The next router. Also set for a route with a nexthop object.
    pub gateway: Option<IpAddr>,
    /// Index of the output device. Also set for a route with a nexthop
    /// object.
    pub oif: Option<u32>,
    /// The gateway is taken to be on the link.
    pub onlink: bool,
    /// The nexthop object.
    pub nexthop: Option<u32>,
    /// Who set it (`RTPROT_*`).
    pub protocol: u8,
    /// Metric; 0 when the kernel sends none.
    pub metric: u32,
    /// What happens to packets.
    pub kind: RouteKind,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// How far the destination is.
    pub scope: Scope,
    /// The table.
    pub table: u32,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP maximum segment size to advertise, in bytes.
    pub advmss: Option<u32>,
    /// The ways of a multipath route; `gateway` and `oif` are empty then.
    pub multipath: Vec<Hop>,
    /// Flags (`RTNH_F_*`, `RTM_F_*`).
    pub flags: u32,
    /// Type of service the route is limited to; 0 is any.
    pub tos: u8,
    /// Source prefix length the route is limited to; 0 is any (IPv6).
    pub src_len: u8,
}

/// One way of a multipath route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// Index of the output device.
    pub oif: u32,
    /// Share of the traffic: 1 to 256.
    pub weight: u16,
    /// Flags (`RTNH_F_*`).
    pub flags: u8,
}

/// What a route does with packets (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends them on.
    Unicast,
    /// Delivers them here.
    Local,
    /// Delivers them here as broadcasts.
    Broadcast,
    /// Drops them without a word.
    Blackhole,
    /// Drops them with an ICMP "unreachable".
    Unreachable,
    /// Drops them with an ICMP "prohibited".
    Prohibit,
    /// Goes on with the next table.
    Throw,
    /// Another kind, by number.
    Other(u8),
}

/// How far away or how widely valid something is (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere.
    Universe,
    /// This site (IPv6, historic).
    Site,
    /// The link.
    Link,
    /// This host.
    Host,
    /// Nothing; in a deletion: any.
    Nowhere,
    /// Another scope, by number.
    Other(u8),
}

// === impl RouteInfo ===

impl RouteInfo {
    /// Whether the route, or one way of it, goes over that device.
    #[must_use]
    pub fn uses(&self, oif: u32) -> bool {
        self.oif == Some(oif) || self.multipath.iter().any(|h| h.oif == oif)
    }

    /// Whether the kernel does not use it now: its device is down or without
    /// carrier.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        self.flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0
    }
}

// === impl RouteKind ===

impl RouteKind {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Broadcast => 3,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Throw => 9,
            Self::Other(number) => number,
        }
    }
}

impl From<u8> for RouteKind {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

// === impl Scope ===

impl Scope {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Universe => 0,
            Self::Site => 200,
            Self::Link => 253,
            Self::Host => 254,
            Self::Nowhere => 255,
            Self::Other(number) => number,
        }
    }
}

impl From<u8> for Scope {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Universe,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            255 => Self::Nowhere,
            other => Self::Other(other),
        }
    }
}
