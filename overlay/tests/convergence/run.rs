//! The daemon in small, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::Family;
use overlay::sim::{Errno, Fault, Kernel, Path, Sim};
use overlay::{
    Addr, Caps, Change, Desired, FdbKey, IfName, Key, LinkKind, NeighKey,
    Route, RouteKey, Scope, World, diff, vxlan,
};
use proptest::prelude::*;

use crate::hands::{Hand, hand};
use crate::inputs::{
    Conf, Inputs, Lease, PEERS, bystanders, conf, kernel, lease, net, uplink,
};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Lease(u8, Option<Lease>),
    Conf(Conf),
    Direct(u8, bool),
    Caps(bool),
    Mac(bool),
    Subnet(bool),
    Foreign(Hand),
    Faults(Vec<Fault>),
    Interrupt(u32),
    Deaf(bool),
    Pass,
    Scoped,
}

/// The daemon in small, with the kernel it works on.
pub(crate) struct Run {
    pub(crate) inputs: Inputs,
    pub(crate) sim: Sim,
    /// What the last pass wanted.
    pub(crate) last: Desired,
    /// Since the last pass: nothing failed, nothing was missed.
    pub(crate) sure: bool,
    pub(crate) caps_changed: bool,
}

impl Run {
    pub(crate) fn new(inputs: Inputs) -> Self {
        let sim = Sim::new(kernel());
        let last = Desired::default();
        Self { inputs, sim, last, sure: false, caps_changed: false }
    }

    /// Devices of every name this test's configurations give to ours.
    pub(crate) fn full(&self, desired: &Desired) -> Scope {
        let names = [1, 2].into_iter().flat_map(|vni| {
            Family::ALL.map(|f| vxlan::device_name(f, vni).unwrap())
        });
        Scope::full(desired, names)
    }

    /// One pass; `true` when everything in it succeeded.
    pub(crate) fn pass(&mut self, scoped: bool) -> bool {
        let before = self.last.clone();
        let desired = self.inputs.plan(&self.sim.kernel).desired;
        let notified = self.sim.take_notifications();
        let scope = if scoped {
            let mut keys = before.changed_keys(&desired);
            keys.extend(notified);
            // also what stood there and is not to stand there any more
            let mut all = desired.closure(&keys);
            all.extend(before.closure(&keys));
            Scope::Keys(all)
        } else {
            self.full(&desired)
        };
        let Ok(observed) = self.sim.observe(&scope) else {
            self.sure = false;
            return false;
        };
        let changes = diff(&desired, &observed, &scope);
        assert_order(&changes);
        // a partial look may rest on something that is not there any more
        let calm = self.sim.faults.is_empty() && (self.sure || !scoped);
        let watched = match calm {
            true => watched(&before, &desired, &self.sim.kernel, &changes),
            false => BTreeMap::new(),
        };
        let mut ok = true;
        for change in &changes {
            let outcome = self.sim.apply(std::slice::from_ref(change));
            ok &= outcome.iter().all(Result::is_ok);
            for (pod, ways) in &watched {
                let now = self.sim.kernel.path(*pod);
                let reached = now.is_some_and(|now| ways.contains(&now));
                assert!(reached, "{pod} by {now:?} after {change}: {ways:?}");
            }
        }
        self.last = desired;
        if scoped && self.sure && ok {
            let left = self.changes();
            // an unused nexthop object may wait for the next full pass
            let orphan = |c: &Change| matches!(c, Change::DeleteNexthop { .. });
            assert!(left.iter().all(orphan), "after a scoped pass: {left:#?}");
        }
        self.sure = ok && (self.sure || !scoped);
        ok
    }

