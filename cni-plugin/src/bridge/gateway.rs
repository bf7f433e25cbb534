//! The gateways on the bridge and forwarding (BR-36, BR-38).

use ipam::Family;
use netlink::link::LinkInfo;
use netlink::{Dump, Request, Socket, addr, netconf, sysctl};

use super::conf::Conf;
use super::pod;
use super::util::{address, enable_ipv6, gone};
use crate::cidr::Cidr;
use crate::protocol::{CniError, Deadline, log};

/// Puts the gateways on the bridge, or on the link that is its VLAN's
/// ([`vlan_gateway`](super::vlan_gateway)), and switches forwarding on for their
/// families. An IPv6 one is exempt from duplicate address detection (PF-26).
///
/// Other addresses inside the flannel networks are left over from a subnet
/// that the node had before; they go and are returned (P10, CW-5). Whoever has
/// that subnet now is not reachable as long as they are there. Addresses
/// outside are not ours: flannel's bridge has them beside its own, another
/// one must not (BR-36).
pub(crate) fn ensure(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    gateways: &[Cidr],
) -> Result<Vec<Cidr>, CniError> {
    let there = addr::list(socket, None, Some(bridge.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    let there: Vec<Cidr> =
        there.iter().map(|a| Cidr { ip: a.ip, len: a.len }).collect();
    let old: Vec<Cidr> = there
        .iter()
        .filter(|other| !gateways.contains(other) && is_ours(conf, other))
        .copied()
        .collect();
    let missing: Vec<Cidr> =
        gateways.iter().filter(|g| !there.contains(g)).copied().collect();
    let mut requests: Vec<Request> =
        old.iter().map(|one| delete(bridge, one)).collect();
    for gateway in &missing {
        let in_the_way = there.iter().filter(|other| {
            !gateways.contains(other)
                && !old.contains(other)
                && excludes(gateway, other)
        });
        for other in in_the_way {
            if conf.force_address {
                requests.push(delete(bridge, other));
            } else if conf.node.networks.is_empty() {
                return Err(CniError::internal(format_args!(
                    "failed to set bridge addr: {:?} already has an IP \
                     address different from {gateway}",
                    bridge.name
                ))
                .details(format!(
                    "it has {other}; remove it, or set \"forceAddress\": true"
                )));
            } else {
                log(format_args!(
                    "{}: {other} is outside the flannel networks and stays \
                     beside {gateway}",
                    bridge.name
                ));
            }
        }
        if gateway.family() == Family::V6 {
            enable_ipv6(&bridge.name)?;
        }
    }
    // last, and in the same call: a primary address takes its secondary ones
    // along
    let added = requests.len();
    let new = |g| addr::add(&address(bridge.index, g, false));
    requests.extend(if old.is_empty() {
        missing.iter().map(new).collect::<Vec<_>>()
    } else {
        gateways.iter().map(new).collect()
    });
    if !requests.is_empty() {
        for (n, result) in socket.batch(&requests).into_iter().enumerate() {
            let result = match result {
                // another pod's ADD was faster
                Err(e) if n >= added && e.is_exists() => Ok(()),
                other => gone(other),
            };
            result.map_err(|e| {
                CniError::from(e).context(format_args!(
                    "failed to set bridge addr: {:?}",
                    bridge.name
                ))
            })?;
        }
    }
    for family in Family::ALL {
        if gateways.iter().any(|g| g.family() == family) {
            forward(socket, family)?;
        }
    }
    Ok(old)
}

/// Whether an address of the bridge can only be flannel's.
fn is_ours(conf: &Conf, address: &Cidr) -> bool {
    conf.node.networks.iter().any(|network| network.contains(address.ip))
}

fn delete(bridge: &LinkInfo, address: &Cidr) -> Request {
    addr::delete(bridge.index, address.ip, address.len)
}

/// Waits until the gateways answer: also one that somebody else put there a
/// moment ago, with duplicate address detection.
pub(crate) fn wait_usable(
    socket: &mut Socket,
    gateways: &[Cidr],
    deadline: &Deadline,
) -> Result<(), CniError> {
    let mut wait = |g: &Cidr| pod::wait_usable(socket, g.ip, deadline);
    gateways.iter().try_for_each(&mut wait)
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

/// The switch for forwarding.
pub(super) const fn forwarding(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Switches forwarding on for a family (BR-38).
pub(crate) fn forward(
    socket: &mut Socket,
    family: Family,
) -> Result<(), CniError> {
    if matches!(netconf::forwarding(socket, family), Ok(true)) {
        return Ok(());
    }
    let key = forwarding(family);
    sysctl::write_if_different(key, "1").map(drop).map_err(|e| {
        CniError::internal(e).context("failed to enable forwarding")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
