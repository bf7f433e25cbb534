//! Tables, and what goes into them (SB-2).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam::Family;
use netlink::route::{self, RouteInfo, RouteSpec};
use netlink::{Dump, Socket, rule};

use crate::protocol::CniError;
use crate::result::IpConfig;

/// The first table that may be taken.
const FIRST: u32 = 100;

/// The first table from 100 on that nothing leads to or is in, and none of
/// `taken`.
pub(super) fn unused(
    socket: &mut Socket,
    taken: &[u32],
) -> Result<u32, CniError> {
    let mut used: BTreeSet<u32> = taken.iter().copied().collect();
    for family in Family::ALL {
        let rules = rule::list(socket, family).and_then(Dump::complete);
        let rules = rules.map_err(CniError::from)?;
        used.extend(rules.iter().map(|rule| rule.table));
        let every =
            route::Filter { family, table: None, oif: None, protocol: None };
        let routes = route::list(socket, every).and_then(Dump::complete);
        let routes = routes.map_err(CniError::from)?;
        used.extend(routes.iter().map(|route| route.table));
    }
    (FIRST..=u32::MAX).find(|table| !used.contains(table)).ok_or_else(|| {
        CniError::internal("every routing table is in use already")
    })
}

/// Of the interface's routes those that an address's table needs: all but
/// those that name another address of the interface, or its gateway.
pub(super) fn copied<'a>(
    routes: &'a [RouteInfo],
    ips: &'a [&'a IpConfig],
    own: &'a IpConfig,
) -> impl Iterator<Item = &'a RouteInfo> {
    let belongs = move |named: Option<IpAddr>, mine: Option<IpAddr>| {
        let others = |ip: &&&IpConfig| ip.address != own.address;
        let mut others = ips.iter().filter(others);
        named == mine
            || named.is_none_or(|named| {
                !others
                    .any(|o| o.address.ip == named || o.gateway == Some(named))
            })
    };
    routes.iter().filter(move |route| {
        route.dst.family() == own.address.family()
            && route.multipath.is_empty()
            && belongs(route.src, Some(own.address.ip))
            && belongs(route.gateway, own.gateway)
    })
}

/// Routes of the link itself: neighbours are found by them whatever address
/// a packet comes from, so they stay where they are, too.
pub(super) fn is_local(route: &RouteInfo) -> bool {
    match route.dst.base() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    }
}

/// The same in another table.
pub(super) fn spec_of(route: &RouteInfo, table: u32) -> RouteSpec {
    RouteSpec {
        dst: route.dst,
        gateway: route.gateway,
        oif: route.oif,
        onlink: route.onlink,
        nexthop: None,
        protocol: route.protocol,
        metric: Some(route.metric).filter(|metric| *metric != 0),
        kind: route.kind,
        src: route.src,
        scope: route.scope,
        table,
        mtu: route.mtu,
        advmss: route.advmss,
    }
}
