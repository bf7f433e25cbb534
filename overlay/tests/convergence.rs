//! Whatever happens to leases, configuration and kernel: once it stops, a few
//! passes lead to what is desired, one more changes nothing, and a peer that
//! is wanted before and after is reached all the time (design §3.6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use ipam::{Family, PerFamily, Subnet};
use overlay::sim::{Errno, Fault, Kernel, Path, Sim};
use overlay::{
    Addr, Caps, Change, Desired, Facts, Fdb, FdbKey, IfName, Key, Link,
    LinkKind, Mac, Neigh, NeighKey, Nexthop, Node, Observed, Plan, Route,
    RouteKey, Scope, Uplink, Vxlan, World, diff, vxlan,
};
use proptest::prelude::*;

const PEERS: u8 = 4;

/// Everything that a pass depends on besides the kernel.
#[derive(Clone, Debug)]
struct Inputs {
    conf: Conf,
    leases: BTreeMap<u8, Lease>,
    direct: BTreeSet<u8>,
    caps: Caps,
    /// Which of two Ethernet addresses the node's devices have.
    mac: bool,
    subnet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conf {
    families: Families,
    vni: u32,
    port: u16,
    mtu: Option<u32>,
    gbp: bool,
    learning: bool,
    direct_routing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Dual,
}

/// A peer's lease; few values, so that peers collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    public: u8,
    mac: u8,
    families: Families,
}

#[derive(Clone, Debug)]
enum Op {
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

/// What somebody else does to the kernel.
#[derive(Clone, Copy, Debug)]
enum Hand {
    DeleteLink(Family),
    /// A device of our name and another kind.
    Squat(Family),
    /// A vxlan device with our tunnel's identity under a former name of ours.
    Clash(Family),
    Down(Family),
    Up(Family),
    Bounce(Family),
    Mtu(Family),
    Mac(Family),
    Learning(Family),
    UplinkBounce,
    AddAddr(Family, u8),
    DeleteAddrs(Family),
    Fdb(Family, u8, u8, bool),
    DeleteFdb(Family, u8),
    Neigh(Family, u8, u8, bool),
    DeleteNeigh(Family, u8),
    Nexthop(Family, u8, bool),
    DeleteNexthop(Family, u8),
    Reroute(Family, u8, bool),
    /// Upstream's daemon replaces the route by its own.
    Upstream(Family, u8),
    DeleteRoute(Family, u8),
    /// The same router, but by way of our device, or not onlink.
    Bend(Family, u8, bool),
}

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn subnet(family: Family, n: u8) -> Subnet {
    match family {
        Family::V4 => net(&format!("10.244.{n}.0/24")),
        Family::V6 => net(&format!("fd00:244:0:{n}::/64")),
    }
}

fn public(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("192.168.0.{n}")),
        Family::V6 => ip(&format!("fd01::{n}")),
    }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn uplink() -> IfName {
    name("eth0")
}

fn kernel() -> Kernel {
    let addrs = [
        Addr { ip: public(Family::V4, 100), len: 24 },
        Addr { ip: public(Family::V6, 100), len: 64 },
    ];
    let mut kernel = Kernel::with_uplink(uplink(), 1500, &addrs);
    for (key, route) in bystanders().routes {
        kernel.set_route(key, route).unwrap();
    }
    for (id, nexthop) in bystanders().nexthops {
        kernel.set_nexthop(id, nexthop).unwrap();
    }
    kernel
}

/// Things of others that must survive everything.
fn bystanders() -> Observed {
    let route = |gateway: &str, ours| Route {
        gateway: Some(ip(gateway)),
        link: Some(uplink()),
        onlink: false,
        nexthop: None,
        ours,
    };
    let mut out = Observed::default();
    // a default route, one into our network that nobody leases, one of
    // another daemon of ours on this host
    for (dst, gateway, ours) in [
        ("0.0.0.0/0", "192.168.0.1", false),
        ("10.244.200.0/24", "192.168.0.7", false),
        ("10.99.1.0/24", "192.168.0.8", true),
    ] {
        out.routes.insert(RouteKey::new(net(dst)), route(gateway, ours));
    }
    // a nexthop in our range where one of ours would be
    let id = overlay::nexthop::id(name("flannel.1"), ip("10.244.4.0"));
    let foreign = Nexthop {
        link: Some(uplink()),
        gateway: Some(ip("192.168.0.9")),
        onlink: false,
        ours: false,
    };
    out.nexthops.insert(id, foreign);
    out
}

