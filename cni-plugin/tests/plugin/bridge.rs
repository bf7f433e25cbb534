//! `bridge` under its own name, and what `flannel` never asks of it (CT-9,
//! CT-18..CT-22).

use netlink::link;
use serde_json::{Value, json};

use crate::node::{Call, Node, VERSIONS, addresses, on_a_node, plain, run};

/// A pod on `cni0` with addresses of both families.
pub(crate) fn bridge(node: &Node, id: &str, members: Value) -> Call {
    let mut conf = json!({
        "name": "tn",
        "cniVersion": "1.1.0",
        "type": "bridge",
        "isGateway": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd00:9::/64" }]],
        },
    });
    for (key, value) in members.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Call { name: "bridge", conf, ..node.pod(id) }
}

fn nat(save: &str) -> Vec<String> {
    let text = run(save, &["-t", "nat"]);
    let rules = text.lines().filter_map(|line| line.strip_prefix("-A "));
    rules.map(str::to_owned).collect()
}

fn assert_no_rules() {
    assert_eq!(nat("iptables-save"), [""; 0]);
    assert_eq!(nat("ip6tables-save"), [""; 0]);
    let nft = run("nft", &["list", "ruleset"]);
    assert!(!nft.contains("id: ") && !nft.contains("macspoofchk-"), "{nft}");
}

/// CT-7: one address for each family, a default route, and a clean end, in
/// every version.
#[test]
fn every_version() {
    on_a_node(|node| {
        let default = json!({ "isDefaultGateway": true });
        for version in VERSIONS {
            let pod = bridge(node, "a", default.clone()).version(version);
            let result = pod.add();
            assert_eq!(addresses(&result).len(), 2, "{version}");
            assert!(pod.pings("10.9.0.1") && pod.pings("fd00:9::1"));
            let routes = run("ip", &["-n", "a", "route"]);
            assert!(routes.contains("default via 10.9.0.1"), "{routes}");
            if version >= "0.4.0" {
                assert!(pod.after(&result).call("CHECK").ok, "{version}");
            }
            pod.del();
            pod.del();
            assert_eq!(node.veths(), [""; 0]);
            node.remove_netns("a");
        }
    });
}

/// CT-18, BR-50, BR-53
#[test]
fn masquerading() {
    on_a_node(|node| {
        for backend in ["iptables", "nftables"] {
            let members = json!({ "ipMasq": true, "ipMasqBackend": backend });
            let pod = bridge(node, "cC", members);
            let result = pod.add();
            let [ip, ip6] = <[String; 2]>::try_from(plain(&result)).unwrap();
            if backend == "iptables" {
                let chain = "CNI-6715ee60897c985fa309707b";
                let comment =
                    r#"-m comment --comment "name: \"tn\" id: \"cC\"""#;
                assert_eq!(
                    nat("iptables-save"),
                    [
                        format!("POSTROUTING -s {ip}/32 {comment} -j {chain}"),
                        format!("{chain} -d 10.9.0.0/24 {comment} -j ACCEPT"),
                        format!(
                            "{chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"
                        ),
                    ]
                );
                assert_eq!(
                    nat("ip6tables-save")[2],
                    format!("{chain} ! -d ff00::/8 {comment} -j MASQUERADE")
                );
            } else {
                let shown = run(
                    "nft",
                    &["list", "table", "inet", "cni_plugins_masquerade"],
                );
                let mark = "bcc05d298e683559-8fe52c6ad5fa1e30, net: tn, if: \
                            eth0, id: cC";
                for (family, ip, net) in
                    [("ip", &ip, "10.9.0.0/24"), ("ip6", &ip6, "fd00:9::/64")]
                {
                    let rule = format!(
                        "{family} saddr {ip} {family} daddr != {net} \
                         masquerade comment \"{mark}\""
                    );
                    assert_eq!(shown.matches(&rule).count(), 1, "{shown}");
                }
                assert!(shown.contains(
                    "\t\tip daddr 224.0.0.0/4 return\n\t\tip6 daddr ff00::/8 \
                     return\n\t\tgoto masq_checks\n"
                ));
            }
            assert!(pod.after(&result).call("CHECK").ok, "{backend}");
            // CW-2: the namespace is gone, and with it the addresses
            node.remove_netns("cC");
            let mut blind = pod.clone();
            blind.netns = String::new();
            blind.del();
            assert_no_rules();
            blind.del();
        }
        // the setting was another at ADD (BR-55)
        let members = json!({ "ipMasq": true, "ipMasqBackend": "nftables" });
        let pod = bridge(node, "d", members);
        pod.add();
        pod.with("ipMasqBackend", "iptables".into()).del();
        assert_no_rules();
    });
}

