use ipam::Subnet;
use ipam::lease::SubnetKey;

use super::*;
use crate::sim::{Kernel, Sim};
use crate::testing::{Cluster, DUAL, V4, ip, mac, name, net, public, subnet};
use crate::{Fdb, Mac, Neigh, World};

fn full(desired: &Desired) -> Scope {
    Scope::full(desired, [name("flannel.7")])
}

fn full_diff(desired: &Desired, observed: &Observed) -> Vec<Change> {
    diff(desired, observed, &full(desired))
}

/// What there is when all that is desired is.
fn reached(desired: &Desired) -> Observed {
    let d = desired.clone();
    Observed {
        links: d.links,
        addrs: d.addrs,
        fdb: d.fdb,
        neighs: d.neighs,
        nexthops: d.nexthops,
        routes: d.routes,
    }
}

/// How upstream leaves what it sets: plain routes with its own protocol
/// number (B-1, B-28).
fn left_by_upstream(desired: &Desired) -> Observed {
    let mut out = reached(desired);
    out.nexthops.clear();
    for route in out.routes.values_mut() {
        route.nexthop = None;
        route.ours = false;
        // a direct route's device is the kernel's choice
        route.link = route.link.or(Some(name("eth0")));
    }
    out
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn equal_is_equal() {
    let desired = Cluster::new(DUAL).with_peers(&[2, 3]).plan().desired;
    assert_eq!(full_diff(&desired, &reached(&desired)), []);
}

#[test]
fn what_upstream_left_is_adopted_without_a_change() {
    let conf = DUAL.replace("}}", r#","DirectRouting":true}}"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2, 3]);
    cluster.facts.direct = Family::ALL.map(|f| public(f, 3)).into();
    let desired = cluster.plan().desired;
    assert_eq!(full_diff(&desired, &left_by_upstream(&desired)), []);
    // and peer by peer
    let keys = Desired::default().changed_keys(&desired);
    let observed = left_by_upstream(&desired);
    assert_eq!(diff(&desired, &observed, &Scope::Keys(keys)), []);
}

#[test]
fn only_a_route_that_must_be_written_gets_a_nexthop_object() {
    let desired = Cluster::new(V4).with_peers(&[2, 3]).plan().desired;
    let mut observed = left_by_upstream(&desired);
    observed.routes.remove(&RouteKey::new(subnet(Family::V4, 3)));
    let changes = full_diff(&desired, &observed);
    let id = crate::nexthop::id(name("flannel.1"), ip("10.5.3.0"));
    let via = "via 10.5.3.0 on flannel.1 onlink";
    assert_eq!(
        lines(&changes),
        [
            format!("set nexthop {id}: {via}"),
            format!("set route 10.5.3.0/24: {via} nexthop {id}"),
        ]
    );
}

#[test]
fn an_unused_nexthop_object_is_collected() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    // upstream replaced our route by its own
    let mut observed = left_by_upstream(&desired);
    observed.nexthops = desired.nexthops.clone();
    let changes = full_diff(&desired, &observed);
    assert!(matches!(changes[..], [Change::DeleteNexthop { .. }]));
    // but not on the strength of a partial look
    let keys = Desired::default().changed_keys(&desired);
    assert_eq!(diff(&desired, &observed, &Scope::Keys(keys)), []);
}

#[test]
fn creation_is_bottom_up_and_removal_top_down() {
    let cluster = Cluster::new(V4);
    let alone = cluster.plan().desired;
    let both = cluster.with_peers(&[2]).plan().desired;
    let id = crate::nexthop::id(name("flannel.1"), ip("10.5.2.0"));
    let kinds = |changes: &[Change]| -> Vec<String> {
        lines(changes)
            .into_iter()
            .map(|line| line.split([':', '(']).next().unwrap().trim().into())
            .collect()
    };
    assert_eq!(
        kinds(&full_diff(&both, &Observed::default())),
        [
            "create link flannel.1".to_owned(),
            "add address 10.5.1.0/32 on flannel.1".to_owned(),
            "set forwarding entry 02".to_owned(),
            "set neighbour 10.5.2.0 on flannel.1".to_owned(),
            format!("set nexthop {id}"),
            "set route 10.5.2.0/24".to_owned(),
        ]
    );
    assert_eq!(
        kinds(&full_diff(&alone, &reached(&both))),
        [
            "delete route 10.5.2.0/24".to_owned(),
            format!("delete nexthop {id}"),
            "delete neighbour 10.5.2.0 on flannel.1".to_owned(),
            "delete forwarding entry 02".to_owned(),
        ]
    );
    // without any plan for it, a device goes with all that is on it
    let networks = both.networks.clone();
    let nothing = Desired { networks, ..Desired::default() };
    let scope = Scope::full(&nothing, [name("flannel.1")]);
    let changes = diff(&nothing, &reached(&both), &scope);
    assert!(matches!(changes[..], [Change::DeleteLink { .. }]));
}

#[test]
fn from_tunnel_to_direct_and_back_the_route_is_replaced() {
    let conf = V4.replace("}}", r#","DirectRouting":true}}"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2]);
    let tunnel = cluster.plan().desired;
    cluster.facts.direct = [public(Family::V4, 2)].into();
    let direct = cluster.plan().desired;

    let there = full_diff(&direct, &reached(&tunnel));
    assert!(matches!(
        there[..],
        [
            Change::SetRoute { before: Some(_), .. },
            Change::DeleteNexthop { .. },
            Change::DeleteNeigh { .. },
            Change::DeleteFdb { .. },
        ]
    ));
    let back = full_diff(&tunnel, &reached(&direct));
    assert!(matches!(
        back[..],
        [
            Change::SetFdb { .. },
            Change::SetNeigh { .. },
            Change::SetNexthop { .. },
            Change::SetRoute { before: Some(_), .. },
        ]
    ));
}

/// The kernel refuses an IPv6 gateway that has a way by another device, as the
/// first address of the peer's subnet has by the direct route.
#[test]
fn an_ipv6_peer_comes_back_into_the_tunnel_without_a_gap() {
    let conf = DUAL.replace("}}", r#","DirectRouting":true}}"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2]);
    let tunnel = cluster.plan().desired;
    cluster.facts.direct = [public(Family::V6, 2)].into();
    let direct = cluster.plan().desired;

    let there = full_diff(&direct, &reached(&tunnel));
    assert!(matches!(there[0], Change::SetRoute { before: Some(_), .. }));
    let back = full_diff(&tunnel, &reached(&direct));
    assert!(
        matches!(
            back[..],
            [
                Change::SetFdb { .. },
                Change::SetNeigh { .. },
                Change::SetNexthop { .. },
                Change::SetRoute { before: Some(_), .. },
            ]
        ),
        "{back:?}"
    );
    // what a pass leaves that broke off while the kernel looked
    let base = subnet(Family::V6, 2).base();
    let key = RouteKey::new(Subnet::new(base, 128).unwrap());
    let link = Some(name("flannel-v6.1"));
    let way =
        Route { gateway: None, link, onlink: false, nexthop: None, ours: true };
    let mut broken = reached(&tunnel);
    broken.routes.insert(key, way);
    let rest = full_diff(&tunnel, &broken);
    assert_eq!(rest, [Change::DeleteRoute { key, before: way }]);
}

#[test]
fn a_changed_mac_of_a_peer_is_replaced_around_its_route() {
    let mut cluster = Cluster::new(V4).with_peers(&[2]);
    let before = cluster.plan().desired;
    let (key, _) = cluster.lease(2);
    let (_, mut attrs) = cluster.lease(3);
    attrs.public = ipam::PerFamily::one(Family::V4, public(Family::V4, 2));
    cluster.leases.insert(key, attrs);
    let changes = full_diff(&cluster.plan().desired, &reached(&before));
    let [
        Change::SetFdb { before: None, .. },
        Change::SetNeigh { before: Some(_), .. },
        Change::DeleteFdb { .. },
    ] = changes[..]
    else {
        panic!("{:?}", lines(&changes))
    };
}

// === devices ===

#[test]
fn a_device_of_another_kind_is_replaced_and_named() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let mut observed = reached(&desired);
    let flannel = name("flannel.1");
    observed.links.get_mut(&flannel).unwrap().kind =
        LinkKind::Other("dummy".to_owned());
    let changes = full_diff(&desired, &observed);
    let warning = changes[0].warning().unwrap();
    assert!(
        warning.starts_with("flannel.1 ") && warning.contains("kind dummy"),
        "{warning}"
    );
    // all that was on it is set again
    assert_eq!(changes.len(), 6, "{:?}", lines(&changes));
    assert!(changes[1..].iter().all(|change| change.warning().is_none()));

    // a former device of ours that is somebody else's now stays
    let mut alone = reached(&desired);
    let other = observed.links[&flannel].clone();
    alone.links.insert(name("flannel.7"), other);
    assert_eq!(full_diff(&desired, &alone), []);
}

#[test]
fn immutable_attributes_recreate_others_do_not_w_18() {
    let desired = Cluster::new(V4).plan().desired;
    let flannel = name("flannel.1");
    let kind = |change: &dyn Fn(&mut Link)| {
        let mut observed = reached(&desired);
        change(observed.links.get_mut(&flannel).unwrap());
        full_diff(&desired, &observed).remove(0)
    };
    let vxlan = |change: &dyn Fn(&mut Vxlan)| {
        kind(&|link| match &mut link.kind {
            LinkKind::Vxlan(vxlan) => change(vxlan),
            LinkKind::Other(_) => panic!(),
        })
    };
    for change in [
        vxlan(&|v| v.vni = 2),
        vxlan(&|v| v.local = ip("fd09::9")),
        vxlan(&|v| v.port = 4789),
        vxlan(&|v| v.gbp = true),
    ] {
        assert!(matches!(change, Change::ReplaceLink { .. }), "{change}");
    }
    for change in [
        vxlan(&|v| v.learning = true),
        vxlan(&|v| v.parent = 3),
        vxlan(&|v| v.local = ip("192.168.64.9")),
        vxlan(&|v| v.local = ip("0.0.0.0")),
        kind(&|link| link.mtu = 1400),
        kind(&|link| link.mac = Mac([2, 0, 0, 0, 0, 99])),
        kind(&|link| link.up = false),
    ] {
        assert!(matches!(change, Change::ModifyLink { .. }), "{change}");
    }
}

#[test]
fn a_lost_device_is_restored_whole_even_if_only_it_was_looked_at() {
    let desired = Cluster::new(DUAL).with_peers(&[2, 3]).plan().desired;
    let key = Key::Link(name("flannel.1"));
    let scope = Scope::Keys([key].into());
    let changes = diff(&desired, &Observed::default(), &scope);
    // device, address, two peers of four objects each; nothing of IPv6
    assert_eq!(changes.len(), 10, "{:?}", lines(&changes));
    assert!(lines(&changes).iter().all(|line| !line.contains("fd00")));
}

#[test]
fn a_device_that_comes_up_gets_everything_again() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let flannel = name("flannel.1");
    let link = Key::Link(flannel);
    // a look from before the kernel dropped it all
    let mut observed = reached(&desired);
    observed.links.get_mut(&flannel).unwrap().up = false;
    let changes = full_diff(&desired, &observed);
    let again: BTreeSet<_> = changes.iter().map(Change::key).collect();
    let on_link: BTreeSet<_> = desired
        .on_link(flannel)
        .filter(|key| !matches!(key, Key::Addr(..)))
        .collect();
    assert_eq!(again, on_link);
    // also where only the device was looked at
    let links = observed.links.clone();
    let observed = Observed { links, ..Observed::default() };
    let changes = diff(&desired, &observed, &Scope::Keys([link].into()));
    assert_eq!(changes.len(), 6, "{:?}", lines(&changes));
}

#[test]
fn a_new_mac_of_the_device_means_new_neighbours() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let flannel = name("flannel.1");
    let mut observed = reached(&desired);
    observed.links.get_mut(&flannel).unwrap().mac = mac(Family::V4, 9);
    let links = observed.links.clone();
    let partial = Observed { links, ..Observed::default() };
    let keys = Scope::Keys([Key::Link(flannel)].into());
    for changes in
        [full_diff(&desired, &observed), diff(&desired, &partial, &keys)]
    {
        assert!(matches!(
            changes[..],
            [Change::ModifyLink { .. }, Change::SetNeigh { .. }]
        ));
    }
}

