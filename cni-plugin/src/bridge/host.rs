//! The host's side: the bridge, its gateway addresses, the port.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use ipam::Family;
use netlink::addr::AddrSpec;
use netlink::link::bridge::BridgeSpec;
use netlink::link::veth::{VethEnd, VethSpec};
use netlink::link::{LinkInfo, Mac, OperState};
use netlink::{Error, NetNs, Socket, addr, link, sysctl};

use super::conf::Conf;
use crate::cidr::Cidr;
use crate::protocol::{Call, CniError, log};

/// Names tried for the host's end of a pair (BR-25).
const NAMES: u32 = 10;
/// The port state in which frames pass (`BR_STATE_FORWARDING`).
const FORWARDING: u8 = 3;
/// How long a port may take to get there (BR-41).
const PORT_WAIT: Duration = Duration::from_millis(2550);
/// The kernel's limit for an alias in bytes.
const ALIAS_MAX: usize = 255;
/// MTU of a veth pair that is given none, in bytes.
const VETH_MTU: u32 = 1500;
/// `NET_ADDR_SET`: somebody chose the address, the kernel will not change it.
const ADDR_SET: &str = "3";
/// Promiscuous (`IFF_PROMISC`).
const IFF_PROMISC: u32 = 0x100;

/// The bridge, there and up, its address fixed if it has gateways (BR-22,
/// BR-23).
///
/// A bridge without a fixed address takes the lowest of its ports', and pods
/// lose their gateway for as long as they remember the old one (P51). A new
/// one is made with an address of its own; one that is found gets the one it
/// has fixed, before the first port is added.
pub(super) fn ensure_bridge(
    socket: &mut Socket,
    conf: &Conf,
) -> Result<LinkInfo, CniError> {
    let name = &conf.bridge;
    let found = match link::by_name(socket, name) {
        Err(e) if e.is_not_found() => None,
        other => Some(other.map_err(CniError::internal)?),
    };
    let (bridge, is_new) = match found {
        Some(bridge) => (bridge, false),
        None => (create_bridge(socket, conf)?, true),
    };
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(CniError::config(format!(
            "{name:?} already exists but is not a bridge"
        )));
    }
    let mut changes = link::set(bridge.index);
    let mut changed = false;
    if !bridge.up {
        (changes, changed) = (changes.up(), true);
    }
    if conf.promiscuous && bridge.flags & IFF_PROMISC == 0 {
        (changes, changed) = (changes.promiscuous(), true);
    }
    if !is_new
        && conf.gateway
        && let Some(mac) = bridge.mac
        && !is_fixed(&bridge)
    {
        (changes, changed) = (changes.mac(mac), true);
    }
    if changed {
        socket.request(&changes.build()).map_err(|e| {
            CniError::internal(format_args!("bridge {name:?}: {e}"))
        })?;
    }
    Ok(bridge)
}

fn create_bridge(
    socket: &mut Socket,
    conf: &Conf,
) -> Result<LinkInfo, CniError> {
    let name = &conf.bridge;
    let spec = BridgeSpec {
        name: name.clone(),
        mtu: conf.mtu,
        mac: Some(random_mac()),
        vlan_filtering: false,
        up: true,
    };
    match socket.request(&link::bridge::add(&spec)) {
        // another pod's ADD was faster
        Err(e) if !e.is_exists() => {
            return Err(CniError::internal(format_args!(
                "failed to create bridge {name:?}: {e}"
            )));
        }
        _ => {}
    }
    ignore(sysctl::write_if_different(
        &format!("net/ipv6/conf/{name}/accept_ra"),
        "0",
    ));
    link::by_name(socket, name).map_err(CniError::internal)
}

/// Whether the bridge keeps its address. Only sysfs tells; where it shows
/// another namespace's links the answer is no, which costs a message.
fn is_fixed(bridge: &LinkInfo) -> bool {
    let read = |file: &str| {
        let path = format!("/sys/class/net/{}/{file}", bridge.name);
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    };
    read("ifindex") == bridge.index.to_string()
        && read("addr_assign_type") == ADDR_SET
}

/// A veth pair, one end in the pod, the other, returned here, a port of the
/// bridge (BR-25..BR-27).
pub(super) fn add_port(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    netns: &NetNs,
    ifname: &str,
) -> Result<LinkInfo, CniError> {
    let mut spec = VethSpec {
        end: VethEnd { mtu: conf.mtu, ..VethEnd::default() },
        master: Some(bridge.index),
        up: true,
        peer: VethEnd {
            name: ifname.to_owned(),
            mtu: conf.mtu,
            mac: conf.mac,
            txqlen: None,
        },
        peer_namespace: Some(netns.clone()),
    };
    for _ in 0..NAMES {
        spec.end.name = format!("veth{:08x}", random() >> 32);
        match socket.request(&link::veth::add(&spec)) {
            Ok(()) => {
                return link::by_name(socket, &spec.end.name)
                    .map_err(CniError::internal);
            }
            Err(e) if e.is_exists() => {
                if is_taken(netns, ifname)? {
                    break;
                }
            }
            Err(e) => return Err(CniError::internal(e)),
        }
    }
    Err(CniError::internal(format_args!(
        "container veth name ({ifname:?}) peer provided ({:?}) already exists",
        spec.end.name
    )))
}

