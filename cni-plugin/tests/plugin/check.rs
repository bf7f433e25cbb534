//! CHECK names what differs (BR-59..BR-61, S-62).

use std::fs;

use serde_json::json;

use crate::node::{Call, Node, Stack, on_a_node, run};

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

/// An attachment, and the call that checks it.
fn attached(node: &Node) -> Call {
    node.flanneld(Stack::Dual);
    let pod = node.pod("a");
    let result = pod.add();
    pod.after(&result)
}

#[test]
fn nothing_differs() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.pod(&format!("v{version}")).version(version);
            let result = pod.add();
            let answer = pod.after(&result).call("CHECK");
            assert!(answer.ok, "{answer:?}");
            assert_eq!((answer.stdout, answer.stderr), Default::default());
            // what other plugins of the chain add does not matter
            ip(&format!("-n v{version} route add 192.168.9.0/24 dev eth0"));
            assert!(pod.after(&result).call("CHECK").ok);
            let kept = format!("/var/lib/cni/flannel/v{version}");
            fs::remove_file(kept).unwrap();
            assert!(pod.after(&result).call("CHECK").ok, "kept file gone");
        }
    });
}

/// S-62: later plugins of the chain add interfaces of their own.
#[test]
fn addresses_of_other_interfaces_do_not_matter() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let mut result = pod.add();
        let add = |list: &mut serde_json::Value, item| {
            list.as_array_mut().unwrap().push(item);
        };
        add(
            &mut result["interfaces"],
            json!({ "name": "net1", "sandbox": pod.netns }),
        );
        let ip = json!({ "address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 3 });
        add(&mut result["ips"], ip);
        let answer = pod.after(&result).call("CHECK");
        assert!(answer.ok, "{answer:?}");
        // but one of its own that is not there does
        result["ips"][1]["interface"] = 2.into();
        assert_eq!(pod.after(&result).call("CHECK").error().0, 100);
    });
}

#[test]
fn each_difference_is_named() {
    for (change, text) in [
        ("-n a link set eth0 down", "interface eth0 is down"),
        ("-n a link del eth0", "interface eth0 is missing"),
        (
            "-n a address del 10.244.1.2/24 dev eth0",
            "eth0 lacks the address 10.244.1.2/24",
        ),
        (
            "-n a -6 route del fd00:244::/48",
            "lacks the route to fd00:244::/48 via fd00:244:0:1::1",
        ),
        ("-n a route del default", "lacks the route to 0.0.0.0/0"),
        (
            "-n a link set eth0 address 02:00:00:00:00:09",
            "eth0 has address 02:00:00:00:00:09, but prevResult says",
        ),
        ("link set VETH nomaster", "is not a port of bridge cni0"),
        (
            "link set VETH type bridge_slave hairpin off",
            "has hairpin mode off, but should have it on",
        ),
        (
            "link set VETH type bridge_slave isolated on",
            "has isolation on, but should have it off",
        ),
        ("link set VETH down", "is down"),
        ("link set cni0 down", "bridge cni0 is down"),
        (
            "address del 10.244.1.1/24 dev cni0",
            "cni0 lacks the gateway 10.244.1.1",
        ),
        ("link del cni0", "interface cni0 is missing"),
    ] {
        on_a_node(|node| {
            let check = attached(node);
            ip(&change.replace("VETH", &node.veths()[0]));
            let (code, msg) = check.call("CHECK").error();
            assert_eq!(code, 100, "{change}: {msg}");
            assert!(msg.contains(text), "{change}: {msg}");
        });
    }
}

/// One look is enough to see all that has happened.
#[test]
fn all_differences_are_named() {
    on_a_node(|node| {
        let check = attached(node);
        let veth = node.veths().remove(0);
        ip("-n a address del 10.244.1.2/24 dev eth0");
        ip(&format!("link set {veth} type bridge_slave hairpin off"));
        ip("address del 10.244.1.1/24 dev cni0");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        fs::remove_file("/var/lib/cni/networks/cbr0/10.244.1.2").unwrap();
        let (code, msg) = check.call("CHECK").error();
        assert_eq!(code, 100);
        for text in [
            "10.244.1.2 is not reserved",
            "eth0 lacks the address 10.244.1.2/24",
            "lacks the route to 10.244.0.0/16",
            "has hairpin mode off",
            "lacks the gateway 10.244.1.1",
            "ip_forward is off",
        ] {
            assert!(msg.contains(text), "{text}: {msg}");
        }
    });
}

