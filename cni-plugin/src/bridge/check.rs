//! CHECK (BR-59..BR-61): what differs from what ADD made.

use ::ipam::gojson::Object;
use ::ipam::{Family, PerFamily, Subnet};
use netlink::link::LinkInfo;
use netlink::route::{self, RouteInfo, TABLE_MAIN};
use netlink::{Dump, Socket, addr, link, rule, sysctl};

use super::conf::Conf;
use super::ipam::Ipam;
use super::{gateway, macspoof, pod, vlan, vlan_gateway};
use crate::cidr::Cidr;
use crate::mac;
use crate::masquerade;
use crate::owner::Owner;
use crate::protocol::{Call, CniError, Differences, code};
use crate::result::{CniResult, Interface, IpConfig, Route};

/// Compares the attachment with `previous`, the result of its ADD.
///
/// # Errors
/// Code 100 and the differences.
pub(crate) fn check(
    call: &Call,
    text: &str,
    previous: &CniResult,
) -> Result<(), CniError> {
    let object = Object::parse(text)?;
    let conf = Conf::read(&object, &call.args()?)?;
    let (interface, previous) = own_part(call, previous)?;
    let mut found = Differences::default();
    let ipam = Ipam::of(call, &object, text, &conf.ipam);
    found.note(ipam.check(call, &previous))?;
    let mut inside = Socket::open_in(&call.netns()?).map_err(CniError::from)?;
    let may_be_down = conf.leave_down;
    let pod =
        check_pod(may_be_down, &mut inside, interface, &previous, &mut found)?;
    let mut outside = Socket::open().map_err(CniError::from)?;
    let bridge = check_bridge(&conf, &mut outside, &previous, &mut found)?;
    let port = match &pod {
        Some(pod) => {
            check_port(&conf, &mut outside, bridge.as_ref(), pod, &mut found)?
        }
        None => None,
    };
    if let (Some(bridge), Some(port)) = (&bridge, &port) {
        found.note(vlan::check(&mut outside, &conf.vlans, bridge, port))?;
    }
    if conf.gateway {
        // where ADD had none to make, it made no link for them either
        let has_gateway = previous.ips.iter().any(|ip| ip.gateway.is_some());
        let of_vlan = conf.gateway_vlan().filter(|_| has_gateway);
        let holder = match (&bridge, of_vlan) {
            (Some(bridge), Some(vlan)) => vlan_gateway::check(
                &mut outside,
                &conf,
                bridge,
                vlan,
                &mut found,
            )?,
            _ => bridge,
        };
        if let Some(holder) = &holder {
            check_gateways(&mut outside, holder, &previous, &mut found)?;
        }
        check_forwarding(&previous, &mut found)?;
    }
    let ips: Vec<Cidr> = previous.ips.iter().map(|ip| ip.address).collect();
    if let Some(backend) = conf.masquerade {
        found.note(masquerade::check(call, backend, &ips))?;
    }
    if conf.check_spoofing
        && let Some(port) = port
        && let Some(mac) = pod.and_then(|pod| pod.mac)
    {
        found.note(macspoof::check(Owner::of(call), &port.name, mac))?;
    }
    found.end()
}

/// The pod's interface in `previous`, and `previous` without the addresses
/// that later plugins gave to other interfaces (S-62).
pub(crate) fn own_part<'a>(
    call: &Call,
    previous: &'a CniResult,
) -> Result<(&'a Interface, CniResult), CniError> {
    let ifname = &call.env.ifname;
    let named = previous
        .interfaces
        .iter()
        .enumerate()
        .find(|(_, i)| i.name == *ifname && i.sandbox == call.env.netns);
    let Some((at, interface)) = named else {
        return differs(format_args!(
            "prevResult has no interface {ifname} in {}",
            call.env.netns
        ));
    };
    let at = i64::try_from(at).ok();
    let mut own = previous.clone();
    own.ips.retain(|ip| ip.interface.is_none() || ip.interface == at);
    Ok((interface, own))
}

