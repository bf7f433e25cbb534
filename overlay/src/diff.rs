//! From what is there to what should be: which objects to change, in an
//! order that never takes away what is needed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::Family;

use crate::{
    Addr, Change, Desired, FdbKey, IfName, Key, Link, LinkKind, NeighKey,
    Nexthop, Observed, Route, RouteKey, Scope, Vxlan,
};

#[cfg(test)]
mod tests;

/// What to change so that `observed`, looked at within `scope`, becomes
/// `desired`. Nothing when they are equal; linear in their sizes.
///
/// **Order.** Links; addresses; forwarding entries, neighbours, nexthops,
/// routes. Then what is left over, in reverse. So at every moment in between
/// a peer that is in both is reached either as before or as it will be. Only
/// what the kernel does not have beside something new goes before that: a
/// device with the same tunnel, an address that is to be a gateway.
///
/// **One pass is enough.** What stands on a device that is created anew, or
/// comes up, is written again even outside `scope`: the kernel drops it
/// without a notification. A changed Ethernet address makes it drop
/// neighbours.
///
/// **What upstream left is adopted.** A route is equal with and without our
/// protocol number, with and without a nexthop object. Such an object is
/// created only for a route that has to be written anyway, and removed when
/// no route uses it.
///
/// **What is removed** stands on a device in `desired`, or is a route with
/// our protocol number into our networks; of addresses those that B-5
/// names; of forwarding entries and neighbours the permanent ones. A vxlan
/// device within `scope` that is not in `desired` goes with all that is on
/// it.
#[must_use]
pub fn diff(
    desired: &Desired,
    observed: &Observed,
    scope: &Scope,
) -> Vec<Change> {
    let keys = match scope {
        Scope::Full(_) => None,
        Scope::Keys(keys) => Some(Keys::from(keys)),
    };
    let mut differ =
        Differ { desired, observed, keys, links: Links::default() };
    let links = differ.links();
    differ.widen_scope();
    let addrs = differ.addrs();
    // Bottom up, most of it written in its place: of a node that starts among
    // thousands of peers these are megabytes.
    let mut out = links.set;
    out.reserve_exact(addrs.set.len() + differ.missing());
    out.extend(addrs.set);
    let fdb = differ.fdb(out);
    let neighs = differ.neighs(fdb.set);
    let below = neighs.set.len();
    let (routes, uses) = differ.routes(neighs.set);
    let written = routes.set.len() - below;
    let nexthops = differ.nexthops(&uses, routes.set);
    let mut out = nexthops.set;
    // Only the routes tell which of them are needed, and they go first.
    if let Some(new) = out.get_mut(below..) {
        new.rotate_left(written);
    }
    // Top down.
    out.extend(routes.delete);
    out.extend(nexthops.delete);
    out.extend(neighs.delete);
    out.extend(fdb.delete);
    out.extend(addrs.delete);
    out.extend(links.delete);
    out
}

struct Differ<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    /// `None` for all there are.
    keys: Option<Keys>,
    links: Links,
}

/// The keys of a scope by kind.
#[derive(Default)]
struct Keys {
    links: BTreeSet<IfName>,
    addrs: BTreeSet<(IfName, Addr)>,
    fdb: BTreeSet<FdbKey>,
    neighs: BTreeSet<NeighKey>,
    nexthops: BTreeSet<u32>,
    routes: BTreeSet<RouteKey>,
}

/// Devices by what this pass does to them.
#[derive(Default)]
struct Links {
    /// Created, perhaps after being deleted: nothing that was observed on
    /// them is there any more.
    fresh: BTreeSet<IfName>,
    /// Brought up: what was observed on them may be there.
    revived: BTreeSet<IfName>,
    /// Taken out of a bridge or VRF, so that they may go down and up (these
    /// are revived, too): their addresses may be there.
    freed: BTreeSet<IfName>,
    /// Given another Ethernet address: the kernel drops the neighbours.
    readdressed: BTreeSet<IfName>,
    /// Deleted.
    dropped: BTreeSet<IfName>,
}

/// Changes to the objects of one kind.
#[derive(Default)]
struct Changes {
    set: Vec<Change>,
    delete: Vec<Change>,
}

/// Ids of nexthop objects that routes point to.
#[derive(Default)]
struct Uses {
    /// In routes that will be written.
    new: BTreeSet<u32>,
    /// In routes that stay as they are.
    old: BTreeSet<u32>,
}

// === impl Keys ===

impl From<&BTreeSet<Key>> for Keys {
    fn from(keys: &BTreeSet<Key>) -> Self {
        let mut out = Self::default();
        for key in keys {
            out.insert(*key);
        }
        out
    }
}