#[test]
fn a_former_device_with_the_same_tunnel_goes_first() {
    let desired = Cluster::new(V4).plan().desired;
    let mut observed = Observed::default();
    let device = desired.links[&name("flannel.1")].clone();
    observed.links.insert(name("flannel.7"), device);
    let changes = full_diff(&desired, &observed);
    assert!(matches!(
        changes[..],
        [
            Change::DeleteLink { .. },
            Change::CreateLink { .. },
            Change::AddAddr { .. }
        ]
    ));
}

#[test]
fn what_must_be_a_gateway_is_no_address_before() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let addr = Addr::new(ip("10.5.2.0"), 32);
    let mut observed = Observed {
        links: desired.links.clone(),
        addrs: [(name("flannel.1"), addr)].into(),
        ..Observed::default()
    };
    let changes = full_diff(&desired, &observed);
    assert!(
        matches!(
            changes[..2],
            [Change::AddAddr { .. }, Change::DeleteAddr { .. }]
        ),
        "{:?}",
        lines(&changes)
    );
    // on a former device of ours
    let mut former = desired.links[&name("flannel.1")].clone();
    let LinkKind::Vxlan(vxlan) = &mut former.kind else { panic!() };
    vxlan.vni = 7;
    observed.links.insert(name("flannel.7"), former);
    observed.addrs = [(name("flannel.7"), addr)].into();
    let changes = full_diff(&desired, &observed);
    assert!(matches!(changes[0], Change::DeleteLink { .. }));
}

