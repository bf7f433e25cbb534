//! `bridge` with addresses: the cases of upstream's suite, each in every
//! version (CT-5..CT-8, CT-12, CT-13, CT-16, CT-17, CT-19, CT-23).

use netlink::link::{self, LinkInfo};
use netlink::{Dump, Socket, addr, route};
use serde_json::{Value, json};

use crate::bridge::bridge;
use crate::node::{Call, Node, VERSIONS, addresses, names, on_a_node, run};

/// All links of a namespace.
fn links(socket: &mut Socket) -> Vec<LinkInfo> {
    let all = link::list(socket, link::Filter::default());
    all.and_then(Dump::complete).unwrap()
}

/// The addresses of a link but the link-local one, as text.
fn on(socket: &mut Socket, link: &LinkInfo) -> Vec<String> {
    let all = addr::list(socket, None, Some(link.index));
    let all = all.and_then(Dump::complete).unwrap().into_iter();
    let all = all.map(|a| format!("{}/{}", a.ip, a.len));
    all.filter(|a| !a.starts_with("fe80")).collect()
}

fn mac(link: &LinkInfo) -> String {
    link.mac.unwrap().map(|b| format!("{b:02x}")).join(":")
}

/// The addresses of the pool of network `tn`.
fn reserved() -> usize {
    let files = names("/var/lib/cni/networks/tn");
    files.iter().filter(|f| f.parse::<std::net::IpAddr>().is_ok()).count()
}

/// Sets of ranges, one for each subnet.
fn ranges(subnets: &[&str]) -> Value {
    let sets = subnets.iter().map(|s| json!([{ "subnet": s }]));
    json!({ "type": "host-local", "ranges": sets.collect::<Vec<_>>() })
}

/// What is there after an ADD with addresses of `subnets`.
fn assert_attached(node: &Node, pod: &Call, result: &Value, subnets: &[&str]) {
    let version = pod.conf["cniVersion"].as_str().unwrap();
    let mut host = node.socket();
    let mut all = links(&mut host);
    all.sort_by_key(|link| link.kind.clone());
    let [lo, cni0, veth] = <[LinkInfo; 3]>::try_from(all).expect("three links");
    assert_eq!((&*lo.name, &*cni0.name), ("lo", "cni0"), "{version}");
    assert!(!cni0.bridge.as_ref().unwrap().vlan_filtering, "{version}");
    assert!(!veth.port.as_ref().unwrap().isolated, "{version}");
    assert_ne!(veth.mac, cni0.mac, "{version}");
    let mut inside = Socket::open_in(&pod.open()).unwrap();
    let eth0 = link::by_name(&mut inside, "eth0").unwrap();
    assert!(eth0.up, "{version}");
    let given = addresses(result);
    let mut is = on(&mut inside, &eth0);
    is.sort();
    let mut want = given.clone();
    want.sort();
    assert_eq!(is, want, "{version}");
    if version >= "0.3.0" {
        assert_eq!(given.len(), subnets.len(), "{version}");
        let said = result["interfaces"].as_array().unwrap();
        for (said, (link, sandbox)) in said.iter().zip([
            (&cni0, Value::Null),
            (&veth, Value::Null),
            (&eth0, pod.netns.clone().into()),
        ]) {
            assert_eq!(said["name"], link.name, "{version}");
            assert_eq!(said["mac"], mac(link), "{version}");
            assert_eq!(said["sandbox"], sandbox, "{version}");
        }
        assert_eq!(said.len(), 3, "{version}");
    }
    // the gateways, with the pod's prefix, and a default route to the first
    // of each family
    let gateways = on(&mut host, &cni0);
    assert_eq!(gateways.len(), subnets.len(), "{version}");
    for default in ["0.0.0.0/0", "::/0"] {
        let v6 = default.contains(':');
        let first = subnets.iter().find(|s| s.contains(':') == v6);
        let dst = default.parse().unwrap();
        let routes = route::exact(&mut inside, dst, route::TABLE_MAIN).unwrap();
        let Some(subnet) = first else {
            assert!(routes.is_empty(), "{version}: {routes:?}");
            continue;
        };
        let subnet: ipam::Subnet = subnet.parse().unwrap();
        assert_eq!(routes.len(), 1, "{version}: {routes:?}");
        assert_eq!(routes[0].gateway, Some(subnet.gateway()), "{version}");
        assert_eq!(routes[0].src, None, "{version}");
        let gateway = format!("{}/{}", subnet.gateway(), subnet.len());
        assert!(gateways.contains(&gateway), "{version}: {gateways:?}");
        assert!(pod.pings(&subnet.gateway().to_string()), "{version}");
    }
}

