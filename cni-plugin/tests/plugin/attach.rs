//! ADD and DEL: what is there after each, and that traffic passes (CT-43).

use netlink::{NetNs, link};
use serde_json::{Value, json};

use crate::node::{Stack, VERSIONS, addresses, on_a_node, ping, plain, run};

const GATEWAYS: [&str; 2] = ["10.244.1.1", "fd00:244:0:1::1"];

/// Two pods of a node whose bridge does not exist yet; each is pinged the
/// moment its ADD has returned, once.
fn traffic(stack: Stack) {
    on_a_node(|node| {
        node.flanneld(stack);
        let (a, b) = (node.pod("a"), node.pod("b"));
        let of_stack = |address: &str| match stack {
            Stack::V4 => !address.contains(':'),
            Stack::V6 => address.contains(':'),
            Stack::Dual => true,
        };
        let first = a.add();
        for gateway in GATEWAYS.into_iter().filter(|g| of_stack(g)) {
            assert!(a.pings(gateway), "the first pod to {gateway}");
        }
        for address in plain(&first) {
            assert!(ping(&address), "node to first pod's {address}");
        }
        let second = b.add();
        for address in plain(&first) {
            assert!(b.pings(&address), "second pod to {address}");
        }
        for address in plain(&second) {
            assert!(a.pings(&address), "first pod to {address}");
        }
        let count = if stack == Stack::Dual { 2 } else { 1 };
        assert_eq!(plain(&first).len(), count);
        assert!(plain(&first).iter().all(|a| of_stack(a)), "{first}");
        assert_eq!(node.reserved().len(), 2 * count);
        assert_eq!(node.scratch(), ["a", "b"]);
        for pod in [&a, &b] {
            pod.del();
            pod.del();
        }
        node.assert_clean();
    });
}

#[test]
fn ipv4_traffic_when_add_returns() {
    traffic(Stack::V4);
}

#[test]
fn ipv6_traffic_when_add_returns() {
    traffic(Stack::V6);
}

#[test]
fn dual_stack_traffic_when_add_returns() {
    traffic(Stack::Dual);
}

/// From another host, through the node: to ask for the pod's neighbour entry
/// the node needs a link-local address on a bridge that was made just now.
#[test]
fn forwarded_traffic_when_the_first_add_returns() {
    forwarded(false);
}

/// The same with a bridge that somebody made before.
#[test]
fn forwarded_traffic_over_a_bridge_that_was_found() {
    forwarded(true);
}

fn forwarded(found: bool) {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        node.netns("host");
        if found {
            run("ip", &["link", "add", "cni0", "type", "bridge"]);
        }
        for line in [
            "link add up0 type veth peer name eth0 netns host",
            "address add 10.99.0.1/24 dev up0",
            "address add fd99::1/64 dev up0 nodad",
            "link set up0 up",
            "-n host address add 10.99.0.2/24 dev eth0",
            "-n host address add fd99::2/64 dev eth0 nodad",
            "-n host link set eth0 up",
            "-n host route add default via 10.99.0.1",
            "-n host route add default via fd99::1",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        let host = NetNs::open("/run/netns/host").unwrap();
        // its own neighbours are known, forwarding is on
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            netlink::sysctl::write_if_different(key, "1").unwrap();
        }
        let pings = |target: &str| host.enter(|| ping(target)).unwrap();
        let ready = (0..30).any(|_| pings("10.99.0.1") && pings("fd99::1"));
        assert!(ready, "the other host reaches the node");
        for address in plain(&node.pod("a").add()) {
            assert!(pings(&address), "{address}");
        }
    });
}

/// Q-70, CT-7: what kube-flannel's configuration makes.
#[test]
fn the_objects() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let pod = node.pod("some-container");
        let result = pod.add();
        let mut host = node.socket();
        let cni0 = link::by_name(&mut host, "cni0").unwrap();
        let veth = link::by_name(&mut host, &node.veths()[0]).unwrap();
        let mut inside = netlink::Socket::open_in(&pod.open()).unwrap();
        let eth0 = link::by_name(&mut inside, "eth0").unwrap();
        assert_eq!(cni0.kind.as_deref(), Some("bridge"));
        assert!(!cni0.bridge.unwrap().vlan_filtering);
        assert!(cni0.up && veth.up && eth0.up);
        assert_eq!((cni0.mtu, veth.mtu, eth0.mtu), (1450, 1450, 1450));
        assert_eq!(veth.master, Some(cni0.index));
        assert_ne!(veth.mac, cni0.mac);
        let port = veth.port.unwrap();
        assert!(port.hairpin && !port.isolated);
        // whatever the number of processors
        let inside_too = ["-n", "some-container"];
        for at in [&inside_too[..0], &inside_too] {
            let link = if at.is_empty() { &veth.name } else { "eth0" };
            let words = [at, &["-d", "link", "show", link]].concat();
            let shown = run("ip", &words);
            let one = "numtxqueues 1 numrxqueues 1 ";
            assert!(shown.contains(one), "{shown}");
        }
        assert_eq!(
            veth.alias.as_deref(),
            Some("flannel:cbr0:some-container:eth0")
        );
        let mac = |link: &netlink::link::LinkInfo| {
            let mac = link.mac.unwrap().map(|b| format!("{b:02x}"));
            mac.join(":")
        };
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    { "name": "cni0", "mac": mac(&cni0) },
                    { "name": veth.name, "mac": mac(&veth) },
                    {
                        "name": "eth0",
                        "mac": mac(&eth0),
                        "sandbox": "/run/netns/some-container",
                    },
                ],
                "ips": [
                    {
                        "address": "10.244.1.2/24",
                        "gateway": "10.244.1.1",
                        "interface": 2,
                    },
                    {
                        "address": "fd00:244:0:1::2/64",
                        "gateway": "fd00:244:0:1::1",
                        "interface": 2,
                    },
                ],
                "routes": [
                    { "dst": "10.244.0.0/16" },
                    { "dst": "fd00:244::/48" },
                    { "dst": "0.0.0.0/0", "gw": "10.244.1.1" },
                    { "dst": "::/0", "gw": "fd00:244:0:1::1" },
                ],
            })
        );
        assert_eq!(
            std::fs::read("/var/lib/cni/networks/cbr0/10.244.1.2").unwrap(),
            b"some-container\r\neth0"
        );
        assert_eq!(
            std::fs::read_to_string("/var/lib/cni/flannel/some-container")
                .unwrap(),
            r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:0:1::/64"}]],"routes":[{"dst":"10.244.0.0/16"},{"dst":"fd00:244::/48"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
        );
        pod.del();
        node.assert_clean();
        // the bridge is the node's (BR-48)
        assert_eq!(link::by_name(&mut host, "cni0").unwrap().mac, cni0.mac);
    });
}

