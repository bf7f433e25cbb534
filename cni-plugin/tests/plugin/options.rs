//! Options of the delegate and of the runtime.

use std::fs;

use netlink::link::{self, LinkInfo};
use netlink::{Socket, route};
use serde_json::json;

use crate::node::{Call, Stack, on_a_node, plain, run};

fn eth0(pod: &Call) -> (Socket, LinkInfo) {
    let mut socket = Socket::open_in(&pod.open()).unwrap();
    let link = link::by_name(&mut socket, "eth0").unwrap();
    (socket, link)
}

/// CT-16
#[test]
fn the_pods_mac() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let runtime = json!({ "mac": "02:00:00:00:00:03" });
        for (pod, last) in [
            (node.pod("a").env("CNI_ARGS", "MAC=02:00:00:00:00:01"), 1),
            (
                node.pod("b")
                    .env("CNI_ARGS", "MAC=02:00:00:00:00:01")
                    .with("runtimeConfig", runtime),
                3,
            ),
        ] {
            let result = pod.add();
            let mac = [2, 0, 0, 0, 0, last];
            assert_eq!(eth0(&pod).1.mac, Some(mac));
            let said = format!("02:00:00:00:00:0{last}");
            assert_eq!(result["interfaces"][2]["mac"], said);
        }
    });
}

/// HL-6, HL-7
#[test]
fn requested_addresses() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let args = node.pod("a").env("CNI_ARGS", "IP=10.244.1.77");
        assert_eq!(plain(&args.add())[0], "10.244.1.77");
        let ips = json!({ "ips": ["10.244.1.88/24", "fd00:244:0:1::88"] });
        let runtime = node.pod("b").with("runtimeConfig", ips);
        assert_eq!(plain(&runtime.add()), ["10.244.1.88", "fd00:244:0:1::88"]);
        let ranges = json!({ "ipRanges": [[{ "Subnet": "10.99.0.0/24" }]] });
        let more = node
            .pod("c")
            .delegate("isGateway", false.into())
            .delegate("isDefaultGateway", false.into())
            .with("runtimeConfig", ranges);
        let got = plain(&more.add());
        assert_eq!(got[0], "10.99.0.2");
        assert_eq!(got.len(), 3);
        let taken = node.pod("d").env("CNI_ARGS", "IP=10.244.1.77");
        let (code, msg) = taken.call("ADD").error();
        assert_eq!(code, 11);
        assert!(msg.contains("requested IP address 10.244.1.77 is not"));
        assert_eq!(node.veths().len(), 3);
    });
}

/// BR-35: with all that a route can have, `mtu` and `advmss` too (CW-7).
#[test]
fn routes() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let routes = json!([
            { "dst": "192.168.5.0/24", "mtu": 1400, "advmss": 1300, "priority": 7 },
            { "dst": "192.168.6.0/24", "table": 100 },
            { "dst": "fd00:5::/64", "gw": "fd00:244:0:1::9" },
            { "dst": "0.0.0.0/0" },
            { "dst": "0.0.0.0/0" },
        ]);
        let pod = node.pod("a").with("ipam", json!({ "routes": routes }));
        let result = pod.add();
        let (mut socket, _) = eth0(&pod);
        let mut exact = |dst: &str, table| {
            route::exact(&mut socket, dst.parse().unwrap(), table).unwrap()
        };
        let first = exact("192.168.5.0/24", route::TABLE_MAIN);
        assert_eq!(first.len(), 1);
        let first = &first[0];
        assert_eq!((first.mtu, first.advmss), (Some(1400), Some(1300)));
        assert_eq!(first.metric, 7);
        assert_eq!(first.gateway, Some("10.244.1.1".parse().unwrap()));
        assert_eq!(exact("192.168.6.0/24", 100).len(), 1);
        let six = exact("fd00:5::/64", route::TABLE_MAIN);
        assert_eq!(six[0].gateway, Some("fd00:244:0:1::9".parse().unwrap()));
        // the administrator's default route is the only one (BR-31)
        assert_eq!(exact("0.0.0.0/0", route::TABLE_MAIN).len(), 1);
        let said = result["routes"].as_array().unwrap();
        let defaults = said.iter().filter(|r| r["dst"] == "0.0.0.0/0");
        assert_eq!(defaults.count(), 2, "as given: {said:?}");
        assert_eq!(said[0]["mtu"], 1400);
        assert!(pod.pings("10.244.1.1"));
    });
}

