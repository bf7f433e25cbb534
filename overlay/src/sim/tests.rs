use ipam::Family;

use super::*;
use crate::testing::{Cluster, DUAL, ip, mac, name, net, public, subnet};
use crate::{
    Addr, Desired, FdbKey, LinkKind, NeighKey, Observed, RouteKey, diff,
};

/// A node with one peer in both families, everything in place.
fn settled() -> (Desired, Sim) {
    let uplinks = Family::ALL.map(|f| Addr::new(public(f, 1), 24));
    let kernel = Kernel::with_uplink(name("eth0"), 1500, &uplinks);
    let mut cluster = Cluster::new(DUAL).with_peers(&[2]);
    cluster.facts.uplink.index = kernel.index(name("eth0")).unwrap();
    let desired = cluster.plan().desired;
    let mut sim = Sim::new(kernel);
    let changes = diff(&desired, &Observed::default(), &full(&desired));
    assert!(sim.apply(&changes).iter().all(Result::is_ok));
    (desired, sim)
}

fn full(desired: &Desired) -> Scope {
    Scope::full(desired, [])
}

fn pod(family: Family) -> std::net::IpAddr {
    subnet(family, 2).gateway()
}

#[test]
fn packets_find_their_way() {
    let (_, sim) = settled();
    let tunnel = |link, to| Some(Path::Tunnel { link: name(link), to });
    let kernel = &sim.kernel;
    assert_eq!(
        kernel.path(pod(Family::V4)),
        tunnel("flannel.1", public(Family::V4, 2))
    );
    assert_eq!(
        kernel.path(pod(Family::V6)),
        tunnel("flannel-v6.1", public(Family::V6, 2))
    );
    assert_eq!(kernel.path(ip("10.5.9.1")), None);
    assert_eq!(sim.kernel.notified, BTreeSet::new(), "no echo");
}

#[test]
fn a_device_going_down_takes_what_a_real_one_takes() {
    let (_, mut sim) = settled();
    for dev in ["flannel.1", "flannel-v6.1"] {
        sim.kernel.set_up(name(dev), false).unwrap();
    }
    let left = sim.kernel.everything();
    assert!(left.routes.is_empty() && left.nexthops.is_empty());
    assert!(left.neighs.is_empty());
    assert_eq!(left.fdb.len(), 2, "permanent ones stay");
    let v6 = |(_, addr): &&(_, Addr)| addr.family() == Family::V6;
    let on_tunnel = left.addrs.iter().filter(|(l, _)| *l != name("eth0"));
    assert_eq!(on_tunnel.clone().count(), 1);
    assert_eq!(on_tunnel.filter(v6).count(), 0);
    // IPv4 routes and nexthop objects go without a word
    let told = sim.take_notifications();
    assert!(told.contains(&Key::Link(name("flannel.1"))));
    assert!(told.contains(&Key::Route(RouteKey::new(subnet(Family::V6, 2)))));
    assert!(!told.contains(&Key::Route(RouteKey::new(subnet(Family::V4, 2)))));
    assert!(!told.iter().any(|key| matches!(key, Key::Nexthop(_))));
}

#[test]
fn what_takes_neighbours_and_routes_with_it() {
    let (_, settled) = settled();
    let flannel = name("flannel.1");
    let ip = subnet(Family::V4, 2).base();
    let route = RouteKey::new(subnet(Family::V4, 2));
    let id = crate::nexthop::id(flannel, ip);
    let after = |hand: &dyn Fn(&mut Kernel)| {
        let mut sim = settled.clone();
        hand(&mut sim.kernel);
        let left = sim.kernel.everything();
        let neigh = left.neighs.contains_key(&NeighKey { link: flannel, ip });
        (neigh, left.routes.contains_key(&route))
    };
    let own = Addr::new(subnet(Family::V4, 1).base(), 32);
    assert_eq!(after(&|_| ()), (true, true));
    let set_mac = |k: &mut Kernel| {
        k.set_mac(flannel, mac(Family::V4, 9)).unwrap();
    };
    assert_eq!(after(&set_mac), (false, true));
    // a route through a nexthop object outlives the last address …
    let no_addr = |k: &mut Kernel| k.delete_addr(flannel, own).unwrap();
    assert_eq!(after(&no_addr), (false, true));
    // … but not that object; a plain route the other way round
    let no_nexthop = |k: &mut Kernel| k.delete_nexthop(id).unwrap();
    assert_eq!(after(&no_nexthop), (true, false));
    let plain = |k: &mut Kernel| {
        let route_now = k.everything().routes[&route];
        k.set_route(route, crate::Route { nexthop: None, ..route_now })
            .unwrap();
        k.delete_nexthop(id).unwrap();
    };
    assert_eq!(after(&plain), (true, true));
    let both = |k: &mut Kernel| {
        plain(k);
        no_addr(k);
    };
    assert_eq!(after(&both), (false, false));
}

#[test]
fn tunnels_go_with_the_interface_below() {
    let (_, mut sim) = settled();
    sim.kernel.delete_link(name("eth0")).unwrap();
    assert_eq!(sim.kernel.everything(), Observed::default());
}