/// Packets that leave have the node's address, those to neighbours the pod's.
#[test]
fn masqueraded_packets() {
    on_a_node(|node| {
        for line in [
            "netns add far",
            "link add up0 type veth peer name up0 netns far",
            "address add 192.0.2.1/24 dev up0",
            "link set up0 up",
            "-n far address add 192.0.2.9/24 dev up0",
            "-n far link set up0 up",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        for backend in ["iptables", "nftables"] {
            let members = json!({ "ipMasq": true, "ipMasqBackend": backend,
                "isDefaultGateway": true });
            let pod = bridge(node, "a", members.clone());
            pod.add();
            // without a route back, only the node's address gets an answer
            assert!(pod.pings("192.0.2.9"), "{backend}");
            let plain = bridge(node, "b", json!({ "isDefaultGateway": true }));
            plain.add();
            assert!(plain.pings_in_vain("192.0.2.9"), "{backend}");
            for pod in [pod, plain] {
                pod.del();
                node.remove_netns(&pod.id);
            }
            assert_no_rules();
        }
    });
}

/// CT-20, BR-57
#[test]
fn no_spoofing() {
    on_a_node(|node| {
        let pod = bridge(node, "a", json!({ "macspoofchk": true }));
        let result = pod.add();
        let mac = result["interfaces"][2]["mac"].as_str().unwrap();
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        let want = format!(
            "table bridge nat {{
	chain PREROUTING {{
		type filter hook prerouting priority dstnat; policy accept;
		iifname \"{port}\" jump cni-br-iface-a-eth0 comment \"macspoofchk-a-eth0\"
	}}

	chain cni-br-iface-a-eth0 {{
		jump cni-br-iface-a-eth0-mac comment \"macspoofchk-a-eth0\"
	}}

	chain cni-br-iface-a-eth0-mac {{
		ether saddr {mac} return comment \"macspoofchk-a-eth0\"
		drop comment \"macspoofchk-a-eth0\"
	}}
}}
"
        );
        let shown = || run("nft", &["list", "table", "bridge", "nat"]);
        assert_eq!(shown(), want);
        assert!(pod.after(&result).call("CHECK").ok);
        assert!(pod.pings("10.9.0.1"));
        run(
            "ip",
            &["-n", "a", "link", "set", "eth0", "address", "02:00:00:00:00:99"],
        );
        assert!(pod.pings_in_vain("10.9.0.1"));
        let lacks = |rule: &str| {
            let (code, msg) = pod.after(&result).call("CHECK").error();
            assert_eq!(code, 100, "{msg}");
            assert!(msg.contains("chain cni-br-iface-a-eth0-mac"), "{msg}");
            assert!(msg.contains(rule), "{rule}: {msg}");
        };
        lacks("lacks ether saddr 02:00:00:00:00:99 return");
        run("ip", &["-n", "a", "link", "set", "eth0", "address", mac]);
        assert!(pod.after(&result).call("CHECK").ok);
        let inner = "cni-br-iface-a-eth0-mac";
        run("nft", &["flush", "chain", "bridge", "nat", inner]);
        let mine = ["ether", "saddr", mac, "return", "comment"];
        let add = ["add", "rule", "bridge", "nat", inner];
        run("nft", &[&add[..], &mine, &["macspoofchk-a-eth0"]].concat());
        lacks("lacks drop");
        let mut blind = pod;
        blind.netns = String::new();
        blind.del();
        assert!(!shown().contains("cni-br-iface"), "{}", shown());
        blind.del();
    });
}

/// S-63: what is to carry the rules of `ipMasq` is there, or STATUS says so.
#[test]
fn status_looks_for_what_masquerades() {
    on_a_node(|node| {
        for kind in ["bridge", "ptp"] {
            let call = bridge(node, kind, json!({ "ipMasq": true }));
            let call = Call { name: kind, ..call };
            let none = call.clone().env("PATH", "/nonexistent");
            let named = |call: &Call, backend: &str| {
                let call = call.clone().with("ipMasqBackend", backend.into());
                call.call("STATUS")
            };
            for answer in [
                call.call("STATUS"),
                none.call("STATUS"),
                named(&call, "iptables"),
                named(&none, "nftables"),
            ] {
                assert!(answer.ok, "{kind}: {answer:?}");
            }
            let (code, msg) = named(&none, "iptables").error();
            assert_eq!(code, 50, "{kind}");
            assert!(msg.contains("not in PATH; install iptables"), "{msg}");
        }
    });
}

/// CT-9, CT-21, CT-22
#[test]
fn without_addresses() {
    on_a_node(|node| {
        for version in VERSIONS {
            let mut pod = bridge(node, "a", json!({ "isGateway": false }));
            pod.conf.as_object_mut().unwrap().remove("ipam");
            let pod = pod.version(version);
            if version < "0.3.0" {
                let (code, msg) = pod.call("ADD").error();
                assert_eq!(code, 6, "{version}");
                assert!(
                    msg.starts_with("cannot convert: no valid IP"),
                    "{msg}"
                );
            } else {
                let result = pod.add();
                assert_eq!(addresses(&result), [""; 0]);
                assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
                if version >= "0.4.0" {
                    // CW-6
                    let answer = pod.after(&result).call("CHECK");
                    assert!(answer.ok, "{answer:?}");
                }
            }
            pod.del();
            assert_eq!(node.veths(), [""; 0]);
            node.remove_netns("a");
        }
        let down = json!({ "disableContainerInterface": true });
        let both = bridge(node, "b", down.clone());
        let (code, msg) = both.call("ADD").error();
        assert_eq!(code, 7);
        assert!(msg.starts_with("cannot use IPAM when Disable"), "{msg}");
        let mut pod = bridge(node, "c", down);
        pod.conf.as_object_mut().unwrap().remove("ipam");
        let result = pod.add();
        let mut inside = netlink::Socket::open_in(&pod.open()).unwrap();
        assert!(!link::by_name(&mut inside, "eth0").unwrap().up);
        assert!(pod.after(&result).call("CHECK").ok);
        pod.del();
    });
}