fn is_taken(netns: &NetNs, ifname: &str) -> Result<bool, CniError> {
    let mut socket = Socket::open_in(netns).map_err(CniError::internal)?;
    match link::by_name(&mut socket, ifname) {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(CniError::internal(e)),
    }
}

/// Sets the port's flags and tells in its alias whose it is, so that it can
/// be found without the pod's namespace.
pub(super) fn set_port(
    socket: &mut Socket,
    conf: &Conf,
    port: &LinkInfo,
    call: &Call,
) -> Result<(), CniError> {
    ignore(sysctl::write_if_different(
        &format!("net/ipv6/conf/{}/accept_ra", port.name),
        "0",
    ));
    all(socket.batch(&[
        link::set_port(port.index, conf.hairpin, conf.isolated),
        link::set(port.index).alias(&alias(call)).build(),
    ]))
    .map_err(|e| CniError::internal(format_args!("port {}: {e}", port.name)))
}

/// `flannel:<network>:<container>:<interface>`.
fn alias(call: &Call) -> String {
    let mut out = format!(
        "flannel:{}:{}:{}",
        call.name, call.env.container_id, call.env.ifname
    );
    let mut end = ALIAS_MAX.min(out.len());
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    out
}

/// Puts the gateways on the bridge (BR-36) and switches forwarding on for
/// their families (BR-38). An IPv6 one is usable at once (PF-26).
pub(super) fn ensure_gateways(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    gateways: &[Cidr],
) -> Result<(), CniError> {
    let there = addr::list(socket, None, Some(bridge.index))
        .and_then(netlink::Dump::complete)
        .map_err(CniError::internal)?;
    let there: Vec<Cidr> =
        there.iter().map(|a| Cidr { ip: a.ip, len: a.len }).collect();
    for gateway in gateways {
        if there.contains(gateway) {
            continue;
        }
        let in_the_way = there.iter().filter(|other| {
            !gateways.contains(other) && excludes(gateway, other)
        });
        for other in in_the_way {
            if !conf.force_address {
                return Err(CniError::internal(format_args!(
                    "failed to set bridge addr: {:?} already has an IP \
                     address different from {gateway}",
                    conf.bridge
                ))
                .details(format!(
                    "it has {other}; remove it, or set \"forceAddress\": \
                     true in the delegate"
                )));
            }
            gone(socket.request(&addr::delete(
                bridge.index,
                other.ip,
                other.len,
            )))
            .map_err(CniError::internal)?;
        }
        add_gateway(socket, bridge, gateway)?;
    }
    for family in Family::ALL {
        if gateways.iter().any(|g| g.family() == family) {
            forward(family)?;
        }
    }
    Ok(())
}

/// Whether a bridge with `gateway` must not have `other` as well: any other
/// one in IPv4, one of the same network in IPv6.
fn excludes(gateway: &Cidr, other: &Cidr) -> bool {
    match (gateway.family(), other.family()) {
        (Family::V4, Family::V4) => true,
        (Family::V6, Family::V6) => gateway
            .network()
            .zip(other.network())
            .is_some_and(|(a, b)| a.overlaps(&b)),
        _ => false,
    }
}

fn add_gateway(
    socket: &mut Socket,
    bridge: &LinkInfo,
    gateway: &Cidr,
) -> Result<(), CniError> {
    if gateway.family() == Family::V6 {
        let key = format!("net/ipv6/conf/{}/disable_ipv6", bridge.name);
        sysctl::write_if_different(&key, "0").map_err(CniError::internal)?;
    }
    match socket.request(&addr::add(&address(bridge.index, gateway, false))) {
        // another pod's ADD was faster
        Err(e) if !e.is_exists() => Err(CniError::internal(format_args!(
            "failed to set bridge addr: {:?}: {e}",
            bridge.name
        ))),
        _ => super::pod::wait_usable(socket, gateway.ip),
    }
}

fn forward(family: Family) -> Result<(), CniError> {
    let key = match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    };
    sysctl::write_if_different(key, "1").map(drop).map_err(|e| {
        CniError::internal(e).context("failed to enable forwarding")
    })
}