    /// What a full pass would do now.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let desired = self.inputs.plan(&self.sim.kernel).desired;
        let scope = self.full(&desired);
        let observed = self.sim.observe(&scope).unwrap();
        diff(&desired, &observed, &scope)
    }

    pub(crate) fn step(&mut self, op: &Op) {
        match op.clone() {
            Op::Lease(n, Some(lease)) => {
                self.inputs.leases.insert(n, lease);
            }
            Op::Lease(n, None) => {
                self.inputs.leases.remove(&n);
            }
            Op::Conf(conf) => {
                // names and networks change: the daemon makes a full pass
                self.inputs.conf = conf;
                self.sure = false;
            }
            Op::Direct(n, true) => {
                self.inputs.direct.insert(n);
            }
            Op::Direct(n, false) => {
                self.inputs.direct.remove(&n);
            }
            Op::Caps(nexthop_objects) => {
                // routes through objects that no plan names any more: only
                // full passes look at those
                self.caps_changed = true;
                self.inputs.caps = Caps { nexthop_objects };
            }
            Op::Mac(mac) => self.inputs.mac = mac,
            Op::Subnet(subnet) => self.inputs.subnet = subnet,
            Op::Foreign(hand) => {
                // the kernel refuses what it refuses
                let kernel = &mut self.sim.kernel;
                let _ = hand.reach(self.inputs.conf, kernel);
            }
            Op::Faults(faults) => self.sim.faults.extend(faults),
            Op::Interrupt(times) => self.sim.interrupted = times,
            Op::Deaf(deaf) => {
                self.sim.kernel.deaf = deaf;
                self.sure &= !deaf;
            }
            Op::Pass => {
                self.pass(false);
            }
            Op::Scoped => {
                self.pass(true);
            }
        }
        self.sure &= !self.sim.kernel.deaf && !self.caps_changed;
    }

    /// Without `diff`'s help: is what is there what is wanted?
    pub(crate) fn assert_converged(&self) {
        let plan = self.inputs.plan(&self.sim.kernel);
        let want = &plan.desired;
        let have = self.sim.kernel.everything();
        let on_ours = |link: &IfName| want.links.contains_key(link);
        for (name, link) in &want.links {
            assert_eq!(have.links.get(name), Some(link), "{name}");
        }
        for name in have.links.keys().filter(|n| n.as_str() != "eth0") {
            let other = match &have.links.get(name).unwrap().kind {
                LinkKind::Other(_) => true,
                LinkKind::Vxlan(_) => false,
            };
            assert!(on_ours(name) || other, "{name} is left over");
        }
        let addrs: BTreeSet<_> =
            have.addrs.iter().filter(|(l, _)| on_ours(l)).copied().collect();
        let foreign = |(_, addr): &&(IfName, Addr)| match addr.ip {
            IpAddr::V4(_) => !net("10.244.0.0/16").contains(addr.ip),
            IpAddr::V6(_) => false,
        };
        let extra: Vec<_> = addrs.difference(&want.addrs).collect();
        assert!(extra.iter().all(foreign), "{extra:?}");
        assert!(addrs.is_superset(&want.addrs), "{addrs:?}");

        let mut fdb = have.fdb.clone();
        fdb.retain(|key, fdb| on_ours(&key.link) && fdb.permanent);
        assert_eq!(fdb, want.fdb);
        let mut neighs = have.neighs.clone();
        neighs.retain(|key, neigh| on_ours(&key.link) && neigh.permanent);
        assert_eq!(neighs, want.neighs);

        for (key, route) in &want.routes {
            let got = have.routes.get(key).unwrap_or_else(|| panic!("{key:?}"));
            assert_eq!(got.gateway, route.gateway, "{key:?}");
            assert_eq!(got.onlink, route.onlink, "{key:?}");
            assert_eq!(got.link, route.link.or(Some(uplink())), "{key:?}");
        }
        for (key, route) in &have.routes {
            let wanted = want.routes.contains_key(key);
            let net_of_ours = want.networks.iter().any(|n| n.covers(&key.dst));
            let ours = route.link.as_ref().is_some_and(on_ours)
                || route.ours && net_of_ours;
            assert!(wanted || !ours, "route {key:?} {route} is left over");
        }
        for (id, nexthop) in &have.nexthops {
            if nexthop.link.as_ref().is_some_and(on_ours) {
                let used = |r: &Route| r.nexthop == Some(*id);
                assert!(have.routes.values().any(used), "nexthop {id} unused");
            }
        }
        let others = bystanders();
        for (key, route) in &others.routes {
            assert_eq!(have.routes.get(key), Some(route), "{key:?}");
        }
        for (id, nexthop) in &others.nexthops {
            assert_eq!(have.nexthops.get(id), Some(nexthop), "{id}");
        }
    }
}

