//! Bridges and their ports.

use nix::errno::Errno;

use super::{Mac, ifinfo};
use crate::error::Error;
use crate::request::Request;
use crate::socket::Socket;
use crate::wire::uapi::{
    IFF_UP, IFLA_ADDRESS, IFLA_BR_VLAN_DEFAULT_PVID, IFLA_BR_VLAN_FILTERING,
    IFLA_BR_VLAN_PROTOCOL, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_MODE,
    IFLA_BRPORT_STATE, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MTU, NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK,
};
use crate::wire::{Attrs, Malformed, Message, u8_at, u16_at};

/// A bridge to create (BR-22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: String,
    /// MTU in bytes; `None` follows the ports.
    pub mtu: Option<u32>,
    /// Its Ethernet address; `None` follows the ports.
    pub mac: Option<Mac>,
    /// VLAN filtering; only sent when wanted, since kernels without it refuse
    /// the attribute.
    pub vlan_filtering: bool,
    /// Created administratively up.
    pub up: bool,
}

/// A bridge's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeInfo {
    /// VLAN filtering is on.
    pub vlan_filtering: bool,
    /// The VLAN that new ports are put into; 0 for none, and on a kernel
    /// without VLANs.
    pub default_vlan: u16,
}

/// A bridge port's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// Frames may leave by the port they came in by.
    pub hairpin: bool,
    /// No frames to other isolated ports.
    pub isolated: bool,
    /// Spanning tree state (`BR_STATE_*`); 3 is forwarding.
    pub state: u8,
}

/// Creates a bridge; refused (`EEXIST`) when the name is taken.
#[must_use]
pub fn add(spec: &BridgeSpec) -> Request {
    let flags = if spec.up { IFF_UP } else { 0 };
    let mut message = Message::new(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &ifinfo(0, flags, flags),
    );
    message.str(IFLA_IFNAME, &spec.name);
    if let Some(mtu) = spec.mtu {
        message.u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = spec.mac {
        message.bytes(IFLA_ADDRESS, &mac);
    }
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "bridge");
        if spec.vlan_filtering {
            m.nest(IFLA_INFO_DATA, |m| m.u8(IFLA_BR_VLAN_FILTERING, 1));
        }
    });
    Request::new(format!("create bridge {}", spec.name), message)
}

/// Switches VLAN filtering on for the bridge with that index. Its ports have
/// been in the bridge's default VLAN since they were added, so they go on
/// reaching each other, but for frames that carry a tag. Refused
/// (`EOPNOTSUPP`) by a kernel without `CONFIG_BRIDGE_VLAN_FILTERING`.
#[must_use]
pub fn filter_vlans(index: u32) -> Request {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "bridge");
        m.nest(IFLA_INFO_DATA, |m| m.u8(IFLA_BR_VLAN_FILTERING, 1));
    });
    let object = format!("VLAN filtering of the bridge with index {index}");
    Request::new(object, message)
}

/// Whether bridges of this kernel can keep VLANs apart
/// (`CONFIG_BRIDGE_VLAN_FILTERING`), without making one: asked for is a bridge
/// with a VLAN protocol that there is not, which such a kernel refuses before
/// it looks at the name, and a name that no link can have, which every kernel
/// refuses.
///
/// # Errors
/// What the kernel refuses for another reason; `EOPNOTSUPP` when it has no
/// bridges at all.
pub fn can_filter_vlans(socket: &mut Socket) -> Result<bool, Error> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut message = Message::new(RTM_NEWLINK, flags, &ifinfo(0, 0, 0));
    message.str(IFLA_IFNAME, "/");
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "bridge");
        m.nest(IFLA_INFO_DATA, |m| m.bytes(IFLA_BR_VLAN_PROTOCOL, &[0, 0]));
    });
    let object = "look for VLAN filtering of bridges";
    match socket.request(&Request::new(object, message)) {
        Err(e) if e.errno() == Some(Errno::EPROTONOSUPPORT) => Ok(true),
        Err(e) if e.errno() == Some(Errno::EINVAL) => Ok(false),
        other => other.map(|()| false),
    }
}

// === impl BridgeInfo ===

impl BridgeInfo {
    pub(super) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        for attr in Attrs::new(data) {
            let (kind, value) = attr?;
            match kind {
                IFLA_BR_VLAN_FILTERING => info.vlan_filtering = switch(value)?,
                IFLA_BR_VLAN_DEFAULT_PVID => {
                    info.default_vlan = u16_at(value, 0)
                        .ok_or(Malformed("bridge attribute"))?;
                }
                _ => {}
            }
        }
        Ok(info)
    }
}

// === impl PortInfo ===

impl PortInfo {
    pub(super) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self::default();
        for attr in Attrs::new(data) {
            let (kind, value) = attr?;
            match kind {
                IFLA_BRPORT_MODE => info.hairpin = switch(value)?,
                IFLA_BRPORT_ISOLATED => info.isolated = switch(value)?,
                IFLA_BRPORT_STATE => info.state = byte(value)?,
                _ => {}
            }
        }
        Ok(info)
    }
}

fn byte(value: &[u8]) -> Result<u8, Malformed> {
    u8_at(value, 0).ok_or(Malformed("bridge attribute"))
}

fn switch(value: &[u8]) -> Result<bool, Malformed> {
    byte(value).map(|b| b != 0)
}