/// Waits until the port passes frames (BR-41): without a pause when it does
/// already, which is the rule (PF-28). Returns it as it is then (BR-42).
pub(super) fn wait_forwarding(
    socket: &mut Socket,
    port: &LinkInfo,
) -> Result<LinkInfo, CniError> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let now =
            link::by_index(socket, port.index).map_err(CniError::internal)?;
        let forwards = now.port.is_some_and(|p| p.state == FORWARDING);
        if now.operstate == OperState::Up && forwards {
            return Ok(now);
        }
        if began.elapsed() >= PORT_WAIT {
            let state = if forwards { "down" } else { "not forwarding" };
            return Err(CniError::internal(format_args!(
                "bridge port in error state: {state}"
            ))
            .details(format!("{} after {PORT_WAIT:?}", now.name)));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Gives the bridge its MTU back if a port with a smaller one took it away
/// (CW-8). From then on the kernel leaves it alone.
pub(super) fn keep_mtu(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
) -> Result<(), CniError> {
    if conf.mtu.unwrap_or(VETH_MTU) >= bridge.mtu {
        return Ok(());
    }
    let now =
        link::by_index(socket, bridge.index).map_err(CniError::internal)?;
    if now.mtu == bridge.mtu {
        return Ok(());
    }
    let set = link::set(bridge.index).mtu(bridge.mtu);
    socket.request(&set.build()).map_err(CniError::internal)
}

/// An address as it is put on a link; `detect` keeps duplicate address
/// detection.
pub(super) fn address(index: u32, cidr: &Cidr, detect: bool) -> AddrSpec {
    let has_broadcast = cidr.ip.is_ipv4() && cidr.len < 31;
    let network = cidr.network().filter(|_| has_broadcast);
    let broadcast = network.map(|network| network.last());
    let nodad = cidr.ip.is_ipv6() && !detect;
    AddrSpec { index, ip: cidr.ip, len: cidr.len, nodad, broadcast }
}

/// `1e:db:69:3d:90:63`, or nothing.
pub(super) fn mac_text(mac: Option<Mac>) -> String {
    let Some(mac) = mac else { return String::new() };
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The first failure of several requests.
pub(super) fn all(results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().collect()
}

/// What is not there any more need not be removed.
pub(super) fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// For settings that upstream sets if it can (BR-23, BR-27, BR-32).
pub(super) fn ignore<T>(result: Result<T, sysctl::SysctlError>) {
    match result {
        Err(e) if !e.is_missing() => log(e),
        _ => {}
    }
}

/// A locally administered unicast address.
fn random_mac() -> Mac {
    let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
    [(a & 0xfc) | 2, b, c, d, e, f]
}

/// Numbers nobody needs to be unable to guess: the keys of a new hash table
/// come from the kernel's random source.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Env, Version};

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn what_excludes_a_gateway() {
        let v4 = cidr("10.1.0.1/24");
        assert!(excludes(&v4, &cidr("192.168.0.1/24")));
        assert!(!excludes(&v4, &cidr("fd00::1/64")));
        let v6 = cidr("fd00::1/64");
        assert!(excludes(&v6, &cidr("fd00::2/48")));
        assert!(!excludes(&v6, &cidr("fd00:1::1/64")));
        assert!(!excludes(&v6, &cidr("fe80::1/64")));
    }

    #[test]
    fn broadcast_and_duplicate_detection() {
        let spec = address(7, &cidr("10.1.0.2/24"), false);
        assert_eq!(spec.broadcast, Some("10.1.0.255".parse().unwrap()));
        assert!(!spec.nodad);
        assert_eq!(address(7, &cidr("10.1.0.2/31"), false).broadcast, None);
        assert!(address(7, &cidr("fd00::2/64"), false).nodad);
        assert!(!address(7, &cidr("fd00::2/64"), true).nodad);
    }

    #[test]
    fn random_values() {
        let mac = random_mac();
        assert_eq!(mac[0] & 3, 2, "local and unicast");
        assert_ne!(random(), random());
        assert_eq!(mac_text(Some([2, 0, 0, 0, 0, 255])), "02:00:00:00:00:ff");
    }

    #[test]
    fn aliases_fit() {
        let mut call = Call {
            env: Env {
                container_id: "c1".into(),
                ifname: "eth0".into(),
                ..Env::default()
            },
            text: String::new(),
            name: "cbr0".into(),
            version: Version::V110,
        };
        assert_eq!(alias(&call), "flannel:cbr0:c1:eth0");
        call.env.container_id = "c".repeat(235);
        call.env.ifname = "äöüäöü".into();
        let alias = alias(&call);
        assert!((254..=255).contains(&alias.len()), "{}", alias.len());
    }
}
