//! Connection tracking: the entries of one namespace, read and deleted.
//!
//! Address translation is decided by a connection's first packet and then
//! kept in its entry. A UDP peer that never stops sending has one connection
//! for ever, whatever the rules say by now: its entry has to go (PM-10).

use std::net::IpAddr;

use ipam::Family;

use crate::error::Error;
use crate::netns::NetNs;
use crate::request::Request;
use crate::socket::{Dump, Socket, open_in};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, af, family, ip, u8_at, u16_be_at,
};

/// UDP, as a protocol number.
pub const UDP: u8 = 17;

// nfnetlink_conntrack.h
const NEW: u16 = 1 << 8;
const GET: u16 = NEW + 1;
const DELETE: u16 = NEW + 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
// nf_conntrack_common.h: what of a tuple a filter looks at
const FILTER_IP_SRC: u32 = 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

const OBJECT: &str = "connection tracking socket";

/// A socket to connection tracking, in one network namespace.
#[derive(Debug)]
pub struct Conntrack(Socket);

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As its first packet came.
    pub original: Tuple,
    /// As its answers come: after address translation, turned round.
    pub reply: Tuple,
    /// `CTA_TUPLE_ORIG` as the kernel wrote it.
    raw: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// The ends of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// Protocol number, such as [`UDP`].
    pub protocol: u8,
    /// The sender's port, where the protocol has ports.
    pub src_port: Option<u16>,
    /// The receiver's.
    pub dst_port: Option<u16>,
}

// === impl Conntrack ===

impl Conntrack {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] when the system refuses the socket or its options.
    pub fn open() -> Result<Self, Error> {
        Socket::open_netfilter(OBJECT).map(Self)
    }

    /// A socket in `namespace`.
    ///
    /// # Errors
    /// As [`Conntrack::open`], or when the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs) -> Result<Self, Error> {
        open_in(namespace, OBJECT, Self::open)
    }

    /// The entries of one family. `to` leaves those whose first packet went
    /// to that port of that protocol; since Linux 5.8 the kernel itself picks
    /// them, which matters where there are hundreds of thousands.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(
        &mut self,
        of: Family,
        to: Option<(u8, u16)>,
    ) -> Result<Dump<Entry>, Error> {
        let mut m = Message::new(GET, 0, &header(of));
        let mut object = format!("list {of} connections");
        if let Some((protocol, port)) = to {
            object += &format!(" to port {port} of protocol {protocol}");
            m.nest(CTA_TUPLE_ORIG, |m| {
                m.nest(CTA_TUPLE_PROTO, |m| {
                    m.u8(CTA_PROTO_NUM, protocol);
                    m.u16_be(CTA_PROTO_DST_PORT, port);
                });
            });
            m.nest(CTA_FILTER, |m| {
                let flags = FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
                m.u32(CTA_FILTER_ORIG_FLAGS, flags);
            });
        }
        let dump = self.0.dump(&Request::new(object, m), decode)?;
        Ok(dump.filtered(|entry| {
            let original = &entry.original;
            to.is_none_or(|(protocol, port)| {
                original.protocol == protocol && original.dst_port == Some(port)
            })
        }))
    }

    /// The entries in which `ip` is who began, or who answers after address
    /// translation: all of a pod's connections. In IPv4 the kernel picks them
    /// as for [`Conntrack::list`]; in IPv6 its filter leaves out just those
    /// that it is asked for (seen on Linux 6.18).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn of_address(&mut self, ip: IpAddr) -> Result<Vec<Entry>, Error> {
        let concerns = |e: &Entry| e.original.src == ip || e.reply.src == ip;
        let IpAddr::V4(v4) = ip else {
            let all = self.list(Family::of(ip), None)?;
            return all.filtered(concerns).complete();
        };
        let mut out: Vec<Entry> = Vec::new();
        for (tuple, flags) in [
            (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
            (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
        ] {
            let mut m = Message::new(GET, 0, &header(Family::V4));
            m.nest(tuple, |m| {
                m.nest(CTA_TUPLE_IP, |m| m.bytes(CTA_IP_V4_SRC, &v4.octets()));
            });
            m.nest(CTA_FILTER, |m| m.u32(flags, FILTER_IP_SRC));
            let object = format!("list connections of {ip}");
            let dump = self.0.dump(&Request::new(object, m), decode)?;
            let found = dump.filtered(concerns).complete()?;
            // a connection to itself is in both
            out.extend(
                found.into_iter().filter(|e| {
                    e.original.src != ip || tuple == CTA_TUPLE_ORIG
                }),
            );
        }
        Ok(out)
    }

    /// Deletes the entry, and not one made since for the same ends; one that
    /// is not there any more is none to delete.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete(&mut self, entry: &Entry) -> Result<(), Error> {
        let original = &entry.original;
        let of = Family::of(original.src);
        let mut m = Message::new(DELETE, 0, &header(of));
        m.nest(CTA_TUPLE_ORIG, |m| m.raw(&entry.raw));
        for (attr, value) in [(CTA_ZONE, &entry.zone), (CTA_ID, &entry.id)] {
            if let Some(value) = value {
                m.bytes(attr, value);
            }
        }
        let Tuple { src, dst, protocol, .. } = original;
        let object =
            format!("delete connection {src} to {dst} protocol {protocol}");
        match self.0.request(&Request::new(object, m)) {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }
}

