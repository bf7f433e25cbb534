//! The bridge device (BR-22, BR-23).

use std::time::{Duration, Instant};

use ipam::Family;
use netlink::addr::AddrInfo;
use netlink::link::bridge::BridgeSpec;
use netlink::link::{LinkInfo, Mac, OperState};
use netlink::route::Scope;
use netlink::{Socket, addr, link, sysctl};

use super::conf::Conf;
use super::util::{ignore, random};
use super::vlan;
use crate::protocol::{CniError, Deadline};

/// The alias of a bridge whose address is known to be fixed: an address that
/// somebody chose stays chosen for as long as the device is there, and to ask
/// sysfs takes longer than all else that is asked about it.
const FIXED: &str = "flannel bridge";
/// `NET_ADDR_SET`: somebody chose the address, the kernel will not change it.
const ADDR_SET: &str = "3";
/// Promiscuous (`IFF_PROMISC`).
const IFF_PROMISC: u32 = 0x100;
/// How long a bridge may take to run once a port of it passes frames.
const RUN_WAIT: Duration = Duration::from_secs(2);
/// How long the kernel may take to make a link-local address.
const LINK_LOCAL_WAIT: Duration = Duration::from_millis(250);

/// The bridge, there and up, its address fixed if it has gateways: then it is
/// the one that is returned.
///
/// The MTU of a new one is fixed as well: left to itself it is that of the
/// smallest port, and 1500 without ports (CW-8). The kernel takes an MTU for
/// chosen only when it changes, so the bridge is made with another one.
///
/// A bridge without a fixed address takes the lowest of its ports', and pods
/// lose their gateway for as long as they remember the old one (P51). A new
/// one is made with an address of its own; one that is found gets the one it
/// has fixed, before the first port is added.
pub(super) fn ensure(
    socket: &mut Socket,
    conf: &Conf,
) -> Result<LinkInfo, CniError> {
    let name = &conf.bridge;
    let mut is_new = false;
    let found = match link::by_name(socket, name) {
        Err(e) if e.is_not_found() => {
            is_new = create(socket, conf)?;
            link::by_name(socket, name)
        }
        other => other,
    };
    let mut bridge = found.map_err(CniError::from)?;
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(CniError::config(format!(
            "{name:?} already exists but is not a bridge"
        )));
    }
    vlan::filter(socket, &conf.vlans, &bridge)?;
    // a pod's word must not make it the node's router
    if bridge.accept_ra != Some(0) {
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        ignore(sysctl::write_if_different(&key, "0"));
    }
    if conf.gateway && !is_running(&bridge) {
        ignore(sysctl::write_if_different(
            &format!("net/ipv6/conf/{name}/accept_dad"),
            "0",
        ));
    }
    let mut changes = link::set(bridge.index);
    let mut changed = false;
    if !bridge.up {
        (changes, changed) = (changes.up(), true);
    }
    if conf.promiscuous && bridge.flags & IFF_PROMISC == 0 {
        (changes, changed) = (changes.promiscuous(true), true);
    }
    // the administrator's own MTU is for pods (BR-7), flannel's for all
    let mtu = conf.mtu.filter(|mtu| {
        is_new || (conf.node.mtu == Some(*mtu) && bridge.mtu != *mtu)
    });
    if let Some(mtu) = mtu {
        (changes, changed) = (changes.mtu(mtu), true);
        bridge.mtu = mtu;
    }
    if conf.gateway
        && bridge.alias.as_deref() != Some(FIXED)
        && let Some(mac) = bridge.mac
    {
        if !is_new && !is_fixed(&bridge) {
            // a link cannot keep an address that is none
            let mac = if mac == Mac::default() { random_mac() } else { mac };
            (changes, changed) = (changes.mac(mac), true);
            bridge.mac = Some(mac);
        }
        // the kernel sets the address first; the administrator's alias stays
        if bridge.alias.is_none() {
            (changes, changed) = (changes.alias(FIXED), true);
        }
    }
    if changed {
        socket.request(&changes.build()).map_err(|e| {
            CniError::from(e).context(format_args!("bridge {name:?}"))
        })?;
    }
    Ok(bridge)
}

