//! The way of what comes in by a device over another one.

use super::{INGRESS_HANDLE, TCA_KIND, TCA_OPTIONS, TCMSG, all, tcmsg};
use crate::error::Error;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    NLM_F_CREATE, NLM_F_EXCL, RTM_GETTFILTER, RTM_NEWTFILTER,
};
use crate::wire::{Attrs, Malformed, Message, RawMessage, string, u32_at};

// pkt_cls.h, tc_act/tc_mirred.h
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const ETH_P_ALL: u16 = 3;
/// Where the device is in `struct tc_mirred`.
const MIRRED_IFINDEX: usize = 24;

/// Sends all that comes in by the device `index`, which has an ingress, out
/// by the device `to`.
#[must_use]
pub fn redirect(index: u32, to: u32) -> Request {
    // priority 1, all protocols
    let info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    let header = tcmsg(index, 0, INGRESS_HANDLE, info);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut message = Message::new(RTM_NEWTFILTER, flags, &header);
    message.str(TCA_KIND, "u32");
    message.nest(TCA_OPTIONS, |m| {
        m.nest(TCA_U32_ACT, |m| {
            m.nest(1, |m| {
                m.str(TCA_ACT_KIND, "mirred");
                m.nest(TCA_ACT_OPTIONS, |m| {
                    m.bytes(TCA_MIRRED_PARMS, &mirred(to));
                });
            });
        });
        m.bytes(TCA_U32_SEL, &match_all());
    });
    let object = format!("redirect what comes in by link {index} to link {to}");
    Request::new(object, message)
}

/// The devices whose ingress leads to the device `to`.
///
/// # Errors
/// See [`Error`]; also when there may be more of them.
pub fn led_to(socket: &mut Socket, to: u32) -> Result<Vec<u32>, Error> {
    let mut out = Vec::new();
    for qdisc in all(socket).and_then(Dump::complete)? {
        if qdisc.kind != "ingress" {
            continue;
        }
        let header = tcmsg(qdisc.index, 0, INGRESS_HANDLE, 0);
        let message = Message::new(RTM_GETTFILTER, 0, &header);
        let object = format!("list filters of link {}", qdisc.index);
        let targets = socket.dump(&Request::new(object, message), decode)?;
        if targets.complete()?.iter().flatten().any(|target| *target == to) {
            out.push(qdisc.index);
        }
    }
    Ok(out)
}

/// `struct tc_u32_sel` with one key that every packet has.
fn match_all() -> [u8; 32] {
    let mut sel = [0; 32];
    sel[0] = TC_U32_TERMINAL;
    sel[2] = 1;
    sel
}

/// `struct tc_mirred`.
fn mirred(to: u32) -> [u8; 28] {
    let mut out = [0; 28];
    let fields = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to];
    for (place, field) in out.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    out
}

/// The devices that one filter leads to.
fn decode(message: &RawMessage<'_>) -> Result<Option<Vec<u32>>, Malformed> {
    if message.kind != RTM_NEWTFILTER {
        return Ok(None);
    }
    let (mut kind, mut options) = (String::new(), None);
    for attr in Attrs::after(message.payload, TCMSG)? {
        match attr? {
            (TCA_KIND, value) => kind = string(value),
            (TCA_OPTIONS, value) => options = Some(value),
            _ => {}
        }
    }
    let mut out = Vec::new();
    // others have their actions elsewhere
    let Some(options) = options.filter(|_| kind == "u32") else {
        return Ok(Some(out));
    };
    for actions in nested(options, TCA_U32_ACT) {
        for action in Attrs::new(actions?) {
            for action in nested(action?.1, TCA_ACT_OPTIONS) {
                for mirred in nested(action?, TCA_MIRRED_PARMS) {
                    out.extend(u32_at(mirred?, MIRRED_IFINDEX));
                }
            }
        }
    }
    Ok(Some(out))
}

/// The values of one kind.
fn nested(
    bytes: &[u8],
    kind: u16,
) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Attrs::new(bytes).filter_map(move |attr| match attr {
        Ok((is, value)) => (is == kind).then_some(Ok(value)),
        Err(e) => Some(Err(e)),
    })
}
