use ipam::lease::BackendData;

use super::*;
use crate::testing::{
    Cluster, DUAL, V4, V6, ip, mac, name, net, public, spell, subnet,
};

fn vxlan_conf(families: &str, options: &str) -> String {
    families
        .replace(r#""Type":"vxlan""#, &format!(r#""Type":"vxlan",{options}"#))
}

fn data(text: &str) -> BackendData {
    text.parse().unwrap()
}

// === the objects, spelled out (B-20..B-31) ===

#[test]
fn ipv4_objects() {
    let plan = Cluster::new(V4).with_peers(&[2]).plan();
    let id = nexthop::id(name("flannel.1"), ip("10.5.2.0"));
    let expected = [
        "link flannel.1: vxlan 1 from 192.168.64.1 port 8472 over link 2, \
         mac 02:00:00:00:00:01, mtu 1450, up"
            .to_owned(),
        "address 10.5.1.0/32 on flannel.1: ".to_owned(),
        "forwarding entry 02:00:00:00:00:02 on flannel.1: 192.168.64.2"
            .to_owned(),
        "neighbour 10.5.2.0 on flannel.1: 02:00:00:00:00:02".to_owned(),
        format!("nexthop {id}: via 10.5.2.0 on flannel.1 onlink"),
        format!(
            "route 10.5.2.0/24: via 10.5.2.0 on flannel.1 onlink nexthop {id}"
        ),
    ];
    assert_eq!(spell(&plan), expected);
    assert_eq!(plan.mtu, 1450);
    assert_eq!((plan.skipped, plan.warnings), (vec![], vec![]));
    assert_eq!(plan.desired.networks, [net("10.5.0.0/16")]);
}

#[test]
fn ipv6_objects_are_the_same_on_their_own_device() {
    let plan = Cluster::new(V6).with_peers(&[2]).plan();
    let id = nexthop::id(name("flannel-v6.1"), ip("fd00:5:0:2::"));
    let expected = [
        "link flannel-v6.1: vxlan 1 from fd01::1 port 8472 over link 2, \
         mac 02:00:00:00:01:01, mtu 1430, up"
            .to_owned(),
        "address fd00:5:0:1::/128 on flannel-v6.1: ".to_owned(),
        "forwarding entry 02:00:00:00:01:02 on flannel-v6.1: fd01::2"
            .to_owned(),
        "neighbour fd00:5:0:2:: on flannel-v6.1: 02:00:00:00:01:02".to_owned(),
        format!("nexthop {id}: via fd00:5:0:2:: on flannel-v6.1 onlink"),
        format!(
            "route fd00:5:0:2::/64: via fd00:5:0:2:: on flannel-v6.1 onlink \
             nexthop {id}"
        ),
    ];
    assert_eq!(spell(&plan), expected);
    assert_eq!(plan.mtu, 1430);
}

#[test]
fn dual_stack_is_both() {
    let dual = Cluster::new(DUAL).with_peers(&[2, 3]).plan();
    let mut each = spell(&Cluster::new(V4).with_peers(&[2, 3]).plan());
    each.extend(spell(&Cluster::new(V6).with_peers(&[2, 3]).plan()));
    each.sort();
    let mut both = spell(&dual);
    both.sort();
    assert_eq!(both, each);
    // W-20: what fits both
    assert_eq!(dual.mtu, 1430);
}

#[test]
fn options_n_50_to_n_54() {
    let options =
        r#""VNI":4096,"Port":4789,"MTU":1400,"GBP":true,"Learning":true"#;
    let plan = Cluster::new(&vxlan_conf(DUAL, options)).plan();
    assert_eq!(
        spell(&plan),
        [
            "link flannel.4096: vxlan 4096 from 192.168.64.1 port 4789 over \
             link 2 learning gbp, mac 02:00:00:00:00:01, mtu 1350, up",
            "link flannel-v6.4096: vxlan 4096 from fd01::1 port 4789 over \
             link 2 learning gbp, mac 02:00:00:00:01:01, mtu 1330, up",
            "address 10.5.1.0/32 on flannel.4096: ",
            "address fd00:5:0:1::/128 on flannel-v6.4096: ",
        ]
    );
    assert_eq!(plan.mtu, 1330);
}

#[test]
fn an_old_kernel_gets_plain_routes() {
    let mut cluster = Cluster::new(DUAL).with_peers(&[2]);
    cluster.facts.caps.nexthop_objects = false;
    let desired = cluster.plan().desired;
    assert_eq!(desired.nexthops.len(), 0);
    for route in desired.routes.values() {
        assert!(route.nexthop.is_none() && route.onlink);
    }
}

#[test]
fn direct_routing_n_55_b_31() {
    let conf = vxlan_conf(DUAL, r#""DirectRouting":true"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2, 3]);
    // peer 2 in IPv4 only: the two families are judged apart
    cluster.facts.direct.insert(public(Family::V4, 2));
    let direct = cluster.plan().desired;
    let route = direct.routes[&RouteKey::new(subnet(Family::V4, 2))];
    let expected = Route {
        gateway: Some(public(Family::V4, 2)),
        link: None,
        onlink: false,
        nexthop: None,
        ours: true,
    };
    assert_eq!(route, expected);
    assert_eq!(direct.routes.len(), 4);
    assert_eq!(direct.neighs.len(), 3);
    assert_eq!(direct.fdb.len(), 3);
    assert_eq!(direct.nexthops.len(), 3);

    // not without the option
    let mut without = Cluster::new(DUAL).with_peers(&[2, 3]);
    without.facts.direct = cluster.facts.direct;
    assert_eq!(without.plan().desired.neighs.len(), 4);
}

#[test]
fn a_direct_peer_needs_no_mac() {
    let conf = vxlan_conf(V4, r#""DirectRouting":true"#);
    let mut cluster = Cluster::new(&conf);
    let (key, mut attrs) = cluster.lease(2);
    attrs.data = PerFamily::default();
    cluster.leases.insert(key, attrs);
    cluster.facts.direct.insert(public(Family::V4, 2));
    assert_eq!(cluster.plan().desired.routes.len(), 1);
}

#[test]
fn a_subnet_outside_the_network_is_tunnelled() {
    let conf = vxlan_conf(V4, r#""DirectRouting":true"#);
    let mut cluster = Cluster::new(&conf);
    let (_, attrs) = cluster.lease(2);
    cluster.leases.insert("10.9.2.0-24".parse().unwrap(), attrs);
    cluster.facts.direct.insert(public(Family::V4, 2));
    assert_eq!(cluster.plan().desired.neighs.len(), 1);
}

#[test]
fn nexthop_ids_that_collide_are_given_once() {
    // found by search: two gateways on flannel.1 with one id
    let (a, b) = collision();
    let mut cluster = Cluster::new(V4);
    for (n, base) in [(2, a), (3, b)] {
        let (_, attrs) = cluster.lease(n);
        let key = SubnetKey::parse(&format!("{base}-24")).unwrap();
        cluster.leases.insert(key, attrs);
    }
    let desired = cluster.plan().desired;
    assert_eq!(desired.routes.len(), 2);
    let ids: Vec<_> = desired.routes.values().map(|r| r.nexthop).collect();
    assert_eq!(ids.iter().flatten().count(), 1, "{ids:?}");
    assert!(ids[0].is_some(), "the first in order has it");
    assert_eq!(desired.nexthops.len(), 1);
}

fn collision() -> (IpAddr, IpAddr) {
    let link = name("flannel.1");
    let mut seen = BTreeMap::new();
    for n in 0..=u16::MAX {
        for first in [11, 12, 13] {
            let [high, low] = n.to_be_bytes();
            let gateway = IpAddr::from([first, high, low, 0]);
            if let Some(other) =
                seen.insert(nexthop::id(link, gateway), gateway)
            {
                return (other.min(gateway), other.max(gateway));
            }
        }
    }
    panic!("no collision among 196,608 gateways")
}

// === MTU (B-7, W-20) ===

#[test]
fn an_mtu_above_the_interface_s_is_cut_and_said() {
    let plan = Cluster::new(&vxlan_conf(DUAL, r#""MTU":9000"#)).plan();
    assert_eq!(plan.mtu, 1430);
    assert_eq!(plan.desired.links[&name("flannel.1")].mtu, 1450);
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    for part in ["9000", "1500", "eth0"] {
        assert!(warning.contains(part), "{warning}");
    }
}

#[test]
fn too_little_mtu_is_refused() {
    let mut cluster = Cluster::new(DUAL);
    cluster.facts.uplink.mtu = 1349;
    let error = cluster.try_plan().unwrap_err();
    let least = 1280;
    let expected =
        PlanError::Mtu { family: Family::V6, outer: 1349, inner: 1279, least };
    assert_eq!(error, expected);
    cluster.facts.uplink.mtu = 1350;
    assert_eq!(cluster.plan().mtu, 1280);
}

/// W-20: upstream works with it, so it is no reason to stop.
#[test]
fn an_option_that_is_short_for_ipv6_is_used_as_far_as_it_goes() {
    let mut cluster = Cluster::new(&vxlan_conf(DUAL, r#""MTU":1340"#));
    let plan = cluster.plan();
    assert_eq!(plan.mtu, 1280);
    assert_eq!(plan.desired.links[&name("flannel.1")].mtu, 1290);
    assert_eq!(plan.desired.links[&name("flannel-v6.1")].mtu, 1280);
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    for part in ["option 1340 leaves 1270", "up to 1350 bytes"] {
        assert!(warning.contains(part), "{warning}");
    }
    cluster.facts.uplink.mtu = 1349;
    assert!(cluster.try_plan().is_err());
}

// === what is missing on this node ===

#[test]
fn an_enabled_family_needs_subnet_address_and_mac_b_26() {
    let mut cluster = Cluster::new(DUAL);
    cluster.facts.macs.v6 = None;
    assert_eq!(cluster.try_plan(), Err(PlanError::NoMac(Family::V6)));
    cluster.node.public.v6 = None;
    let error = PlanError::NoPublicAddress(Family::V6);
    assert_eq!(cluster.try_plan(), Err(error));
    let v4_only = Cluster::new(V4).node.key;
    cluster.node.key = v4_only;
    let error = PlanError::NoSubnet(Family::V6, v4_only);
    assert_eq!(cluster.try_plan(), Err(error));
}

#[test]
fn a_vni_too_long_for_the_device_name_is_refused() {
    assert_eq!(device_name(Family::V4, 10_000), Ok(name("flannel.10000")));
    let error = device_name(Family::V6, 10_000).unwrap_err();
    assert!(error.to_string().contains("flannel-v6.10000"), "{error}");
}

// === peers that are left out ===

/// The reasons for which peer 2, changed by `change`, is left out.
fn reasons(
    conf: &str,
    change: impl FnOnce(&mut LeaseAttrs),
) -> Vec<(Option<Family>, SkipReason)> {
    let mut cluster = Cluster::new(conf).with_peers(&[3]);
    let (key, mut attrs) = cluster.lease(2);
    change(&mut attrs);
    cluster.leases.insert(key, attrs);
    let plan = cluster.plan();
    let others = Cluster::new(conf).with_peers(&[3]).plan().desired;
    for (key, route) in &others.routes {
        assert_eq!(plan.desired.routes.get(key), Some(route));
    }
    let skipped = plan.skipped.into_iter();
    skipped
        .map(|skipped| {
            assert_eq!(skipped.key, key);
            assert!(!skipped.to_string().contains("  "), "{skipped}");
            (skipped.family, skipped.reason)
        })
        .collect()
}

#[test]
fn other_backends_b_3() {
    for other in ["host-gw", ""] {
        let got = reasons(V4, |attrs| attrs.backend_type = other.into());
        assert_eq!(got, [(None, SkipReason::OtherBackend(other.to_owned()))]);
    }
}

#[test]
fn windows_peers_and_unusable_data_b_32_x_1() {
    for (text, expected) in [
        (r#"{"VNI":4096,"VtepMAC":""}"#, SkipReason::NoMac),
        (r#"{"VNI":1}"#, SkipReason::NoMac),
        (r#"{"VtepMAC":null}"#, SkipReason::NoMac),
    ] {
        let got = reasons(V4, |attrs| attrs.data.v4 = Some(data(text)));
        assert_eq!(got, [(Some(Family::V4), expected)], "{text}");
    }
    for text in [
        r#"{"VtepMAC":"no"}"#,
        r#"{"VtepMAC":"01:00:5e:00:00:01"}"#,
        r#"{"VtepMAC":"00:00:00:00:00:00"}"#,
        r#"{"VtepMAC":7}"#,
        r#""text""#,
        "[]",
    ] {
        let got = reasons(V4, |attrs| attrs.data.v4 = Some(data(text)));
        let [(Some(Family::V4), SkipReason::BadData(what))] = &got[..] else {
            panic!("{text}: {got:?}")
        };
        assert!(!what.is_empty());
    }
    let got = reasons(V4, |attrs| attrs.data.v4 = None);
    assert_eq!(got, [(Some(Family::V4), SkipReason::NoMac)]);
}

#[test]
fn one_family_s_trouble_stays_there() {
    let got = reasons(DUAL, |attrs| attrs.public.v6 = None);
    assert_eq!(got, [(Some(Family::V6), SkipReason::NoPublicAddress)]);
    let got = reasons(DUAL, |attrs| attrs.data.v4 = None);
    assert_eq!(got, [(Some(Family::V4), SkipReason::NoMac)]);
}

#[test]
fn peers_of_one_family_are_no_trouble() {
    let mut cluster = Cluster::new(DUAL);
    let (key, attrs) = Cluster::new(V4).lease(2);
    cluster.leases.insert(key, attrs);
    let plan = cluster.plan();
    assert_eq!(plan.skipped, []);
    assert_eq!(plan.desired.routes.len(), 1);
}

#[test]
fn a_peer_with_our_own_address_p23() {
    let own = public(Family::V4, 1);
    let got = reasons(V4, |attrs| attrs.public.v4 = Some(own));
    assert_eq!(got, [(Some(Family::V4), SkipReason::OwnAddress(own))]);
    // behind NAT the interface has another one than is published
    let mut cluster = Cluster::new(V4).with_peers(&[2]);
    cluster.node.public.v4 = Some(ip("203.0.113.1"));
    cluster.facts.uplink.addrs = [public(Family::V4, 2)].into();
    let skipped = cluster.plan().skipped;
    let reason = SkipReason::OwnAddress(public(Family::V4, 2));
    assert_eq!(skipped.first().map(|s| &s.reason), Some(&reason));
}

#[test]
fn a_peer_with_our_own_mac() {
    let own = mac(Family::V4, 1);
    let text = format!(r#"{{"VtepMAC":"{own}"}}"#);
    let got = reasons(V4, |attrs| attrs.data.v4 = Some(data(&text)));
    assert_eq!(got, [(Some(Family::V4), SkipReason::OwnMac(own))]);
}

#[test]
fn the_own_lease_is_no_peer_and_its_subnet_nobody_else_s() {
    let mut cluster = Cluster::new(DUAL).with_peers(&[1]);
    assert_eq!(cluster.plan().skipped, []);
    // the node's lease from before IPv6 was switched on, still in the store
    let (key, _) = Cluster::new(V4).lease(1);
    let (_, attrs) = Cluster::new(V4).lease(9);
    cluster.leases.insert(key, attrs);
    let plan = cluster.plan();
    let [skipped] = &plan.skipped[..] else { panic!("{:?}", plan.skipped) };
    let own = SkipReason::OwnSubnet(subnet(Family::V4, 1));
    assert_eq!(skipped.reason, own);
    assert_eq!(plan.desired.routes.len(), 0);
}

/// Whoever can write one key in the store cannot cut the nodes off.
#[test]
fn a_subnet_that_no_pods_can_have_is_left_out() {
    // the reasons, and how many routes there are besides peer 2's
    let plan = |key: &str| {
        let mut cluster = Cluster::new(DUAL).with_peers(&[2]);
        let (_, attrs) = cluster.lease(3);
        cluster.leases.insert(key.parse().unwrap(), attrs);
        let plan = cluster.plan();
        let reasons = plan.skipped.into_iter().map(|s| s.reason);
        (reasons.collect::<Vec<_>>(), plan.desired.routes.len() - 2)
    };
    for key in ["224.0.0.0-8", "127.1.0.0-16", "0.0.0.0-8"] {
        assert_eq!(plan(key), (vec![SkipReason::NotUnicast], 0), "{key}");
    }
    for (key, node) in [
        // the underlay, a part of it, and half of the Internet with it
        ("192.168.64.0-24", public(Family::V4, 1)),
        ("192.168.64.2-31", public(Family::V4, 2)),
        ("128.0.0.0-1", public(Family::V4, 1)),
    ] {
        assert_eq!(plan(key), (vec![SkipReason::NodeInside(node)], 0), "{key}");
    }
    let v6_only = vec![SkipReason::NodeInside(public(Family::V6, 1))];
    assert_eq!(plan("10.9.9.0-24&fd01::-64"), (v6_only, 1));
}

#[test]
fn two_peers_with_one_mac_do_not_take_turns() {
    let mut cluster = Cluster::new(V4).with_peers(&[2, 3]);
    let (key, attrs) = cluster.lease(4);
    let (first, like) = cluster.lease(2);
    let same_mac = LeaseAttrs { data: like.data, ..attrs };
    cluster.leases.insert(key, same_mac);
    let plan = cluster.plan();
    let reason = SkipReason::MacTaken(mac(Family::V4, 2), first);
    assert_eq!(
        plan.skipped,
        [Skipped { key, family: Some(Family::V4), reason }]
    );
    assert_eq!(plan.desired.routes.len(), 2);
}

#[test]
fn one_node_with_two_leases_is_fine() {
    let mut cluster = Cluster::new(V4).with_peers(&[2]);
    let (_, attrs) = cluster.lease(2);
    cluster.leases.insert("10.5.77.0-24".parse().unwrap(), attrs);
    let plan = cluster.plan();
    assert_eq!((plan.skipped, plan.warnings), (vec![], vec![]));
    assert_eq!(plan.desired.routes.len(), 2);
    assert_eq!(plan.desired.fdb.len(), 1);
}

#[test]
fn two_nodes_with_one_address_are_both_named_p23() {
    let mut cluster = Cluster::new(V4).with_peers(&[2, 3]);
    let (key, mut attrs) = cluster.lease(4);
    attrs.public = PerFamily::one(Family::V4, public(Family::V4, 2));
    cluster.leases.insert(key, attrs);
    let plan = cluster.plan();
    assert_eq!(plan.skipped, []);
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    for part in ["10.5.2.0-24", "10.5.4.0-24", "192.168.64.2"] {
        assert!(warning.contains(part), "{warning}");
    }
}

#[test]
fn of_two_leases_for_one_subnet_the_one_with_our_families_wins() {
    let mut cluster = Cluster::new(DUAL).with_peers(&[2]);
    let (old, _) = Cluster::new(V4).lease(2);
    let (_, elsewhere) = Cluster::new(V4).lease(9);
    cluster.leases.insert(old, elsewhere);
    let plan = cluster.plan();
    let (new, _) = cluster.lease(2);
    let reason = SkipReason::SubnetTaken(new);
    let family = Some(Family::V4);
    assert_eq!(plan.skipped, [Skipped { key: old, family, reason }]);
    let (link, mac) = (name("flannel.1"), mac(Family::V4, 2));
    assert!(plan.desired.fdb.contains_key(&FdbKey { link, mac }));
}

#[test]
fn two_leases_for_one_subnet_one_of_them_direct() {
    let conf = vxlan_conf(DUAL, r#""DirectRouting":true"#);
    let mut cluster = Cluster::new(&conf).with_peers(&[2]);
    let (old, _) = Cluster::new(V4).lease(2);
    let (_, elsewhere) = Cluster::new(V4).lease(9);
    cluster.leases.insert(old, elsewhere);
    for n in [2, 9] {
        cluster.facts.direct = [public(Family::V4, n)].into();
        let plan = cluster.plan();
        let (new, _) = cluster.lease(2);
        let [skipped] = &plan.skipped[..] else { panic!("{:?}", plan.skipped) };
        assert_eq!(skipped.key, old);
        assert_eq!(skipped.reason, SkipReason::SubnetTaken(new));
    }
}

// === lease data (B-27, E-10..E-12, E-17) ===

#[test]
fn lease_values_are_byte_exact() {
    let mac4 = Mac::parse("c6:d2:32:6f:8f:44").unwrap();
    let attrs = lease_attrs(
        &PerFamily::one(Family::V4, ip("192.168.64.3")),
        &PerFamily::one(Family::V4, mac4),
        1,
    );
    assert_eq!(
        attrs.unwrap().encode(),
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#
    );
    let public =
        PerFamily { v4: Some(ip("192.168.1.10")), v6: Some(ip("fd00::10")) };
    let macs = PerFamily {
        v4: Mac::parse("aa:bb:cc:dd:ee:ff"),
        v6: Mac::parse("aa:bb:cc:dd:ee:fe"),
    };
    assert_eq!(
        lease_attrs(&public, &macs, 1).unwrap().encode(),
        r#"{"PublicIP":"192.168.1.10","PublicIPv6":"fd00::10","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},"BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}}"#
    );
    let public = PerFamily { v4: None, ..public };
    let macs = PerFamily { v4: None, ..macs };
    assert_eq!(
        lease_attrs(&public, &macs, 1).unwrap().encode(),
        r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::10","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}}"#
    );
}

#[test]
fn peers_data_is_read_as_go_reads_it() {
    let mac = Mac([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
    for text in [
        r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#,
        r#"{"vtepmac":"C6-D2-32-6F-8F-44"}"#,
        r#"{"VTEPMAC":"c6d2.326f.8f44","other":[1]}"#,
        r#"{"VtepMAC":"","vtepMac":"c6:d2:32:6f:8f:44","VNI":7}"#,
    ] {
        assert_eq!(mac_of(&data(text)), Ok(mac), "{text}");
    }
}

// === keys of a peer ===

#[test]
fn a_peer_is_eight_objects_through_the_tunnel_and_two_without() {
    for direct in [false, true] {
        let conf = vxlan_conf(DUAL, r#""DirectRouting":true"#);
        let mut cluster = Cluster::new(&conf);
        let alone = cluster.plan().desired;
        let (key, attrs) = cluster.lease(2);
        cluster.leases.insert(key, attrs);
        if direct {
            cluster.facts.direct = Family::ALL.map(|f| public(f, 2)).into();
        }
        let changed = alone.changed_keys(&cluster.plan().desired);
        assert_eq!(changed.len(), if direct { 2 } else { 8 });
    }
}
