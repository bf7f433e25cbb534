//! VLANs of bridge ports: which frames a port of a bridge with VLAN filtering
//! lets in and out (`bridge vlan`).
//!
//! A kernel without `CONFIG_BRIDGE_VLAN_FILTERING` lists none, and refuses
//! the bridge's switch
//! ([`BridgeSpec::vlan_filtering`](crate::link::bridge::BridgeSpec)) before
//! it comes to any change here.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::link::ifinfo;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    AF_BRIDGE, BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_RANGE_BEGIN,
    BRIDGE_VLAN_INFO_RANGE_END, BRIDGE_VLAN_INFO_UNTAGGED, IFLA_AF_SPEC,
    IFLA_BRIDGE_VLAN_INFO, IFLA_EXT_MASK, IFLA_MASTER,
    RTEXT_FILTER_BRVLAN_COMPRESSED, RTEXT_FILTER_SKIP_STATS, RTM_DELLINK,
    RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK,
};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, u8_at, u16_at, u32_at,
};

/// The lowest and the highest VLAN id there is.
pub const FIRST: u16 = 1;
/// See [`FIRST`].
pub const LAST: u16 = 4094;

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;

/// What a port does with the frames of one VLAN besides letting them pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Frames that come in without a tag are of this VLAN. One VLAN of a port
    /// at most.
    pub pvid: bool,
    /// Frames go out without a tag.
    pub untagged: bool,
}

/// VLANs by their ids.
pub type Vlans = BTreeMap<u16, Mode>;

/// The VLANs of a port, or of a bridge itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    /// Index of the link.
    pub index: u32,
    /// Index of the bridge it is a port of; the bridge's own entry may name
    /// the bridge.
    pub master: Option<u32>,
    /// The VLANs.
    pub vlans: Vlans,
}

/// The VLANs of all ports of all bridges in the namespace: the kernel has no
/// question for one of them alone that is as old as VLAN filtering.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before concluding that a VLAN has
/// no port.
pub fn list(socket: &mut Socket) -> Result<Dump<PortVlans>, Error> {
    let mut message = Message::new(RTM_GETLINK, 0, &header(0));
    let mask = RTEXT_FILTER_BRVLAN_COMPRESSED | RTEXT_FILTER_SKIP_STATS;
    message.u32(IFLA_EXT_MASK, mask);
    socket.dump(&Request::new("list VLANs of bridge ports", message), decode)
}

/// Makes the port with that index a member of these VLANs; the others it is
/// in stay as they are.
#[must_use]
pub fn add(index: u32, vlans: &Vlans) -> Request {
    let object = format!("add link {index} to VLANs {}", describe(vlans));
    Request::new(object, message(RTM_SETLINK, index, vlans))
}

/// Takes the port with that index out of all VLANs but these. Those it is not
/// in need no mention: the kernel takes it out of what it is in.
#[must_use]
pub fn retain(index: u32, vlans: &Vlans) -> Request {
    let others = (FIRST..=LAST).filter(|id| !vlans.contains_key(id));
    let others = others.map(|id| (id, Mode::default())).collect();
    let object =
        format!("take link {index} out of all VLANs but {}", describe(vlans));
    Request::new(object, message(RTM_DELLINK, index, &others))
}

fn header(index: u32) -> [u8; IFINFO] {
    let mut header = ifinfo(index, 0, 0);
    if let Some(family) = header.first_mut() {
        *family = AF_BRIDGE;
    }
    header
}

fn message(kind: u16, index: u32, vlans: &Vlans) -> Message {
    let mut message = Message::new(kind, 0, &header(index));
    message.nest(IFLA_AF_SPEC, |m| {
        for (first, last, mode) in ranges(vlans) {
            let flags = if mode.pvid { BRIDGE_VLAN_INFO_PVID } else { 0 }
                | if mode.untagged { BRIDGE_VLAN_INFO_UNTAGGED } else { 0 };
            if first == last {
                info(m, flags, first);
            } else {
                info(m, flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, first);
                info(m, flags | BRIDGE_VLAN_INFO_RANGE_END, last);
            }
        }
    });
    message
}

/// `struct bridge_vlan_info`
fn info(m: &mut Message, flags: u16, id: u16) {
    let ([a, b], [c, d]) = (flags.to_ne_bytes(), id.to_ne_bytes());
    m.bytes(IFLA_BRIDGE_VLAN_INFO, &[a, b, c, d]);
}

/// Neighbours of the same mode together.
fn ranges(vlans: &Vlans) -> Vec<(u16, u16, Mode)> {
    let mut out: Vec<(u16, u16, Mode)> = Vec::new();
    for (&id, &mode) in vlans {
        match out.last_mut() {
            // the kernel knows no range of the VLAN there is one of
            Some((_, last, same))
                if *same == mode
                    && !mode.pvid
                    && last.checked_add(1) == Some(id) =>
            {
                *last = id;
            }
            _ => out.push((id, id, mode)),
        }
    }
    out
}