#[test]
fn a_route_that_leads_elsewhere_is_replaced() {
    let conf = V4.replace("}}", r#","DirectRouting":true}}"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2, 3]);
    cluster.facts.direct = [public(Family::V4, 3)].into();
    let desired = cluster.plan().desired;
    let route = |n, change: &dyn Fn(&mut Route)| {
        let mut observed = left_by_upstream(&desired);
        let key = RouteKey::new(subnet(Family::V4, n));
        change(observed.routes.get_mut(&key).unwrap());
        let changes = full_diff(&desired, &observed);
        let about = |c: &Change| c.key() == Key::Route(key);
        changes.iter().any(about)
    };
    assert!(!route(2, &|_| ()) && !route(3, &|_| ()));
    assert!(route(2, &|r| r.onlink = false));
    assert!(route(2, &|r| r.gateway = None));
    assert!(route(2, &|r| r.link = Some(name("eth0"))));
    assert!(route(3, &|r| r.link = Some(name("flannel.1"))));
    assert!(!route(3, &|r| r.link = Some(name("eth1"))));
}

#[test]
fn what_stands_or_falls_together() {
    let conf = V4.replace("}}", r#","DirectRouting":true}}"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2, 3]);
    cluster.facts.direct = [public(Family::V4, 3)].into();
    let desired = cluster.plan().desired;
    let flannel = name("flannel.1");
    let tunnel = Key::Route(RouteKey::new(subnet(Family::V4, 2)));
    let direct = Key::Route(RouteKey::new(subnet(Family::V4, 3)));
    let id = crate::nexthop::id(flannel, ip("10.5.2.0"));
    let closure = |key: Key| desired.closure(&[key].into());
    let addr = Addr::new(ip("10.5.1.0"), 32);
    let device: BTreeSet<_> = desired.on_link(flannel).collect();
    assert_eq!(device.len(), 6);
    assert_eq!(closure(Key::Link(flannel)), device);
    assert_eq!(closure(Key::Addr(flannel, addr)), device);
    assert_eq!(closure(Key::Nexthop(id)), [Key::Nexthop(id), tunnel].into());
    assert_eq!(closure(tunnel), [Key::Nexthop(id), tunnel].into());
    let uplink = Key::Link(name("eth0"));
    assert_eq!(closure(uplink), [uplink, direct].into());
}

// === what is not ours ===

#[test]
fn addresses_b_5() {
    let desired = Cluster::new(DUAL).plan().desired;
    let mut observed = reached(&desired);
    let mut put = |link: &str, addr: &str, len| {
        let addr = Addr::new(ip(addr), len);
        observed.addrs.insert((name(link), addr));
    };
    // inside the network or with another length: not ours any more
    put("flannel.1", "10.5.9.0", 32);
    put("flannel.1", "10.5.1.0", 24);
    put("flannel-v6.1", "fd00:5:0:9::", 128);
    put("flannel-v6.1", "2001:db8::1", 64);
    put("flannel.1", "fd00:5:0:9::", 128);
    // somebody's own business
    put("flannel.1", "172.16.0.1", 24);
    put("flannel.1", "fd99::5", 64);
    put("flannel-v6.1", "172.16.0.1", 24);
    put("flannel-v6.1", "fe80::1", 64);
    put("eth0", "10.5.9.0", 32);
    let changes = full_diff(&desired, &observed);
    assert_eq!(
        lines(&changes),
        [
            "delete address 10.5.1.0/24 on flannel.1",
            "delete address 10.5.9.0/32 on flannel.1",
            "delete address fd00:5:0:9::/128 on flannel.1",
            "delete address 2001:db8::1/64 on flannel-v6.1",
            "delete address fd00:5:0:9::/128 on flannel-v6.1",
        ]
    );
}

/// As a pod's network could have one: it is not the address without.
#[test]
fn an_address_with_another_end_is_none_of_ours() {
    let desired = Cluster::new(V4).plan().desired;
    let mut observed = reached(&desired);
    let (link, own) = observed.addrs.pop_first().unwrap();
    let peer = Some(ip("10.5.7.7"));
    observed.addrs.insert((link, Addr { peer, ..own }));
    assert_eq!(
        lines(&full_diff(&desired, &observed)),
        [
            "add address 10.5.1.0/32 on flannel.1",
            "delete address 10.5.1.0 peer 10.5.7.7/32 on flannel.1",
        ]
    );
}

#[test]
fn an_entry_with_a_way_of_its_own_is_altered() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let mut observed = reached(&desired);
    observed.fdb.values_mut().for_each(|fdb| fdb.odd = true);
    let changes = full_diff(&desired, &observed);
    assert!(matches!(changes[..], [Change::SetFdb { .. }]), "{changes:?}");
}

#[test]
fn learned_entries_are_left_alone() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let mut observed = reached(&desired);
    let link = name("flannel.1");
    let dst = public(Family::V4, 9);
    let other = Mac([2, 0, 0, 0, 0, 9]);
    let learned = Fdb { permanent: false, ..Fdb::new(dst) };
    observed.fdb.insert(FdbKey { link, mac: other }, learned);
    let reachable = Neigh { mac: other, permanent: false };
    observed.neighs.insert(NeighKey { link, ip: ip("10.5.9.0") }, reachable);
    assert_eq!(full_diff(&desired, &observed), []);

    // one in the place of ours is made permanent
    let ours = FdbKey { link, mac: mac(Family::V4, 2) };
    let dst = public(Family::V4, 2);
    observed.fdb.insert(ours, Fdb { permanent: false, ..Fdb::new(dst) });
    let changes = full_diff(&desired, &observed);
    assert!(matches!(changes[..], [Change::SetFdb { .. }]));
}

