//! Changing the kernel.

use std::net::IpAddr;

use ipam::{Family, Subnet};
use netlink::addr::AddrSpec;
use netlink::fdb::FdbSpec;
use netlink::link::vxlan::{self, VxlanSpec};
use netlink::neigh::NeighSpec;
use netlink::nexthop::NexthopSpec;
use netlink::route::{RouteMatch, RouteSpec};
use netlink::{Request, WINDOW, addr, fdb, link, neigh, nexthop, route};
use nix::errno::Errno;
use overlay::{Change, IfName, Key, Link, LinkKind, Route, RouteKey};

use super::{Kernel, KernelError, PROTOCOL, upkeep};
use crate::repairs::{Cause, Kind, Repair};

type Outcome = Result<(), KernelError>;

/// Requests on their way to one window, each with the place of its change.
#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    places: Vec<usize>,
}

/// Applies `changes` in order; everything between two changes of a device
/// goes in full windows.
pub(super) fn apply(kernel: &mut Kernel, changes: &[Change]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(changes.len());
    let mut batch = Batch::default();
    for (place, change) in changes.iter().enumerate() {
        // The kernel works on the first peers before the last are encoded.
        if batch.requests.len() == WINDOW {
            batch.send(kernel, changes, &mut outcomes);
        }
        if let Key::Link(name) = change.key() {
            batch.send(kernel, changes, &mut outcomes);
            outcomes.push(device(kernel, name, change));
            continue;
        }
        outcomes.push(match request(kernel, change) {
            Ok(request) => {
                batch.requests.push(request);
                batch.places.push(place);
                Ok(())
            }
            // What stood on a device that is gone is gone.
            Err(KernelError::NoDevice(_)) if change.is_removal() => Ok(()),
            Err(error) => Err(error),
        });
    }
    batch.send(kernel, changes, &mut outcomes);
    outcomes
}

// === impl Batch ===

impl Batch {
    fn send(
        &mut self,
        kernel: &mut Kernel,
        changes: &[Change],
        outcomes: &mut [Outcome],
    ) {
        let answers = kernel.socket.batch(&self.requests);
        self.requests.clear();
        let mut refusals = Vec::new();
        for (place, answer) in self.places.drain(..).zip(answers) {
            if let (Err(error), Some(change)) = (answer, changes.get(place)) {
                refusals.push((place, change, error));
            }
        }
        for (place, change, error) in refusals {
            let way = match error.errno() {
                Some(Errno::EINVAL) => way_to_gateway(kernel, change),
                _ => None,
            };
            let answer = way.and_then(|way| with_help(kernel, change, &way));
            let answer = answer.unwrap_or(Err(error));
            let done = answer.or_else(|error| refused(change, error));
            if let Err(KernelError::RouteTaken(dst)) = done {
                kernel.taken.insert(dst);
            }
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome = done;
            }
        }
    }
}

/// A route to the gateway alone of what `change` sets, by its own device.
///
/// The kernel refuses an IPv6 gateway, on the link or not, to which a route of
/// another device leads, the default route aside: that which is to be replaced
/// (a peer leaves the way without the tunnel), or a wide one that a router has
/// told of (`fd00::/8`). Only while it looks.
fn way_to_gateway(kernel: &mut Kernel, change: &Change) -> Option<RouteSpec> {
    let (gateway, link) = if let Change::SetNexthop { after, .. } = change {
        (after.gateway?, after.link?)
    } else if let Change::SetRoute { after, .. } = change {
        (after.gateway?, after.link?)
    } else {
        return None;
    };
    let family = Some(Family::of(gateway)).filter(|f| *f == Family::V6)?;
    let mut way = RouteSpec::to(Subnet::new(gateway, family.bits()).ok()?);
    way.oif = Some(index_of(kernel, link).ok()?);
    way.protocol = PROTOCOL;
    Some(way)
}

/// The answer to a change that is asked for while `way` is there. What is left
/// of that when the daemon ends in between is a route too many on a device of
/// ours.
fn with_help(
    kernel: &mut Kernel,
    change: &Change,
    way: &RouteSpec,
) -> Option<Result<(), netlink::Error>> {
    let request = request(kernel, change).ok()?;
    let mut back = RouteMatch::to(way.dst);
    back.oif = way.oif;
    back.protocol = Some(way.protocol);
    let steps = [route::add(way), request, route::delete(&back)];
    kernel.socket.batch(&steps).into_iter().nth(1)
}

