use super::bridge::{BridgeInfo, PortInfo};
use super::vxlan::VxlanInfo;
use super::{LinkInfo, OperState};
use crate::wire::uapi::{
    AF_INET6, AF_UNSPEC, DEVCONF_ACCEPT_RA, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC,
    IFLA_IFALIAS, IFLA_IFNAME, IFLA_INET6_CONF, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINK, IFLA_LINK_NETNSID,
    IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, IFLA_OPERSTATE, IFLA_TXQLEN,
    RTM_DELLINK, RTM_NEWLINK,
};
use crate::wire::{
    Attrs, Malformed, RawMessage, i32_at, mac, string, u8_at, u32_at,
};

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;

/// Reads an `RTM_NEWLINK` or `RTM_DELLINK`.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<LinkInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWLINK | RTM_DELLINK)
        // A bridge tells of its ports in messages of its own family.
        || u8_at(message.payload, 0) != Some(AF_UNSPEC)
    {
        return Ok(None);
    }
    let header = Malformed("link header");
    let flags = u32_at(message.payload, 8).ok_or(header)?;
    let mut link = LinkInfo {
        index: u32_at(message.payload, 4).ok_or(header)?,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        txqlen: 0,
        up: flags & IFF_UP != 0,
        flags,
        operstate: OperState::Unknown,
        master: None,
        alias: None,
        peer: None,
        peer_netns: None,
        accept_ra: None,
        vxlan: None,
        bridge: None,
        port: None,
    };
    let number = |value, what| u32_at(value, 0).ok_or(Malformed(what));
    for attr in Attrs::after(message.payload, IFINFO)? {
        let (kind, value) = attr?;
        match kind {
            IFLA_IFNAME => link.name = string(value),
            IFLA_ADDRESS => link.mac = mac(value),
            IFLA_MTU => link.mtu = number(value, "link MTU")?,
            IFLA_TXQLEN => link.txqlen = number(value, "link txqlen")?,
            IFLA_MASTER => link.master = Some(number(value, "link master")?),
            IFLA_LINK => {
                link.peer = Some(number(value, "link peer")?);
            }
            IFLA_LINK_NETNSID => {
                link.peer_netns = Some(
                    i32_at(value, 0).ok_or(Malformed("link peer namespace"))?,
                );
            }
            IFLA_OPERSTATE => {
                link.operstate = OperState::from_number(
                    u8_at(value, 0).ok_or(Malformed("link state"))?,
                );
            }
            IFLA_IFALIAS => link.alias = Some(string(value)),
            IFLA_LINKINFO => decode_kind(value, &mut link)?,
            IFLA_AF_SPEC => decode_families(value, &mut link)?,
            _ => {}
        }
    }
    if link.name.is_empty() {
        return Err(Malformed("link without a name"));
    }
    Ok(Some(link))
}

/// Reads the settings of the address families.
fn decode_families(value: &[u8], link: &mut LinkInfo) -> Result<(), Malformed> {
    for family in Attrs::new(value) {
        let (family, settings) = family?;
        if family != u16::from(AF_INET6) {
            continue;
        }
        for attr in Attrs::new(settings) {
            if let (IFLA_INET6_CONF, numbers) = attr? {
                link.accept_ra = u32_at(numbers, 4 * DEVCONF_ACCEPT_RA);
            }
        }
    }
    Ok(())
}

/// Reads the part that depends on the kinds of the link and of its master.
fn decode_kind(value: &[u8], link: &mut LinkInfo) -> Result<(), Malformed> {
    let mut data = None;
    let mut port_kind = None;
    let mut port_data = None;
    for attr in Attrs::new(value) {
        let (kind, value) = attr?;
        match kind {
            IFLA_INFO_KIND => link.kind = Some(string(value)),
            IFLA_INFO_DATA => data = Some(value),
            IFLA_INFO_SLAVE_KIND => port_kind = Some(string(value)),
            IFLA_INFO_SLAVE_DATA => port_data = Some(value),
            _ => {}
        }
    }
    match (link.kind.as_deref(), data) {
        (Some("vxlan"), Some(data)) => {
            link.vxlan = Some(VxlanInfo::decode(data)?);
        }
        (Some("bridge"), Some(data)) => {
            link.bridge = Some(BridgeInfo::decode(data)?);
        }
        _ => {}
    }
    if let (Some("bridge"), Some(data)) = (port_kind.as_deref(), port_data) {
        link.port = Some(PortInfo::decode(data)?);
    }
    Ok(())
}

// === impl OperState ===

impl OperState {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Unknown,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            6 => Self::Up,
            other => Self::Other(other),
        }
    }
}