impl Families {
    fn list(self) -> Vec<Family> {
        match self {
            Self::V4 => vec![Family::V4],
            Self::V6 => vec![Family::V6],
            Self::Dual => Family::ALL.to_vec(),
        }
    }

    fn each<T>(self, mut value: impl FnMut(Family) -> T) -> PerFamily<T> {
        self.list().into_iter().map(|f| (f, value(f))).collect()
    }
}

impl Conf {
    fn parsed(&self) -> (NetConf, VxlanOptions) {
        let (v4, v6) = match self.families {
            Families::V4 => (true, false),
            Families::V6 => (false, true),
            Families::Dual => (true, true),
        };
        let mtu = self.mtu.map_or(String::new(), |m| format!(r#","MTU":{m}"#));
        let Self { vni, port, gbp, learning, direct_routing, .. } = self;
        let text = format!(
            r#"{{"EnableIPv4":{v4},"EnableIPv6":{v6},
                "Network":"10.244.0.0/16","IPv6Network":"fd00:244::/48",
                "Backend":{{"Type":"vxlan","VNI":{vni},"Port":{port},
                "GBP":{gbp},"Learning":{learning},
                "DirectRouting":{direct_routing}{mtu}}}}}"#
        );
        let (conf, _) = NetConf::parse(&text).unwrap();
        let Backend::Vxlan(options) = conf.backend else { panic!("{text}") };
        (conf, options)
    }
}

impl Lease {
    fn attrs(&self) -> LeaseAttrs {
        let public = self.families.each(|f| public(f, self.public));
        let macs = self.families.each(|_| mac(self.mac));
        vxlan::lease_attrs(&public, &macs, 1).unwrap()
    }
}

impl Inputs {
    fn table(&self) -> BTreeMap<SubnetKey, LeaseAttrs> {
        let lease = |(n, lease): (&u8, &Lease)| {
            let key = lease.families.each(|f| subnet(f, *n));
            (SubnetKey::new(key).unwrap(), lease.attrs())
        };
        self.leases.iter().map(lease).collect()
    }

    fn plan(&self, kernel: &Kernel) -> Plan {
        let (conf, options) = self.conf.parsed();
        let own = if self.subnet { 101 } else { 102 };
        let own_mac = if self.mac { 101 } else { 102 };
        let node = Node {
            key: SubnetKey::new(self.conf.families.each(|f| subnet(f, own)))
                .unwrap(),
            public: self.conf.families.each(|f| public(f, 100)),
        };
        let direct = self.direct.iter();
        let facts = Facts {
            uplink: Uplink {
                name: uplink(),
                index: kernel.index(uplink()).unwrap(),
                mtu: 1500,
                addrs: Family::ALL.map(|f| public(f, 100)).into(),
            },
            macs: self.conf.families.each(|_| mac(own_mac)),
            direct: direct
                .flat_map(|n| Family::ALL.map(|f| public(f, *n)))
                .collect(),
            caps: self.caps,
        };
        vxlan::plan(&node, &facts, &conf, &options, &self.table()).unwrap()
    }
}

/// The daemon in small, with the kernel it works on.
struct Run {
    inputs: Inputs,
    sim: Sim,
    /// What the last pass wanted.
    last: Desired,
    /// Since the last pass: nothing failed, nothing was missed.
    sure: bool,
    caps_changed: bool,
}

impl Run {
    fn new(inputs: Inputs) -> Self {
        let sim = Sim::new(kernel());
        let last = Desired::default();
        Self { inputs, sim, last, sure: false, caps_changed: false }
    }

    /// Devices of every name this test's configurations give to ours.
    fn full(&self, desired: &Desired) -> Scope {
        let names = [1, 2].into_iter().flat_map(|vni| {
            Family::ALL.map(|f| vxlan::device_name(f, vni).unwrap())
        });
        Scope::full(desired, names)
    }