/// Makes the bridge, unless another pod's ADD was faster; then it returns
/// false.
fn create(socket: &mut Socket, conf: &Conf) -> Result<bool, CniError> {
    let name = &conf.bridge;
    let spec = BridgeSpec {
        name: name.clone(),
        mtu: conf.mtu.map(|mtu| mtu ^ 1),
        mac: Some(random_mac()),
        vlan_filtering: conf.vlans.filters(),
        up: true,
    };
    match socket.request(&link::bridge::add(&spec)) {
        Ok(()) => Ok(true),
        Err(e) if e.is_exists() => Ok(false),
        Err(e) if spec.vlan_filtering && e.is_unsupported() => {
            Err(vlan::unsupported(name, Some(&e)))
        }
        Err(e) => Err(CniError::from(e)
            .context(format_args!("failed to create bridge {name:?}"))),
    }
}

/// Waits until a bridge that was not running passes packets of its own, after
/// its first port passes frames. The kernel sets it to work on a queue; what
/// it sends until then, such as the answer to the pod's first question for
/// its gateway, is dropped.
pub(super) fn wait_running(
    socket: &mut Socket,
    bridge: &LinkInfo,
    deadline: &Deadline,
) -> Result<(), CniError> {
    if is_running(bridge) {
        return Ok(());
    }
    let began = Instant::now();
    let mut pause = Duration::from_micros(200);
    while began.elapsed() < RUN_WAIT {
        let now =
            link::by_index(socket, bridge.index).map_err(CniError::from)?;
        if passes(&now) {
            break;
        }
        deadline.check()?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until a bridge that was not running can ask for IPv6 neighbours.
///
/// For packets it forwards it does so from its link-local address, which it
/// gets with its first port. While duplicate address detection goes on for
/// it, traffic to the node's first pod is lost; [`ensure`] switches that off,
/// so what is left is a moment. A node may be set to have no such address.
pub(crate) fn wait_link_local(
    socket: &mut Socket,
    bridge: &LinkInfo,
) -> Result<(), CniError> {
    if is_running(bridge) {
        return Ok(());
    }
    let began = Instant::now();
    while began.elapsed() < LINK_LOCAL_WAIT {
        let there = addr::list(socket, Some(Family::V6), Some(bridge.index))
            .map_err(CniError::from)?;
        let usable =
            |a: &AddrInfo| a.scope == Scope::Link && !a.flags.tentative();
        if there.items.iter().any(usable) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the bridge passes packets of its own. One that was up before it had
/// ports never lacked a carrier: it has passed them since, and the kernel does
/// not work out its state, which stays unknown.
fn passes(bridge: &LinkInfo) -> bool {
    let unknown = bridge.operstate == OperState::Unknown;
    is_running(bridge) || (unknown && bridge.has_carrier())
}

/// Whether the bridge has a port that passes frames.
fn is_running(bridge: &LinkInfo) -> bool {
    bridge.operstate == OperState::Up
}

/// Whether the bridge keeps its address. Only sysfs tells; where it shows
/// another namespace's links the answer is no, which costs a message.
fn is_fixed(bridge: &LinkInfo) -> bool {
    let read = |file: &str| {
        let path = format!("/sys/class/net/{}/{file}", bridge.name);
        sysctl::read_file(path.as_ref()).unwrap_or_default()
    };
    read("ifindex") == bridge.index.to_string()
        && read("addr_assign_type") == ADDR_SET
}

/// A locally administered unicast address.
fn random_mac() -> Mac {
    let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
    [(a & 0xfc) | 2, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_addresses() {
        let (one, other) = (random_mac(), random_mac());
        assert_eq!(one[0] & 3, 2, "local and unicast");
        assert_ne!(one, other);
    }
}
