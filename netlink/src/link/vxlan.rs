//! VXLAN devices.

use std::net::IpAddr;

use super::{Mac, ifinfo};
use crate::request::Request;
use crate::wire::uapi::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MTU, IFLA_TXQLEN, IFLA_VXLAN_AGEING,
    IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_GBP, IFLA_VXLAN_GROUP,
    IFLA_VXLAN_GROUP6, IFLA_VXLAN_ID, IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS,
    IFLA_VXLAN_LEARNING, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6,
    IFLA_VXLAN_PORT, IFLA_VXLAN_PROXY, IFLA_VXLAN_RSC, IFLA_VXLAN_TOS,
    IFLA_VXLAN_TTL, IFLA_VXLAN_UDP_CSUM, IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
    IFLA_VXLAN_UDP_ZERO_CSUM6_TX, NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK,
};
use crate::wire::{Attrs, Malformed, Message, ip, u8_at, u16_be_at, u32_at};

/// A VXLAN device to create (B-21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Its name.
    pub name: String,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// Index of the device it stands on.
    pub parent: Option<u32>,
    /// Source address of outer packets; its family is the tunnel's.
    pub local: Option<IpAddr>,
    /// UDP destination port; `None` takes the kernel's default, 8472.
    pub port: Option<u16>,
    /// Learns forwarding entries from received packets.
    pub learning: bool,
    /// Group-based policy extension. Cannot be changed later.
    pub gbp: bool,
    /// Its Ethernet address; `None` lets the kernel choose.
    pub mac: Option<Mac>,
    /// MTU in bytes; `None` is the parent's less the overhead. The kernel
    /// lowers a too great one without a word (B-7).
    pub mtu: Option<u32>,
    /// Transmit queue length in packets.
    pub txqlen: Option<u32>,
    /// Created administratively up.
    pub up: bool,
}

/// A VXLAN device's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanInfo {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Index of the device it stands on.
    pub parent: Option<u32>,
    /// Source address of outer packets.
    pub local: Option<IpAddr>,
    /// Multicast group or default destination.
    pub group: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    /// Learns forwarding entries.
    pub learning: bool,
    /// Group-based policy extension.
    pub gbp: bool,
    /// TTL of outer packets; 0 is the system's default.
    pub ttl: u8,
    /// TOS of outer packets.
    pub tos: u8,
    /// Lifetime of learned entries in seconds.
    pub ageing: u32,
    /// Answers ARP and neighbour solicitations itself.
    pub proxy: bool,
    /// Route short circuit.
    pub rsc: bool,
    /// Reports unknown Ethernet addresses.
    pub l2miss: bool,
    /// Reports unknown IP addresses.
    pub l3miss: bool,
    /// Computes UDP checksums over IPv4.
    pub udp_csum: bool,
    /// Sends without UDP checksums over IPv6.
    pub udp6_zero_csum_tx: bool,
    /// Accepts packets without UDP checksums over IPv6.
    pub udp6_zero_csum_rx: bool,
    /// Takes tunnel data from the packet's metadata (`external`).
    pub collect_metadata: bool,
}

/// Creates a device; refused (`EEXIST`) when the name is taken, or when
/// another device has the same VNI and port in this namespace.
#[must_use]
pub fn add(spec: &VxlanSpec) -> Request {
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
    if let Some(txqlen) = spec.txqlen {
        message.u32(IFLA_TXQLEN, txqlen);
    }
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "vxlan");
        m.nest(IFLA_INFO_DATA, |m| attributes(m, spec));
    });
    Request::new(format!("create vxlan device {}", spec.name), message)
}

fn attributes(m: &mut Message, spec: &VxlanSpec) {
    m.u32(IFLA_VXLAN_ID, spec.vni);
    if let Some(parent) = spec.parent {
        m.u32(IFLA_VXLAN_LINK, parent);
    }
    if let Some(local) = spec.local {
        m.ip(local_attr(local), local);
    }
    m.u8(IFLA_VXLAN_TTL, 0);
    m.u8(IFLA_VXLAN_TOS, 0);
    m.u8(IFLA_VXLAN_LEARNING, spec.learning.into());
    for off in [
        IFLA_VXLAN_PROXY,
        IFLA_VXLAN_RSC,
        IFLA_VXLAN_L2MISS,
        IFLA_VXLAN_L3MISS,
        IFLA_VXLAN_UDP_ZERO_CSUM6_TX,
        IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
    ] {
        m.u8(off, 0);
    }
    if spec.gbp {
        m.flag(IFLA_VXLAN_GBP);
    }
    if let Some(port) = spec.port {
        m.u16_be(IFLA_VXLAN_PORT, port);
    }
}