/// As `bridge vlan` shows them: `100 pvid untagged, 200-210`; `none`.
#[must_use]
pub fn describe(vlans: &Vlans) -> String {
    if vlans.is_empty() {
        return "none".to_owned();
    }
    let one = |(first, last, mode): (u16, u16, Mode)| {
        let ids = match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let pvid = if mode.pvid { " pvid" } else { "" };
        let untagged = if mode.untagged { " untagged" } else { "" };
        format!("{ids}{pvid}{untagged}")
    };
    ranges(vlans).into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Reads what a bridge tells of a port, or of itself.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<PortVlans>, Malformed> {
    if message.kind != RTM_NEWLINK
        || u8_at(message.payload, 0) != Some(AF_BRIDGE)
    {
        return Ok(None);
    }
    let index = u32_at(message.payload, 4).ok_or(Malformed("port header"))?;
    let mut port = PortVlans { index, master: None, vlans: Vlans::new() };
    for attr in Attrs::after(message.payload, IFINFO)? {
        let (kind, value) = attr?;
        match kind {
            IFLA_MASTER => {
                let master = u32_at(value, 0);
                port.master = Some(master.ok_or(Malformed("port master"))?);
            }
            IFLA_AF_SPEC => decode_vlans(value, &mut port.vlans)?,
            _ => {}
        }
    }
    Ok(Some(port))
}

fn decode_vlans(value: &[u8], vlans: &mut Vlans) -> Result<(), Malformed> {
    const WHAT: Malformed = Malformed("port VLAN");
    let mut begin = None;
    for attr in Attrs::new(value) {
        let (kind, value) = attr?;
        if kind != IFLA_BRIDGE_VLAN_INFO {
            continue;
        }
        let flags = u16_at(value, 0).ok_or(WHAT)?;
        let id = u16_at(value, 2).ok_or(WHAT)?;
        if !(FIRST..=LAST).contains(&id) {
            return Err(WHAT);
        }
        let mode = Mode {
            pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
            untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
        };
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            begin = Some(id);
            continue;
        }
        let first = match flags & BRIDGE_VLAN_INFO_RANGE_END {
            0 => id,
            _ => begin.take().ok_or(WHAT)?,
        };
        vlans.extend((first..=id).map(|id| (id, mode)));
    }
    // a range without an end
    begin.map_or(Ok(()), |_| Err(WHAT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Messages;

    const NATIVE: Mode = Mode { pvid: true, untagged: true };
    const TAGGED: Mode = Mode { pvid: false, untagged: false };

    fn vlans(ids: &[(u16, Mode)]) -> Vlans {
        ids.iter().copied().collect()
    }

    /// What `request` says of VLANs, read as if the kernel had said it.
    fn read_back(request: &Request) -> Result<Option<PortVlans>, Malformed> {
        let mut bytes = request.message().to_vec();
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        decode(&Messages::new(&bytes).next().unwrap()?)
    }

    #[test]
    fn what_is_written_is_read() {
        for ids in [
            vlans(&[]),
            vlans(&[(100, NATIVE)]),
            vlans(&[(1, NATIVE), (2, TAGGED), (3, TAGGED), (5, TAGGED)]),
            (FIRST..=LAST).map(|id| (id, TAGGED)).collect(),
            (FIRST..=LAST).step_by(2).map(|id| (id, TAGGED)).collect(),
        ] {
            let port = read_back(&add(7, &ids)).unwrap().unwrap();
            assert_eq!(port, PortVlans { index: 7, master: None, vlans: ids });
        }
    }

    #[test]
    fn what_is_removed() {
        let all = retain(7, &Vlans::new());
        assert_eq!(read_back(&all).unwrap().unwrap().vlans.len(), 4094);
        assert_eq!(all.message().len(), 16 + 16 + 4 + 2 * 8, "one range");
        let kept = vlans(&[(1, NATIVE), (100, TAGGED)]);
        let gone = read_back(&retain(7, &kept)).unwrap().unwrap().vlans;
        assert_eq!(gone.len(), 4092);
        assert!(kept.keys().all(|id| !gone.contains_key(id)));
    }

    #[test]
    fn in_words() {
        let ids = vlans(&[
            (99, TAGGED),
            (100, NATIVE),
            (200, TAGGED),
            (201, TAGGED),
            (202, Mode { pvid: false, untagged: true }),
        ]);
        assert_eq!(
            describe(&ids),
            "99, 100 pvid untagged, 200-201, 202 untagged"
        );
        assert_eq!(describe(&Vlans::new()), "none");
        assert_eq!(
            add(7, &ids).object(),
            format!("add link 7 to VLANs {}", describe(&ids))
        );
    }

    #[test]
    fn what_no_kernel_says() {
        let with = |infos: &[(u16, u16)]| {
            let mut message = Message::new(RTM_NEWLINK, 0, &header(7));
            message.nest(IFLA_AF_SPEC, |m| {
                infos.iter().for_each(|(flags, id)| info(m, *flags, *id));
            });
            read_back(&Request::new("", message)).map(|p| p.unwrap().vlans)
        };
        let (begin, end) =
            (BRIDGE_VLAN_INFO_RANGE_BEGIN, BRIDGE_VLAN_INFO_RANGE_END);
        for bad in [
            vec![(begin, 5)],
            vec![(end, 5)],
            vec![(begin, 5), (end, 9), (end, 12)],
            vec![(0, 0)],
            vec![(0, 4095)],
        ] {
            assert!(with(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(with(&[(begin, 9), (end, 5)]).unwrap(), Vlans::new());
        assert_eq!(with(&[(begin, 5), (end, 7)]).unwrap().len(), 3);
    }
}
