use std::net::IpAddr;

use ipam::{Family, Subnet};

use super::{
    Header, PROTOCOL_BOOT, RouteInfo, RouteKind, Scope, TABLE_MAIN, rtmsg,
};
use crate::request::{Object, Request};
use crate::wire::uapi::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTA_DST,
    RTA_GATEWAY, RTA_METRICS, RTA_NH_ID, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY,
    RTA_TABLE, RTA_VIA, RTAX_ADVMSS, RTAX_MTU, RTM_DELROUTE, RTM_NEWROUTE,
    RTNH_F_ONLINK,
};
use crate::wire::{Message, af};

/// A route to add or replace. [`RouteSpec::to`] gives the plain values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destination.
    pub dst: Subnet,
    /// The next router; may be an IPv6 one for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// Index of the output device.
    pub oif: Option<u32>,
    /// The gateway is taken to be on the device's link, whatever the
    /// addresses on it say.
    pub onlink: bool,
    /// The nexthop object to use; without `gateway`, `oif` and `onlink` then.
    pub nexthop: Option<u32>,
    /// Who set it (`RTPROT_*`).
    pub protocol: u8,
    /// Metric; `None` is 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// What happens to packets.
    pub kind: RouteKind,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// How far the destination is. The kernel looks at it for IPv4 only.
    pub scope: Scope,
    /// The table.
    pub table: u32,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP maximum segment size to advertise, in bytes.
    pub advmss: Option<u32>,
}

/// Which route to delete: what is `None` is not compared. The first match is
/// deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The destination.
    pub dst: Subnet,
    /// The table.
    pub table: u32,
    /// Metric.
    pub metric: Option<u32>,
    /// The next router. A route with a nexthop object is never matched by it
    /// in IPv4.
    pub gateway: Option<IpAddr>,
    /// Index of the output device; the same holds.
    pub oif: Option<u32>,
    /// The nexthop object.
    pub nexthop: Option<u32>,
    /// Who set it.
    pub protocol: Option<u8>,
    /// The kind.
    pub kind: Option<RouteKind>,
}

// === changing ===

/// Adds a route; refused (`EEXIST`) when one with the same destination,
/// metric and table is there.
#[must_use]
pub fn add(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_EXCL, "add", spec)
}

/// Sets a route, in place of the one with the same destination, metric and
/// table if there is one. No packet finds a gap.
#[must_use]
pub fn replace(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_REPLACE, "set", spec)
}

/// Adds a route before one with the same destination, metric and table
/// (IPv4), or makes that a multipath route (IPv6). An equal one is refused
/// (`EEXIST`). What upstream's CNI plugins do (BR-35).
#[must_use]
pub fn prepend(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE, "add", spec)
}

/// As [`prepend`], but after the others.
#[must_use]
pub fn append(spec: &RouteSpec) -> Request {
    write(NLM_F_CREATE | NLM_F_APPEND, "append", spec)
}

/// Deletes the first route that matches; `ESRCH` when there is none.
#[must_use]
pub fn delete(route: &RouteMatch) -> Request {
    let header = Header {
        protocol: route.protocol.unwrap_or(0),
        scope: Scope::Nowhere.number(),
        kind: route.kind.map_or(0, RouteKind::number),
        flags: 0,
    };
    let family = route.dst.family();
    let header = rtmsg(af(family), route.dst.len(), &header);
    let mut message = Message::new(RTM_DELROUTE, 0, &header);
    destination(&mut message, route.dst, route.table, route.metric);
    way(&mut message, family, route.gateway, route.oif, route.nexthop);
    Request::new(format!("delete route to {}", route.dst), message)
}

fn write(flags: u16, verb: &'static str, spec: &RouteSpec) -> Request {
    let header = Header {
        protocol: spec.protocol,
        scope: spec.scope.number(),
        kind: spec.kind.number(),
        flags: if spec.onlink { RTNH_F_ONLINK } else { 0 },
    };
    let family = spec.dst.family();
    let header = rtmsg(af(family), spec.dst.len(), &header);
    let mut message = Message::new(RTM_NEWROUTE, flags, &header);
    destination(&mut message, spec.dst, spec.table, spec.metric);
    way(&mut message, family, spec.gateway, spec.oif, spec.nexthop);
    if let Some(src) = spec.src {
        message.ip(RTA_PREFSRC, src);
    }
    let metrics = [(RTAX_MTU, spec.mtu), (RTAX_ADVMSS, spec.advmss)];
    if metrics.iter().any(|(_, value)| value.is_some()) {
        message.nest(RTA_METRICS, |m| {
            for (attr, value) in metrics {
                if let Some(value) = value {
                    m.u32(attr, value);
                }
            }
        });
    }
    Request::new(Object::Route(verb, *spec), message)
}

fn destination(
    message: &mut Message,
    dst: Subnet,
    table: u32,
    metric: Option<u32>,
) {
    if dst.len() > 0 {
        message.ip(RTA_DST, dst.base());
    }
    message.u32(RTA_TABLE, table);
    if let Some(metric) = metric {
        message.u32(RTA_PRIORITY, metric);
    }
}

fn way(
    message: &mut Message,
    family: Family,
    gateway: Option<IpAddr>,
    oif: Option<u32>,
    nexthop: Option<u32>,
) {
    match gateway {
        Some(ip) if Family::of(ip) == family => message.ip(RTA_GATEWAY, ip),
        Some(ip) => message.via(RTA_VIA, ip),
        None => {}
    }
    if let Some(oif) = oif {
        message.u32(RTA_OIF, oif);
    }
    if let Some(id) = nexthop {
        message.u32(RTA_NH_ID, id);
    }
}

// === impl RouteSpec ===

impl RouteSpec {
    /// A unicast route to `dst` in the main table, protocol `boot`, scope
    /// universe, without a way: the conventions of B-1.
    #[must_use]
    pub const fn to(dst: Subnet) -> Self {
        Self {
            dst,
            gateway: None,
            oif: None,
            onlink: false,
            nexthop: None,
            protocol: PROTOCOL_BOOT,
            metric: None,
            kind: RouteKind::Unicast,
            src: None,
            scope: Scope::Universe,
            table: TABLE_MAIN,
            mtu: None,
            advmss: None,
        }
    }

    pub(crate) fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.dst.to_string();
        if let Some(gateway) = self.gateway {
            let _ = write!(text, " via {gateway}");
        }
        if let Some(oif) = self.oif {
            let _ = write!(text, " on link {oif}");
        }
        if let Some(id) = self.nexthop {
            let _ = write!(text, " by nexthop {id}");
        }
        text
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Any route to `dst` in the main table.
    #[must_use]
    pub const fn to(dst: Subnet) -> Self {
        Self {
            dst,
            table: TABLE_MAIN,
            metric: None,
            gateway: None,
            oif: None,
            nexthop: None,
            protocol: None,
            kind: None,
        }
    }

    /// The route that was read, and no other.
    #[must_use]
    pub fn of(route: &RouteInfo) -> Self {
        // A nexthop object stands for gateway and device.
        let plain = route.nexthop.is_none();
        Self {
            dst: route.dst,
            table: route.table,
            metric: Some(route.metric).filter(|m| *m != 0),
            gateway: route.gateway.filter(|_| plain),
            oif: route.oif.filter(|_| plain),
            nexthop: route.nexthop,
            protocol: Some(route.protocol),
            kind: Some(route.kind),
        }
    }
}