/// What the pod's packets take only if something else leads there is no reason
/// to leave `isDefaultGateway` out.
#[test]
fn default_routes_beside_the_usual_one() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let routes = json!([
            { "dst": "0.0.0.0/0", "priority": 7 },
            { "dst": "::/0", "table": 100 },
        ]);
        let pod = node.pod("a").with("ipam", json!({ "routes": routes }));
        pod.add();
        let (mut socket, _) = eth0(&pod);
        let mut metrics = |dst: &str, table| -> Vec<u32> {
            let there =
                route::exact(&mut socket, dst.parse().unwrap(), table).unwrap();
            there.iter().map(|route| route.metric).collect()
        };
        assert_eq!(metrics("0.0.0.0/0", route::TABLE_MAIN), [0, 7]);
        assert_eq!(metrics("::/0", 100).len(), 1);
        assert_eq!(metrics("::/0", route::TABLE_MAIN).len(), 1);
    });
}

#[test]
fn port_flags_and_promiscuous_bridge() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node
            .pod("a")
            .delegate("bridge", "br7".into())
            .delegate("hairpinMode", false.into())
            .delegate("promiscMode", true.into())
            .delegate("portIsolation", true.into());
        pod.add();
        let mut socket = node.socket();
        let veth = link::by_name(&mut socket, &node.veths()[0]).unwrap();
        let port = veth.port.unwrap();
        assert!(port.isolated && !port.hairpin);
        // CT-14
        let shown = run("ip", &["-d", "link", "show", "br7"]);
        assert!(shown.contains("promiscuity 1"), "{shown}");
        let again = node.pod("b");
        let again = Call { conf: pod.conf, ..again };
        again.add();
        let shown = run("ip", &["-d", "link", "show", "br7"]);
        assert!(shown.contains("promiscuity 1"), "{shown}");
    });
}

/// HL-4, BR-18
#[test]
fn name_resolution() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        fs::write("/run/resolv", "nameserver 10.96.0.10\nsearch a b\n")
            .unwrap();
        let ipam = json!({ "resolvConf": "/run/resolv" });
        let pod = node.pod("a").with("ipam", ipam.clone());
        assert_eq!(
            pod.add()["dns"],
            json!({ "nameservers": ["10.96.0.10"], "search": ["a", "b"] })
        );
        let own = node
            .pod("b")
            .with("ipam", ipam)
            .delegate("dns", json!({ "search": [] }));
        assert!(own.add()["dns"].is_null());
    });
}

/// BR-14, BR-34: whoever wants duplicate address detection waits for it.
#[test]
fn duplicate_address_detection_on_request() {
    on_a_node(|node| {
        node.flanneld(Stack::V6);
        let pod = node.pod("a").delegate("enabledad", true.into());
        pod.add();
        let shown = run(
            "ip",
            &["-n", "a", "-6", "address", "show", "eth0", "scope", "global"],
        );
        assert!(!shown.contains("tentative"), "{shown}");
        assert!(!shown.contains("nodad"), "{shown}");
        assert!(pod.pings("fd00:244:0:1::1"));
    });
}

/// Nodes and pods that come up with IPv6 off.
#[test]
fn ipv6_is_switched_on_where_it_is_needed() {
    on_a_node(|node| {
        node.flanneld(Stack::V6);
        netlink::sysctl::write_if_different(
            "net/ipv6/conf/default/disable_ipv6",
            "1",
        )
        .unwrap();
        let pod = node.pod("a");
        pod.open()
            .enter(|| {
                for link in ["all", "default"] {
                    let key = format!("net/ipv6/conf/{link}/disable_ipv6");
                    netlink::sysctl::write_if_different(&key, "1").unwrap();
                }
            })
            .unwrap();
        pod.add();
        assert!(pod.pings("fd00:244:0:1::1"));
    });
}