    /// One pass; `true` when everything in it succeeded.
    fn pass(&mut self, scoped: bool) -> bool {
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
        let watched = match self.sim.faults.is_empty() {
            true => stable(&before, &desired, &self.sim.kernel, &changes),
            false => BTreeMap::new(),
        };
        let mut ok = true;
        for change in &changes {
            let outcome = self.sim.apply(std::slice::from_ref(change));
            ok &= outcome.iter().all(Result::is_ok);
            for (dst, path) in &watched {
                let now = self.sim.kernel.path(*dst);
                assert_eq!(now, Some(*path), "{dst} after {change}");
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
    fn changes(&mut self) -> Vec<Change> {
        let desired = self.inputs.plan(&self.sim.kernel).desired;
        let scope = self.full(&desired);
        let observed = self.sim.observe(&scope).unwrap();
        diff(&desired, &observed, &scope)
    }

    fn step(&mut self, op: &Op) {
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
                let _ = self.foreign(hand);
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

    fn foreign(&mut self, hand: Hand) -> Result<(), Errno> {
        let vni = self.inputs.conf.vni;
        let dev = |family| vxlan::device_name(family, vni).unwrap();
        let index = self.sim.kernel.index(uplink()).unwrap();
        let base = |family, n| subnet(family, n).base();
        let nexthop_id =
            |family, n| overlay::nexthop::id(dev(family), base(family, n));
        let kernel = &mut self.sim.kernel;
        match hand {
            Hand::DeleteLink(family) => kernel.delete_link(dev(family)),
            Hand::Squat(family) => {
                let _ = kernel.delete_link(dev(family));
                let kind = LinkKind::Other("dummy".to_owned());
                let link = Link { kind, mac: mac(99), mtu: 1500, up: true };
                kernel.add_link(dev(family), link)
            }
            Hand::Clash(family) => {
                kernel.delete_link(dev(family))?;
                let conf = self.inputs.conf;
                let kind = LinkKind::Vxlan(Vxlan {
                    vni,
                    parent: index,
                    local: public(family, 100),
                    port: conf.port,
                    learning: false,
                    gbp: false,
                });
                let other = vxlan::device_name(family, 3 - vni).unwrap();
                let link = Link { kind, mac: mac(99), mtu: 1400, up: true };
                kernel.add_link(other, link)
            }
            Hand::Down(family) => kernel.set_up(dev(family), false),
            Hand::Up(family) => kernel.set_up(dev(family), true),
            Hand::Bounce(family) => {
                kernel.set_up(dev(family), false)?;
                kernel.set_up(dev(family), true)
            }
            Hand::Mtu(family) => kernel.set_mtu(dev(family), 1290),
            Hand::Mac(family) => kernel.set_mac(dev(family), mac(98)),
            Hand::Learning(family) => kernel.set_learning(dev(family), true),
            Hand::UplinkBounce => {
                kernel.set_up(uplink(), false)?;
                kernel.set_up(uplink(), true)?;
                let addr = Addr { ip: public(Family::V6, 100), len: 64 };
                kernel.add_addr(uplink(), addr)?;
                for (key, route) in bystanders().routes {
                    kernel.set_route(key, route)?;
                }
                for (id, nexthop) in bystanders().nexthops {
                    kernel.set_nexthop(id, nexthop)?;
                }
                Ok(())
            }
            Hand::AddAddr(family, n) => {
                let addr = Addr { ip: base(family, n), len: family.bits() };
                kernel.add_addr(dev(family), addr)
            }
            Hand::DeleteAddrs(family) => {
                let all = kernel.everything().addrs;
                let link = dev(family);
                for (_, addr) in all.iter().filter(|(l, _)| *l == link) {
                    kernel.delete_addr(link, *addr)?;
                }
                Ok(())
            }
            Hand::Fdb(family, n, to, permanent) => kernel.set_fdb(
                FdbKey { link: dev(family), mac: mac(n) },
                Fdb { dst: public(family, to), permanent },
            ),
            Hand::DeleteFdb(family, n) => {
                kernel.delete_fdb(FdbKey { link: dev(family), mac: mac(n) })
            }
            Hand::Neigh(family, n, to, permanent) => kernel.set_neigh(
                NeighKey { link: dev(family), ip: base(family, n) },
                Neigh { mac: mac(to), permanent },
            ),
            Hand::DeleteNeigh(family, n) => {
                let ip = base(family, n);
                kernel.delete_neigh(NeighKey { link: dev(family), ip })
            }
            Hand::Nexthop(family, n, ours) => kernel.set_nexthop(
                nexthop_id(family, n),
                Nexthop {
                    link: Some(dev(family)),
                    gateway: Some(base(family, 77)),
                    onlink: true,
                    ours,
                },
            ),
            Hand::DeleteNexthop(family, n) => {
                kernel.delete_nexthop(nexthop_id(family, n))
            }
            Hand::Reroute(family, n, ours) => kernel.set_route(
                RouteKey::new(subnet(family, n)),
                Route {
                    gateway: Some(public(family, 66)),
                    link: Some(uplink()),
                    onlink: false,
                    nexthop: None,
                    ours,
                },
            ),
            Hand::Upstream(family, n) => kernel.set_route(
                RouteKey::new(subnet(family, n)),
                Route {
                    gateway: Some(base(family, n)),
                    link: Some(dev(family)),
                    onlink: true,
                    nexthop: None,
                    ours: false,
                },
            ),
            Hand::Bend(family, n, onlink) => {
                let all = kernel.everything().links;
                match all.get(&dev(family)).map(|link| &link.kind) {
                    Some(LinkKind::Vxlan(_)) => {}
                    // an address on a device of theirs stays in the way
                    _ => return Err(Errno::NoDevice),
                }
                let net = Addr { ip: base(family, n), len: 24 };
                let gateway = match onlink {
                    true => public(family, n),
                    false => base(family, n),
                };
                if !onlink {
                    kernel.add_addr(dev(family), net)?;
                }
                kernel.set_route(
                    RouteKey::new(subnet(family, n)),
                    Route {
                        gateway: Some(gateway),
                        link: Some(dev(family)),
                        onlink,
                        nexthop: None,
                        ours: true,
                    },
                )
            }
            Hand::DeleteRoute(family, n) => {
                kernel.delete_route(RouteKey::new(subnet(family, n)))
            }
        }
    }

    /// Without `diff`'s help: is what is there what is wanted?
    fn assert_converged(&self) {
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
        assert!(extra.iter().all(|a| foreign(a)), "{extra:?}");
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

/// Destinations that are reached now and for which nothing is to change,
/// unless a device does.
fn stable(
    before: &Desired,
    after: &Desired,
    kernel: &Kernel,
    changes: &[Change],
) -> BTreeMap<IpAddr, Path> {
    let device_changes = changes.iter().any(|change| match change {
        Change::ReplaceLink { .. } | Change::DeleteLink { .. } => true,
        Change::ModifyLink { before, after, .. } => {
            before.mac != after.mac || before.up != after.up
        }
        _ => false,
    });
    if device_changes {
        return BTreeMap::new();
    }
    let changed = before.changed_keys(after);
    let have = kernel.everything();
    let mut out = BTreeMap::new();
    for (key, route) in &after.routes {
        let gateway = route.gateway.unwrap();
        let mut way = vec![Key::Route(*key)];
        let mut is_there = true;
        let path = match route.link {
            Some(link) => {
                let neigh = NeighKey { link, ip: gateway };
                let mac = after.neighs.get(&neigh).unwrap().mac;
                let fdb = FdbKey { link, mac };
                way.extend([Key::Neigh(neigh), Key::Fdb(fdb)]);
                is_there &= have.neighs.get(&neigh) == after.neighs.get(&neigh);
                is_there &= have.fdb.get(&fdb) == after.fdb.get(&fdb);
                Path::Tunnel { link, to: after.fdb.get(&fdb).unwrap().dst }
            }
            None => Path::Plain { link: uplink(), to: gateway },
        };
        let pod = key.dst.gateway();
        is_there &= kernel.path(pod) == Some(path);
        if is_there && way.iter().all(|key| !changed.contains(key)) {
            out.insert(pod, path);
        }
    }
    out
}

/// Bottom up, then removals top down.
fn assert_order(changes: &[Change]) {
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
    let in_the_way = |change: &&Change| match change {
        Change::DeleteLink { .. } => true,
        Change::DeleteAddr { addr, .. } => addr.len == 24,
        _ => false,
    };
    let ranks: Vec<_> =
        changes.iter().filter(|c| !in_the_way(c)).map(rank).collect();
    assert!(ranks.is_sorted(), "{changes:#?}");
}

fn families() -> impl Strategy<Value = Families> {
    prop_oneof![
        3 => Just(Families::Dual),
        1 => Just(Families::V4),
        1 => Just(Families::V6),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn lease() -> impl Strategy<Value = Lease> {
    (1..=PEERS, 1..=PEERS, families())
        .prop_map(|(public, mac, families)| Lease { public, mac, families })
}

fn conf() -> impl Strategy<Value = Conf> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let vni = prop_oneof![4 => Just(1), 1 => Just(2)];
    let port = prop_oneof![4 => Just(8472), 1 => Just(4789)];
    let mtu = prop_oneof![Just(None), Just(Some(1400)), Just(Some(9000))];
    (families(), vni, port, mtu, flags).prop_map(
        |(families, vni, port, mtu, (gbp, learning, direct_routing))| Conf {
            families,
            vni,
            port,
            mtu,
            gbp,
            learning,
            direct_routing,
        },
    )
}

fn hand() -> impl Strategy<Value = Hand> {
    let peer = 1..=PEERS + 1;
    prop_oneof![
        family().prop_map(Hand::DeleteLink),
        family().prop_map(Hand::Squat),
        family().prop_map(Hand::Clash),
        family().prop_map(Hand::Down),
        family().prop_map(Hand::Up),
        family().prop_map(Hand::Bounce),
        family().prop_map(Hand::Mtu),
        family().prop_map(Hand::Mac),
        family().prop_map(Hand::Learning),
        Just(Hand::UplinkBounce),
        (family(), 50..53u8).prop_map(|(f, n)| Hand::AddAddr(f, n)),
        family().prop_map(Hand::DeleteAddrs),
        (family(), peer.clone(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, to, p)| Hand::Fdb(f, n, to, p)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::DeleteFdb(f, n)),
        (family(), peer.clone(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, to, p)| Hand::Neigh(f, n, to, p)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::DeleteNeigh(f, n)),
        (family(), 1..PEERS, any::<bool>())
            .prop_map(|(f, n, o)| Hand::Nexthop(f, n, o)),
        (family(), 1..PEERS).prop_map(|(f, n)| Hand::DeleteNexthop(f, n)),
        (family(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, o)| Hand::Reroute(f, n, o)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::Upstream(f, n)),
        (family(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, o)| Hand::Bend(f, n, o)),
        (family(), peer).prop_map(|(f, n)| Hand::DeleteRoute(f, n)),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::LostAck),
        2 => Just(Fault::LostRequest),
        1 => Just(Fault::Refused(Errno::NoBuffers)),
        1 => Just(Fault::Refused(Errno::Exists)),
        1 => Just(Fault::Refused(Errno::NotFound)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
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

fn inputs() -> impl Strategy<Value = Inputs> {
    (conf(), any::<bool>()).prop_map(|(conf, nexthop_objects)| Inputs {
        conf,
        leases: BTreeMap::new(),
        direct: BTreeSet::new(),
        caps: Caps { nexthop_objects },
        mac: true,
        subnet: true,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn everything_converges_and_nothing_needed_is_removed(
        inputs in inputs(),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut run = Run::new(inputs);
        for op in &ops {
            run.step(op);
        }
        run.sim.faults.clear();
        run.sim.interrupted = 0;
        run.sim.kernel.deaf = false;
        // one pass is enough when nothing goes wrong in it
        prop_assert!(run.pass(false));
        prop_assert_eq!(run.changes(), []);
        run.assert_converged();
    }
}
