//! The gateways on the bridge and forwarding (BR-36, BR-38).

use ipam::Family;
use netlink::link::LinkInfo;
use netlink::{Dump, Socket, addr, sysctl};

use super::conf::Conf;
use super::pod;
use super::util::{address, enable_ipv6, gone};
use crate::cidr::Cidr;
use crate::protocol::CniError;

/// Puts the gateways on the bridge and switches forwarding on for their
/// families. An IPv6 one is exempt from duplicate address detection (PF-26).
pub(super) fn ensure(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    gateways: &[Cidr],
) -> Result<(), CniError> {
    let there = addr::list(socket, None, Some(bridge.index))
        .and_then(Dump::complete)
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

/// Waits until the gateways answer: also one that somebody else put there a
/// moment ago, with duplicate address detection.
pub(super) fn wait_usable(
    socket: &mut Socket,
    gateways: &[Cidr],
) -> Result<(), CniError> {
    gateways.iter().try_for_each(|g| pod::wait_usable(socket, g.ip))
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
        enable_ipv6(&bridge.name)?;
    }
    match socket.request(&addr::add(&address(bridge.index, gateway, false))) {
        // another pod's ADD was faster
        Err(e) if !e.is_exists() => Err(CniError::internal(format_args!(
            "failed to set bridge addr: {:?}: {e}",
            bridge.name
        ))),
        _ => Ok(()),
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
