//! One pass makes what should be there, the second finds nothing to do; and
//! whatever a foreign hand does to it, the next pass mends.

use std::collections::BTreeSet;

use flanneld::pass::{self, Extent};
use flanneld::world::Kernel;
use ipam::Subnet;
use overlay::{Desired, Key, RouteKey, Scope};

use crate::support::{Rig, in_namespace, sh};

const V4: &str = r#"{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}"#;
const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true,
    "IPv6Network": "fd00:64::/48", "Backend": {"Type": "vxlan"}}"#;
pub(crate) const DUAL: &str = r#"{"Network": "10.0.0.0/8", "EnableIPv6": true,
    "IPv6Network": "fd00:64::/48", "Backend": {"Type": "vxlan", "GBP": true}}"#;

#[test]
fn one_pass_is_enough_in_every_family() {
    for conf in [V4, V6, DUAL] {
        in_namespace(move || {
            let mut rig = Rig::new(conf, 3);
            assert!(rig.full().changed.len() > 3 * 3);
            rig.assert_settled();
        });
    }
}

/// What iproute2 sees is what upstream's daemon makes (B-21, B-25, B-28), but
/// for the nexthop objects.
#[test]
fn the_kernel_shows_upstreams_objects() {
    in_namespace(|| {
        Rig::new(DUAL, 1).full();
        let link = sh("ip -d -o link show flannel.1");
        for part in [
            "vxlan id 1 local 192.168.77.1 dev under0",
            "dstport 8472 nolearning",
            "ttl auto",
            "ageing 300",
            "udpcsum",
            "noudp6zerocsumtx",
            "gbp",
            "mtu 1450",
            "02:00:00:00:04:01",
        ] {
            assert!(link.contains(part), "{part}: {link}");
        }
        let link = sh("ip -d -o link show flannel-v6.1");
        assert!(
            link.contains("local fd77::1 dev under0")
                && link.contains("mtu 1430"),
            "{link}"
        );
        assert!(
            sh("ip -o addr show dev flannel.1")
                .contains("inet 10.64.1.0/32 scope global")
        );
        assert!(
            sh("ip -o addr show dev flannel-v6.1")
                .contains("inet6 fd00:64:0:1::/128")
        );
        let route = sh("ip route show 10.64.2.0/24");
        assert!(
            route.contains("via 10.64.2.0 dev flannel.1")
                && route.contains("onlink"),
            "{route}"
        );
        let route = sh("ip -6 route show fd00:64:0:2::/64");
        assert!(
            route.contains("via fd00:64:0:2:: dev flannel-v6.1"),
            "{route}"
        );
        let neigh = sh("ip neigh show dev flannel.1");
        assert!(
            neigh.contains("10.64.2.0 lladdr 02:04:00:00:00:02 PERMANENT"),
            "{neigh}"
        );
        let fdb = sh("bridge fdb show dev flannel-v6.1");
        assert!(
            fdb.contains("02:06:00:00:00:02 dst fd77:2::1 self permanent"),
            "{fdb}"
        );
    });
}

/// What somebody else does to a node with three peers.
pub(crate) const DAMAGE: &[&str] = &[
    "ip route del 10.64.2.0/24",
    "ip -6 route del fd00:64:0:2::/64",
    "ip route replace 10.64.2.0/24 via 192.168.77.9 dev under0 onlink",
    "ip nexthop flush",
    "ip neigh del 10.64.2.0 dev flannel.1",
    "ip neigh replace 10.64.2.0 lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent",
    "ip neigh replace 10.64.2.0 lladdr 02:04:00:00:00:02 dev flannel.1 nud stale",
    "bridge fdb del 02:04:00:00:00:02 dev flannel.1",
    "bridge fdb replace 02:04:00:00:00:02 dev flannel.1 dst 192.168.9.9 self permanent",
    "bridge fdb replace 02:04:00:00:00:02 dev flannel.1 dst 192.168.0.2 port 4789 vni 99 self permanent",
    "bridge fdb replace 02:04:00:00:00:02 dev flannel.1 dst 192.168.0.2 via under0 self permanent",
    "bridge fdb add 02:99:00:00:00:02 dev flannel.1 dst 192.168.9.9 self permanent",
    "ip addr del 10.64.1.0/32 dev flannel.1",
    "ip addr add 10.99.0.1/16 dev flannel.1",
    "ip addr add 10.77.0.1 peer 10.77.0.2/32 dev flannel.1",
    "ip -6 addr add fd55::5/64 dev flannel-v6.1",
    "ip -6 addr add fd55::5 peer fd55::6/128 dev flannel-v6.1",
    "ip link set flannel.1 down",
    "ip link set flannel-v6.1 down",
    "ip link set flannel.1 mtu 1300",
    "ip link set flannel.1 address 02:11:11:11:11:11",
    "ip link del flannel.1",
    "ip link del flannel-v6.1",
    "ip link set flannel.1 type vxlan learning",
    "ip -6 addr flush dev flannel-v6.1",
];