#[test]
fn refusals() {
    let (desired, mut sim) = settled();
    let kernel = &mut sim.kernel;
    let flannel = name("flannel.1");
    let mut link = desired.links[&flannel].clone();
    assert_eq!(kernel.add_link(flannel, link.clone()), Err(Errno::Exists));
    // one tunnel of a kind
    let other = name("flannel.2");
    assert_eq!(kernel.add_link(other, link.clone()), Err(Errno::Exists));
    assert_eq!(kernel.delete_link(other), Err(Errno::NoDevice));
    // the parent is the limit: at creation it cuts, later it refuses
    kernel.delete_link(flannel).unwrap();
    link.mtu = 9000;
    kernel.add_link(flannel, link).unwrap();
    assert_eq!(kernel.everything().links[&flannel].mtu, 1450);
    assert_eq!(kernel.set_mtu(flannel, 1451), Err(Errno::Invalid));

    let key = RouteKey::new(net("10.5.3.0/24"));
    let by = |gateway: &str, link: Option<&str>, onlink| crate::Route {
        gateway: Some(ip(gateway)),
        link: link.map(name),
        onlink,
        nexthop: None,
        ours: true,
    };
    for (route, errno) in [
        (by("10.5.3.0", Some("flannel.1"), false), Errno::Unreachable),
        (by("10.99.0.1", None, false), Errno::Unreachable),
        (by("10.5.3.0", Some("none"), true), Errno::NoDevice),
        // an address of this node is no gateway
        (by("192.168.64.1", Some("flannel.1"), true), Errno::Invalid),
    ] {
        assert_eq!(kernel.set_route(key, route), Err(errno), "{route}");
    }
    // nor is one that is led elsewhere, in IPv6
    let by_tunnel =
        |n| by(&format!("fd00:5:0:{n}::"), Some("flannel-v6.1"), true);
    let key6 = RouteKey::new(subnet(Family::V6, 3));
    kernel
        .set_route(key6, by(&public(Family::V6, 3).to_string(), None, false))
        .unwrap();
    assert_eq!(kernel.set_route(key6, by_tunnel(3)), Err(Errno::Invalid));
    let through =
        crate::Route { nexthop: Some(7), ..by("10.5.3.0", None, true) };
    assert_eq!(kernel.set_route(key, through), Err(Errno::Invalid));
    assert_eq!(kernel.delete_route(key), Err(Errno::NotFound));
    kernel.set_up(flannel, false).unwrap();
    let route = by("10.5.3.0", Some("flannel.1"), true);
    assert_eq!(kernel.set_route(key, route), Err(Errno::Down));
    let fdb = FdbKey { link: name("eth0"), mac: mac(Family::V4, 2) };
    let dst = crate::Fdb::new(public(Family::V4, 2));
    assert_eq!(kernel.set_fdb(fdb, dst), Err(Errno::Unsupported));
}

#[test]
fn faults_are_what_they_say() {
    let (_, mut sim) = settled();
    let route = RouteKey::new(subnet(Family::V4, 2));
    let before = sim.kernel.everything().routes[&route];
    let change = [Change::DeleteRoute { key: route, before }];
    let there = |sim: &Sim| sim.kernel.everything().routes.contains_key(&route);
    sim.faults =
        [Fault::Refused(Errno::NoBuffers), Fault::LostRequest, Fault::LostAck]
            .into();
    assert_eq!(sim.apply(&change), [Err(Errno::NoBuffers.into())]);
    assert_eq!(sim.apply(&change), [Err(SimError::Unknown)]);
    assert!(there(&sim));
    assert_eq!(sim.apply(&change), [Err(SimError::Unknown)]);
    assert!(!there(&sim));
    // deleting what is gone is a success
    assert_eq!(sim.apply(&change), [Ok(())]);
    assert_eq!(sim.log.iter().filter(|c| **c == change[0]).count(), 4);

    sim.interrupted = 1;
    let scope = Scope::full(&Desired::default(), []);
    assert_eq!(sim.observe(&scope), Err(SimError::Interrupted));
    assert!(sim.observe(&scope).is_ok());
}

#[test]
fn a_look_stays_in_its_scope() {
    let (desired, mut sim) = settled();
    let squatter = crate::Link {
        master: None,
        kind: LinkKind::Other("dummy".to_owned()),
        mac: mac(Family::V4, 9),
        mtu: 1500,
        up: true,
    };
    sim.kernel.add_link(name("dummy0"), squatter).unwrap();
    let all = sim.observe(&full(&desired)).unwrap();
    assert_eq!(all.links.len(), 2);
    assert_eq!(all.routes.len(), 2);
    assert!(diff(&desired, &all, &full(&desired)).is_empty());
    let key = Key::Link(name("flannel.1"));
    let one = sim.observe(&Scope::Keys([key].into())).unwrap();
    assert_eq!(one.links.len(), 1);
    assert!(one.addrs.is_empty() && one.routes.is_empty());
}
