//! Routes and route look-ups.

mod decode;

pub(crate) use decode::decode;

use std::net::IpAddr;

use ipam::{Family, Subnet};
use nix::errno::Errno;

use crate::error::Error;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTA_DST,
    RTA_GATEWAY, RTA_METRICS, RTA_NH_ID, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY,
    RTA_TABLE, RTA_VIA, RTAX_ADVMSS, RTAX_MTU, RTM_DELROUTE, RTM_F_FIB_MATCH,
    RTM_GETROUTE, RTM_NEWROUTE, RTNH_F_DEAD, RTNH_F_LINKDOWN, RTNH_F_ONLINK,
};
use crate::wire::{Message, af, af_of};

/// The main table's number.
pub const TABLE_MAIN: u32 = 254;
/// The local table's number.
pub const TABLE_LOCAL: u32 = 255;
/// Protocol `boot`: what upstream's routes carry (B-1).
pub const PROTOCOL_BOOT: u8 = 3;

/// A route to add or replace. [`RouteSpec::to`] gives the plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destination.
    pub dst: Subnet,
    /// The next router; may be an IPv6 one for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// The gateway is taken to be on the device's link, whatever the
    /// addresses on it say.
    pub onlink: bool,
    /// The nexthop object to use; without `gateway`, `oif` and `onlink` then.
    pub nexthop: Option<u32>,
    /// Who set it (`RTPROT_*`).
    pub protocol: u8,
    /// Metric; `None` is 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// What happens to packets.
    pub kind: RouteKind,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// How far the destination is. The kernel looks at it for IPv4 only.
    pub scope: Scope,
    /// The table.
    pub table: u32,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP maximum segment size to advertise, in bytes.
    pub advmss: Option<u32>,
}

/// Which route to delete: what is `None` is not compared. The first match is
/// deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The destination.
    pub dst: Subnet,
    /// The table.
    pub table: u32,
    /// Metric.
    pub metric: Option<u32>,
    /// The next router. A route with a nexthop object is never matched by it
    /// in IPv4.
    pub gateway: Option<IpAddr>,
    /// Index of the output device; the same holds.
    pub oif: Option<u32>,
    /// The nexthop object.
    pub nexthop: Option<u32>,
    /// Who set it.
    pub protocol: Option<u8>,
    /// The kind.
    pub kind: Option<RouteKind>,
}

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

/// Which routes to read.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// The family.
    pub family: Family,
    /// The table; `None` reads all tables.
    pub table: Option<u32>,
    /// Only those over the device with this index. The kernel includes
    /// multipath routes with one way over it.
    pub oif: Option<u32>,
    /// Only those with this protocol number.
    pub protocol: Option<u8>,
}

// === reading ===

/// The routes that pass the filter. A table that does not exist yet has none.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
pub fn list(
    socket: &mut Socket,
    filter: Filter,
) -> Result<Dump<RouteInfo>, Error> {
    let mut header = rtmsg(af(filter.family), 0, &Header::default());
    if let Some(place) = header.get_mut(5) {
        *place = filter.protocol.unwrap_or(0);
    }
    let mut message = Message::new(RTM_GETROUTE, 0, &header);
    if let Some(table) = filter.table {
        message.u32(RTA_TABLE, table);
    }
    if let Some(oif) = filter.oif {
        message.u32(RTA_OIF, oif);
    }
    let object = match filter.table {
        Some(table) => {
            format!("list {} routes of table {table}", filter.family)
        }
        None => format!("list {} routes", filter.family),
    };
    match socket.dump(&Request::new(object.as_str(), message), decode) {
        // The kernel makes IPv4 tables when they are first used.
        Err(Error::Refused { errno: Errno::ENOENT, .. })
            if filter.table.is_some() =>
        {
            Ok(Dump::empty(&object))
        }
        Err(e) => Err(e),
        Ok(dump) => Ok(dump.filtered(|r| {
            // IPv6 dumps cached entries when the kernel is not strict.
            r.flags & crate::wire::uapi::RTM_F_CLONED == 0
                && r.dst.family() == filter.family
                && filter.table.is_none_or(|t| r.table == t)
                && filter.protocol.is_none_or(|p| r.protocol == p)
                && filter.oif.is_none_or(|oif| r.uses(oif))
        })),
    }
}