#[test]
fn whatever_a_foreign_hand_does_is_mended() {
    for damage in DAMAGE {
        in_namespace(move || {
            let mut rig = Rig::new(DUAL, 3);
            rig.full();
            let before = snapshot();
            sh(damage);
            assert!(!rig.full().changed.is_empty(), "{damage}: not noticed");
            assert_eq!(snapshot(), before, "{damage}: not mended");
            rig.assert_settled();
        });
    }
}

/// Everything iproute2 shows of the overlay.
pub(crate) fn snapshot() -> Vec<String> {
    let mut lines = Vec::new();
    for line in [
        "ip -d -o link show type vxlan",
        "ip -o addr show",
        "ip route",
        "ip -6 route",
        "ip neigh show nud permanent",
        "ip -6 neigh show nud permanent",
        "bridge fdb show",
    ] {
        lines.extend(
            sh(line)
                .lines()
                .filter(|line| {
                    line.contains("flannel") && !line.contains("fe80")
                })
                // An index is no part of what traffic sees.
                .map(|line| {
                    line.split_once(": ").map_or(line, |(_, rest)| rest)
                })
                .map(|line| {
                    line.split_whitespace()
                        .filter(|w| *w != "linkdown")
                        .collect::<Vec<_>>()
                        .join(" ")
                }),
        );
    }
    lines.sort();
    lines
}

#[test]
fn what_is_not_ours_is_left_alone() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2);
        rig.full();
        sh("ip addr add 172.16.0.1/32 dev flannel.1");
        sh("ip -6 addr add fd99::5/64 dev flannel.1 nodad");
        sh("ip route add 172.20.0.0/16 via 192.168.77.50 dev under0");
        sh("ip route add 10.200.0.0/24 via 192.168.77.50 dev under0");
        sh("ip nexthop add id 7 via 192.168.77.50 dev under0");
        assert_eq!(rig.full().changed.len(), 0);
        assert!(
            sh("ip addr show dev flannel.1").contains("172.16.0.1/32"),
            "B-5"
        );
        assert!(
            sh("ip -6 addr show dev flannel.1").contains("fd99::5/64"),
            "no tunnel over IPv6"
        );
        assert!(sh("ip route").contains("10.200.0.0/24 via 192.168.77.50"));
        rig.assert_settled();
    });
}

/// One for a type of service or for some sources has the key of ours, and is
/// neither taken for it nor written over.
#[test]
fn routes_for_some_packets_stand_beside_ours() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2);
        rig.full();
        sh("ip route add 10.64.2.0/24 tos 0x10 via 192.168.77.50");
        sh("ip -6 route add fd00:64:0:2::/64 from fd00:64:0:99::/64 \
            via fd77::50 dev under0");
        assert_eq!(rig.full().changed.len(), 0);
        sh("ip route del 10.64.2.0/24 tos 0");
        sh("ip -6 route del fd00:64:0:2::/64 dev flannel-v6.1");
        assert_eq!(rig.full().changed.len(), 2);
        assert_eq!(rig.full().changed.len(), 0);
        let routes = sh("ip route") + &sh("ip -6 route");
        assert!(routes.contains("tos 0x10"), "{routes}");
        assert!(routes.contains("from fd00:64:0:99::/64"), "{routes}");
        // while that is there, the kernel finds no other source a way: what a
        // look-up does not show is found in the table by the second pass
        let desired = rig.desired();
        let dst = "fd00:64:0:2::/64".parse().unwrap();
        let keys = [Key::Route(RouteKey::new(dst))].into();
        let scope = Scope::Keys(desired.closure(&keys));
        let mut refused = || {
            let kernel = &mut rig.kernel;
            let report = pass::run(kernel, &desired, &scope, Extent::Whole);
            report.unwrap().failed.len()
        };
        assert_eq!([refused(), refused()], [1, 0]);
        sh("ip -6 route del fd00:64:0:2::/64 from fd00:64:0:99::/64");
        rig.assert_settled();
    });
}