/// S-64: links, addresses and rules of pods that are gone.
#[test]
fn gc() {
    on_a_node(|node| {
        let (v4, v6) = node.own_networks();
        for backend in ["iptables", "nftables"] {
            let members = json!({ "ipMasq": true, "ipMasqBackend": backend,
                "macspoofchk": true, "ipam": { "type": "host-local", "ranges":
                    [[{ "subnet": format!("{v4}.0/24") }],
                     [{ "subnet": format!("{v6}::/64") }]] } });
            let calls = ["a", "b"].map(|id| bridge(node, id, members.clone()));
            let results = [calls[0].add(), calls[1].add()];
            let other = bridge(node, "o", members).with("name", "other".into());
            let of_other = other.with("bridge", "br1".into()).with(
                "ipam",
                json!({ "type": "host-local",
                    "ranges": [[{ "subnet": "10.8.0.0/24" }]] }),
            );
            let other_result = of_other.add();
            for id in ["b", "o"] {
                node.remove_netns(id);
            }
            let answer = calls[0].clone().valid(&[&calls[0]]).call("GC");
            assert!(answer.ok, "{answer:?}");
            let answer = calls[0].after(&results[0]).call("CHECK");
            assert!(answer.ok, "{backend}: {answer:?}");
            let all = [
                nat("iptables-save").join("\n"),
                run("nft", &["list", "ruleset"]),
            ]
            .concat();
            assert!(!all.contains("id: \\\"b\\\"") && !all.contains("id: b"));
            assert!(!all.contains("macspoofchk-b-"), "{all}");
            assert!(all.contains("macspoofchk-o-"), "another network's");
            assert_eq!(
                crate::node::names("/var/lib/cni/networks/tn")
                    .iter()
                    .filter(|n| n.parse::<std::net::IpAddr>().is_ok())
                    .count(),
                2
            );
            drop(other_result);
            for call in [&calls[0], &of_other] {
                call.del();
            }
            node.remove_netns("a");
            assert_no_rules();
        }
    });
}

/// CT-17: a failure at the end leaves nothing.
#[test]
fn a_failed_add_leaves_no_rules() {
    on_a_node(|node| {
        let members = json!({ "ipMasq": true, "macspoofchk": true,
            "ipMasqBackend": "iptables" });
        let pod = bridge(node, "a", members).env("PATH", "/nonexistent");
        let (code, msg) = pod.call("ADD").error();
        assert_eq!(code, 50);
        assert!(msg.contains("not in PATH"), "{msg}");
        assert_no_rules();
        assert_eq!(node.veths(), [""; 0]);
        let left = crate::node::names("/var/lib/cni/networks/tn");
        assert!(!left.iter().any(|n| n.starts_with("10.9.")), "{left:?}");
    });
}

/// One of the chains was removed by hand.
#[test]
fn half_of_no_spoofing() {
    on_a_node(|node| {
        let pod = bridge(node, "a", json!({ "macspoofchk": true }));
        pod.add();
        let own = "cni-br-iface-a-eth0";
        let inner = format!("{own}-mac");
        run("nft", &["flush", "chain", "bridge", "nat", own]);
        for verb in ["flush", "delete"] {
            run("nft", &[verb, "chain", "bridge", "nat", &inner]);
        }
        pod.del();
        assert_no_rules();
        let left = run("nft", &["list", "table", "bridge", "nat"]);
        assert!(!left.contains(own), "{left}");
    });
}

/// The configuration that asked for rules is not there any more.
#[test]
fn rules_of_another_days_configuration() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let kept = "/var/lib/cni/flannel/a";
        for verb in ["DEL", "GC"] {
            let pod = node.pod("a").version("1.1.0").valid(&[]);
            let asking = pod
                .clone()
                .delegate("ipMasq", true.into())
                .delegate("macspoofchk", true.into());
            asking.add();
            std::fs::remove_file(kept).unwrap();
            assert!(pod.call(verb).ok, "{verb}");
            assert_no_rules();
            node.assert_clean();
            node.remove_netns("a");
        }
    });
}

/// Upstream's chain is the container's: one interface goes, the other still
/// needs it.
#[test]
fn masquerading_for_the_other_interface() {
    on_a_node(|node| {
        let members = json!({ "ipMasq": true, "ipMasqBackend": "iptables" });
        let one = bridge(node, "a", members);
        let mut two = one.clone();
        two.ifname = "eth1".into();
        let result = one.add();
        two.add();
        two.del();
        assert!(one.after(&result).call("CHECK").ok);
        one.del();
        assert_no_rules();
    });
}
