//! Against the real kernel, each test in a network namespace of its own.

use ipam::Family;

use super::super::{InterfaceOptions, direct, select};
use super::*;
use crate::testing::{self, sh};

fn in_namespace(test: impl FnOnce(&mut Socket) + Send + 'static) {
    testing::in_namespace(|| test(&mut Socket::open().unwrap()));
}

fn ip(arguments: &str) {
    sh(&format!("ip {arguments}"));
}

/// `eth0` and `eth1` with both families, up, each with its other end up too.
fn two_uplinks() {
    for (n, name) in [(1, "eth0"), (2, "eth1")] {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name}-far up"));
        ip(&format!("link set {name} up"));
        ip(&format!("addr add 192.0.{n}.2/24 dev {name}"));
        ip(&format!("addr add 2001:db8:{n}::2/64 dev {name} nodad"));
    }
}

fn both() -> PerFamily<()> {
    PerFamily { v4: Some(()), v6: Some(()) }
}

fn choose(
    socket: &mut Socket,
    options: &InterfaceOptions,
) -> Result<String, String> {
    let view = read(socket).map_err(|e| e.to_string())?;
    select(&view, options, both(), |to| path_to(socket, to))
        .map(|uplink| uplink.name.to_string())
        .map_err(|e| e.to_string())
}

/// Routing daemons may switch the kernel to tell the id of a nexthop object
/// and nothing else.
#[test]
fn a_default_route_by_nexthop_object_is_followed() {
    in_namespace(|socket| {
        two_uplinks();
        ip("nexthop add id 7 via 192.0.2.1 dev eth1");
        ip("nexthop add id 8 via 2001:db8:2::1 dev eth1");
        ip("route add default nhid 7");
        ip("-6 route add default nhid 8");
        for mode in ["1", "0"] {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", mode)
                .unwrap();
            let chosen = choose(socket, &InterfaceOptions::default());
            assert_eq!(chosen.unwrap(), "eth1", "compat mode {mode}");
            let far = path_to(socket, [203, 0, 113, 1].into()).unwrap();
            assert!(far.gateway && !far.multipath);
        }
    });
}

#[test]
fn links_addresses_and_default_routes_are_seen() {
    in_namespace(|socket| {
        two_uplinks();
        ip("addr add 192.0.1.3/24 dev eth0");
        ip("addr add 2001:db8:1::9/64 dev eth0 nodad preferred_lft 0");
        ip("route add default via 192.0.2.1 metric 200");
        ip("route add default via 192.0.1.1 metric 100");
        ip("-6 route add unreachable default metric 10");
        ip("-6 route add default via 2001:db8:1::1");
        let view = read(socket).unwrap();

        let a = view.links.iter().find(|l| l.name == "eth0").unwrap();
        assert!(a.up);
        assert_eq!(a.mtu, 1500);
        let fit = |family| -> Vec<String> {
            a.candidates(family).iter().map(ToString::to_string).collect()
        };
        assert_eq!(fit(Family::V4), ["192.0.1.2", "192.0.1.3"]);
        assert_eq!(fit(Family::V6)[0], "2001:db8:1::2");
        assert!(fit(Family::V6)[1].starts_with("fe80:"), "link-local last");
        assert_eq!(fit(Family::V6).len(), 2, "not the deprecated one");

        let hops = |family| -> Vec<Option<u32>> {
            let routes = view.defaults.get(family).unwrap();
            routes.iter().flat_map(|r| &r.hops).map(|h| h.link).collect()
        };
        let b = view.links.iter().find(|l| l.name == "eth1").unwrap();
        assert_eq!(hops(Family::V4), [Some(a.index), Some(b.index)]);
        assert_eq!(hops(Family::V6), [Some(a.index)]);
        assert!(b.has([192, 0, 2, 2].into()));
        assert_eq!(
            choose(socket, &InterfaceOptions::default()).unwrap(),
            "eth0"
        );
    });
}

#[test]
fn multipath_default_routes_lead_to_the_first_hop_that_works() {
    in_namespace(|socket| {
        two_uplinks();
        let options = InterfaceOptions::default();
        ip("route add default nexthop via 192.0.1.1 nexthop via 192.0.2.1");
        ip("-6 route add default nexthop via 2001:db8:1::1 \
            nexthop via 2001:db8:2::1");
        assert_eq!(choose(socket, &options).unwrap(), "eth0");

        // Without carrier its hop is marked, but stays; the kernel notices
        // up to a second later.
        ip("link set eth0-far down");
        let marked = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            choose(socket, &options).unwrap() == "eth1"
        });
        assert!(marked, "eth0 is still preferred");
    });
}

#[test]
fn no_default_route_is_said_with_what_there_is() {
    in_namespace(|socket| {
        two_uplinks();
        let error = choose(socket, &InterfaceOptions::default()).unwrap_err();
        assert!(error.contains("no IPv4 default route"), "{error}");
        assert!(
            error.contains("eth0 [192.0.1.2 2001:db8:1::2 fe80:"),
            "{error}"
        );
        assert!(error.contains("--iface"), "{error}");
    });
}

#[test]
fn reaching_an_address_leads_to_its_interface() {
    in_namespace(|socket| {
        two_uplinks();
        let reach = |text: &str| InterfaceOptions {
            can_reach: text.parse().ok(),
            ..InterfaceOptions::default()
        };
        assert_eq!(choose(socket, &reach("192.0.2.77")).unwrap(), "eth1");
        assert_eq!(choose(socket, &reach("2001:db8:2::7")).unwrap(), "eth1");
        assert_eq!(choose(socket, &reach("192.0.1.2")).unwrap(), "eth0", "own");
        let error = choose(socket, &reach("203.0.113.1")).unwrap_err();
        assert!(error.contains("--iface-can-reach=203.0.113.1"), "{error}");
        assert!(error.contains("ENETUNREACH"), "{error}");
    });
}

#[test]
fn peers_on_the_link_are_direct() {
    in_namespace(|socket| {
        two_uplinks();
        ip("route add default via 192.0.1.1");
        ip("route add 198.51.100.0/24 nexthop dev eth0 nexthop dev eth1");
        ip("route add 203.0.113.0/24 dev eth1");
        ip("route add unreachable 198.18.0.0/15");
        let all = [
            "192.0.1.7",
            "2001:db8:2::7",
            "203.0.113.7",
            "198.51.100.7",
            "198.18.0.7",
            "8.8.8.8",
            "192.0.1.2",
            "2001:db8:ffff::1",
        ]
        .map(|text| text.parse().unwrap());
        let found = direct(all, |to| path_if_any(socket, to)).unwrap();
        assert_eq!(found, all[..3].iter().copied().collect());
    });
}
