//! Forwarding entries of vxlan devices: behind which tunnel end an Ethernet
//! address is.

use std::net::IpAddr;

use crate::error::Error;
use crate::link::Mac;
use crate::neigh::{NDMSG, PERMANENT, ndmsg};
use crate::request::{Object, Request};
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    AF_BRIDGE, NDA_DST, NDA_IFINDEX, NDA_LLADDR, NDA_MASTER, NDA_PORT,
    NDA_VLAN, NDA_VNI, NLM_F_CREATE, NLM_F_REPLACE, NTF_SELF, RTM_DELNEIGH,
    RTM_GETNEIGH, RTM_NEWNEIGH,
};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, ip, mac, u8_at, u16_at, u16_be_at,
    u32_at,
};

/// A permanent entry of a vxlan device (B-28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbSpec {
    /// Index of the vxlan device.
    pub index: u32,
    /// The Ethernet address.
    pub mac: Mac,
    /// The tunnel end behind which it is.
    pub dst: IpAddr,
}

/// A forwarding entry as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbInfo {
    /// Index of the device.
    pub index: u32,
    /// The Ethernet address; all zero is a vxlan device's default entry.
    pub mac: Mac,
    /// The tunnel end behind which it is (vxlan).
    pub dst: Option<IpAddr>,
    /// UDP port of that tunnel end, if not the device's own.
    pub port: Option<u16>,
    /// VNI used towards it, if not the device's own.
    pub vni: Option<u32>,
    /// Index of the device used towards it, if fixed.
    pub via: Option<u32>,
    /// VLAN (bridges).
    pub vlan: Option<u16>,
    /// Index of the bridge whose entry it is.
    pub master: Option<u32>,
    /// State (`NUD_*`).
    pub state: u16,
    /// Flags (`NTF_*`).
    pub flags: u8,
}

/// The entries of that device itself (`self` in the words of `bridge fdb`),
/// the default entry included.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
pub fn list(socket: &mut Socket, index: u32) -> Result<Dump<FdbInfo>, Error> {
    let header = ndmsg(AF_BRIDGE, 0, 0, 0, 0);
    let mut message = Message::new(RTM_GETNEIGH, 0, &header);
    message.u32(NDA_IFINDEX, index);
    let object = format!("list forwarding entries of link {index}");
    let dump = socket.dump(&Request::new(object, message), decode)?;
    Ok(dump.filtered(|e| e.index == index && e.flags & NTF_SELF != 0))
}

/// The entry of `mac` on a vxlan device.
///
/// # Errors
/// [`Error::is_not_found`] when there is none.
pub fn get(
    socket: &mut Socket,
    index: u32,
    mac: Mac,
) -> Result<FdbInfo, Error> {
    let header = ndmsg(AF_BRIDGE, index, 0, NTF_SELF, 0);
    let mut message = Message::new(RTM_GETNEIGH, 0, &header);
    message.bytes(NDA_LLADDR, &mac);
    let object = describe("", index, mac);
    socket.get(&Request::new(object, message), decode)
}

/// Sets a permanent entry, in place of the one for that Ethernet address
/// (B-37).
#[must_use]
pub fn set(spec: &FdbSpec) -> Request {
    let FdbSpec { index, mac, dst } = *spec;
    let header = ndmsg(AF_BRIDGE, index, PERMANENT, NTF_SELF, 0);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = Message::new(RTM_NEWNEIGH, flags, &header);
    message.ip(NDA_DST, dst);
    message.bytes(NDA_LLADDR, &mac);
    Request::new(Object::Fdb("set ", index, mac), message)
}

/// Deletes the entry of `mac`.
#[must_use]
pub fn delete(index: u32, mac: Mac) -> Request {
    let header = ndmsg(AF_BRIDGE, index, 0, NTF_SELF, 0);
    let mut message = Message::new(RTM_DELNEIGH, 0, &header);
    message.bytes(NDA_LLADDR, &mac);
    Request::new(describe("delete ", index, mac), message)
}

pub(crate) fn describe(verb: &str, index: u32, mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!(
        "{verb}forwarding entry {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:\
         {f:02x} on link {index}"
    )
}

/// Reads an `RTM_NEWNEIGH` or `RTM_DELNEIGH` of the bridge family.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<FdbInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return Ok(None);
    }
    const HEADER: Malformed = Malformed("forwarding entry header");
    const WHAT: Malformed = Malformed("forwarding entry attribute");
    let payload = message.payload;
    if u8_at(payload, 0).ok_or(HEADER)? != AF_BRIDGE {
        return Ok(None);
    }
    let mut lladdr = None;
    let mut entry = FdbInfo {
        index: u32_at(payload, 4).ok_or(HEADER)?,
        mac: Mac::default(),
        dst: None,
        port: None,
        vni: None,
        via: None,
        vlan: None,
        master: None,
        state: u16_at(payload, 8).ok_or(HEADER)?,
        flags: u8_at(payload, 10).ok_or(HEADER)?,
    };
    for attr in Attrs::after(payload, NDMSG)? {
        let (kind, value) = attr?;
        let number = || u32_at(value, 0).ok_or(WHAT).map(Some);
        match kind {
            NDA_LLADDR => lladdr = mac(value),
            NDA_DST => entry.dst = Some(ip(value).ok_or(WHAT)?),
            NDA_PORT => entry.port = Some(u16_be_at(value, 0).ok_or(WHAT)?),
            NDA_VNI => entry.vni = number()?,
            NDA_IFINDEX => entry.via = number()?,
            NDA_MASTER => entry.master = number()?,
            NDA_VLAN => entry.vlan = Some(u16_at(value, 0).ok_or(WHAT)?),
            _ => {}
        }
    }
    // Other kinds of links have addresses of other lengths.
    let Some(mac) = lladdr else { return Ok(None) };
    Ok(Some(FdbInfo { mac, ..entry }))
}

// === impl FdbInfo ===

impl FdbInfo {
    /// Never ages out (`NUD_PERMANENT`).
    #[must_use]
    pub const fn permanent(&self) -> bool {
        self.state & PERMANENT != 0
    }
}
