//! The pod's cable: a veth pair whose host end is a port of the bridge
//! (BR-25..BR-27).

use std::time::{Duration, Instant};

use netlink::link::veth::{VethEnd, VethSpec};
use netlink::link::{LinkInfo, OperState};
use netlink::{NetNs, Socket, link, sysctl};

use super::conf::Conf;
use super::util::{all, ignore, no_pattern, random};
use crate::protocol::{Call, CniError, code, log};

/// Names tried for the host's end of a pair (BR-25).
const NAMES: u32 = 10;
/// The port states of the spanning tree's forward delay, and the one in which
/// frames pass (`BR_STATE_*`).
const LISTENING: u8 = 1;
const LEARNING: u8 = 2;
const FORWARDING: u8 = 3;
/// How long a port may take to get there (BR-41).
const PORT_WAIT: Duration = Duration::from_millis(2550);
/// The longest alias in bytes: the kernel's limit without the byte that ends
/// the text.
const ALIAS_MAX: usize = 254;

/// Makes the pair: one end in the pod, the other, which is returned, a port
/// of the bridge. Its name is in `made` as soon as it may be there.
pub(super) fn add(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    netns: &NetNs,
    ifname: &str,
    made: &mut Option<String>,
) -> Result<LinkInfo, CniError> {
    no_pattern("CNI_IFNAME", ifname, code::ENVIRONMENT)?;
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
        let name = format!("veth{:08x}", random() >> 32);
        spec.end.name.clone_from(&name);
        match socket.request(&link::veth::add(&spec)) {
            Ok(()) => {
                let port = link::by_name(socket, &name);
                *made = Some(name);
                return port.map_err(CniError::internal);
            }
            Err(e) if e.is_exists() => {
                if is_taken(netns, ifname)? {
                    break;
                }
            }
            Err(e) => {
                *made = e.is_outcome_unknown().then_some(name);
                return Err(CniError::internal(e));
            }
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
pub(super) fn mark(
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

/// Waits until the port passes frames (BR-41): without a pause when it does
/// already, which is the rule (PF-28). Returns it as it is then (BR-42).
///
/// On a bridge with spanning tree that takes half a minute. Nobody waits for
/// it, neither here nor upstream.
pub(super) fn wait_forwarding(
    socket: &mut Socket,
    port: &LinkInfo,
) -> Result<LinkInfo, CniError> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let now =
            link::by_index(socket, port.index).map_err(CniError::internal)?;
        let up = now.operstate == OperState::Up;
        if up && forwards(&now) {
            return Ok(now);
        }
        let state = now.port.map(|port| port.state);
        let late = began.elapsed() >= PORT_WAIT;
        if up && (late || matches!(state, Some(LISTENING | LEARNING))) {
            log(format_args!(
                "port {} does not pass frames yet: its bridge has spanning \
                 tree on",
                now.name
            ));
            return Ok(now);
        }
        if late {
            return Err(CniError::internal("bridge port in error state: down")
                .details(format!("{} after {PORT_WAIT:?}", now.name)));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether the bridge lets frames through the port.
pub(super) fn forwards(port: &LinkInfo) -> bool {
    port.port.is_some_and(|p| p.state == FORWARDING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Deadline, Env, Version};

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
            deadline: Deadline::default(),
        };
        assert_eq!(alias(&call), "flannel:cbr0:c1:eth0");
        call.env.container_id = "c".repeat(235);
        call.env.ifname = "äöüäöü".into();
        let alias = alias(&call);
        assert!((253..=254).contains(&alias.len()), "{}", alias.len());
    }
}