/// The way the kernel would send a packet to `dst` now (B-4): `dst` is the
/// single address, gateway and device are those chosen.
///
/// # Errors
/// The kernel's answer where there is no way: `ENETUNREACH`, `EHOSTUNREACH`,
/// `EINVAL` (blackhole), `EACCES` (prohibited).
pub fn lookup(socket: &mut Socket, dst: IpAddr) -> Result<RouteInfo, Error> {
    query(socket, dst, 0)
}

/// The route that a packet to `dst` would follow now, as it stands in its
/// table.
///
/// # Errors
/// As [`lookup`].
pub fn lookup_entry(
    socket: &mut Socket,
    dst: IpAddr,
) -> Result<RouteInfo, Error> {
    query(socket, dst, RTM_F_FIB_MATCH)
}

/// The routes to exactly `dst` in that table: usually none or one, more when
/// they differ in metric.
///
/// Costs one look-up when there is a route and it is the one in use;
/// otherwise reads the table.
///
/// # Errors
/// See [`Error`]; [`Error::Undecodable`] when the answer is in doubt.
pub fn exact(
    socket: &mut Socket,
    dst: Subnet,
    table: u32,
) -> Result<Vec<RouteInfo>, Error> {
    if let Ok(route) = lookup_entry(socket, dst.base())
        && route.dst == dst
        && route.table == table
        && route.metric == default_metric(dst.family())
    {
        return Ok(vec![route]);
    }
    let family = dst.family();
    let all = Filter { family, table: Some(table), oif: None, protocol: None };
    let mut routes = list(socket, all)?.complete()?;
    routes.retain(|r| r.dst == dst);
    Ok(routes)
}

fn query(
    socket: &mut Socket,
    dst: IpAddr,
    flags: u32,
) -> Result<RouteInfo, Error> {
    let bits = Family::of(dst).bits();
    let header =
        rtmsg(af_of(dst), bits, &Header { flags, ..Header::default() });
    let mut message = Message::new(RTM_GETROUTE, 0, &header);
    message.ip(RTA_DST, dst);
    socket.get(&Request::new(format!("route to {dst}"), message), decode)
}

/// What the kernel takes for a route without a metric. With it, no route to
/// the same destination can come before.
const fn default_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

// === changing ===

/// Adds a route; refused (`EEXIST`) when one with the same destination,
/// metric and table is there.
#[must_use]
pub fn add(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_EXCL, "add", spec)
}

/// Sets a route, in place of the one with the same destination, metric and
/// table if there is one. No packet finds a gap.
#[must_use]
pub fn replace(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_REPLACE, "set", spec)
}

/// Adds a route before one with the same destination, metric and table
/// (IPv4), or makes that a multipath route (IPv6). An equal one is refused
/// (`EEXIST`). What upstream's CNI plugins do (BR-35).
#[must_use]
pub fn prepend(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE, "add", spec)
}

/// As [`prepend`], but after the others.
#[must_use]
pub fn append(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_APPEND, "append", spec)
}

/// Deletes the first route that matches; `ESRCH` when there is none.
#[must_use]
pub fn delete(route: &RouteMatch) -> Request {
    let header = Header {
        protocol: route.protocol.unwrap_or(0),
        scope: Scope::Nowhere.number(),
        kind: route.kind.map_or(0, RouteKind::number),
        flags: 0,
    };
    let family = route.dst.family();
    let header = rtmsg(af(family), route.dst.len(), &header);
    let mut message = Message::new(RTM_DELROUTE, 0, &header);
    destination(&mut message, route.dst, route.table, route.metric);
    way(&mut message, family, route.gateway, route.oif, route.nexthop);
    Request::new(format!("delete route to {}", route.dst), message)
}

