//! The pod's side: settings, addresses, routes (BR-32..BR-35).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipam::Family;
use netlink::link::LinkInfo;
use netlink::route::{RouteKind, RouteSpec, Scope, TABLE_MAIN};
use netlink::{NetNs, Request, Socket, addr, link, route, sysctl};

use super::conf::Conf;
use super::util::{address, all, ignore};
use crate::protocol::{CniError, code};
use crate::result::{CniResult, IpConfig, Route};

/// How long duplicate address detection may take (BR-34), or the kernel to
/// take an address into use.
const ADDRESS_WAIT: Duration = Duration::from_secs(5);

/// Gives the interface its addresses and routes and sets it up. Everything
/// works when this returns, but for the port's own state.
pub(super) fn configure(
    netns: &NetNs,
    conf: &Conf,
    ifname: &str,
    result: &CniResult,
) -> Result<LinkInfo, CniError> {
    let has =
        |family| result.ips.iter().any(|ip| ip.address.family() == family);
    let (v4, v6) = (has(Family::V4), has(Family::V6));
    let mut socket = netns
        .enter(|| {
            settings(ifname, v4, v6, conf.detect_duplicates)?;
            Socket::open().map_err(CniError::internal)
        })
        .map_err(|e| CniError::new(code::NETNS, e.to_string()))??;
    let pod = link::by_name(&mut socket, ifname).map_err(CniError::internal)?;
    // with the address there first, setting the link up announces it by ARP
    let mut requests: Vec<Request> = result
        .ips
        .iter()
        .map(|ip| {
            let detect = conf.detect_duplicates;
            addr::add(&address(pod.index, &ip.address, detect))
        })
        .collect();
    requests.push(link::set(pod.index).up().build());
    let routes = routes(&pod, result)?;
    if conf.detect_duplicates && v6 {
        all(socket.batch(&requests)).map_err(CniError::internal)?;
        requests = Vec::new();
        wait_undisputed(&mut socket, &pod)?;
    }
    requests.extend(routes.iter().map(route::prepend));
    all(socket.batch(&requests)).map_err(CniError::internal)?;
    for ip in result.ips.iter().filter(|ip| ip.address.ip.is_ipv6()) {
        wait_usable(&mut socket, ip.address.ip)?;
    }
    Ok(pod)
}

/// Settings of the interface (BR-32, BR-33).
fn settings(
    ifname: &str,
    v4: bool,
    v6: bool,
    detect: bool,
) -> Result<(), CniError> {
    let v6_key = |link: &str, key: &str| format!("net/ipv6/conf/{link}/{key}");
    if v4 {
        let key = format!("net/ipv4/conf/{ifname}/arp_notify");
        ignore(sysctl::write_if_different(&key, "1"));
    }
    if !v6 {
        return Ok(());
    }
    for link in ["lo", ifname] {
        sysctl::write_if_different(&v6_key(link, "disable_ipv6"), "0")
            .map_err(CniError::internal)?;
    }
    if detect {
        let key = v6_key(ifname, "enhanced_dad");
        ignore(sysctl::write_if_different(&key, "1"));
    }
    let accept = if detect { "1" } else { "0" };
    let key = v6_key(ifname, "accept_dad");
    ignore(sysctl::write_if_different(&key, accept));
    sysctl::write_if_different(&v6_key(ifname, "keep_addr_on_down"), "1")
        .map(drop)
        .map_err(CniError::internal)
}

/// The kernel takes an IPv6 address into use on a work queue, also one that
/// is exempt from duplicate address detection: packets to it are for us only
/// once it has a local route.
pub(super) fn wait_usable(
    socket: &mut Socket,
    ip: IpAddr,
) -> Result<(), CniError> {
    if ip.is_ipv4() {
        return Ok(());
    }
    let began = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        let kind = route::lookup(socket, ip).map(|route| route.kind);
        if matches!(kind, Ok(RouteKind::Local)) {
            return Ok(());
        }
        if began.elapsed() >= ADDRESS_WAIT {
            return Err(CniError::internal(format_args!(
                "address {ip} is not in use after {ADDRESS_WAIT:?}"
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits for duplicate address detection where it is asked for (BR-34).
fn wait_undisputed(
    socket: &mut Socket,
    pod: &LinkInfo,
) -> Result<(), CniError> {
    let began = Instant::now();
    loop {
        let addresses = addr::list(socket, Some(Family::V6), Some(pod.index))
            .and_then(netlink::Dump::complete)
            .map_err(CniError::internal)?;
        if let Some(a) = addresses.iter().find(|a| a.flags.dad_failed()) {
            return Err(CniError::internal(format_args!(
                "address {} is in use on this network by another host",
                a.ip
            )));
        }
        if !addresses.iter().any(|a| a.flags.tentative()) {
            return Ok(());
        }
        if began.elapsed() >= ADDRESS_WAIT {
            return Err(CniError::internal(format_args!(
                "duplicate address detection on {} has not ended after \
                 {ADDRESS_WAIT:?}",
                pod.name
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The result's routes as the kernel gets them (BR-35), equal ones once.
fn routes(
    pod: &LinkInfo,
    result: &CniResult,
) -> Result<Vec<RouteSpec>, CniError> {
    let mut out = Vec::new();
    for route in &result.routes {
        let spec = spec(pod, &result.ips, route)?;
        if !out.contains(&spec) {
            out.push(spec);
        }
    }
    Ok(out)
}

fn spec(
    pod: &LinkInfo,
    ips: &[IpConfig],
    route: &Route,
) -> Result<RouteSpec, CniError> {
    let number = |key: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            CniError::config(format!(
                "route to {}: {key} is {value}, but must be from 0 to {}",
                route.dst,
                u32::MAX
            ))
        })
    };
    let optional = |key, value: i64| {
        number(key, value).map(|n| Some(n).filter(|n| *n != 0))
    };
    let dst = route.dst.network().ok_or_else(|| {
        CniError::config(format!("route to {}: bad length", route.dst))
    })?;
    let scope = match route.scope {
        None => Scope::Universe,
        Some(n) => u8::try_from(n).map(Scope::from).map_err(|_| {
            CniError::config(format!(
                "route to {dst}: scope is {n}, but must be from 0 to 255"
            ))
        })?,
    };
    let table = match route.table {
        None | Some(0) => TABLE_MAIN,
        Some(n) => number("table", n)?,
    };
    Ok(RouteSpec {
        gateway: gateway_of(ips, route),
        oif: Some(pod.index),
        metric: optional("priority", route.priority)?,
        mtu: optional("mtu", route.mtu)?,
        advmss: optional("advmss", route.advmss)?,
        scope,
        table,
        ..RouteSpec::to(dst)
    })
}

/// A route's own gateway, else the first one of its family.
pub(super) fn gateway_of(ips: &[IpConfig], route: &Route) -> Option<IpAddr> {
    let of_family = |ip: &&IpConfig| {
        ip.address.family() == route.dst.family() && ip.gateway.is_some()
    };
    route.gw.or_else(|| ips.iter().find(of_family)?.gateway)
}