/// CT-5..CT-8, CT-12, CT-19: one node, one bridge, each version in turn.
fn life_cycles(subnets: &[&str], ipam: &Value, dns: &Value) {
    on_a_node(|node| {
        let members = json!({ "isDefaultGateway": true, "ipam": ipam });
        let mut bridges = Vec::new();
        for version in VERSIONS {
            let pod = bridge(node, "a", members.clone()).version(version);
            // nothing is there yet
            pod.del();
            let families =
                |v6| subnets.iter().filter(|s| s.contains(':') == v6).count();
            if version < "0.3.0" && families(false).max(families(true)) > 1 {
                let (_, msg) = pod.call("ADD").error();
                let want = format!(
                    "CNI version {version} does not support more than 1 \
                     address per family"
                );
                assert!(msg.contains(&want), "{msg}");
            } else {
                let result = pod.add();
                assert_attached(node, &pod, &result, subnets);
                let said = &result["dns"];
                for (key, value) in dns.as_object().unwrap() {
                    assert_eq!(said[key], *value, "{version}");
                }
                if version >= "0.4.0" {
                    let answer = pod.after(&result).call("CHECK");
                    assert!(answer.ok, "{version}: {answer:?}");
                }
                let cni0 = link::by_name(&mut node.socket(), "cni0").unwrap();
                bridges.push((cni0.index, cni0.mac));
            }
            pod.del();
            pod.del();
            assert_eq!((node.veths().len(), reserved()), (0, 0), "{version}");
            let mut inside = Socket::open_in(&pod.open()).unwrap();
            assert_eq!(links(&mut inside).len(), 1, "{version}");
            node.remove_netns("a");
        }
        bridges.dedup();
        assert_eq!(bridges.len(), 1, "one bridge, as it was: {bridges:?}");
    });
}

#[test]
fn one_subnet() {
    for subnet in ["10.1.2.0/24", "2001:db8::/64"] {
        life_cycles(&[subnet], &ranges(&[subnet]), &json!({}));
    }
}

#[test]
fn several_subnets() {
    for subnets in [
        &["192.168.0.0/24", "fd00::/64"][..],
        &["192.168.0.0/24", "fd00::/64", "2001:db8::/64"],
    ] {
        life_cycles(subnets, &ranges(subnets), &json!({}));
    }
}

/// In the old form, with a file for the resolver, and an explicit gateway.
#[test]
fn the_old_form_with_name_resolution() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nameserver 192.0.2.3\nsearch a b\n").unwrap();
    let ipam = json!({ "type": "host-local", "subnet": "10.1.2.0/24",
        "rangeStart": "10.1.2.9", "gateway": "10.1.2.1",
        "resolvConf": file.path().to_str().unwrap() });
    let dns = json!({ "nameservers": ["192.0.2.3"], "search": ["a", "b"] });
    life_cycles(&["10.1.2.0/24"], &ipam, &dns);
}

