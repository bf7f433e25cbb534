//! Routes and route look-ups.

use std::net::IpAddr;

use ipam::{Family, Subnet};
use nix::errno::Errno;

use crate::error::Error;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    RTA_DST, RTA_OIF, RTA_TABLE, RTM_F_CLONED, RTM_F_FIB_MATCH,
    RTM_F_LOOKUP_TABLE, RTM_GETROUTE,
};
use crate::wire::{Message, af, af_of};

mod decode;
mod info;
mod spec;

pub(crate) use decode::decode;
pub use info::{Hop, RouteInfo, RouteKind, Scope};
pub use spec::{RouteMatch, RouteSpec, add, append, delete, prepend, replace};

/// The main table's number.
pub const TABLE_MAIN: u32 = 254;
/// The local table's number.
pub const TABLE_LOCAL: u32 = 255;
/// Protocol `kernel`: routes that the kernel makes of addresses.
pub const PROTOCOL_KERNEL: u8 = 2;
/// Protocol `boot`: what upstream's routes carry (B-1).
pub const PROTOCOL_BOOT: u8 = 3;

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
            r.flags & RTM_F_CLONED == 0
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
        // As long as there are no rules, IPv4 takes the local table's routes
        // for the main one's.
        && !matches!(route.kind, RouteKind::Local | RouteKind::Broadcast)
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
    // IPv6 tells the table anyway, and refuses the flag.
    let flags = match dst {
        IpAddr::V4(_) => flags | RTM_F_LOOKUP_TABLE,
        IpAddr::V6(_) => flags,
    };
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
