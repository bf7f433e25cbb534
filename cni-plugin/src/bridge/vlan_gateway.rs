//! The gateway of a VLAN (BR-37): the bridge's own addresses are in its
//! default VLAN, so those of another one are on a veth pair's end of the name
//! `<bridge>.<vlan>`, whose other end is a port of the bridge in that VLAN.
//!
//! All pods of the VLAN share it. Upstream never removes it (CW-7); here the
//! last pod's DEL does, or GC, if its alias says that this program made it.
//! Whoever makes, repairs or removes one holds a lock meanwhile. ADD takes it
//! when the pod's port is in the VLAN already: so either DEL sees that port
//! and the gateway stays, or ADD sees that the gateway has gone.

use std::fs::{self, File};
use std::path::Path;

use ipam::gojson::Object;
use ipam::pool;
use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::link::{Filter, LinkInfo, Mac};
use netlink::{Dump, Request, Socket, link, sysctl};
use sha2::{Digest, Sha512};

use super::check::find;
use super::conf::{Conf, bridge_name};
use super::util::{QUEUES, all, gone, ignore};
use super::vlan;
use crate::files::failed;
use crate::hashed;
use crate::protocol::{Call, CniError, Differences, interface_name_problem};

/// What the alias of the bridge's port begins with; the gateway's name
/// follows.
const MARK: &str = "flannel-vlan:";
/// Where the lock is.
const FOLDER: &str = "/run/flannel";
const LOCK: &str = "vlan.lock";
/// The longest name of a link, in bytes.
const NAME_MAX: usize = 15;

/// The gateway's name.
///
/// # Errors
/// Code 7 when no link can have it.
pub(super) fn name(bridge: &str, vlan: u16) -> Result<String, CniError> {
    let name = format!("{bridge}.{vlan}");
    match interface_name_problem(&name) {
        None => Ok(name),
        Some(problem) => Err(CniError::config(format!(
            "bridge is {bridge:?}: the gateway of VLAN {vlan} would be the \
             link {name:?}: {problem}"
        ))),
    }
}

/// The gateway of `vlan`, there, up, and a port away from the bridge. A link
/// of that name that is no veth pair of this namespace is the
/// administrator's: it is taken as it is.
pub(super) fn ensure(
    socket: &mut Socket,
    call: &Call,
    conf: &Conf,
    bridge: &LinkInfo,
    vlan: u16,
) -> Result<LinkInfo, CniError> {
    let name = name(&bridge.name, vlan)?;
    let _lock = lock(call)?;
    let found = match link::by_name(socket, &name) {
        Err(e) if e.is_not_found() => {
            create(socket, &name, bridge)?;
            link::by_name(socket, &name)
        }
        other => other,
    };
    let gateway = found.map_err(CniError::from)?;
    let Some(port) = port_of(socket, &gateway)? else { return Ok(gateway) };
    if port.master.is_some_and(|master| master != bridge.index) {
        return Ok(gateway);
    }
    let mut requests: Vec<Request> = Vec::new();
    if port.master.is_none() {
        // the bridge was made anew since
        let back = link::set(port.index).master(Some(bridge.index));
        requests.push(back.build());
    }
    if !port.up {
        requests.push(link::set(port.index).up().build());
    }
    let resized = [&port, &gateway]
        .into_iter()
        .filter(|end| conf.node.mtu.is_some() && end.mtu != bridge.mtu);
    requests.extend(
        resized.map(|end| link::set(end.index).mtu(bridge.mtu).build()),
    );
    all(socket.batch(&requests)).map_err(CniError::from)?;
    vlan::set(socket, &conf.vlans.of_gateway(), port.index)?;
    if !gateway.up {
        // as for the bridge itself
        for key in ["accept_ra", "accept_dad"] {
            let key = format!("net/ipv6/conf/{name}/{key}");
            ignore(sysctl::write_if_different(&key, "0"));
        }
        let up = link::set(gateway.index).up().build();
        socket.request(&up).map_err(CniError::from)?;
    }
    Ok(gateway)
}

/// Makes the pair, and marks it in the same call: nothing can come in
/// between. Its addresses and names are the same as long as the bridge is, so
/// that pods need not learn of a new one.
fn create(
    socket: &mut Socket,
    name: &str,
    bridge: &LinkInfo,
) -> Result<(), CniError> {
    let mtu = Some(bridge.mtu);
    let port = hashed::name("veth", &[MARK, name], NAME_MAX);
    let spec = VethSpec {
        end: VethEnd {
            name: name.to_owned(),
            mtu,
            mac: Some(mac(name, bridge.mac.unwrap_or_default())),
            txqlen: None,
            queues: QUEUES,
        },
        master: None,
        up: false,
        peer: VethEnd {
            name: port.clone(),
            mtu,
            mac: None,
            txqlen: None,
            queues: QUEUES,
        },
        peer_namespace: None,
    };
    let made = socket.batch(&[
        veth::add(&spec),
        link::set_named(&port)
            .alias(&format!("{MARK}{name}"))
            .master(Some(bridge.index))
            .up()
            .build(),
    ]);
    all(made).map_err(|e| {
        CniError::from(e)
            .context(format_args!("failed to create vlan gateway {name:?}"))
    })
}