/// This node's bridge still has the subnet that is peer 2's now: its pods
/// keep their network.
#[test]
fn a_route_that_the_kernel_made_is_not_overwritten() {
    in_namespace(|| {
        let mut rig = Rig::new(V4, 2);
        sh("ip link add cni0 type bridge");
        sh("ip addr add 10.64.2.1/24 dev cni0");
        sh("ip link set cni0 up");
        let desired = rig.desired();
        let scope = Scope::full(&desired, []);
        let report =
            pass::run(&mut rig.kernel, &desired, &scope, Extent::Whole)
                .unwrap();
        let [(change, error)] = &report.failed[..] else {
            panic!("{:?}", report.failed)
        };
        assert!(change.to_string().contains("route 10.64.2.0/24"), "{change}");
        assert!(error.to_string().contains("is not overwritten"), "{error}");
        let routes = sh("ip route");
        assert!(routes.contains("10.64.2.0/24 dev cni0"), "{routes}");
        assert!(routes.contains("10.64.3.0/24 nhid"), "{routes}");
        sh("ip link del cni0");
        assert_eq!(rig.full().changed.len(), 1);
        rig.assert_settled();
    });
}

/// Routes are then read as the id of their nexthop object and nothing else.
#[test]
fn a_kernel_without_nexthop_compatibility_is_understood() {
    in_namespace(|| {
        sh("sysctl -qw net.ipv4.nexthop_compat_mode=0");
        let mut rig = Rig::new(DUAL, 3);
        rig.full();
        rig.assert_settled();
        sh("ip nexthop add id 9 via 192.168.77.9 dev under0");
        sh("ip route replace 10.64.2.0/24 nhid 9");
        assert_eq!(rig.full().changed.len(), 1);
        rig.assert_settled();
        rig.leases.clear();
        rig.full();
        assert!(!sh("ip route").contains("10.64."));
        rig.assert_settled();
    });
}

#[test]
fn a_device_of_another_kind_is_replaced() {
    in_namespace(|| {
        let mut rig = Rig::new(V4, 2);
        sh("ip link add flannel.1 type bridge");
        rig.full();
        assert!(sh("ip -d link show flannel.1").contains("vxlan id 1"));
        rig.assert_settled();
    });
}

/// The right kind, VNI and addresses, but it takes destinations from packets.
#[test]
fn an_external_vxlan_device_is_replaced() {
    in_namespace(|| {
        let mut rig = Rig::new(V4, 2);
        sh("ip link add flannel.1 type vxlan external dstport 8472");
        rig.full();
        assert!(!sh("ip -d link show flannel.1").contains("external"));
        rig.assert_settled();
    });
}

#[test]
fn a_scoped_pass_adds_changes_and_removes_a_peer() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2);
        rig.full();
        let without = (rig.desired(), snapshot());
        rig.add_peer(9);
        let with = rig.desired();
        let scope = Scope::Keys(without.0.changed_keys(&with));
        // Forwarding entry, neighbour, nexthop, route; in both families.
        assert_eq!(rig.pass(&with, &scope).changed.len(), 8);
        rig.assert_settled();

        let key = rig.key(9);
        let moved = rig.leases.get_mut(&key).expect("peer 9");
        moved.public.v4 = "192.168.200.9".parse().ok();
        let after = rig.desired();
        let scope = Scope::Keys(with.changed_keys(&after));
        assert_eq!(
            rig.pass(&after, &scope).changed.len(),
            1,
            "only the forwarding entry"
        );
        rig.assert_settled();

        rig.leases.remove(&key);
        let scope = Scope::Keys(after.changed_keys(&without.0));
        assert_eq!(rig.pass(&without.0, &scope).changed.len(), 8);
        assert_eq!(snapshot(), without.1);
        rig.assert_settled();
    });
}