/// Switches learning on a live device; nothing else about it changes.
#[must_use]
pub fn set_learning(index: u32, learning: bool) -> Request {
    change(index, format!("set learning of link {index}"), |m| {
        m.u8(IFLA_VXLAN_LEARNING, learning.into());
    })
}

/// Changes the interface that a live device's outer packets leave by, and
/// their source address. The family must be the one it was created with.
#[must_use]
pub fn set_underlay(index: u32, parent: u32, local: IpAddr) -> Request {
    change(index, format!("set the underlay of link {index}"), |m| {
        m.u32(IFLA_VXLAN_LINK, parent);
        m.ip(local_attr(local), local);
    })
}

fn change(
    index: u32,
    object: String,
    fill: impl FnOnce(&mut Message),
) -> Request {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "vxlan");
        m.nest(IFLA_INFO_DATA, fill);
    });
    Request::new(object, message)
}

const fn local_attr(local: IpAddr) -> u16 {
    match local {
        IpAddr::V4(_) => IFLA_VXLAN_LOCAL,
        IpAddr::V6(_) => IFLA_VXLAN_LOCAL6,
    }
}

// === impl VxlanInfo ===

impl VxlanInfo {
    pub(super) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut info = Self {
            vni: 0,
            parent: None,
            local: None,
            group: None,
            port: 0,
            learning: false,
            gbp: false,
            ttl: 0,
            tos: 0,
            ageing: 0,
            proxy: false,
            rsc: false,
            l2miss: false,
            l3miss: false,
            udp_csum: false,
            udp6_zero_csum_tx: false,
            udp6_zero_csum_rx: false,
            collect_metadata: false,
        };
        const WHAT: Malformed = Malformed("vxlan attribute");
        let number = |value| u32_at(value, 0).ok_or(WHAT);
        let byte = |value| u8_at(value, 0).ok_or(WHAT);
        let switch = |value| byte(value).map(|b| b != 0);
        let addr = |value| ip(value).ok_or(WHAT).map(Some);
        for attr in Attrs::new(data) {
            let (kind, value) = attr?;
            match kind {
                IFLA_VXLAN_ID => info.vni = number(value)?,
                IFLA_VXLAN_LINK => {
                    info.parent = Some(number(value)?).filter(|i| *i != 0);
                }
                IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => {
                    info.local = addr(value)?;
                }
                IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => {
                    info.group = addr(value)?;
                }
                IFLA_VXLAN_PORT => {
                    info.port = u16_be_at(value, 0).ok_or(WHAT)?;
                }
                IFLA_VXLAN_LEARNING => info.learning = switch(value)?,
                IFLA_VXLAN_GBP => info.gbp = true,
                IFLA_VXLAN_TTL => info.ttl = byte(value)?,
                IFLA_VXLAN_TOS => info.tos = byte(value)?,
                IFLA_VXLAN_AGEING => info.ageing = number(value)?,
                IFLA_VXLAN_PROXY => info.proxy = switch(value)?,
                IFLA_VXLAN_RSC => info.rsc = switch(value)?,
                IFLA_VXLAN_L2MISS => info.l2miss = switch(value)?,
                IFLA_VXLAN_L3MISS => info.l3miss = switch(value)?,
                IFLA_VXLAN_UDP_CSUM => info.udp_csum = switch(value)?,
                IFLA_VXLAN_UDP_ZERO_CSUM6_TX => {
                    info.udp6_zero_csum_tx = switch(value)?;
                }
                IFLA_VXLAN_UDP_ZERO_CSUM6_RX => {
                    info.udp6_zero_csum_rx = switch(value)?;
                }
                IFLA_VXLAN_COLLECT_METADATA => {
                    info.collect_metadata = switch(value)?;
                }
                _ => {}
            }
        }
        Ok(info)
    }
}
