//! Traffic control, as far as limiting a pod's rate needs it: a token bucket
//! at a device's root, and the way of what comes in by a device over another
//! one, where it can be limited too.

mod redirect;
mod tbf;
#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    AF_UNSPEC, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTM_DELQDISC,
    RTM_GETQDISC, RTM_NEWQDISC,
};
use crate::wire::{Attrs, Malformed, Message, RawMessage, string, u32_at};

pub use redirect::{led_to, redirect};
pub use tbf::{Bucket, BucketInfo};

// rtnetlink.h, pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const ROOT: u32 = u32::MAX;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The handle of the root, `1:`.
const FIRST: u32 = 0x0001_0000;
/// Length of `struct tcmsg`.
const TCMSG: usize = 20;

/// A queueing discipline as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QdiscInfo {
    /// Index of the device.
    pub index: u32,
    /// Its kind, such as `tbf`, `ingress`, `noqueue`.
    pub kind: String,
    /// Its number, such as 0x10000 for `1:`.
    pub handle: u32,
    /// What it hangs on.
    pub parent: u32,
    /// The attributes of a token bucket.
    pub bucket: Option<BucketInfo>,
}

/// The disciplines of one device.
///
/// # Errors
/// See [`Error`].
pub fn list(socket: &mut Socket, index: u32) -> Result<Dump<QdiscInfo>, Error> {
    Ok(all(socket)?.filtered(|q| q.index == index))
}

/// Those of all devices: the kernel asks for none in particular.
fn all(socket: &mut Socket) -> Result<Dump<QdiscInfo>, Error> {
    let message = Message::new(RTM_GETQDISC, 0, &tcmsg(0, 0, 0, 0));
    let object = "list queueing disciplines";
    socket.dump(&Request::new(object, message), decode)
}

/// Limits what leaves by the device, in place of whatever is at its root.
#[must_use]
pub fn limit(index: u32, bucket: &Bucket) -> Request {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let header = tcmsg(index, FIRST, ROOT, 0);
    let mut message = Message::new(RTM_NEWQDISC, flags, &header);
    message.str(TCA_KIND, "tbf");
    message.nest(TCA_OPTIONS, |m| bucket.write(m));
    Request::new(format!("limit the rate of link {index}"), message)
}

/// Makes the place where what comes in by the device can be redirected;
/// refused (`EEXIST`) when it is there.
#[must_use]
pub fn add_ingress(index: u32) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let header = tcmsg(index, INGRESS_HANDLE, INGRESS, 0);
    let mut message = Message::new(RTM_NEWQDISC, flags, &header);
    message.str(TCA_KIND, "ingress");
    Request::new(format!("ingress of link {index}"), message)
}

/// Removes it with its filters; `ENOENT` or `EINVAL` when it is not there.
#[must_use]
pub fn delete_ingress(index: u32) -> Request {
    let header = tcmsg(index, INGRESS_HANDLE, INGRESS, 0);
    let message = Message::new(RTM_DELQDISC, 0, &header);
    Request::new(format!("remove ingress of link {index}"), message)
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    let fields = [u32::from(AF_UNSPEC), index, handle, parent, info];
    for (place, field) in header.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    header
}

fn decode(message: &RawMessage<'_>) -> Result<Option<QdiscInfo>, Malformed> {
    if message.kind != RTM_NEWQDISC {
        return Ok(None);
    }
    let field = |at| u32_at(message.payload, at).ok_or(Malformed("tc header"));
    let mut out = QdiscInfo {
        index: field(4)?,
        kind: String::new(),
        handle: field(8)?,
        parent: field(12)?,
        bucket: None,
    };
    let mut options = None;
    for attr in Attrs::after(message.payload, TCMSG)? {
        match attr? {
            (TCA_KIND, value) => out.kind = string(value),
            (TCA_OPTIONS, value) => options = Some(value),
            _ => {}
        }
    }
    if let (Some(options), "tbf") = (options, out.kind.as_str()) {
        out.bucket = Some(BucketInfo::read(options)?);
    }
    Ok(Some(out))
}
