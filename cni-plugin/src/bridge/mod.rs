//! Type `bridge`: a veth pair between the pod and a Linux bridge, addresses
//! from IPAM (BR ids).
//!
//! The steps are upstream's; what differs is said where it happens. Whatever
//! ADD made for its attachment it removes again when it fails (CW-4). The
//! bridge itself, its gateway addresses and the forwarding switches are the
//! node's: they stay, as other pods may use them already (BR-48).

mod add;
pub(crate) mod check;
pub(crate) mod conf;
pub(crate) mod device;
pub(crate) mod gateway;
pub(crate) mod ipam;
mod macspoof;
mod plugin;
pub(crate) mod pod;
mod port;
pub(crate) mod util;
mod vlan;
mod vlan_gateway;

use std::net::IpAddr;
use std::time::Duration;

use ::ipam::gojson::Object;
use netlink::{NetNs, Request, Socket, link, neigh};

use self::conf::{Conf, bridge_name, ipam_kind};
use self::ipam::Ipam;
use self::util::gone;
use crate::hostlocal;
use crate::masquerade;
use crate::owner::{self, Owner};
use crate::protocol::{
    Args, Call, CniError, ValidAttachments, code, gather, log,
};

pub(crate) use self::add::add;
pub(crate) use self::check::check;
pub(crate) use self::conf::Node;
pub(crate) use self::plugin::Bridge;

/// How long undoing a failed ADD may take, also when its time is up.
pub(crate) const UNDO: Duration = Duration::from_secs(5);

/// Detaches by the configuration `text`: the link, then the address. A
/// namespace that is gone, or whose path holds something else (CW-3), took
/// the link with it.
///
/// # Errors
/// Code 11 while the link is there and cannot be removed: its address stays
/// reserved. Otherwise what hindered the release of the address.
pub(crate) fn del(call: &Call, text: &str) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    detach(call, text, masquerades(&conf), checks_spoofing(&conf))
}

/// The same where `text` need not be what ADD went by.
///
/// # Errors
/// As [`del`].
pub(crate) fn del_whatever_made(
    call: &Call,
    text: &str,
) -> Result<(), CniError> {
    detach(call, text, true, true)
}

fn detach(
    call: &Call,
    text: &str,
    masqueraded: bool,
    spoof_checked: bool,
) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    call.deadline.enter("removing the pod's link")?;
    let mut socket = Socket::open().map_err(not_removed)?;
    let bridge = remove_link(call, &mut socket)?;
    // the address goes free also when rules cannot be removed
    let rules = remove_rules(call, masqueraded, spoof_checked);
    let of_vlan = vlan_gateway::used_by(&conf);
    let gateways = match of_vlan {
        Some(_) => remove_gateways(call, &mut socket),
        None => Ok(()),
    };
    // none, or one that cannot be read, has given nothing; that of another
    // day may have
    let kind = ipam_kind(&conf).unwrap_or_else(|e| {
        log(format_args!("{e}; taken as {}", hostlocal::TYPE));
        String::new()
    });
    let kind = match kind.is_empty() {
        true => hostlocal::TYPE.to_owned(),
        false => kind,
    };
    let released = Ipam::of(call, &conf, text, &kind).del(call);
    if let Ok(released) = &released {
        let of_vlan = of_vlan.as_deref();
        forget_neighbours(&mut socket, &conf, bridge, of_vlan, released);
    }
    gather([rules, gateways, released.map(drop)])
}

/// Removes what belongs to none of the attachments in `valid` (S-64), by the
/// configuration `text`.
///
/// # Errors
/// What could not be removed; everything else has been.
pub(crate) fn gc(
    call: &Call,
    text: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    let links = remove_invalid_links(call, valid);
    let gateways = Socket::open()
        .map_err(CniError::from)
        .and_then(|mut socket| remove_gateways(call, &mut socket));
    // also what the configuration of another day has made
    call.deadline.enter("removing rules nobody uses")?;
    let rules = [masquerade::gc(call, valid), macspoof::gc(&call.name, valid)];
    // addresses last: those of a link that is still there are kept
    let addresses = ipam_kind(&conf)
        .and_then(|kind| Ipam::of(call, &conf, text, &kind).gc(call, valid));
    gather([links, gateways].into_iter().chain(rules).chain([addresses]))
}

/// Whether ADD could be served with the configuration `text`.
///
/// # Errors
/// Code 50; code 11 for what passes by itself; or what the IPAM plugin says.
pub(crate) fn status(call: &Call, text: &str) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    let read =
        Conf::read(&conf, &Args::default()).map_err(CniError::unavailable)?;
    vlan::available(&read.vlans, &read.bridge)
        .map_err(CniError::unavailable)?;
    masquerade::available(read.masquerade, &call.deadline)?;
    Ipam::of(call, &conf, text, &read.ipam).status(call)
}