fn header(of: Family) -> [u8; NFGENMSG] {
    [af(of), 0, 0, 0]
}

/// `None`: no entry, or one of neither family.
fn decode(message: &RawMessage<'_>) -> Result<Option<Entry>, Malformed> {
    let of = u8_at(message.payload, 0).ok_or(Malformed("conntrack header"))?;
    if message.kind != NEW || family(of).is_none() {
        return Ok(None);
    }
    let (mut original, mut reply, mut raw) = (None, None, Vec::new());
    let (mut id, mut zone) = (None, None);
    for attr in Attrs::after(message.payload, NFGENMSG)? {
        match attr? {
            (CTA_TUPLE_ORIG, value) => {
                original = tuple(value)?;
                raw = value.to_vec();
            }
            (CTA_TUPLE_REPLY, value) => reply = tuple(value)?,
            (CTA_ID, value) => id = Some(value.to_vec()),
            (CTA_ZONE, value) => zone = Some(value.to_vec()),
            _ => {}
        }
    }
    let both = original.zip(reply).ok_or(Malformed("connection: no ends"))?;
    let (original, reply) = both;
    Ok(Some(Entry { original, reply, raw, id, zone }))
}

fn tuple(bytes: &[u8]) -> Result<Option<Tuple>, Malformed> {
    let (mut src, mut dst, mut protocol) = (None, None, None);
    let (mut src_port, mut dst_port) = (None, None);
    for attr in Attrs::new(bytes) {
        let (kind, value) = attr?;
        for inner in Attrs::new(value) {
            match (kind, inner?) {
                (CTA_TUPLE_IP, (CTA_IP_V4_SRC | CTA_IP_V6_SRC, v)) => {
                    src = ip(v);
                }
                (CTA_TUPLE_IP, (CTA_IP_V4_DST | CTA_IP_V6_DST, v)) => {
                    dst = ip(v);
                }
                (CTA_TUPLE_PROTO, (CTA_PROTO_NUM, v)) => {
                    protocol = u8_at(v, 0);
                }
                (CTA_TUPLE_PROTO, (CTA_PROTO_SRC_PORT, v)) => {
                    src_port = u16_be_at(v, 0);
                }
                (CTA_TUPLE_PROTO, (CTA_PROTO_DST_PORT, v)) => {
                    dst_port = u16_be_at(v, 0);
                }
                _ => {}
            }
        }
        // the tuple's zone is no nest, and nothing here reads it
        if kind == CTA_TUPLE_PROTO {
            break;
        }
    }
    let Some(((src, dst), protocol)) = src.zip(dst).zip(protocol) else {
        return Ok(None);
    };
    Ok(Some(Tuple { src, dst, protocol, src_port, dst_port }))
}