/// Two thousand peers: windows, dumps of many datagrams, and back to nothing.
#[test]
fn many_peers_come_and_go() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2000);
        let before = rig.kernel.socket().received();
        assert_eq!(rig.full().changed.len(), 2 * (2000 * 4 + 2));
        // One short answer to each window, besides what the kernel held.
        let cost = rig.kernel.socket().received() - before;
        assert!(cost < 32 * 1024, "{cost}");
        assert_eq!(rig.full().changed.len(), 0);
        let before = rig.desired();
        rig.leases.clear();
        let after = rig.desired();
        let scope = Scope::Keys(before.changed_keys(&after));
        assert_eq!(rig.pass(&after, &scope).changed.len(), 2 * 2000 * 4);
        assert_eq!(rig.full().changed.len(), 0);
        assert_eq!(sh("ip nexthop"), "");
    });
}

/// A single repair among thousands of peers reads no table.
#[test]
fn a_single_repair_reads_single_objects() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2000);
        rig.full();
        let desired = rig.desired();
        let before = rig.kernel.socket().received();
        rig.full();
        let full = rig.kernel.socket().received() - before;
        for (damage, key) in [
            ("ip route del 10.64.2.0/24", "route 10.64.2.0/24"),
            ("ip -6 route del fd00:64:0:2::/64", "route fd00:64:0:2::/64"),
            (
                "ip route replace 10.64.2.0/24 via 192.168.77.9 dev under0",
                "route 10.64.2.0/24",
            ),
            (
                "ip neigh del 10.64.2.0 dev flannel.1",
                "neighbour 10.64.2.0 on flannel.1",
            ),
            (
                "bridge fdb del 02:04:00:00:00:02 dev flannel.1",
                "forwarding entry 02:04:00:00:00:02 on flannel.1",
            ),
            ("ip link set flannel.1 mtu 1300", "link flannel.1"),
        ] {
            sh(damage);
            let all = Desired::default().changed_keys(&desired);
            let one = all.into_iter().filter(|k| k.to_string() == key);
            let one: BTreeSet<_> = one.collect();
            // As a notification asks: a route with its nexthop object.
            let keys = if key.starts_with("route") {
                desired.closure(&one)
            } else {
                one
            };
            let scope = Scope::Keys(keys);
            let before = rig.kernel.socket().received();
            assert_eq!(rig.pass(&desired, &scope).changed.len(), 1, "{damage}");
            let cost = rig.kernel.socket().received() - before;
            assert!(cost < 10_000 && cost * 50 < full, "{damage}: {cost}");
        }
        rig.assert_settled();
    });
}

/// In a chain of rules another table may come first, and a more specific
/// route hide the one that is looked for: then the table is read.
#[test]
fn a_route_that_a_look_up_does_not_meet_is_found() {
    in_namespace(|| {
        let mut rig = Rig::new(V4, 3);
        rig.full();
        sh("ip route add 10.64.2.0/32 via 192.168.77.9 dev under0");
        sh("ip route add 10.64.3.0/24 via 192.168.77.9 dev under0 table 99");
        sh("ip rule add to 10.64.3.0/24 lookup 99 priority 100");
        rig.assert_settled();
    });
}

#[test]
fn a_renamed_device_is_made_anew() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 3);
        rig.full();
        let before = snapshot();
        sh("ip link set flannel.1 name stolen");
        rig.full();
        let told = rig.kernel.take_renamed();
        let told: Vec<_> = told.iter().map(|r| r.text.as_str()).collect();
        let text =
            "flannel.1 was renamed stolen: it is deleted and created anew";
        assert_eq!(told, [text]);
        assert_eq!(rig.kernel.take_renamed(), []);
        assert_eq!(snapshot(), before);
        assert!(!sh("ip link").contains("stolen"));
        rig.assert_settled();
    });
}

#[test]
fn a_device_of_others_with_our_vni_is_named() {
    for from in ["local 192.168.77.1", ""] {
        in_namespace(move || {
            let mut rig = Rig::new(V4, 1);
            sh(&format!(
                "ip link add other type vxlan id 1 dstport 8472 {from} dev \
                 under0"
            ));
            let desired = rig.desired();
            let scope = Scope::full(&desired, []);
            let report =
                pass::run(&mut rig.kernel, &desired, &scope, Extent::Whole)
                    .unwrap();
            let first = report.failed.first().map(|(_, e)| e.to_string());
            assert!(
                first.as_ref().is_some_and(|t| t.contains("device other")),
                "{first:?}"
            );
            assert!(sh("ip link").contains("other"));
        });
    }
}

