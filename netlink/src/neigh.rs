//! Neighbour entries: which Ethernet address an IP address on a link has.

use std::net::IpAddr;

use ipam::Family;

use crate::error::Error;
use crate::link::Mac;
use crate::request::{Object, Request};
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    NDA_DST, NDA_IFINDEX, NDA_LLADDR, NLM_F_CREATE, NLM_F_REPLACE,
    RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH,
};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, af, af_of, family, ip, mac, u8_at,
    u16_at, u32_at,
};

/// Length of `struct ndmsg`.
pub(crate) const NDMSG: usize = 12;
/// `NUD_PERMANENT`
pub(crate) const PERMANENT: u16 = 0x80;
/// `NUD_NOARP`
const NOARP: u16 = 0x40;
/// `RTN_UNICAST`
const UNICAST: u8 = 1;

/// A permanent neighbour entry (B-28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighSpec {
    /// Index of the link.
    pub index: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// A neighbour entry as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighInfo {
    /// Index of the link.
    pub index: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its Ethernet address; `None` while it is being asked for.
    pub mac: Option<Mac>,
    /// State (`NUD_*`).
    pub state: u16,
    /// Flags (`NTF_*`).
    pub flags: u8,
}

/// The entries of one family on one link or all, without those the kernel
/// makes for itself (`NUD_NOARP`: multicast, loopback).
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
pub fn list(
    socket: &mut Socket,
    only: Family,
    index: Option<u32>,
) -> Result<Dump<NeighInfo>, Error> {
    let header = ndmsg(af(only), 0, 0, 0, 0);
    let mut message = Message::new(RTM_GETNEIGH, 0, &header);
    if let Some(index) = index {
        message.u32(NDA_IFINDEX, index);
    }
    let object = match index {
        Some(index) => format!("list {only} neighbours on link {index}"),
        None => format!("list {only} neighbours"),
    };
    let dump = socket.dump(&Request::new(object, message), decode)?;
    Ok(dump.filtered(|n| {
        n.state & NOARP == 0
            && index.is_none_or(|i| n.index == i)
            && Family::of(n.ip) == only
    }))
}

/// The entry of `ip` on the link.
///
/// # Errors
/// [`Error::is_not_found`] when there is none.
pub fn get(
    socket: &mut Socket,
    index: u32,
    ip: IpAddr,
) -> Result<NeighInfo, Error> {
    let header = ndmsg(af_of(ip), index, 0, 0, 0);
    let mut message = Message::new(RTM_GETNEIGH, 0, &header);
    message.ip(NDA_DST, ip);
    let object = format!("neighbour {ip} on link {index}");
    socket.get(&Request::new(object, message), decode)
}

/// Sets a permanent entry, in place of whatever is there for that address.
#[must_use]
pub fn set(spec: &NeighSpec) -> Request {
    let NeighSpec { index, ip, mac } = *spec;
    let header = ndmsg(af_of(ip), index, PERMANENT, 0, UNICAST);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = Message::new(RTM_NEWNEIGH, flags, &header);
    message.ip(NDA_DST, ip);
    message.bytes(NDA_LLADDR, &mac);
    Request::new(Object::Neigh("set", *spec), message)
}

/// Deletes the entry of `ip` on the link.
#[must_use]
pub fn delete(index: u32, ip: IpAddr) -> Request {
    let header = ndmsg(af_of(ip), index, PERMANENT, 0, UNICAST);
    let mut message = Message::new(RTM_DELNEIGH, 0, &header);
    message.ip(NDA_DST, ip);
    Request::new(format!("delete neighbour {ip} on link {index}"), message)
}

/// `struct ndmsg`.
pub(crate) fn ndmsg(
    af: u8,
    index: u32,
    state: u16,
    flags: u8,
    kind: u8,
) -> [u8; NDMSG] {
    let [a, b, c, d] = index.to_ne_bytes();
    let [s, t] = state.to_ne_bytes();
    [af, 0, 0, 0, a, b, c, d, s, t, flags, kind]
}

/// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH` of IPv4 or IPv6.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<NeighInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return Ok(None);
    }
    const HEADER: Malformed = Malformed("neighbour header");
    let payload = message.payload;
    if family(u8_at(payload, 0).ok_or(HEADER)?).is_none() {
        return Ok(None);
    }
    let (mut dst, mut lladdr) = (None, None);
    for attr in Attrs::after(payload, NDMSG)? {
        let (kind, value) = attr?;
        match kind {
            NDA_DST => dst = ip(value),
            NDA_LLADDR => lladdr = mac(value),
            _ => {}
        }
    }
    Ok(Some(NeighInfo {
        index: u32_at(payload, 4).ok_or(HEADER)?,
        ip: dst.ok_or(Malformed("neighbour address"))?,
        mac: lladdr,
        state: u16_at(payload, 8).ok_or(HEADER)?,
        flags: u8_at(payload, 10).ok_or(HEADER)?,
    }))
}

// === impl NeighInfo ===

impl NeighInfo {
    /// Never ages out (`NUD_PERMANENT`).
    #[must_use]
    pub const fn permanent(&self) -> bool {
        self.state & PERMANENT != 0
    }
}