/// Whether the configuration `text` is one.
///
/// # Errors
/// As [`add`] has them for what it reads.
pub(crate) fn judge(call: &Call, text: &str) -> Result<(), CniError> {
    Conf::read(&Object::parse(text)?, &call.args()?).map(drop)
}

/// Removes the pair: by the host's end, which tells whose it is; one that
/// another plugin made, by the pod's. Returns the index of the bridge it was a
/// port of, if it tells.
fn remove_link(
    call: &Call,
    socket: &mut Socket,
) -> Result<Option<u32>, CniError> {
    let own = owner::link_of(socket, Owner::of(call)).map_err(not_removed)?;
    if let Some(link) = own {
        return gone(socket.request(&link::delete(link.index)))
            .map(|()| link.master)
            .map_err(not_removed);
    }
    let Some(netns) = call.living_netns()? else { return Ok(None) };
    remove_inside(call, socket, &netns).map(|()| None).map_err(not_removed)
}

/// Removes the pod's end, unless it is another attachment's, or of a kind
/// that neither this plugin nor the Go one makes: after an ADD that failed
/// since the name was taken, a runtime calls DEL.
fn remove_inside(
    call: &Call,
    host: &mut Socket,
    netns: &NetNs,
) -> Result<(), netlink::Error> {
    let mut pod = Socket::open_in(netns)?;
    let inside = match link::by_name(&mut pod, &call.env.ifname) {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    if inside.kind.as_deref() != Some("veth") {
        log(format_args!(
            "{} in {} is no veth, hence not made by this plugin, and stays",
            inside.name, call.env.netns
        ));
        return Ok(());
    }
    if owner::is_anothers(host, netns, &inside, Owner::of(call))? {
        log(format_args!(
            "{} in {} is another attachment's and stays",
            inside.name, call.env.netns
        ));
        return Ok(());
    }
    gone(pod.request(&link::delete(inside.index)))
}

/// Removes the rules that ADD may have made.
fn remove_rules(
    call: &Call,
    masqueraded: bool,
    spoof_checked: bool,
) -> Result<(), CniError> {
    let mut done = Vec::new();
    if masqueraded {
        call.deadline.enter("removing the pod's masquerade rules")?;
        done.push(masquerade::remove(call));
    }
    if spoof_checked {
        done.push(macspoof::remove(Owner::of(call)));
    }
    gather(done)
}

/// Removes what the last pod of a VLAN leaves behind.
fn remove_gateways(call: &Call, socket: &mut Socket) -> Result<(), CniError> {
    call.deadline.enter("removing gateways of VLANs nobody is in")?;
    vlan_gateway::remove_unused(socket, call)
}

/// Whether the configuration has rules made. One that does not say so
/// properly has made none.
fn masquerades(conf: &Object<'_>) -> bool {
    conf.bool("ipMasq").ok().flatten().unwrap_or_default()
}

fn checks_spoofing(conf: &Object<'_>) -> bool {
    conf.bool("macspoofchk").ok().flatten().unwrap_or_default()
}

fn not_removed(e: netlink::Error) -> CniError {
    CniError::new(
        code::TRY_AGAIN,
        format!(
            "{e}: the link may still be there, so its address stays reserved"
        ),
    )
}

/// Removes this network's links that are no valid attachment's.
fn remove_invalid_links(
    call: &Call,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    call.deadline.enter("removing links nobody uses")?;
    let mut socket = Socket::open().map_err(CniError::from)?;
    let links =
        owner::links_of(&mut socket, &call.name).map_err(CniError::from)?;
    let kept = owner::aliases(&call.name, valid);
    let requests: Vec<Request> = links
        .iter()
        .filter(|(alias, _)| !kept.contains(alias))
        .map(|(_, link)| link::delete(link.index))
        .collect();
    let failed = socket.batch(&requests).into_iter().map(gone);
    failed.collect::<Result<(), _>>().map_err(CniError::from)
}

/// Forgets the link-layer addresses of pods that are gone: another pod may
/// get their addresses (P17). The node has them on the link that has the
/// gateway, which is the bridge or that of the pods' VLAN. Nothing depends on
/// it, as the next pod announces itself.
fn forget_neighbours(
    socket: &mut Socket,
    conf: &Object<'_>,
    bridge: Option<u32>,
    of_vlan: Option<&str>,
    released: &[IpAddr],
) {
    if released.is_empty() {
        return;
    }
    let mut index_of =
        |name: &str| link::by_name(socket, name).ok().map(|link| link.index);
    let bridge = bridge
        .or_else(|| bridge_name(conf).ok().and_then(|name| index_of(&name)));
    let holders = [bridge, of_vlan.and_then(index_of)];
    let requests: Vec<Request> = holders
        .into_iter()
        .flatten()
        .flat_map(|index| released.iter().map(move |ip| (index, *ip)))
        .map(|(index, ip)| neigh::delete(index, ip))
        .collect();
    // most have no entry
    drop(socket.batch(&requests));
}
