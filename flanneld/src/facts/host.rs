//! The kernel's side of [`HostView`] and [`PathTo`].

use std::net::IpAddr;

use ipam::PerFamily;
use netlink::route::{Filter, RouteInfo, RouteKind, TABLE_MAIN};
use netlink::{Error, Socket, addr, link, nexthop, route};

use super::{Address, DefaultRoute, End, Hop, HostView, Link, PathTo};

/// `RTNH_F_DEAD` and `RTNH_F_LINKDOWN`.
const UNUSABLE: u8 = 1 | 16;

/// Reads links, addresses and default routes. Nothing is ever deleted on the
/// strength of this, so that an entry nobody can decode is left out.
///
/// # Errors
/// The kernel's, with what was asked.
pub fn read(socket: &mut Socket) -> Result<HostView, Error> {
    let mut links: Vec<Link> = link::list(socket, link::Filter::default())?
        .items
        .into_iter()
        .map(|link| Link {
            index: link.index,
            name: link.name,
            mtu: link.mtu,
            up: link.up,
            addrs: Vec::new(),
        })
        .collect();
    links.sort_by_key(|link| link.index);

    for found in addr::list(socket, None, None)?.items {
        let Some(link) = links.iter_mut().find(|l| l.index == found.index)
        else {
            continue;
        };
        link.addrs.push(Address {
            ip: found.ip,
            permanent: found.flags.permanent(),
            temporary: found.flags.secondary(),
            unfit: found.flags.deprecated() || found.flags.dad_failed(),
        });
    }

    let mut defaults = PerFamily::default();
    for family in ipam::Family::ALL {
        let filter = Filter {
            family,
            table: Some(TABLE_MAIN),
            oif: None,
            protocol: None,
        };
        let mut routes = route::list(socket, filter)?.items;
        routes.retain(|route| {
            route.dst.len() == 0
                && route.kind == RouteKind::Unicast
                && route.tos == 0
                && route.src_len == 0
        });
        // The kernel's order already; stable where it is not.
        routes.sort_by_key(|route| route.metric);
        let routes: Result<_, _> =
            routes.iter().map(|route| default_route(socket, route)).collect();
        defaults.set(family, Some(routes?));
    }
    Ok(HostView { links, defaults })
}

/// How the kernel would reach `to`.
///
/// # Errors
/// The kernel's, such as "network is unreachable".
pub fn path_to(socket: &mut Socket, to: IpAddr) -> Result<PathTo, Error> {
    // The answer names the one hop this packet would take; whether it is one
    // of several only the route itself tells.
    let taken = route::lookup(socket, to)?;
    let entry = route::lookup_entry(socket, to)?;
    let group = match entry.nexthop {
        Some(id) if entry.oif.is_none() => nexthop::get(socket, id)?.group,
        _ => false,
    };
    Ok(PathTo {
        link: taken.oif,
        source: taken.src,
        gateway: taken.gateway.is_some(),
        multipath: group || entry.multipath.len() > 1,
        end: match taken.kind {
            RouteKind::Unicast => End::Onward,
            RouteKind::Local => End::Here,
            RouteKind::Broadcast
            | RouteKind::Blackhole
            | RouteKind::Unreachable
            | RouteKind::Prohibit
            | RouteKind::Throw
            | RouteKind::Other(_) => End::Nowhere,
        },
    })
}

/// The same; `None` when the kernel says that there is no way.
///
/// # Errors
/// When the kernel says nothing, or nothing that is understood.
pub fn path_if_any(
    socket: &mut Socket,
    to: IpAddr,
) -> Result<Option<PathTo>, Error> {
    match path_to(socket, to) {
        Ok(path) => Ok(Some(path)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn default_route(
    socket: &mut Socket,
    route: &RouteInfo,
) -> Result<DefaultRoute, Error> {
    let hops = if route.multipath.is_empty() {
        let link = match route.nexthop {
            // With `net.ipv4.nexthop_compat_mode=0` only the object tells.
            Some(id) if route.oif.is_none() => nexthop::get(socket, id)?.oif,
            _ => route.oif,
        };
        vec![Hop { link, alive: !route.is_dead() }]
    } else {
        route
            .multipath
            .iter()
            .map(|hop| Hop {
                link: Some(hop.oif).filter(|oif| *oif != 0),
                alive: hop.flags & UNUSABLE == 0,
            })
            .collect()
    };
    Ok(DefaultRoute { hops })
}

#[cfg(test)]
mod tests;