/// It would get all that the tunnel should take, and the node nothing.
#[test]
fn a_device_in_a_bridge_is_taken_out() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 3);
        rig.full();
        let before = snapshot();
        sh("ip link add br9 type bridge");
        sh("ip link set flannel.1 master br9");
        sh("ip link set flannel-v6.1 master br9");
        rig.full();
        assert_eq!(snapshot(), before);
        rig.assert_settled();
    });
}

/// B-24; and IPv6 can be off by default.
#[test]
fn settings_of_our_devices_are_put_right() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 2);
        sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        rig.full();
        rig.assert_settled();
        let desired = rig.desired();
        let scope = Scope::full(&desired, []);
        assert_eq!(Kernel::settle_settings(&desired, &scope), []);
        sh("sysctl -qw net/ipv6/conf/flannel-v6.1/disable_ipv6=1");
        sh("sysctl -qw net/ipv6/conf/flannel.1/accept_ra=2");
        let texts: Vec<_> = Kernel::settle_settings(&desired, &scope)
            .into_iter()
            .map(|repair| repair.text)
            .collect();
        assert_eq!(
            texts,
            [
                "sysctl net/ipv6/conf/flannel.1/accept_ra was 2: set 0",
                "sysctl net/ipv6/conf/flannel-v6.1/disable_ipv6 was 1: set 0",
            ]
        );
        rig.full();
        rig.assert_settled();
    });
}

/// C-130, W-36: whichever comes first, the bridge's own route is in use.
#[test]
fn a_blackhole_route_gives_way() {
    in_namespace(|| {
        let mut rig = Rig::new(DUAL, 1);
        let desired = rig.desired();
        let subnets: BTreeSet<Subnet> =
            rig.key(1).subnets().iter().map(|(_, subnet)| *subnet).collect();
        let full = Scope::full(&desired, []);
        let mut pass = |subnets: &BTreeSet<Subnet>, scope: &Scope| {
            rig.pass(&desired, scope);
            let found = rig.kernel.settle_blackholes(subnets, scope).unwrap();
            found.len()
        };
        // that of another daemon of this host, with another network (D-80)
        let other = "blackhole 172.30.1.0/24 proto 241 metric 1024";
        sh(&format!("ip route add {other}"));
        assert_eq!(pass(&subnets, &full), 2);
        assert_eq!(pass(&subnets, &full), 0);
        assert!(sh("ip route show type blackhole").contains("172.30.1.0/24"));
        sh(&format!("ip route del {other}"));
        sh("ip link add cni0 type bridge");
        sh("ip link set cni0 up");
        sh("ip addr add 10.64.1.1/24 dev cni0");
        sh("ip addr add fd00:64:0:1::1/64 dev cni0 nodad");
        assert!(sh("ip route get 10.64.1.9").contains("dev cni0"));
        assert!(sh("ip route get fd00:64:0:1::9").contains("dev cni0"));
        assert_eq!(pass(&subnets, &full), 0);

        sh("ip route del blackhole 10.64.1.0/24 metric 1024");
        let dst = "10.64.1.0/24".parse().unwrap();
        let key = Key::Route(RouteKey { dst, metric: 1024 });
        let one = Scope::Keys(BTreeSet::from([key]));
        assert_eq!(pass(&subnets, &one), 1);
        assert_eq!(pass(&subnets, &one), 0);

        // The lease is another now, or the flag is off.
        assert_eq!(pass(&BTreeSet::new(), &full), 2);
        assert_eq!(sh("ip route show type blackhole"), "");
        assert_eq!(sh("ip -6 route show type blackhole"), "");
    });
}

#[test]
fn a_pass_with_nothing_desired_in_scope_does_nothing() {
    in_namespace(|| {
        let mut rig = Rig::new(V4, 1);
        let scope = Scope::Keys(std::collections::BTreeSet::new());
        assert_eq!(rig.pass(&Desired::default(), &scope).changed.len(), 0);
        assert_eq!(sh("ip -o link show type vxlan"), "");
    });
}