#[test]
fn routes_of_others_are_left_alone() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let mut observed = reached(&desired);
    let mut put = |dst: &str, link: &str, ours| {
        let route = Route {
            gateway: None,
            link: Some(name(link)),
            onlink: false,
            nexthop: None,
            ours,
        };
        observed.routes.insert(RouteKey::new(net(dst)), route);
    };
    put("10.5.1.0/24", "cni0", false);
    put("10.5.77.0/24", "eth0", false);
    // another daemon of ours with another network
    put("10.99.1.0/24", "eth0", true);
    put("0.0.0.0/0", "eth0", false);
    // these are leftovers: on our device, or a direct route of ours
    put("10.99.2.0/24", "flannel.1", false);
    put("10.5.78.0/24", "eth0", true);
    assert_eq!(
        lines(&full_diff(&desired, &observed)),
        [
            "delete route 10.5.78.0/24 (was on eth0)",
            "delete route 10.99.2.0/24 (was on flannel.1)",
        ]
    );
}

#[test]
fn a_foreign_object_under_our_id_stays_and_the_route_does_without() {
    let desired = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let mut observed = Observed {
        links: desired.links.clone(),
        addrs: desired.addrs.clone(),
        ..Observed::default()
    };
    let id = *desired.nexthops.keys().next().unwrap();
    let group =
        Nexthop { link: None, gateway: None, onlink: false, ours: false };
    observed.nexthops.insert(id, group);
    let changes = full_diff(&desired, &observed);
    let Some(Change::SetRoute { after, .. }) = changes.last() else {
        panic!("{:?}", lines(&changes))
    };
    assert_eq!(after.nexthop, None);
    assert!(after.onlink);
    let about = |c: &Change| c.key() == Key::Nexthop(id);
    assert!(!changes.iter().any(about), "{:?}", lines(&changes));
}

