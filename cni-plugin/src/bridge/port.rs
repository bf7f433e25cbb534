//! The pod's cable: a veth pair whose host end is a port of the bridge
//! (BR-25..BR-27).

use std::time::{Duration, Instant};

use netlink::link::veth::{VethEnd, VethSpec};
use netlink::link::{LinkInfo, OperState};
use netlink::{NetNs, Socket, link};

use super::conf::Conf;
use super::util::{QUEUES, all, no_pattern};
use super::vlan;
use crate::owner::{self, Owner};
use crate::protocol::{Call, CniError, Deadline, code, log};

/// The port states of the spanning tree's forward delay, and the one in which
/// frames pass (`BR_STATE_*`).
const LISTENING: u8 = 1;
const LEARNING: u8 = 2;
const FORWARDING: u8 = 3;
/// How long a port may take to get there (BR-41).
const PORT_WAIT: Duration = Duration::from_millis(2550);

/// Makes the pair: one end in the pod, the other, whose name is returned, a
/// port of the bridge with its flags. The name is in `made` as soon as it may
/// be there.
///
/// All goes in one call, at the end of which the link is marked as this
/// attachment's: no process can be killed in between, so that whatever has no
/// mark is not ours. The name is nobody else's, so the mark cannot end up
/// on another link either.
///
/// `accept_ra` (BR-27) stays: what a port receives is the bridge's, IPv6 never
/// sees it there.
pub(super) fn add(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    netns: &NetNs,
    call: &Call,
    made: &mut Option<String>,
) -> Result<String, CniError> {
    let ifname = &call.env.ifname;
    no_pattern("CNI_IFNAME", ifname, code::ENVIRONMENT)?;
    let owner = Owner::of(call);
    let (name, mac) = owner.link();
    let spec = VethSpec {
        end: VethEnd {
            name: name.clone(),
            mtu: conf.mtu,
            mac: Some(mac),
            txqlen: None,
            queues: QUEUES,
        },
        master: Some(bridge.index),
        up: false,
        peer: VethEnd {
            name: ifname.to_owned(),
            mtu: conf.mtu,
            mac: conf.mac,
            txqlen: None,
            queues: QUEUES,
        },
        peer_namespace: Some(netns.clone()),
    };
    let mut results = socket
        .batch(&[
            link::veth::add(&spec),
            link::set_named(&name)
                .alias(&owner.alias())
                .port(conf.hairpin, conf.isolated)
                .build(),
            // last: what changes of a link that is up, many are told
            link::set_named(&name).up().build(),
        ])
        .into_iter();
    match results.next().unwrap_or(Ok(())) {
        Err(e) if e.is_exists() => {
            return Err(owner::already_there(socket, call));
        }
        Err(e) => {
            *made = e.is_outcome_unknown().then_some(name);
            return Err(e.into());
        }
        Ok(()) => *made = Some(name.clone()),
    }
    let port = |e: netlink::Error| {
        CniError::from(e).context(format_args!("port {name}"))
    };
    all(results.collect()).map_err(port)?;
    if conf.vlans.filters() {
        // the pod's end is down: nothing passes before this
        let port = link::by_name(socket, &name).map_err(port)?;
        vlan::set(socket, &conf.vlans, port.index)?;
    }
    Ok(name)
}

/// Waits until the port passes frames (BR-41): without a pause when it does
/// already, which is the rule (PF-28). Returns it as it is then (BR-42).
///
/// On a bridge with spanning tree that takes half a minute. Nobody waits for
/// it, neither here nor upstream.
pub(super) fn wait_forwarding(
    socket: &mut Socket,
    port: &str,
    deadline: &Deadline,
) -> Result<LinkInfo, CniError> {
    let began = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        let now = link::by_name(socket, port).map_err(CniError::from)?;
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
        deadline.check()?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether the bridge lets frames through the port.
pub(super) fn forwards(port: &LinkInfo) -> bool {
    port.port.is_some_and(|p| p.state == FORWARDING)
}