/// Made of the bridge's own, which [`device::ensure`](super::device::ensure)
/// has fixed: the gateways of other nodes may be in the same VLAN, by a port
/// of the bridge that leads there, and must have others.
fn mac(name: &str, bridge: Mac) -> Mac {
    let mut hash = Sha512::new();
    hash.update(name);
    hash.update(bridge);
    let hash = hash.finalize();
    let mut mac = [0x5e; 6];
    for (to, from) in mac.iter_mut().skip(1).zip(hash) {
        *to = from;
    }
    mac
}

/// The other end of a pair that is in this namespace altogether.
fn port_of(
    socket: &mut Socket,
    gateway: &LinkInfo,
) -> Result<Option<LinkInfo>, CniError> {
    let (Some("veth"), Some(peer), None) =
        (gateway.kind.as_deref(), gateway.peer, gateway.peer_netns)
    else {
        return Ok(None);
    };
    link::by_index(socket, peer).map(Some).map_err(CniError::from)
}

/// Whether the gateway is as [`ensure`] leaves it; returns it, if it is there.
pub(super) fn check(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    vlan: u16,
    found: &mut Differences,
) -> Result<Option<LinkInfo>, CniError> {
    let name = name(&bridge.name, vlan)?;
    let Some(gateway) = find(socket, &name, found)? else { return Ok(None) };
    found.expect(gateway.up, format_args!("interface {name} is down"));
    let Some(port) = port_of(socket, &gateway)? else {
        return Ok(Some(gateway));
    };
    found.expect(
        port.master == Some(bridge.index),
        format_args!(
            "the peer {} of {name} is not a port of bridge {}",
            port.name, bridge.name
        ),
    );
    found.expect(port.up, format_args!("port {} is down", port.name));
    let vlans = conf.vlans.of_gateway();
    found.note(vlan::check(socket, &vlans, bridge, &port))?;
    Ok(Some(gateway))
}

/// The name of the gateway of a VLAN that `conf` has ADD use. One that does
/// not say so properly has none.
pub(super) fn used_by(conf: &Object<'_>) -> Option<String> {
    let flag = |key| conf.bool(key).ok().flatten().unwrap_or_default();
    if !flag("isGateway") && !flag("isDefaultGateway") {
        return None;
    }
    let vlan = vlan::Conf::read(conf).ok()?.native?;
    name(&bridge_name(conf).ok()?, vlan).ok()
}

/// Removes the gateways in whose VLAN no other port is any more.
pub(super) fn remove_unused(
    socket: &mut Socket,
    call: &Call,
) -> Result<(), CniError> {
    if ours(socket)?.is_empty() {
        return Ok(());
    }
    let _lock = lock(call)?;
    let ours = ours(socket)?;
    let ports = vlan::list(socket)?;
    let is_unused = |(port, id): &&(LinkInfo, u16)| {
        !ports.iter().any(|other| {
            other.index != port.index
                && Some(other.index) != port.master
                && (other.master == port.master)
                && other.vlans.contains_key(id)
        })
    };
    let unused = ours.iter().filter(is_unused);
    let requests: Vec<Request> =
        unused.map(|(port, _)| link::delete(port.index)).collect();
    let results = socket.batch(&requests).into_iter().map(gone);
    results.collect::<Result<(), _>>().map_err(CniError::from)
}

/// The ports of the gateways that this program made, with their VLANs.
fn ours(socket: &mut Socket) -> Result<Vec<(LinkInfo, u16)>, CniError> {
    let veths = link::list(socket, Filter { kind: Some("veth"), master: None })
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    let vlan = |link: &LinkInfo| {
        let name = link.alias.as_deref()?.strip_prefix(MARK)?;
        name.rsplit_once('.')?.1.parse().ok()
    };
    let ours = veths.into_iter();
    Ok(ours.filter_map(|l| vlan(&l).map(|id| (l, id))).collect())
}

/// See the module's text.
fn lock(call: &Call) -> Result<File, CniError> {
    let path = Path::new(FOLDER).join(LOCK);
    fs::create_dir_all(FOLDER).map_err(|e| failed("make", &path, &e))?;
    match pool::lock_file(&path, call.deadline.at()) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(call.deadline.error()),
        Err(e) => Err(failed("lock", &path, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name("cni0", 4094).unwrap(), "cni0.4094");
        let error = name("bridge-of-mine", 100).unwrap_err();
        assert!(error.msg.contains("\"bridge-of-mine.100\""), "{error}");
        let port = hashed::name("veth", &[MARK, "cni0.100"], NAME_MAX);
        assert_eq!(port.len(), 15);
        let (own, anothers) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let made = mac("cni0.1", own);
        assert_eq!(made[0] & 3, 2, "local and unicast");
        assert_eq!(made, mac("cni0.1", own));
        assert_ne!(made, mac("cni0.2", own));
        assert_ne!(made, mac("cni0.1", anothers));
    }

    #[test]
    fn who_uses_one() {
        for (text, used) in [
            (r#"{"vlan":7,"isGateway":true}"#, Some("cni0.7")),
            (r#"{"vlan":7,"isDefaultGateway":true}"#, Some("cni0.7")),
            (r#"{"vlan":7}"#, None),
            (r#"{"isGateway":true}"#, None),
            (r#"{"vlan":5000,"isGateway":true}"#, None),
            (r#"{"vlan":"x","isGateway":true}"#, None),
        ] {
            let name = used_by(&Object::parse(text).unwrap());
            assert_eq!(name.as_deref(), used, "{text}");
        }
    }
}