/// Pods of peers that are wanted before and after and reached as they should
/// be: by the way before or the one after they must be reached all the time,
/// unless a device changes.
pub(crate) fn watched(
    before: &Desired,
    after: &Desired,
    kernel: &Kernel,
    changes: &[Change],
) -> BTreeMap<IpAddr, [Path; 2]> {
    let device_changes = changes.iter().any(|change| {
        if let Change::ModifyLink { before, after, .. } = change {
            before.mac != after.mac || before.up != after.up
        } else {
            matches!(
                change,
                Change::ReplaceLink { .. } | Change::DeleteLink { .. }
            )
        }
    });
    if device_changes {
        return BTreeMap::new();
    }
    let have = kernel.everything();
    let mut out = BTreeMap::new();
    for key in before.routes.keys().filter(|k| after.routes.contains_key(k)) {
        let old = way(before, key);
        let new = way(after, key);
        let intact = old.tunnel.is_none_or(|(neigh, fdb)| {
            have.neighs.get(&neigh) == before.neighs.get(&neigh)
                && have.fdb.get(&fdb) == before.fdb.get(&fdb)
        });
        // a second peer with the same Ethernet address takes it over
        let taken = old.tunnel.is_some_and(|(_, fdb)| {
            let mine = new.tunnel.is_some_and(|(_, new)| new == fdb);
            let dst = after.fdb.get(&fdb);
            !mine && dst.is_some_and(|d| Some(d) != before.fdb.get(&fdb))
        });
        let pod = key.dst.gateway();
        if intact && !taken && kernel.path(pod) == Some(old.path) {
            out.insert(pod, [old.path, new.path]);
        }
    }
    out
}

/// The way to a peer by the plan.
struct Way {
    path: Path,
    tunnel: Option<(NeighKey, FdbKey)>,
}

fn way(plan: &Desired, key: &RouteKey) -> Way {
    let route = plan.routes.get(key).unwrap();
    let gateway = route.gateway.unwrap();
    let Some(link) = route.link else {
        let path = Path::Plain { link: uplink(), to: gateway };
        return Way { path, tunnel: None };
    };
    let neigh = NeighKey { link, ip: gateway };
    let mac = plan.neighs.get(&neigh).unwrap().mac;
    let fdb = FdbKey { link, mac };
    let path = Path::Tunnel { link, to: plan.fdb.get(&fdb).unwrap().dst };
    Way { path, tunnel: Some((neigh, fdb)) }
}

/// Bottom up, then removals top down.
pub(crate) fn assert_order(changes: &[Change]) {
    let rank = |change: &Change| {
        let kind = match change.key() {
            Key::Link(_) => 0,
            Key::Addr(..) => 1,
            Key::Fdb(_) => 2,
            Key::Neigh(_) => 3,
            Key::Nexthop(_) => 4,
            Key::Route(_) => 5,
        };
        if change.is_removal() { 20 - kind } else { kind }
    };
    // what is in the way of something new goes first
    let in_the_way = |change: &&Change| {
        matches!(change, Change::DeleteLink { .. })
            || matches!(change, Change::DeleteAddr { addr, .. } if addr.len == 24)
    };
    let ranks: Vec<_> =
        changes.iter().filter(|c| !in_the_way(c)).map(rank).collect();
    assert!(ranks.is_sorted(), "{changes:#?}");
}

pub(crate) fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::LostAck),
        2 => Just(Fault::LostRequest),
        1 => Just(Fault::Refused(Errno::NoBuffers)),
        1 => Just(Fault::Refused(Errno::Exists)),
        1 => Just(Fault::Refused(Errno::NotFound)),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1..=PEERS, proptest::option::weighted(0.8, lease()))
            .prop_map(|(n, lease)| Op::Lease(n, lease)),
        1 => conf().prop_map(Op::Conf),
        2 => (1..=PEERS, any::<bool>()).prop_map(|(n, on)| Op::Direct(n, on)),
        1 => any::<bool>().prop_map(Op::Caps),
        1 => any::<bool>().prop_map(Op::Mac),
        1 => any::<bool>().prop_map(Op::Subnet),
        6 => hand().prop_map(Op::Foreign),
        1 => proptest::collection::vec(fault(), 1..12).prop_map(Op::Faults),
        1 => (1..3u32).prop_map(Op::Interrupt),
        1 => any::<bool>().prop_map(Op::Deaf),
        6 => Just(Op::Pass),
        6 => Just(Op::Scoped),
    ]
}