/// What the kernel's refusal of a change means: sometimes that the object is
/// as wanted all the same.
fn refused(change: &Change, error: netlink::Error) -> Outcome {
    if change.is_removal() && error.is_not_found() {
        return Ok(());
    }
    if error.is_exists() {
        if matches!(change, Change::AddAddr { .. }) {
            return Ok(());
        }
        if let Change::SetRoute { key, .. } = change {
            return Err(KernelError::RouteTaken(key.dst));
        }
    }
    Err(error.into())
}

/// Carries out a change of a device.
fn device(kernel: &mut Kernel, name: IfName, change: &Change) -> Outcome {
    if let Change::CreateLink { after, .. } = change {
        create(kernel, name, after)
    } else if let Change::ReplaceLink { after, .. } = change {
        delete(kernel, name)?;
        create(kernel, name, after)
    } else if let Change::ModifyLink { before, after, .. } = change {
        modify(kernel, name, before, after)
    } else {
        delete(kernel, name)
    }
}

fn create(kernel: &mut Kernel, name: IfName, link: &Link) -> Outcome {
    let LinkKind::Vxlan(data) = &link.kind else {
        return Err(KernelError::Kind(link.kind.to_string()));
    };
    let spec = VxlanSpec {
        name: name.to_string(),
        vni: data.vni,
        parent: Some(data.parent),
        local: Some(data.local),
        port: Some(data.port),
        learning: data.learning,
        gbp: data.gbp,
        mac: Some(link.mac.0),
        mtu: Some(link.mtu),
        txqlen: Some(0),
        up: false,
    };
    match kernel.socket.request(&vxlan::add(&spec)) {
        Err(e) if e.is_exists() => {
            remove_renamed(kernel, &spec)?;
            kernel.socket.request(&vxlan::add(&spec))?;
        }
        made => made?,
    }
    let index = link::by_name(&mut kernel.socket, name.as_str())?.index;
    kernel.indexes.insert(name, index);
    upkeep::set_up(name, &link.kind);
    if link.up {
        kernel.socket.request(&link::set(index).up().build())?;
    }
    Ok(())
}

/// The kernel has one device for a VNI and port. If it is ours under another
/// name, it goes: nobody else's has our Ethernet address.
fn remove_renamed(kernel: &mut Kernel, spec: &VxlanSpec) -> Outcome {
    let all = link::list(&mut kernel.socket, link::Filter::default())?;
    let holder = all.items.into_iter().find(|info| {
        info.vxlan.as_ref().is_some_and(|vxlan| {
            vxlan.vni == spec.vni
                && Some(vxlan.port) == spec.port
                && family_of(vxlan.local.or(vxlan.group))
                    == family_of(spec.local)
        })
    });
    let Some(holder) = holder else { return Ok(()) };
    if holder.mac != spec.mac {
        return Err(KernelError::VniTaken {
            holder: holder.name,
            vni: spec.vni,
            port: spec.port.unwrap_or_default(),
        });
    }
    kernel.socket.request(&link::delete(holder.index))?;
    kernel.renamed.push(Repair {
        kind: Kind::Link,
        cause: Cause::Altered,
        text: format!(
            "{} was renamed {}: it is deleted and created anew",
            spec.name, holder.name
        ),
    });
    Ok(())
}

/// The kernel tells the families apart, and takes a device that names no
/// address for IPv4's.
fn family_of(addr: Option<IpAddr>) -> Family {
    addr.map_or(Family::V4, Family::of)
}

fn modify(
    kernel: &mut Kernel,
    name: IfName,
    before: &Link,
    after: &Link,
) -> Outcome {
    let index = index_of(kernel, name)?;
    let mut clipped = false;
    if let (LinkKind::Vxlan(before), LinkKind::Vxlan(after)) =
        (&before.kind, &after.kind)
    {
        let under = |of: &overlay::Vxlan| (of.parent, of.local);
        if under(before) != under(after) {
            let (parent, local) = under(after);
            let request = vxlan::set_underlay(index, parent, local);
            kernel.socket.request(&request)?;
            // The kernel may have made the MTU fit the interface it is on.
            clipped = true;
        }
        if before.learning != after.learning {
            let request = vxlan::set_learning(index, after.learning);
            kernel.socket.request(&request)?;
        }
    }
    let mut set = link::set(index);
    if before.mac != after.mac {
        set = set.mac(after.mac.0);
    }
    if before.mtu != after.mtu || clipped {
        set = set.mtu(after.mtu);
    }
    if before.master != after.master {
        set = set.master(after.master);
    }
    set = match (before.up, after.up) {
        (false, true) => set.up(),
        (true, false) => set.down(),
        _ => set,
    };
    Ok(kernel.socket.request(&set.build())?)
}

