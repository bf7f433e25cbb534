//! The host's end of the pod's cable, and the device for what the pod sends
//! (BW-3, BW-4).

use std::collections::BTreeSet;

use netlink::link::LinkInfo;
use netlink::{Dump, Socket, link};

use super::unsupported;
use crate::hashed;
use crate::owner::{self, Owner};
use crate::protocol::{Call, CniError, ValidAttachments, code};
use crate::result::CniResult;

/// The device's name: this and as much of a hash as fits.
const PREFIX: &str = "bwp";
const NAME_LEN: usize = 15;

/// The host's end: the peer of the pod's interface, if the plugins before
/// this one have told of it.
///
/// # Errors
/// Code 7 when there is none, code 999.
pub(super) fn host_end(
    call: &Call,
    previous: &CniResult,
) -> Result<LinkInfo, CniError> {
    if previous.interfaces.is_empty() {
        return Err(CniError::config("no interfaces provided"));
    }
    let ifname = &call.env.ifname;
    let mut inside =
        Socket::open_in(&call.netns()?).map_err(CniError::internal)?;
    let pod = link::by_name(&mut inside, ifname).map_err(CniError::internal)?;
    let index = match (pod.kind.as_deref(), pod.peer) {
        (Some("veth"), Some(index)) => index,
        (kind, _) => {
            return Err(CniError::config(format!(
                "container interface {ifname} has no veth peer: it is of \
                 kind {}",
                kind.unwrap_or("none")
            )));
        }
    };
    let missing = || {
        CniError::config("no veth peer of container interface found in host ns")
            .details(format!("{ifname} has the peer with index {index}"))
    };
    let mut outside = Socket::open().map_err(CniError::internal)?;
    let port = match link::by_index(&mut outside, index) {
        Err(e) if e.is_not_found() => return Err(missing()),
        other => other.map_err(CniError::internal)?,
    };
    let mut named = previous.interfaces.iter();
    match named.any(|i| i.sandbox.is_empty() && i.name == port.name) {
        true => Ok(port),
        false => Err(missing()),
    }
}

/// Makes the device, or takes over the one an ADD before this one left.
///
/// # Errors
/// Code 999.
pub(super) fn add_ifb(
    call: &Call,
    socket: &mut Socket,
    port: &LinkInfo,
) -> Result<LinkInfo, CniError> {
    if let Some(there) = ifb(call, socket)? {
        return Ok(there);
    }
    let mut error = None;
    for name in names(call) {
        match socket.request(&link::ifb::add(&name, port.mtu)) {
            Ok(()) => {
                let made = link::by_name(socket, &name);
                let made = made.map_err(CniError::internal)?;
                let alias = Owner::of(call).alias();
                let mark = link::set(made.index).alias(&alias);
                let marked = socket.request(&mark.build());
                return match marked {
                    Ok(()) => Ok(made),
                    Err(e) => {
                        let _ = socket.request(&link::delete(made.index));
                        Err(CniError::internal(e))
                    }
                };
            }
            // another interface of this container has it
            Err(e) if e.is_exists() => error = Some(CniError::internal(e)),
            Err(e) => return Err(unsupported(e)),
        }
    }
    Err(error.unwrap_or_else(|| {
        CniError::new(code::INTERNAL, "no name for the device")
    }))
}

/// The attachment's device, if it is there.
///
/// # Errors
/// Code 999.
pub(super) fn ifb(
    call: &Call,
    socket: &mut Socket,
) -> Result<Option<LinkInfo>, CniError> {
    let own = Owner::of(call).alias();
    for name in names(call) {
        match link::by_name(socket, &name) {
            // without an alias it is the Go plugin's
            Ok(link)
                if link.kind.as_deref() == Some("ifb")
                    && link.alias.as_ref().is_none_or(|a| *a == own) =>
            {
                return Ok(Some(link));
            }
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(CniError::internal(e)),
        }
    }
    Ok(None)
}

/// Removes the attachment's device, if it is there.
///
/// # Errors
/// Code 999.
pub(super) fn remove_ifb(
    call: &Call,
    socket: &mut Socket,
) -> Result<(), CniError> {
    let Some(link) = ifb(call, socket)? else { return Ok(()) };
    match socket.request(&link::delete(link.index)) {
        Err(e) if e.is_not_found() => Ok(()),
        other => other.map_err(CniError::internal),
    }
}

/// Devices of this network whose attachment is not valid. One of the Go
/// plugin says no network, and is none of them.
///
/// # Errors
/// Code 999.
pub(super) fn stale(
    call: &Call,
    socket: &mut Socket,
    valid: &ValidAttachments,
) -> Result<Vec<LinkInfo>, CniError> {
    let filter = link::Filter { kind: Some("ifb"), master: None };
    let all = link::list(socket, filter)
        .and_then(Dump::complete)
        .map_err(CniError::internal)?;
    let kept: BTreeSet<String> = valid
        .iter()
        .map(|(container_id, ifname)| {
            Owner { network: &call.name, container_id, ifname }.alias()
        })
        .collect();
    let prefix = owner::prefix(&call.name);
    let ours = |link: &LinkInfo| {
        link.name.starts_with(PREFIX)
            && link
                .alias
                .as_ref()
                .is_some_and(|a| a.starts_with(&prefix) && !kept.contains(a))
    };
    Ok(all.into_iter().filter(ours).collect())
}

/// Upstream's name, which lacks the interface; and one for a second interface
/// of the same container (CW-15).
fn names(call: &Call) -> [String; 2] {
    let (network, id) = (&*call.name, &*call.env.container_id);
    let second = [network, id, ":", &*call.env.ifname];
    [
        hashed::name(PREFIX, &[network, id], NAME_LEN),
        hashed::name(PREFIX, &second, NAME_LEN),
    ]
}