/// The pod's interface, its addresses and its routes; `None` when there is no
/// such interface.
pub(crate) fn check_pod(
    may_be_down: bool,
    socket: &mut Socket,
    interface: &Interface,
    previous: &CniResult,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    let ifname = &interface.name;
    let Some(pod) = find(socket, ifname, found)? else { return Ok(None) };
    found.expect(
        pod.kind.as_deref() == Some("veth"),
        format_args!(
            "interface {ifname} is of kind {:?}, but was made as veth",
            pod.kind.as_deref().unwrap_or("none")
        ),
    );
    check_mac(interface, &pod, found);
    found.expect(
        pod.up || may_be_down,
        format_args!("interface {ifname} is down"),
    );
    let addresses = addr::list(socket, None, Some(pod.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    for want in previous.ips.iter().map(|ip| ip.address) {
        found.expect(
            addresses.iter().any(|a| a.ip == want.ip && a.len == want.len),
            format_args!("interface {ifname} lacks the address {want}"),
        );
    }
    check_routes(socket, &pod, previous, found)?;
    Ok(Some(pod))
}

fn check_routes(
    socket: &mut Socket,
    pod: &LinkInfo,
    previous: &CniResult,
    found: &mut Differences,
) -> Result<(), CniError> {
    let mut known = PerFamily::<Vec<RouteInfo>>::default();
    for want in &previous.routes {
        let family = want.dst.family();
        if known.get(family).is_none() {
            let there = routes(socket, family, &previous.ips)?;
            known.set(family, Some(there));
        }
        let there = known.get(family).map(Vec::as_slice);
        let gateway = pod::gateway_of(&previous.ips, want);
        let is_there = there.unwrap_or_default().iter().any(|route| {
            // another plugin may lead the default route elsewhere (S-62)
            matches(route, want)
                && (want.dst.is_any()
                    || gateway.is_none()
                    || route.gateway == gateway
                    || route.multipath.iter().any(|h| h.gateway == gateway))
        });
        let via = gateway.map(|gw| format!(" via {gw}")).unwrap_or_default();
        found.expect(
            is_there,
            format_args!(
                "namespace of {} lacks the route to {}{via}",
                pod.name, want.dst
            ),
        );
    }
    Ok(())
}

fn matches(route: &RouteInfo, want: &Route) -> bool {
    let table = match want.table {
        None | Some(0) => i64::from(TABLE_MAIN),
        Some(table) => table,
    };
    want.dst.network() == Some(route.dst) && i64::from(route.table) == table
}

/// All routes of the namespace. Those of a table for what comes from one of
/// `ips` count as the main one's: there `sbr` moves them (S-62).
fn routes(
    socket: &mut Socket,
    family: Family,
    ips: &[IpConfig],
) -> Result<Vec<RouteInfo>, CniError> {
    let all = route::Filter { family, table: None, oif: None, protocol: None };
    let mut routes = route::list(socket, all).and_then(Dump::complete)?;
    let rules = rule::list(socket, family).and_then(Dump::complete)?;
    let own = |src| ips.iter().any(|ip| Subnet::host(ip.address.ip) == src);
    let of_sources: Vec<u32> = rules
        .iter()
        .filter(|rule| rule.src.is_some_and(own))
        .map(|rule| rule.table)
        .collect();
    let moved = routes.iter().filter(|r| of_sources.contains(&r.table));
    let moved = moved.map(|r| RouteInfo { table: TABLE_MAIN, ..r.clone() });
    let moved: Vec<RouteInfo> = moved.collect();
    routes.extend(moved);
    Ok(routes)
}

/// The bridge; `None` when there is none.
fn check_bridge(
    conf: &Conf,
    socket: &mut Socket,
    previous: &CniResult,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    let name = &conf.bridge;
    let mut interfaces = previous.interfaces.iter();
    let named = interfaces.find(|i| i.name == *name && i.sandbox.is_empty());
    found.expect(
        named.is_some(),
        format_args!("prevResult has no bridge {name}"),
    );
    let Some(bridge) = find(socket, name, found)? else { return Ok(None) };
    if bridge.kind.as_deref() != Some("bridge") {
        found.add(format_args!("{name} is not a bridge"));
        return Ok(None);
    }
    if let Some(named) = named {
        check_mac(named, &bridge, found);
    }
    found.expect(bridge.up, format_args!("bridge {name} is down"));
    Ok(Some(bridge))
}

/// The host's end of the pair, which is returned if it is a port of the bridge.
/// It is found by its index, which only the pod's end tells for sure.
fn check_port(
    conf: &Conf,
    socket: &mut Socket,
    bridge: Option<&LinkInfo>,
    pod: &LinkInfo,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    let Some(port) = host_end(socket, pod, found)? else { return Ok(None) };
    let name = &port.name;
    if port.kind.as_deref() != Some("veth") || port.peer != Some(pod.index) {
        let pod = &pod.name;
        found.add(format_args!("{name} is not the peer of {pod}"));
        return Ok(None);
    }
    found.expect(port.up, format_args!("port {name} is down"));
    let Some(bridge) = bridge else { return Ok(None) };
    if port.master != Some(bridge.index) {
        let bridge = &bridge.name;
        found.add(format_args!("{name} is not a port of bridge {bridge}"));
        return Ok(None);
    }
    let flags = port.port.unwrap_or_default();
    for (what, is, should) in [
        ("hairpin mode", flags.hairpin, conf.hairpin),
        ("isolation", flags.isolated, conf.isolated),
    ] {
        let (is_on, should_be) = (on(is), on(should));
        found.expect(
            is == should,
            format_args!(
                "port {name} has {what} {is_on}, but should have it {should_be}"
            ),
        );
    }
    Ok(Some(port))
}

/// The host's end of the pod's cable; `None` when it is not there.
pub(crate) fn host_end(
    socket: &mut Socket,
    pod: &LinkInfo,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    let Some(index) = pod.peer else {
        found.add(format_args!("{} has no peer", pod.name));
        return Ok(None);
    };
    match link::by_index(socket, index) {
        Err(e) if e.is_not_found() => {
            let pod = &pod.name;
            found.add(format_args!("the peer of {pod} is not on this host"));
            Ok(None)
        }
        other => other.map(Some).map_err(CniError::from),
    }
}

fn check_gateways(
    socket: &mut Socket,
    bridge: &LinkInfo,
    previous: &CniResult,
    found: &mut Differences,
) -> Result<(), CniError> {
    let addresses = addr::list(socket, None, Some(bridge.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    let name = &bridge.name;
    for gateway in previous.ips.iter().filter_map(|ip| ip.gateway) {
        found.expect(
            addresses.iter().any(|a| a.ip == gateway),
            format_args!("{name} lacks the gateway {gateway}"),
        );
    }
    Ok(())
}

fn check_forwarding(
    previous: &CniResult,
    found: &mut Differences,
) -> Result<(), CniError> {
    for family in Family::ALL {
        let has = previous.ips.iter().any(|ip| ip.address.family() == family);
        let key = gateway::forwarding(family);
        if has {
            let is = sysctl::read(key).map_err(CniError::from)?;
            found.expect(is == "1", format_args!("{key} is off"));
        }
    }
    Ok(())
}

/// The link of that name; `None` when it is missing.
pub(super) fn find(
    socket: &mut Socket,
    name: &str,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    match link::by_name(socket, name) {
        Err(e) if e.is_not_found() => {
            found.add(format_args!("interface {name} is missing"));
            Ok(None)
        }
        other => other.map(Some).map_err(CniError::from),
    }
}

fn check_mac(want: &Interface, link: &LinkInfo, found: &mut Differences) {
    let want = &want.mac;
    found.expect(
        want.is_empty()
            || mac::parse(want).is_none_or(|mac| link.mac == Some(mac)),
        format_args!(
            "interface {} has address {}, but prevResult says {want}",
            link.name,
            mac::text(link.mac)
        ),
    );
}

pub(super) fn differs<T>(msg: std::fmt::Arguments<'_>) -> Result<T, CniError> {
    Err(CniError::new(code::DIFFERS, msg.to_string()))
}

const fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