fn delete(kernel: &mut Kernel, name: IfName) -> Outcome {
    kernel.indexes.remove(&name);
    match kernel.socket.request(&link::delete_by_name(name.as_str())) {
        Err(e) if !e.is_not_found() => Err(e.into()),
        _ => Ok(()),
    }
}

/// The request for a change that is not about a device.
fn request(
    kernel: &mut Kernel,
    change: &Change,
) -> Result<Request, KernelError> {
    Ok(match change {
        Change::AddAddr { link, addr } => addr::add(&AddrSpec {
            index: index_of(kernel, *link)?,
            ip: addr.ip,
            len: addr.len,
            // Nobody else has it: the store says so.
            nodad: true,
            broadcast: None,
        }),
        Change::DeleteAddr { link, addr } => {
            let index = index_of(kernel, *link)?;
            addr::delete_pair(index, addr.ip, addr.peer, addr.len)
        }
        Change::SetFdb { key, after, .. } => fdb::set(&FdbSpec {
            index: index_of(kernel, key.link)?,
            mac: key.mac.0,
            dst: after.dst,
        }),
        Change::DeleteFdb { key, .. } => {
            fdb::delete(index_of(kernel, key.link)?, key.mac.0)
        }
        Change::SetNeigh { key, after, .. } => neigh::set(&NeighSpec {
            index: index_of(kernel, key.link)?,
            ip: key.ip,
            mac: after.mac.0,
        }),
        Change::DeleteNeigh { key, .. } => {
            neigh::delete(index_of(kernel, key.link)?, key.ip)
        }
        Change::SetNexthop { id, after, .. } => {
            let (Some(link), Some(gateway)) = (after.link, after.gateway)
            else {
                return Err(KernelError::Kind(format!("nexthop {id}")));
            };
            nexthop::replace(&NexthopSpec {
                id: *id,
                oif: index_of(kernel, link)?,
                gateway,
                onlink: after.onlink,
                protocol: PROTOCOL,
            })
        }
        Change::DeleteNexthop { id, .. } => nexthop::delete(*id),
        Change::SetRoute { key, before, after } => {
            let spec = route_spec(kernel, *key, after)?;
            // One that was not seen is the kernel's own, or nothing that a
            // daemon of flannel's makes: it is not overwritten.
            match before {
                Some(_) => route::replace(&spec),
                None => route::add(&spec),
            }
        }
        Change::DeleteRoute { key, before } => {
            delete_route(kernel, *key, before)?
        }
        Change::CreateLink { .. }
        | Change::ReplaceLink { .. }
        | Change::ModifyLink { .. }
        | Change::DeleteLink { .. } => {
            return Err(KernelError::Kind(change.to_string()));
        }
    })
}

fn route_spec(
    kernel: &mut Kernel,
    key: RouteKey,
    route: &Route,
) -> Result<RouteSpec, KernelError> {
    let mut spec = RouteSpec::to(key.dst);
    spec.protocol = PROTOCOL;
    spec.metric = Some(key.metric).filter(|metric| *metric != 0);
    if route.nexthop.is_some() {
        spec.nexthop = route.nexthop;
    } else {
        spec.gateway = route.gateway;
        spec.oif = route.link.map(|link| index_of(kernel, link)).transpose()?;
        spec.onlink = route.onlink;
    }
    Ok(spec)
}

fn delete_route(
    kernel: &Kernel,
    key: RouteKey,
    route: &Route,
) -> Result<Request, KernelError> {
    let mut which = RouteMatch::to(key.dst);
    which.metric = Some(key.metric).filter(|metric| *metric != 0);
    if route.nexthop.is_some() {
        which.nexthop = route.nexthop;
    } else {
        which.gateway = route.gateway;
        // A device that is not ours was not looked at: the gateway says it.
        which.oif =
            route.link.and_then(|link| kernel.indexes.get(&link).copied());
    }
    Ok(route::delete(&which))
}

/// The index of a device: as this pass met it, else asked for.
fn index_of(kernel: &mut Kernel, name: IfName) -> Result<u32, KernelError> {
    if let Some(index) = kernel.indexes.get(&name) {
        return Ok(*index);
    }
    match link::by_name(&mut kernel.socket, name.as_str()) {
        Ok(info) => {
            kernel.indexes.insert(name, info.index);
            Ok(info.index)
        }
        Err(e) if e.is_not_found() => Err(KernelError::NoDevice(name)),
        Err(e) => Err(e.into()),
    }
}