#[test]
fn forwarding_is_switched_on_for_the_families_there_are() {
    let read = |key: &str| netlink::sysctl::read(key).unwrap();
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        node.pod("a").add();
        assert_eq!(read("net/ipv4/ip_forward"), "1");
        assert_eq!(read("net/ipv6/conf/all/forwarding"), "0");
        node.flanneld(Stack::Dual);
        node.pod("b").add();
        assert_eq!(read("net/ipv6/conf/all/forwarding"), "1");
    });
}

#[test]
fn every_version_in_its_own_form() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for version in VERSIONS {
            let pod = node.pod(&format!("v{version}")).version(version);
            let result = pod.add();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(addresses(&result).len(), 2, "{result}");
            let old = version < "0.3.0";
            assert_eq!(result["ip4"].is_object(), old);
            assert_eq!(result["interfaces"].is_array(), !old);
            let numbered = !old && version < "1.0.0";
            assert_eq!(result["ips"][0]["version"] == "4", numbered);
            assert_eq!(result["dns"].is_object(), version < "1.0.0");
            pod.del();
        }
        node.assert_clean();
    });
}

/// S-15
#[test]
fn a_configuration_without_version_is_0_1_0() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut pod = node.pod("a");
        pod.conf.as_object_mut().unwrap().remove("cniVersion");
        let result = pod.add();
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "10.244.1.2/24");
        pod.del();
        node.assert_clean();
    });
}

/// W-41: two interfaces of one container, in one network and in two.
#[test]
fn several_attachments_of_one_container() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let eth0 = node.pod("c");
        let mut net1 = eth0.clone();
        net1.ifname = "net1".into();
        let mut net2 = eth0.clone().with("name", "other".into());
        net2.ifname = "net2".into();
        // networks of one node's subnet need pools of their own
        net2.conf["ipam"] = json!({ "dataDir": "/var/lib/other" });
        for call in [&eth0, &net1] {
            call.add();
        }
        assert_eq!(plain(&net2.add()), ["10.244.1.2"]);
        assert_eq!(node.veths().len(), 3);
        for call in [&eth0, &net1, &net2] {
            call.del();
        }
        node.assert_clean();
        let other = crate::node::names("/var/lib/other/other");
        assert!(!other.contains(&"10.244.1.2".to_owned()), "{other:?}");
    });
}

/// With hairpin mode a pod reaches itself by way of its port.
#[test]
fn hairpin_follows_the_configuration() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        for (id, on) in [("a", true), ("b", false)] {
            let pod = node.pod(id).delegate("hairpinMode", on.into());
            let before = node.veths();
            pod.add();
            let mut veths = node.veths();
            veths.retain(|v| !before.contains(v));
            let veth = link::by_name(&mut node.socket(), &veths[0]).unwrap();
            assert_eq!(veth.port.unwrap().hairpin, on);
        }
    });
}

/// S-32: keys in any case, unknown ones ignored, `null` as nothing.
#[test]
fn keys_as_go_reads_them() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut pod = node.pod("a");
        pod.conf = json!({
            "NAME": "cbr0",
            "CNIVersion": "0.4.0",
            "Type": "flannel",
            "Delegate": { "ISDEFAULTGATEWAY": true, "unknown": [1] },
            "dataDir": null,
            "more": { "x": 1 },
        });
        let result = pod.add();
        assert_eq!(result["cniVersion"], "0.4.0");
        let default = |r: &Value| r["dst"] == "0.0.0.0/0";
        assert!(result["routes"].as_array().unwrap().iter().any(default));
        pod.del();
        node.assert_clean();
    });
}