/// The same of each plugin of a chain, both families among it.
#[test]
fn all_differences_in_a_chain() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let pod = node.pod("a");
        let result = pod.add();
        let ports = json!({ "portMappings": [
            { "hostPort": 8080, "containerPort": 80 },
        ] });
        let tuning = json!({ "net.ipv4.conf.eth0.arp_filter": "1" });
        let chain = [
            (
                "portmap",
                json!({ "backend": "iptables", "runtimeConfig": ports }),
            ),
            (
                "portmap",
                json!({ "backend": "nftables", "runtimeConfig": ports }),
            ),
            ("firewall", json!({ "backend": "iptables" })),
            (
                "bandwidth",
                json!({ "ingressRate": 80_000, "ingressBurst": 80_000,
                    "egressRate": 80_000, "egressBurst": 80_000 }),
            ),
            ("tuning", json!({ "txQLen": 555, "sysctl": tuning })),
            ("sbr", json!({})),
        ];
        let calls = chain.map(|(kind, members)| {
            let mut call = pod.chained(kind, &result);
            for (key, value) in members.as_object().unwrap() {
                call = call.with(key, value.clone());
            }
            call.add();
            assert!(call.call("CHECK").ok, "{kind}");
            call
        });
        // what the later ones have changed is no difference (S-62)
        let answer = pod.after(&result).call("CHECK");
        assert!(answer.ok, "{answer:?}");
        for table in ["nat", "filter"] {
            for tool in ["iptables", "ip6tables"] {
                run(tool, &["-t", table, "-F"]);
            }
        }
        run("nft", &["flush", "ruleset"]);
        let veth = node.veths().remove(0);
        run("tc", &["qdisc", "del", "dev", &veth, "root"]);
        run("tc", &["qdisc", "del", "dev", &veth, "ingress"]);
        ip("-n a link set eth0 txqueuelen 5");
        for line in ["rule flush", "-6 rule flush"] {
            ip(&format!("-n a {line}"));
        }
        pod.open()
            .enter(|| {
                fs::write("/proc/sys/net/ipv4/conf/eth0/arp_filter", "0")
                    .unwrap();
            })
            .unwrap();
        let differences: [&[&str]; 6] = [
            &["IPv4 table nat", "IPv6 table nat", "-A PREROUTING"],
            &["table ip cni_hostport", "table ip6 cni_hostport", "dnat to"],
            &["IPv4 table filter", "IPv6 table filter"],
            &[" has no limit", " has no ingress"],
            &["arp_filter is \"0\"", "txQLen is 5"],
            &["no rule from 10.244.1.2/32", "no rule from fd00:244:"],
        ];
        for (call, texts) in calls.iter().zip(differences) {
            let (code, msg) = call.call("CHECK").error();
            assert_eq!(code, 100, "{}: {msg}", call.name);
            for text in texts {
                assert!(msg.contains(text), "{}: {text}: {msg}", call.name);
            }
        }
        for call in calls.iter().rev() {
            call.del();
        }
        pod.del();
        node.assert_clean();
    });
}

#[test]
fn forwarding() {
    on_a_node(|node| {
        let check = attached(node);
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let (code, msg) = check.call("CHECK").error();
        assert_eq!((code, msg.as_str()), (100, "net/ipv4/ip_forward is off"));
    });
}

#[test]
fn the_reservation() {
    on_a_node(|node| {
        let check = attached(node);
        let pool = "/var/lib/cni/networks/cbr0";
        fs::remove_file(format!("{pool}/10.244.1.2")).unwrap();
        let (code, msg) = check.call("CHECK").error();
        assert_eq!(code, 100);
        assert!(msg.contains("10.244.1.2 is not reserved"), "{msg}");
        fs::remove_file(format!("{pool}/fd00:244:0:1::2")).unwrap();
        let (_, msg) = check.call("CHECK").error();
        assert_eq!(
            msg,
            "host-local: Failed to find address added by container a"
        );
    });
}

#[test]
fn needs_the_previous_result() {
    on_a_node(|node| {
        let check = attached(node);
        let mut without = check.clone();
        without.conf.as_object_mut().unwrap().remove("prevResult");
        let (code, msg) = without.call("CHECK").error();
        assert_eq!((code, msg.as_str()), (7, "Required prevResult missing"));
        let (code, msg) = check.version("0.3.1").call("CHECK").error();
        assert_eq!(code, 1);
        assert_eq!(msg, "config version does not allow CHECK");
    });
}
