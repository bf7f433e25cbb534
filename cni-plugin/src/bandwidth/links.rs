//! The host's end of the pod's cable, and the device for what the pod sends
//! (BW-3, BW-4).

use netlink::link::LinkInfo;
use netlink::{Dump, NetNs, Socket, link, tc};

use super::unsupported;
use crate::bridge::util::random;
use crate::hashed;
use crate::owner::{self, Owner};
use crate::protocol::{Call, CniError, ValidAttachments, code};
use crate::result::CniResult;

/// The device's name: this and as much of a hash as fits.
const PREFIX: &str = "bwp";
const NAME_LEN: usize = 15;
/// How often others may be faster with the names.
const TRIES: usize = 10;
/// The first index of a device, of as many as it is.
const INDEXES: u32 = 1 << 30;
/// How many processes there can be (`PID_MAX_LIMIT`).
const PIDS: u32 = 1 << 22;

/// The device for what the pod sends.
#[derive(Debug)]
pub(super) struct Device {
    /// The device.
    pub(super) link: LinkInfo,
    /// Whether this call has made it.
    pub(super) is_new: bool,
}

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
    let mut inside = Socket::open_in(&call.netns()?).map_err(CniError::from)?;
    let pod = link::by_name(&mut inside, ifname).map_err(CniError::from)?;
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
    let mut outside = Socket::open().map_err(CniError::from)?;
    let port = match link::by_index(&mut outside, index) {
        Err(e) if e.is_not_found() => return Err(missing()),
        other => other.map_err(CniError::from)?,
    };
    let mut named = previous.interfaces.iter();
    match named.any(|i| i.sandbox.is_empty() && i.name == port.name) {
        true => Ok(port),
        false => Err(missing()),
    }
}

/// Makes the device, or takes over the one an ADD before this one left.
///
/// It is made and marked in one call: no process can be killed in between, so
/// that whatever has no mark is not ours. The mark is for an index that only
/// this process uses (see [`free_index`]): when another has been faster with
/// the name, it gets no link of another's.
///
/// # Errors
/// Code 999; code 11 when others were faster each time.
pub(super) fn add_ifb(
    call: &Call,
    socket: &mut Socket,
    port: &LinkInfo,
) -> Result<Device, CniError> {
    let alias = Owner::of(call).alias();
    for _ in 0..TRIES {
        let Candidates { own, free } = candidates(call, socket)?;
        if let Some(link) = own {
            return Ok(Device { link, is_new: false });
        }
        let Some(name) = free else {
            return Err(CniError::new(
                code::INTERNAL,
                "the names for the device are others' links",
            )
            .details(names(call).join(" ")));
        };
        let index = free_index(socket)?;
        let made = socket.batch(&[
            link::ifb::add(index, &name, port.mtu),
            link::set(index).alias(&alias).build(),
        ]);
        match made.into_iter().collect::<Result<(), _>>() {
            Err(e) if e.is_exists() => {}
            made => {
                let there = made.and_then(|()| link::by_index(socket, index));
                return match there {
                    Ok(link) => Ok(Device { link, is_new: true }),
                    Err(e) => {
                        // nobody else's, if it is there at all
                        drop(socket.request(&link::delete(index)));
                        Err(unsupported(e))
                    }
                };
            }
        }
    }
    Err(CniError::new(
        code::TRY_AGAIN,
        format!("others took the names for the device {TRIES} times"),
    )
    .details(names(call).join(" ")))
}

/// An index that no link has, and no other process of this pid namespace makes
/// one with: it holds this process's number, and begins where the kernel's own
/// choice does not come to. What is above the number is random, against a
/// process of the same number in another pid namespace.
fn free_index(socket: &mut Socket) -> Result<u32, CniError> {
    let own = INDEXES | (std::process::id() & (PIDS - 1));
    let [first, ..] = random().to_ne_bytes();
    for step in 0..=u8::MAX {
        let index = own + u32::from(first.wrapping_add(step)) * PIDS;
        match link::by_index(socket, index) {
            Err(e) if e.is_not_found() => return Ok(index),
            other => drop(other.map_err(CniError::from)?),
        }
    }
    Err(CniError::internal("no index for the device is free"))
}

/// The attachment's device, if it is there.
///
/// # Errors
/// Code 999.
pub(super) fn ifb(
    call: &Call,
    socket: &mut Socket,
) -> Result<Option<LinkInfo>, CniError> {
    candidates(call, socket).map(|candidates| candidates.own)
}

/// What the attachment's names stand for.
struct Candidates {
    /// Its device.
    own: Option<LinkInfo>,
    /// The first name that nobody has.
    free: Option<String>,
}

fn candidates(
    call: &Call,
    socket: &mut Socket,
) -> Result<Candidates, CniError> {
    let mut out = Candidates { own: None, free: None };
    for name in names(call) {
        match link::by_name(socket, &name) {
            Ok(link) if is_own(call, socket, &link)? => {
                out.own = Some(link);
                break;
            }
            Ok(_) => {}
            Err(e) if e.is_not_found() => {
                out.free.get_or_insert(name);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(out)
}

/// Whether the device is the attachment's. One without an alias is the Go
/// plugin's, whose name says the container only: it belongs to the interface
/// from which packets are led to it, and goes with the container, whose
/// interfaces may still be there for a moment when its namespace is gone. With
/// an index of ours it gets its alias this very moment, from whoever made it.
fn is_own(
    call: &Call,
    socket: &mut Socket,
    link: &LinkInfo,
) -> Result<bool, CniError> {
    if link.kind.as_deref() != Some("ifb") {
        return Ok(false);
    }
    if let Some(alias) = &link.alias {
        return Ok(*alias == Owner::of(call).alias());
    }
    if link.index >= INDEXES {
        return Ok(false);
    }
    let Some(netns) = call.living_netns()? else { return Ok(true) };
    let led = tc::led_to(socket, link.index).map_err(CniError::from)?;
    // nobody uses it any more, or not yet
    Ok(led.is_empty()
        || ports(call, socket, &netns)?.iter().any(|p| led.contains(p)))
}

/// The host's ends of the attachment's cable, by all that may tell.
fn ports(
    call: &Call,
    socket: &mut Socket,
    netns: &NetNs,
) -> Result<Vec<u32>, CniError> {
    let own = owner::link_of(socket, Owner::of(call))?;
    let mut out: Vec<u32> = own.iter().map(|link| link.index).collect();
    let mut inside = Socket::open_in(netns)?;
    match link::by_name(&mut inside, &call.env.ifname) {
        Ok(pod) => out.extend(pod.peer),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e.into()),
    }
    // one that cannot be read has nothing to say
    let previous = call.previous().ok().flatten().unwrap_or_default();
    for interface in &previous.interfaces {
        if interface.sandbox.is_empty()
            && let Ok(link) = link::by_name(socket, &interface.name)
        {
            out.push(link.index);
        }
    }
    Ok(out)
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
        other => other.map_err(CniError::from),
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
        .map_err(CniError::from)?;
    let kept = owner::aliases(&call.name, valid);
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