#[test]
fn outside_the_scope_nothing_happens() {
    let both = Cluster::new(V4).with_peers(&[2, 3]).plan().desired;
    let second = Cluster::new(V4).with_peers(&[2]).plan().desired;
    let keys = second.changed_keys(&both);
    let changes = diff(&both, &Observed::default(), &Scope::Keys(keys.clone()));
    let touched: BTreeSet<_> = changes.iter().map(Change::key).collect();
    assert_eq!(touched, keys);

    // a peer that is gone is removed, others on the device are not looked at
    let without = Cluster::new(V4).with_peers(&[3]).plan().desired;
    let keys = both.changed_keys(&without);
    let changes = diff(&without, &reached(&both), &Scope::Keys(keys.clone()));
    let touched: BTreeSet<_> = changes.iter().map(Change::key).collect();
    assert_eq!(touched, keys);
    assert!(changes.iter().all(Change::is_removal));
}

#[test]
fn the_changes_of_a_start_among_thousands_take_no_room_twice() {
    let mut cluster = Cluster::new(DUAL);
    cluster.conf =
        Cluster::new(&DUAL.replace("10.5.0.0/16", "10.0.0.0/8")).conf;
    for n in 2..5002u16 {
        let [high, low] = n.to_be_bytes();
        let key = ipam::PerFamily {
            v4: Some(net(&format!("10.{}.{low}.0/24", high + 16))),
            v6: Some(net(&format!("fd00:5:0:{n:x}::/64"))),
        };
        let macs = ipam::PerFamily {
            v4: Some(Mac([2, 0, 0, 0, high, low])),
            v6: Some(Mac([2, 0, 0, 1, high, low])),
        };
        let public = ipam::PerFamily {
            v4: Some(IpAddr::from([172, 16, high, low])),
            v6: Some(ip(&format!("fd02::{n:x}"))),
        };
        let attrs = crate::vxlan::lease_attrs(&public, &macs, 1).unwrap();
        cluster.leases.insert(SubnetKey::new(key).unwrap(), attrs);
    }
    let addr = Addr::new(public(Family::V4, 1), 24);
    let mut sim = Sim::new(Kernel::with_uplink(name("eth0"), 1500, &[addr]));
    let uplink = sim.kernel.index(name("eth0")).unwrap();
    cluster.facts.uplink.index = uplink;

    let desired = cluster.plan().desired;
    assert_eq!(desired.routes.len(), 10_000);
    let changes = full_diff(&desired, &Observed::default());
    // of megabytes, which stay resident
    assert!(changes.len() > 40_000);
    assert_eq!(changes.capacity(), changes.len());
    assert!(sim.apply(&changes).iter().all(Result::is_ok));
    let observed = sim.observe(&full(&desired)).unwrap();
    assert_eq!(full_diff(&desired, &observed), []);
}
