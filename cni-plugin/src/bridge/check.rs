//! CHECK (BR-59..BR-61): what differs from what ADD made.

use ::ipam::gojson::Object;
use ::ipam::{Family, PerFamily};
use netlink::link::LinkInfo;
use netlink::route::{self, RouteInfo, TABLE_MAIN};
use netlink::{Dump, Socket, addr, link, sysctl};

use super::conf::Conf;
use super::ipam::Ipam;
use super::{gateway, macspoof, pod, vlan, vlan_gateway};
use crate::cidr::Cidr;
use crate::mac;
use crate::masquerade;
use crate::owner::Owner;
use crate::protocol::{Call, CniError, code};
use crate::result::{CniResult, Interface, Route};

/// Compares the attachment with `previous`, the result of its ADD.
///
/// # Errors
/// Code 100 and the first difference.
pub(crate) fn check(
    call: &Call,
    text: &str,
    previous: &CniResult,
) -> Result<(), CniError> {
    let object = Object::parse(text)?;
    let conf = Conf::read(&object, &call.args()?)?;
    let (interface, previous) = own_part(call, previous)?;
    Ipam::of(call, &object, text, &conf.ipam).check(call, &previous)?;
    let mut inside = Socket::open_in(&call.netns()?).map_err(CniError::from)?;
    let pod = check_pod(conf.leave_down, &mut inside, interface, &previous)?;
    let mut outside = Socket::open().map_err(CniError::from)?;
    let bridge = check_bridge(&conf, &mut outside, &previous)?;
    let port = check_port(&conf, &mut outside, &bridge, &pod)?;
    vlan::check(&mut outside, &conf.vlans, &bridge, &port)?;
    if conf.gateway {
        let of_vlan = conf.gateway_vlan().map(|vlan| {
            vlan_gateway::check(&mut outside, &conf, &bridge, vlan)
        });
        let holder = of_vlan.transpose()?.unwrap_or(bridge);
        check_gateways(&mut outside, &holder, &previous)?;
        check_forwarding(&previous)?;
    }
    let ips: Vec<Cidr> = previous.ips.iter().map(|ip| ip.address).collect();
    if let Some(backend) = conf.masquerade {
        masquerade::check(call, backend, &ips)?;
    }
    match pod.mac {
        Some(mac) if conf.check_spoofing => {
            macspoof::check(Owner::of(call), mac)
        }
        _ => Ok(()),
    }
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

/// The pod's interface, its addresses and its routes.
pub(crate) fn check_pod(
    may_be_down: bool,
    socket: &mut Socket,
    interface: &Interface,
    previous: &CniResult,
) -> Result<LinkInfo, CniError> {
    let ifname = &interface.name;
    let pod = find(socket, ifname)?;
    if pod.kind.as_deref() != Some("veth") {
        return differs(format_args!(
            "interface {ifname} is of kind {:?}, but was made as veth",
            pod.kind.as_deref().unwrap_or("none")
        ));
    }
    check_mac(interface, &pod)?;
    if !pod.up && !may_be_down {
        return differs(format_args!("interface {ifname} is down"));
    }
    let addresses = addr::list(socket, None, Some(pod.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    for want in previous.ips.iter().map(|ip| ip.address) {
        let found =
            addresses.iter().any(|a| a.ip == want.ip && a.len == want.len);
        if !found {
            return differs(format_args!(
                "interface {ifname} lacks the address {want}"
            ));
        }
    }
    check_routes(socket, &pod, previous)?;
    Ok(pod)
}

fn check_routes(
    socket: &mut Socket,
    pod: &LinkInfo,
    previous: &CniResult,
) -> Result<(), CniError> {
    let mut tables = PerFamily::<Vec<RouteInfo>>::default();
    for want in &previous.routes {
        let family = want.dst.family();
        if tables.get(family).is_none() {
            tables.set(family, Some(routes(socket, family)?));
        }
        let there = tables.get(family).map(Vec::as_slice);
        let gateway = pod::gateway_of(&previous.ips, want);
        let found = there.unwrap_or_default().iter().any(|route| {
            // another plugin may lead the default route elsewhere (S-62)
            matches(route, want)
                && (want.dst.is_any()
                    || gateway.is_none()
                    || route.gateway == gateway
                    || route.multipath.iter().any(|h| h.gateway == gateway))
        });
        if !found {
            let via = gateway.map(|gw| format!(" via {gw}"));
            return differs(format_args!(
                "namespace of {} lacks the route to {}{}",
                pod.name,
                want.dst,
                via.unwrap_or_default()
            ));
        }
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

fn routes(
    socket: &mut Socket,
    family: Family,
) -> Result<Vec<RouteInfo>, CniError> {
    let all = route::Filter { family, table: None, oif: None, protocol: None };
    route::list(socket, all).and_then(Dump::complete).map_err(CniError::from)
}

fn check_bridge(
    conf: &Conf,
    socket: &mut Socket,
    previous: &CniResult,
) -> Result<LinkInfo, CniError> {
    let name = &conf.bridge;
    let named = previous
        .interfaces
        .iter()
        .find(|i| i.name == *name && i.sandbox.is_empty());
    let Some(named) = named else {
        return differs(format_args!("prevResult has no bridge {name}"));
    };
    let bridge = find(socket, name)?;
    if bridge.kind.as_deref() != Some("bridge") {
        return differs(format_args!("{name} is not a bridge"));
    }
    check_mac(named, &bridge)?;
    if !bridge.up {
        return differs(format_args!("bridge {name} is down"));
    }
    Ok(bridge)
}

/// The host's end of the pair, which is returned. It is found by its index,
/// which only the pod's end tells for sure.
fn check_port(
    conf: &Conf,
    socket: &mut Socket,
    bridge: &LinkInfo,
    pod: &LinkInfo,
) -> Result<LinkInfo, CniError> {
    let Some(index) = pod.peer else {
        return differs(format_args!("{} has no peer", pod.name));
    };
    let port = match link::by_index(socket, index) {
        Err(e) if e.is_not_found() => {
            return differs(format_args!(
                "the peer of {} is not on this host",
                pod.name
            ));
        }
        other => other.map_err(CniError::from)?,
    };
    if port.kind.as_deref() != Some("veth") || port.peer != Some(pod.index) {
        return differs(format_args!(
            "{} is not the peer of {}",
            port.name, pod.name
        ));
    }
    if port.master != Some(bridge.index) {
        return differs(format_args!(
            "{} is not a port of bridge {}",
            port.name, bridge.name
        ));
    }
    if !port.up {
        return differs(format_args!("port {} is down", port.name));
    }
    let flags = port.port.unwrap_or_default();
    for (what, is, should) in [
        ("hairpin mode", flags.hairpin, conf.hairpin),
        ("isolation", flags.isolated, conf.isolated),
    ] {
        if is != should {
            return differs(format_args!(
                "port {} has {what} {}, but should have it {}",
                port.name,
                on(is),
                on(should)
            ));
        }
    }
    Ok(port)
}

fn check_gateways(
    socket: &mut Socket,
    bridge: &LinkInfo,
    previous: &CniResult,
) -> Result<(), CniError> {
    let addresses = addr::list(socket, None, Some(bridge.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    for gateway in previous.ips.iter().filter_map(|ip| ip.gateway) {
        if !addresses.iter().any(|a| a.ip == gateway) {
            return differs(format_args!(
                "{} lacks the gateway {gateway}",
                bridge.name
            ));
        }
    }
    Ok(())
}

fn check_forwarding(previous: &CniResult) -> Result<(), CniError> {
    for family in Family::ALL {
        let has = previous.ips.iter().any(|ip| ip.address.family() == family);
        let key = gateway::forwarding(family);
        if has && sysctl::read(key).map_err(CniError::from)? != "1" {
            return differs(format_args!("{key} is off"));
        }
    }
    Ok(())
}

pub(crate) fn find(
    socket: &mut Socket,
    name: &str,
) -> Result<LinkInfo, CniError> {
    match link::by_name(socket, name) {
        Err(e) if e.is_not_found() => {
            differs(format_args!("interface {name} is missing"))
        }
        other => other.map_err(CniError::from),
    }
}

fn check_mac(want: &Interface, link: &LinkInfo) -> Result<(), CniError> {
    let want = &want.mac;
    let same = want.is_empty()
        || mac::parse(want).is_none_or(|mac| link.mac == Some(mac));
    if same {
        return Ok(());
    }
    differs(format_args!(
        "interface {} has address {}, but prevResult says {want}",
        link.name,
        mac::text(link.mac)
    ))
}

pub(crate) fn differs<T>(msg: std::fmt::Arguments<'_>) -> Result<T, CniError> {
    Err(CniError::new(code::DIFFERS, msg.to_string()))
}

const fn on(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