/// CT-13: an address that the bridge has already, in the gateway's way or
/// not. What does not overlap may stay beside it in IPv6.
#[test]
fn addresses_that_the_bridge_has() {
    let v4 = ("10.0.0.1/8", "10.1.0.0/16", "10.1.2.3");
    let over = ("2001:db8::1/48", "2001:db8:0:1::/64", "2001:db8:0:1::9");
    let beside = ("2001:db8:9::1/64", "2001:db8:0:1::/64", "2001:db8:0:1::9");
    for ((there, subnet, gateway), force, stays, comes) in [
        (v4, false, true, false),
        (over, false, true, false),
        (beside, false, true, true),
        (v4, true, false, true),
        (over, true, false, true),
        (beside, true, true, true),
    ] {
        on_a_node(|node| {
            run("ip", &["link", "add", "cni0", "type", "bridge"]);
            run("ip", &["address", "add", there, "dev", "cni0"]);
            for version in VERSIONS {
                let what = format!("{there} {subnet} {force} {version}");
                let ipam = json!({ "type": "host-local", "ranges":
                    [[{ "subnet": subnet, "gateway": gateway }]] });
                let members = json!({ "forceAddress": force, "ipam": ipam });
                let pod = bridge(node, "a", members).version(version);
                let answer = pod.call("ADD");
                assert_eq!(answer.ok, comes, "{what}: {answer:?}");
                if !comes {
                    let (_, msg) = answer.error();
                    let want = "\"cni0\" already has an IP address different";
                    assert!(msg.contains(want), "{msg}");
                }
                let mut socket = node.socket();
                let cni0 = link::by_name(&mut socket, "cni0").unwrap();
                let is = on(&mut socket, &cni0);
                assert_eq!(is.contains(&there.to_owned()), stays, "{what}");
                let (_, len) = subnet.split_once('/').unwrap();
                let gateway = format!("{gateway}/{len}");
                assert_eq!(is.contains(&gateway), comes, "{what}: {is:?}");
                pod.del();
                assert_eq!((node.veths().len(), reserved()), (0, 0), "{what}");
                node.remove_netns("a");
            }
        });
    }
}

/// CT-16: CNI_ARGS, over it the configuration's `args`, over it the runtime.
#[test]
fn whose_mac_counts() {
    on_a_node(|node| {
        let text = |last: u8| format!("02:00:00:00:00:{last:02x}");
        for version in VERSIONS {
            for last in 1..=3 {
                let mut pod =
                    bridge(node, "a", json!({})).version(version).env(
                        "CNI_ARGS",
                        &format!("IgnoreUnknown=1;MAC={}", text(1)),
                    );
                if last >= 2 {
                    pod =
                        pod.with("args", json!({ "cni": { "mac": text(2) } }));
                }
                if last >= 3 {
                    pod = pod.with("runtimeConfig", json!({ "mac": text(3) }));
                }
                let result = pod.add();
                let mut inside = Socket::open_in(&pod.open()).unwrap();
                let eth0 = link::by_name(&mut inside, "eth0").unwrap();
                assert_eq!(mac(&eth0), text(last), "{version}");
                if version >= "0.3.0" {
                    assert_eq!(result["interfaces"][2]["mac"], text(last));
                }
                pod.del();
                node.remove_netns("a");
            }
        }
    });
}

/// CT-17: after all else is made.
#[test]
fn a_late_failure_gives_addresses_back() {
    on_a_node(|node| {
        let mut ipam = ranges(&["10.9.0.0/24", "fd00:9::/64"]);
        let good = bridge(node, "good", json!({ "ipam": ipam }));
        good.add();
        assert_eq!(reserved(), 2);
        ipam["routes"] = json!([{ "dst": "10.7.0.0/16", "gw": "10.8.0.1" }]);
        for version in VERSIONS {
            let members = json!({ "ipam": ipam });
            let pod = bridge(node, "a", members).version(version);
            assert!(!pod.call("ADD").ok, "{version}");
            assert_eq!((reserved(), node.veths().len()), (2, 1), "{version}");
            node.remove_netns("a");
        }
    });
}

/// CT-23
#[test]
fn whether_ports_are_isolated() {
    on_a_node(|node| {
        for version in VERSIONS {
            for isolated in [true, false] {
                let members = json!({ "portIsolation": isolated });
                let pod = bridge(node, "a", members).version(version);
                pod.add();
                let name = node.veths().remove(0);
                let veth = link::by_name(&mut node.socket(), &name).unwrap();
                assert_eq!(veth.port.unwrap().isolated, isolated, "{version}");
                pod.del();
                node.remove_netns("a");
            }
        }
    });
}
