use std::net::IpAddr;

use ipam::{Family, Subnet};

use super::{Hop, RouteInfo};
use crate::wire::uapi::{
    RTA_DST, RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH, RTA_NH_ID, RTA_OIF,
    RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTA_VIA, RTAX_ADVMSS, RTAX_MTU,
    RTM_DELROUTE, RTM_NEWROUTE, RTNH_F_ONLINK,
};
use crate::wire::{
    Attrs, Malformed, RawMessage, family, ip, u8_at, u16_at, u32_at,
};

/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
/// Length of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;

const HEADER: Malformed = Malformed("route header");
const WHAT: Malformed = Malformed("route attribute");

/// Reads an `RTM_NEWROUTE` or `RTM_DELROUTE` of IPv4 or IPv6.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<RouteInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWROUTE | RTM_DELROUTE) {
        return Ok(None);
    }
    let payload = message.payload;
    // Multicast routing and MPLS have families of their own.
    let Some(family) = family(u8_at(payload, 0).ok_or(HEADER)?) else {
        return Ok(None);
    };
    let byte = |at| u8_at(payload, at).ok_or(HEADER);
    let flags = u32_at(payload, 8).ok_or(HEADER)?;
    let len = byte(1)?;
    let mut dst = family.unspecified();
    let mut route = RouteInfo {
        dst: Subnet::new(dst, 0).map_err(|_| HEADER)?,
        gateway: None,
        oif: None,
        onlink: flags & RTNH_F_ONLINK != 0,
        nexthop: None,
        protocol: byte(5)?,
        metric: 0,
        kind: byte(7)?.into(),
        src: None,
        scope: byte(6)?.into(),
        table: byte(4)?.into(),
        mtu: None,
        advmss: None,
        multipath: Vec::new(),
        flags,
        tos: byte(3)?,
        src_len: byte(2)?,
    };
    for attr in Attrs::after(payload, RTMSG)? {
        let (kind, value) = attr?;
        let number = || u32_at(value, 0).ok_or(WHAT);
        match kind {
            RTA_DST => dst = of_family(value, family)?,
            RTA_GATEWAY => route.gateway = Some(of_family(value, family)?),
            RTA_VIA => route.gateway = Some(via(value)?),
            RTA_PREFSRC => route.src = Some(of_family(value, family)?),
            RTA_OIF => route.oif = Some(number()?),
            RTA_PRIORITY => route.metric = number()?,
            RTA_TABLE => route.table = number()?,
            RTA_NH_ID => route.nexthop = Some(number()?),
            RTA_METRICS => metrics(value, &mut route)?,
            RTA_MULTIPATH => route.multipath = hops(value, family)?,
            _ => {}
        }
    }
    route.dst = Subnet::new(dst, len).map_err(|_| HEADER)?;
    Ok(Some(route))
}

fn of_family(value: &[u8], family: Family) -> Result<IpAddr, Malformed> {
    ip(value).filter(|ip| Family::of(*ip) == family).ok_or(WHAT)
}

/// `struct rtvia`: a family, then an address of it.
fn via(value: &[u8]) -> Result<IpAddr, Malformed> {
    value.get(2..).and_then(ip).ok_or(WHAT)
}

fn metrics(value: &[u8], route: &mut RouteInfo) -> Result<(), Malformed> {
    for attr in Attrs::new(value) {
        let (kind, value) = attr?;
        match kind {
            RTAX_MTU => route.mtu = Some(u32_at(value, 0).ok_or(WHAT)?),
            RTAX_ADVMSS => route.advmss = Some(u32_at(value, 0).ok_or(WHAT)?),
            _ => {}
        }
    }
    Ok(())
}

/// A row of `struct rtnexthop`, each followed by attributes.
fn hops(mut rest: &[u8], family: Family) -> Result<Vec<Hop>, Malformed> {
    const WAY: Malformed = Malformed("multipath route");
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(u16_at(rest, 0).ok_or(WAY)?);
        let entry = rest.get(..len).ok_or(WAY)?;
        let mut hop = Hop {
            gateway: None,
            oif: u32_at(entry, 4).ok_or(WAY)?,
            weight: u16::from(u8_at(entry, 3).ok_or(WAY)?) + 1,
            flags: u8_at(entry, 2).ok_or(WAY)?,
        };
        for attr in Attrs::after(entry, RTNEXTHOP)? {
            let (kind, value) = attr?;
            match kind {
                RTA_GATEWAY => hop.gateway = Some(of_family(value, family)?),
                RTA_VIA => hop.gateway = Some(via(value)?),
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}