fn write(flags: u16, verb: &str, spec: &RouteSpec) -> Request {
    let header = Header {
        protocol: spec.protocol,
        scope: spec.scope.number(),
        kind: spec.kind.number(),
        flags: if spec.onlink { RTNH_F_ONLINK } else { 0 },
    };
    let family = spec.dst.family();
    let header = rtmsg(af(family), spec.dst.len(), &header);
    let mut message = Message::new(RTM_NEWROUTE, flags, &header);
    destination(&mut message, spec.dst, spec.table, spec.metric);
    way(&mut message, family, spec.gateway, spec.oif, spec.nexthop);
    if let Some(src) = spec.src {
        message.ip(RTA_PREFSRC, src);
    }
    let metrics = [(RTAX_MTU, spec.mtu), (RTAX_ADVMSS, spec.advmss)];
    if metrics.iter().any(|(_, value)| value.is_some()) {
        message.nest(RTA_METRICS, |m| {
            for (attr, value) in metrics {
                if let Some(value) = value {
                    m.u32(attr, value);
                }
            }
        });
    }
    Request::new(format!("{verb} route {}", spec.describe()), message)
}

fn destination(
    message: &mut Message,
    dst: Subnet,
    table: u32,
    metric: Option<u32>,
) {
    if dst.len() > 0 {
        message.ip(RTA_DST, dst.base());
    }
    message.u32(RTA_TABLE, table);
    if let Some(metric) = metric {
        message.u32(RTA_PRIORITY, metric);
    }
}

fn way(
    message: &mut Message,
    family: Family,
    gateway: Option<IpAddr>,
    oif: Option<u32>,
    nexthop: Option<u32>,
) {
    match gateway {
        Some(ip) if Family::of(ip) == family => message.ip(RTA_GATEWAY, ip),
        Some(ip) => message.via(RTA_VIA, ip),
        None => {}
    }
    if let Some(oif) = oif {
        message.u32(RTA_OIF, oif);
    }
    if let Some(id) = nexthop {
        message.u32(RTA_NH_ID, id);
    }
}

/// The parts of `struct rtmsg` that differ between our messages.
#[derive(Clone, Copy, Default)]
struct Header {
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// `struct rtmsg`. Its table field is one byte: the attribute is used.
fn rtmsg(af: u8, dst_len: u8, header: &Header) -> [u8; 12] {
    let Header { protocol, scope, kind, flags } = *header;
    let [a, b, c, d] = flags.to_ne_bytes();
    [af, dst_len, 0, 0, 0, protocol, scope, kind, a, b, c, d]
}

// === impl RouteSpec ===

impl RouteSpec {
    /// A unicast route to `dst` in the main table, protocol `boot`, scope
    /// universe, without a way: the conventions of B-1.
    #[must_use]
    pub const fn to(dst: Subnet) -> Self {
        Self {
            dst,
            gateway: None,
            oif: None,
            onlink: false,
            nexthop: None,
            protocol: PROTOCOL_BOOT,
            metric: None,
            kind: RouteKind::Unicast,
            src: None,
            scope: Scope::Universe,
            table: TABLE_MAIN,
            mtu: None,
            advmss: None,
        }
    }

    fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.dst.to_string();
        if let Some(gateway) = self.gateway {
            let _ = write!(text, " via {gateway}");
        }
        if let Some(oif) = self.oif {
            let _ = write!(text, " on link {oif}");
        }
        if let Some(id) = self.nexthop {
            let _ = write!(text, " by nexthop {id}");
        }
        text
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Any route to `dst` in the main table.
    #[must_use]
    pub const fn to(dst: Subnet) -> Self {
        Self {
            dst,
            table: TABLE_MAIN,
            metric: None,
            gateway: None,
            oif: None,
            nexthop: None,
            protocol: None,
            kind: None,
        }
    }

    /// The route that was read, and no other.
    #[must_use]
    pub fn of(route: &RouteInfo) -> Self {
        // A nexthop object stands for gateway and device.
        let plain = route.nexthop.is_none();
        Self {
            dst: route.dst,
            table: route.table,
            metric: Some(route.metric).filter(|m| *m != 0),
            gateway: route.gateway.filter(|_| plain),
            oif: route.oif.filter(|_| plain),
            nexthop: route.nexthop,
            protocol: Some(route.protocol),
            kind: Some(route.kind),
        }
    }
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
    const fn number(self) -> u8 {
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
