//! Nexthop objects (`RTM_NEWNEXTHOP`, Linux 5.3): a gateway on a device that
//! routes refer to by number. With them the kernel finds a route's data by
//! that number instead of walking one chain of all routes over a device
//! (environment-and-limits.md §7).
//!
//! A deleted object, or one whose link is deleted or set down, takes its
//! routes with it; IPv4 sends no route event then.

use std::net::IpAddr;

use ipam::Family;

use crate::error::Error;
use crate::request::{Object, Request};
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    AF_UNSPEC, NHA_BLACKHOLE, NHA_GATEWAY, NHA_GROUP, NHA_ID, NHA_OIF,
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTM_DELNEXTHOP, RTM_GETNEXTHOP,
    RTM_NEWNEXTHOP, RTNH_F_ONLINK,
};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, af_of, family, ip, u8_at, u32_at,
};

/// Length of `struct nhmsg`.
const NHMSG: usize = 8;

/// A nexthop object to create: a gateway on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NexthopSpec {
    /// Its number, not 0. All 32 bits can be used.
    pub id: u32,
    /// Index of the output device.
    pub oif: u32,
    /// The next router; its family is that of the routes that can use it.
    pub gateway: IpAddr,
    /// The gateway is taken to be on the link.
    pub onlink: bool,
    /// Who set it (`RTPROT_*`). Cannot be changed by a replacement.
    pub protocol: u8,
}

/// A nexthop object as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexthopInfo {
    /// Its number.
    pub id: u32,
    /// The family of the routes that can use it; `None` for groups.
    pub family: Option<Family>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The gateway is taken to be on the link.
    pub onlink: bool,
    /// Who set it (`RTPROT_*`).
    pub protocol: u8,
    /// Drops packets.
    pub blackhole: bool,
    /// Is a group of others.
    pub group: bool,
    /// Flags (`RTNH_F_*`).
    pub flags: u32,
}

/// Whether the kernel has nexthop objects (5.3 and later).
///
/// # Errors
/// When the kernel answers neither yes nor no.
pub fn supported(socket: &mut Socket) -> Result<bool, Error> {
    match get(socket, u32::MAX) {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() => Ok(true),
        Err(e) if e.is_unsupported() => Ok(false),
        Err(e) => Err(e),
    }
}

/// All nexthop objects, or those over one device.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
pub fn list(
    socket: &mut Socket,
    oif: Option<u32>,
) -> Result<Dump<NexthopInfo>, Error> {
    let mut message = Message::new(RTM_GETNEXTHOP, 0, &nhmsg(AF_UNSPEC, 0, 0));
    if let Some(oif) = oif {
        message.u32(NHA_OIF, oif);
    }
    let query = Request::new("list nexthops", message);
    let dump = socket.dump(&query, decode)?;
    Ok(dump.filtered(|n| oif.is_none_or(|oif| n.oif == Some(oif))))
}

/// The object with that number.
///
/// # Errors
/// [`Error::is_not_found`] when there is none.
pub fn get(socket: &mut Socket, id: u32) -> Result<NexthopInfo, Error> {
    let mut message = Message::new(RTM_GETNEXTHOP, 0, &nhmsg(AF_UNSPEC, 0, 0));
    message.u32(NHA_ID, id);
    socket.get(&Request::new(format!("nexthop {id}"), message), decode)
}

/// Creates an object; refused (`EEXIST`) when the number is taken.
#[must_use]
pub fn add(spec: &NexthopSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_EXCL, "create", spec)
}

/// Creates an object, or changes the one with that number for all routes that
/// use it at once. The family of one in use cannot change.
#[must_use]
pub fn replace(spec: &NexthopSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_REPLACE, "set", spec)
}

/// Deletes an object and the routes that use it.
#[must_use]
pub fn delete(id: u32) -> Request {
    let mut message = Message::new(RTM_DELNEXTHOP, 0, &nhmsg(AF_UNSPEC, 0, 0));
    message.u32(NHA_ID, id);
    Request::new(format!("delete nexthop {id}"), message)
}

fn write(flags: u16, verb: &'static str, spec: &NexthopSpec) -> Request {
    let NexthopSpec { id, oif, gateway, onlink, protocol } = *spec;
    let onlink = if onlink { RTNH_F_ONLINK } else { 0 };
    let header = nhmsg(af_of(gateway), protocol, onlink);
    let mut message = Message::new(RTM_NEWNEXTHOP, flags, &header);
    message.u32(NHA_ID, id);
    message.u32(NHA_OIF, oif);
    message.ip(NHA_GATEWAY, gateway);
    Request::new(Object::Nexthop(verb, *spec), message)
}

/// `struct nhmsg`.
fn nhmsg(af: u8, protocol: u8, flags: u32) -> [u8; NHMSG] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [af, 0, protocol, 0, a, b, c, d]
}

/// Reads an `RTM_NEWNEXTHOP` or `RTM_DELNEXTHOP`.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<NexthopInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWNEXTHOP | RTM_DELNEXTHOP) {
        return Ok(None);
    }
    const HEADER: Malformed = Malformed("nexthop header");
    const WHAT: Malformed = Malformed("nexthop attribute");
    let payload = message.payload;
    let flags = u32_at(payload, 4).ok_or(HEADER)?;
    let mut nexthop = NexthopInfo {
        id: 0,
        family: family(u8_at(payload, 0).ok_or(HEADER)?),
        oif: None,
        gateway: None,
        onlink: flags & RTNH_F_ONLINK != 0,
        protocol: u8_at(payload, 2).ok_or(HEADER)?,
        blackhole: false,
        group: false,
        flags,
    };
    for attr in Attrs::after(payload, NHMSG)? {
        let (kind, value) = attr?;
        match kind {
            NHA_ID => nexthop.id = u32_at(value, 0).ok_or(WHAT)?,
            NHA_OIF => nexthop.oif = Some(u32_at(value, 0).ok_or(WHAT)?),
            NHA_GATEWAY => nexthop.gateway = Some(ip(value).ok_or(WHAT)?),
            NHA_BLACKHOLE => nexthop.blackhole = true,
            NHA_GROUP => nexthop.group = true,
            _ => {}
        }
    }
    if nexthop.id == 0 {
        return Err(Malformed("nexthop without a number"));
    }
    Ok(Some(nexthop))
}