impl Keys {
    fn insert(&mut self, key: Key) {
        match key {
            Key::Link(name) => self.links.insert(name),
            Key::Addr(link, addr) => self.addrs.insert((link, addr)),
            Key::Fdb(key) => self.fdb.insert(key),
            Key::Neigh(key) => self.neighs.insert(key),
            Key::Nexthop(id) => self.nexthops.insert(id),
            Key::Route(key) => self.routes.insert(key),
        };
    }
}

// === impl Differ ===

impl Differ<'_> {
    fn links(&mut self) -> Changes {
        let Self { desired, observed, keys, links } = self;
        let mut in_the_way = Vec::new();
        let mut out = Changes::default();
        let scope = keys.as_ref().map(|keys| &keys.links);
        for (name, want, have) in pairs(&desired.links, &observed.links, scope)
        {
            match (want.cloned(), have.cloned()) {
                (Some(after), None) => {
                    links.fresh.insert(name);
                    out.set.push(Change::CreateLink { name, after });
                }
                (Some(after), Some(before)) if after == before => {}
                (Some(after), Some(before)) if modifiable(&before, &after) => {
                    if before.master != after.master {
                        links.freed.insert(name);
                    }
                    if before.up != after.up || before.master != after.master {
                        links.revived.insert(name);
                    }
                    if before.mac != after.mac {
                        links.readdressed.insert(name);
                    }
                    let before = Box::new(before);
                    out.set.push(Change::ModifyLink { name, before, after });
                }
                (Some(after), Some(before)) => {
                    links.fresh.insert(name);
                    let before = Box::new(before);
                    out.set.push(Change::ReplaceLink { name, before, after });
                }
                // the name alone is not enough to take something for ours
                (None, Some(Link { kind: LinkKind::Other(_), .. })) => {}
                (None, Some(before)) => {
                    links.dropped.insert(name);
                    let blocks =
                        desired.links.values().any(|l| clash(l, &before))
                            || holds_gateway(desired, observed, name);
                    let change = Change::DeleteLink { name, before };
                    if blocks {
                        in_the_way.push(change);
                    } else {
                        out.delete.push(change);
                    }
                }
                (None, None) => {}
            }
        }
        out.set.splice(..0, in_the_way);
        out
    }

    /// Adds what stands on devices that change underneath it.
    fn widen_scope(&mut self) {
        let Some(keys) = &mut self.keys else { return };
        for link in self.links.fresh.union(&self.links.revived) {
            for key in self.desired.on_link(*link) {
                if !matches!(key, Key::Link(_)) {
                    keys.insert(key);
                }
            }
        }
        for link in &self.links.readdressed {
            let on_link = self.desired.neighs.keys();
            keys.neighs.extend(on_link.filter(|key| key.link == *link));
        }
    }

    fn addrs(&self) -> Changes {
        let Self { desired, observed, keys, links } = self;
        let mut out = Changes::default();
        let mut in_the_way = Vec::new();
        let mut look = |link: IfName, addr: Addr| {
            let have = observed.addrs.contains(&(link, addr))
                && !links.fresh.contains(&link);
            let sure = have && !links.freed.contains(&link);
            match (desired.addrs.contains(&(link, addr)), have) {
                (true, _) if !sure => {
                    out.set.push(Change::AddAddr { link, addr })
                }
                (false, true) if self.is_stray(link, addr) => {
                    let change = Change::DeleteAddr { link, addr };
                    // a local address cannot be a gateway
                    let neigh = NeighKey { link, ip: addr.ip };
                    if desired.neighs.contains_key(&neigh) {
                        in_the_way.push(change);
                    } else {
                        out.delete.push(change);
                    }
                }
                _ => {}
            }
        };
        match keys {
            Some(keys) => keys.addrs.iter().for_each(|(l, a)| look(*l, *a)),
            None => desired
                .addrs
                .union(&observed.addrs)
                .for_each(|(link, addr)| look(*link, *addr)),
        }
        out.set.extend(in_the_way);
        out
    }

    /// Whether an address has no business on a device of ours (B-5): one that
    /// a pod could have, and on a tunnel over IPv6 any of that family.
    fn is_stray(&self, link: IfName, addr: Addr) -> bool {
        let Some(Link { kind, .. }) = self.desired.links.get(&link) else {
            return false;
        };
        let over = match kind {
            LinkKind::Vxlan(vxlan) => Some(Family::of(vxlan.local)),
            LinkKind::Other(_) => None,
        };
        let whole = match addr.ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => {
                over == Some(Family::V6) && !ip.is_unicast_link_local()
            }
        };
        whole || self.desired.networks.iter().any(|n| n.contains(addr.ip))
    }

    /// How many objects have to be added at least, after a full look.
    fn missing(&self) -> usize {
        let Self { desired, observed, keys, .. } = self;
        if keys.is_some() {
            return 0;
        }
        let fdb = desired.fdb.len().saturating_sub(observed.fdb.len());
        let neighs = desired.neighs.len().saturating_sub(observed.neighs.len());
        let routes = desired.routes.len().saturating_sub(observed.routes.len());
        let nexthops =
            desired.nexthops.len().saturating_sub(observed.nexthops.len());
        fdb + neighs + nexthops + routes
    }

    /// `set` and the changes of forwarding entries.
    fn fdb(&self, set: Vec<Change>) -> Changes {
        let Self { desired, observed, keys, links } = self;
        let mut out = Changes { set, ..Changes::default() };
        let scope = keys.as_ref().map(|keys| &keys.fdb);
        for (key, want, have) in pairs(&desired.fdb, &observed.fdb, scope) {
            let before =
                have.copied().filter(|_| !links.fresh.contains(&key.link));
            match (want.copied(), before) {
                (Some(after), before) => {
                    if before != Some(after)
                        || links.revived.contains(&key.link)
                    {
                        out.set.push(Change::SetFdb { key, before, after });
                    }
                }
                (None, Some(before))
                    if before.permanent && self.is_ours(key.link) =>
                {
                    out.delete.push(Change::DeleteFdb { key, before });
                }
                (None, _) => {}
            }
        }
        out
    }

    /// `set` and the changes of neighbours.
    fn neighs(&self, set: Vec<Change>) -> Changes {
        let Self { desired, observed, keys, links } = self;
        let mut out = Changes { set, ..Changes::default() };
        let scope = keys.as_ref().map(|keys| &keys.neighs);
        for (key, want, have) in pairs(&desired.neighs, &observed.neighs, scope)
        {
            let before =
                have.copied().filter(|_| !links.fresh.contains(&key.link));
            match (want.copied(), before) {
                (Some(after), before) => {
                    if before != Some(after)
                        || links.revived.contains(&key.link)
                        || links.readdressed.contains(&key.link)
                    {
                        out.set.push(Change::SetNeigh { key, before, after });
                    }
                }
                (None, Some(before))
                    if before.permanent && self.is_ours(key.link) =>
                {
                    out.delete.push(Change::DeleteNeigh { key, before });
                }
                (None, _) => {}
            }
        }
        out
    }

    /// `set` and the changes of routes.
    fn routes(&self, set: Vec<Change>) -> (Changes, Uses) {
        let Self { desired, observed, keys, links } = self;
        let mut out = Changes { set, ..Changes::default() };
        let mut uses = Uses::default();
        let scope = keys.as_ref().map(|keys| &keys.routes);
        let on = |route: &Route, set: &BTreeSet<IfName>| {
            route.link.is_some_and(|link| set.contains(&link))
        };
        for (key, want, have) in pairs(&desired.routes, &observed.routes, scope)
        {
            let before = have.copied().filter(|r| !on(r, &links.fresh));
            match (want.copied(), before) {
                (Some(want), Some(before))
                    if self.same_way(&want, &before)
                        && !on(&want, &links.revived) =>
                {
                    uses.old.extend(before.nexthop);
                }
                (Some(want), before) => {
                    let nexthop = want.nexthop.filter(|id| self.may_use(*id));
                    uses.new.extend(nexthop);
                    let after = Route { nexthop, ..want };
                    let before = before.map(Box::new);
                    out.set.push(Change::SetRoute { key, before, after });
                }
                (None, Some(before)) if self.is_leftover(key, &before) => {
                    out.delete.push(Change::DeleteRoute { key, before });
                }
                (None, Some(before)) => uses.old.extend(before.nexthop),
                (None, None) => {}
            }
        }
        (out, uses)
    }

    /// Whether packets take the same way by both.
    fn same_way(&self, want: &Route, have: &Route) -> bool {
        let same_link = match want.link {
            Some(link) => have.link == Some(link),
            None => !have.link.is_some_and(|link| self.is_ours(link)),
        };
        same_link && want.gateway == have.gateway && want.onlink == have.onlink
    }

    /// Whether a route that is not desired is to be removed. One on a device
    /// that is deleted goes with it.
    fn is_leftover(&self, key: RouteKey, route: &Route) -> bool {
        let in_our_networks =
            || self.desired.networks.iter().any(|n| n.covers(&key.dst));
        match route.link {
            Some(link) if self.is_ours(link) => true,
            Some(link) if self.links.dropped.contains(&link) => false,
            _ => route.ours && in_our_networks(),
        }
    }

    /// Whether the id is free, or the object there may be overwritten.
    fn may_use(&self, id: u32) -> bool {
        match (self.observed.nexthops.get(&id), self.desired.nexthops.get(&id))
        {
            (Some(have), Some(want)) => {
                have.ours
                    || same_nexthop(want, have)
                    || have.link.is_some_and(|link| self.is_ours(link))
            }
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// `set` and the changes of nexthop objects.
    fn nexthops(&self, uses: &Uses, set: Vec<Change>) -> Changes {
        let Self { desired, observed, keys, links } = self;
        let mut out = Changes { set, ..Changes::default() };
        for &id in &uses.new {
            let Some(&after) = desired.nexthops.get(&id) else { continue };
            let before = observed.nexthops.get(&id).copied().filter(|have| {
                !have.link.is_some_and(|link| links.fresh.contains(&link))
            });
            let revived =
                after.link.is_some_and(|link| links.revived.contains(&link));
            if revived || !before.is_some_and(|b| same_nexthop(&after, &b)) {
                let before = before.map(Box::new);
                out.set.push(Change::SetNexthop { id, before, after });
            }
        }
        let scope = keys.as_ref().map(|keys| &keys.nexthops);
        let none = BTreeMap::new();
        for (id, _, have) in pairs(&none, &observed.nexthops, scope) {
            let Some(&before) = have else { continue };
            let on_ours = before.link.is_some_and(|link| {
                self.is_ours(link) && !links.fresh.contains(&link)
            });
            let needed = uses.new.contains(&id)
                || uses.old.contains(&id)
                // not all its routes were looked at
                || keys.is_some() && desired.nexthops.contains_key(&id);
            if on_ours && !needed {
                out.delete.push(Change::DeleteNexthop { id, before });
            }
        }
        out
    }

    fn is_ours(&self, link: IfName) -> bool {
        self.desired.links.contains_key(&link)
    }
}

/// Whether a live device can be changed from one into the other.
fn modifiable(before: &Link, after: &Link) -> bool {
    match (&before.kind, &after.kind) {
        (LinkKind::Vxlan(before), LinkKind::Vxlan(after)) => {
            // The kernel never changes the family of what goes outside.
            let family = |vxlan: &Vxlan| Family::of(vxlan.local);
            family(before) == family(after)
                && *before
                    == Vxlan {
                        parent: before.parent,
                        local: before.local,
                        learning: before.learning,
                        ..after.clone()
                    }
        }
        (before, after) => before == after,
    }
}

/// Whether the kernel refuses to have both.
fn clash(a: &Link, b: &Link) -> bool {
    match (&a.kind, &b.kind) {
        (LinkKind::Vxlan(a), LinkKind::Vxlan(b)) => {
            a.vni == b.vni
                && a.port == b.port
                && Family::of(a.local) == Family::of(b.local)
        }
        _ => false,
    }
}

/// Whether a device has an address that is to be a gateway: the kernel takes
/// no local address for one.
fn holds_gateway(desired: &Desired, observed: &Observed, link: IfName) -> bool {
    let here = observed.addrs.iter().filter(|(l, _)| *l == link);
    let ips: BTreeSet<_> = here.map(|(_, addr)| addr.ip).collect();
    desired.neighs.keys().any(|key| ips.contains(&key.ip))
}

fn same_nexthop(a: &Nexthop, b: &Nexthop) -> bool {
    Nexthop { ours: b.ours, ..*a } == *b
}

/// Each key within `scope` (`None`: that either map has) with both values.
fn pairs<'a, K: Ord + Copy, V>(
    desired: &'a BTreeMap<K, V>,
    observed: &'a BTreeMap<K, V>,
    scope: Option<&'a BTreeSet<K>>,
) -> Box<dyn Iterator<Item = (K, Option<&'a V>, Option<&'a V>)> + 'a> {
    if let Some(keys) = scope {
        let look = |k: &K| (*k, desired.get(k), observed.get(k));
        return Box::new(keys.iter().map(look));
    }
    let mut desired = desired.iter().peekable();
    let mut observed = observed.iter().peekable();
    Box::new(std::iter::from_fn(move || {
        let order = match (desired.peek(), observed.peek()) {
            (Some((d, _)), Some((o, _))) => d.cmp(o),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let want = order.is_le().then(|| desired.next()).flatten();
        let have = order.is_ge().then(|| observed.next()).flatten();
        let (key, _) = want.or(have)?;
        Some((*key, want.map(|(_, v)| v), have.map(|(_, v)| v)))
    }))
}
