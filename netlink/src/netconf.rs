//! Settings of a namespace that the kernel also tells by netlink
//! (`RTM_GETNETCONF`): to find a setting's file under `/proc/sys/net` takes
//! longer, the longer the more namespaces there are.

use ipam::Family;

use crate::error::Error;
use crate::request::Request;
use crate::socket::Socket;
use crate::wire::uapi::{RTM_GETNETCONF, RTM_NEWNETCONF};
use crate::wire::{Attrs, Malformed, Message, RawMessage, af, u32_at};

// netconf.h
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`: what is under `conf/all`.
const ALL: u32 = u32::MAX;
/// `struct netconfmsg`, padded.
const HEADER: usize = 4;

/// Whether the socket's namespace forwards packets of `family`:
/// `net/ipv4/ip_forward`, `net/ipv6/conf/all/forwarding`.
///
/// # Errors
/// See [`Error`]; also where the kernel has no such family.
pub fn forwarding(socket: &mut Socket, family: Family) -> Result<bool, Error> {
    let mut message = Message::new(RTM_GETNETCONF, 0, &[af(family), 0, 0, 0]);
    message.u32(NETCONFA_IFINDEX, ALL);
    let object = format!("forwarding of {family}");
    socket.get(&Request::new(object, message), decode)
}

pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<bool>, Malformed> {
    if message.kind != RTM_NEWNETCONF {
        return Ok(None);
    }
    for attr in Attrs::after(message.payload, HEADER)? {
        if let (NETCONFA_FORWARDING, value) = attr? {
            let on = u32_at(value, 0).map(|value| value != 0);
            return on.map(Some).ok_or(Malformed("forwarding"));
        }
    }
    Err(Malformed("no forwarding"))
}
