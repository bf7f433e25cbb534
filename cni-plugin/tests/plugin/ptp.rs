//! `ptp` (CT-32).

use serde_json::{Value, json};

use crate::node::{
    Call, Node, VERSIONS, addresses, names, on_a_node, plain, run,
};

fn ptp(node: &Node, id: &str, members: Value) -> Call {
    let mut conf = json!({
        "name": "tn",
        "cniVersion": "1.1.0",
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd00:9::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        },
    });
    for (key, value) in members.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Call { name: "ptp", conf, ..node.pod(id) }
}

fn reserved() -> usize {
    let files = names("/var/lib/cni/networks/tn");
    files.iter().filter(|f| f.parse::<std::net::IpAddr>().is_ok()).count()
}

/// Both families in every version: routes as upstream sets them (PT-2).
#[test]
fn every_version() {
    on_a_node(|node| {
        for (n, version) in (2..).zip(VERSIONS) {
            let pod = ptp(node, "a", json!({})).version(version);
            let result = pod.add();
            let (ip, ip6) = (format!("10.9.0.{n}"), format!("fd00:9::{n}"));
            assert_eq!(plain(&result), [ip.clone(), ip6.clone()], "{version}");
            let veth = node.veths().remove(0);
            if version >= "0.3.0" {
                let links = result["interfaces"].as_array().unwrap();
                assert_eq!(links[0]["name"], veth);
                assert_eq!(links[1]["name"], "eth0");
                assert_eq!(links[1]["sandbox"], pod.netns);
                assert_eq!(result["ips"][1]["interface"], 1);
            }
            let routes = |args: &str| {
                let args: Vec<_> = args.split(' ').collect();
                run("ip", &args)
                    .lines()
                    .map(|line| line.trim().to_owned())
                    .filter(|line| !line.starts_with("fe80"))
                    .collect::<Vec<_>>()
            };
            assert_eq!(
                routes("-n a route"),
                [
                    "default via 10.9.0.1 dev eth0".to_owned(),
                    format!("10.9.0.0/24 via 10.9.0.1 dev eth0 src {ip}"),
                    format!("10.9.0.1 dev eth0 scope link src {ip}"),
                ]
            );
            let six = routes("-n a -6 route");
            for want in [
                format!("fd00:9::1 dev eth0 src {ip6} metric 1024 pref medium"),
                format!(
                    "fd00:9::/64 via fd00:9::1 dev eth0 src {ip6} metric 1024 \
                     pref medium"
                ),
                "default via fd00:9::1 dev eth0 metric 1024 pref medium".into(),
            ] {
                assert!(six.contains(&want), "{want}: {six:?}");
            }
            assert_eq!(six.len(), 3, "{six:?}");
            assert_eq!(
                routes("route"),
                [format!("{ip} dev {veth} scope host")],
                "the host's"
            );
            assert!(pod.pings("10.9.0.1") && pod.pings("fd00:9::1"));
            if version >= "0.4.0" {
                let later = pod.after(&result);
                let answer = later.call("CHECK");
                assert!(answer.ok, "{version}: {answer:?}");
                run("ip", &["route", "del", &ip]);
                assert_eq!(later.call("CHECK").error().0, 100, "{version}");
            }
            pod.del();
            pod.del();
            assert_eq!((node.veths().len(), reserved()), (0, 0), "{version}");
            node.remove_netns("a");
        }
    });
}

/// Routes by others of the pod's network, and a gateway that is in none, which
/// upstream has not.
#[test]
fn other_gateways() {
    on_a_node(|node| {
        let ranges = json!([
            [{ "subnet": "10.9.0.0/24", "gateway": "169.254.1.1" }],
            [{ "subnet": "fd00:9::/64" }],
        ]);
        let routes = json!([
            { "dst": "0.0.0.0/0" },
            { "dst": "10.50.0.0/16", "gw": "10.9.0.9" },
            { "dst": "fd00:50::/32", "gw": "fd00:9::9" },
        ]);
        let ipam = json!({
            "type": "host-local", "ranges": ranges, "routes": routes,
        });
        let pod = ptp(node, "a", json!({ "ipam": ipam }));
        let result = pod.add();
        let there = ["-4", "-6"].map(|f| run("ip", &["-n", "a", f, "route"]));
        for want in [
            "default via 169.254.1.1 dev eth0",
            "10.50.0.0/16 via 10.9.0.9 dev eth0",
            "10.9.0.0/24 via 169.254.1.1 dev eth0",
            "fd00:50::/32 via fd00:9::9 dev eth0",
            "fd00:9::/64 via fd00:9::1 dev eth0",
        ] {
            assert!(there.concat().contains(want), "{want}: {there:?}");
        }
        assert!(pod.pings("169.254.1.1") && pod.pings("fd00:9::1"));
        let answer = pod.after(&result).call("CHECK");
        assert!(answer.ok, "{answer:?}");
        pod.del();
        assert_eq!((node.veths().len(), reserved()), (0, 0));
    });
}

/// Pods reach each other through the node, also where it filters nothing.
#[test]
fn two_pods() {
    on_a_node(|node| {
        let (a, b) = (ptp(node, "a", json!({})), ptp(node, "b", json!({})));
        a.add();
        let of_b = plain(&b.add());
        assert!(a.pings(&of_b[0]) && a.pings(&of_b[1]));
        let mtu = ptp(node, "c", json!({ "mtu": 1400 }));
        mtu.add();
        let shown = run("ip", &["-n", "c", "link", "show", "eth0"]);
        assert!(shown.contains("mtu 1400"), "{shown}");
        // the second ADD of an attachment leaves the first as it is
        let (_, msg) = a.call("ADD").error();
        assert!(msg.contains("already exists"), "{msg}");
        assert!(a.pings(&of_b[0]));
        for id in ["b", "c"] {
            node.remove_netns(id);
        }
        let answer = a.clone().valid(&[&a]).call("GC");
        assert!(answer.ok, "{answer:?}");
        assert_eq!((node.veths().len(), reserved()), (1, 2));
        assert!(a.call("STATUS").ok);
    });
}

/// PT-4, CW-13: rules go also when the namespace is gone.
#[test]
fn masquerading() {
    on_a_node(|node| {
        for backend in ["iptables", "nftables"] {
            let members = json!({ "ipMasq": true, "ipMasqBackend": backend });
            let pod = ptp(node, "a", members);
            let result = pod.add();
            let rules = || {
                [
                    run("iptables-save", &["-t", "nat"]),
                    run("ip6tables-save", &["-t", "nat"]),
                    run("nft", &["list", "ruleset"]),
                ]
                .concat()
            };
            for ip in plain(&result) {
                assert!(rules().contains(&ip), "{backend}: {}", rules());
            }
            let answer = pod.after(&result).call("CHECK");
            assert!(answer.ok, "{answer:?}");
            node.remove_netns("a");
            let mut blind = pod.clone();
            blind.netns = String::new();
            blind.del();
            for ip in plain(&result) {
                assert!(!rules().contains(&ip), "{backend}: {}", rules());
            }
            assert_eq!((node.veths().len(), reserved()), (0, 0));
        }
    });
}

/// CT-32: name resolution; PT-3: no gateway from IPAM; failures.
#[test]
fn what_ipam_gives() {
    on_a_node(|node| {
        std::fs::write("/run/resolv", "nameserver 192.0.2.0\nsearch x\n")
            .unwrap();
        let ipam = |dns: Value| {
            let mut members = json!({ "ipam": { "type": "host-local",
                "resolvConf": "/run/resolv",
                "ranges": [[{ "subnet": "10.9.0.0/24" }]] } });
            if !dns.is_null() {
                members["dns"] = dns;
            }
            members
        };
        let a = ptp(node, "a", ipam(json!({})));
        assert_eq!(a.add()["dns"]["nameservers"], json!(["192.0.2.0"]));
        let b = ptp(node, "b", ipam(json!({ "nameservers": [] })));
        assert!(b.add()["dns"].is_null());
        let answer = |ip: &str| {
            let script = format!(
                "echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"{ip}\"}}]}}'"
            );
            let folder = node.plugins(&[("static", &script)]);
            let members = json!({ "ipam": { "type": "static" } });
            let pod = ptp(node, &ip.replace(['.', '/'], "-"), members);
            pod.env("CNI_PATH", folder.to_str().unwrap())
        };
        let without = answer("10.77.0.5/24");
        let result = without.add();
        assert_eq!(result["ips"][0]["gateway"], "10.77.0.1");
        assert!(without.pings("10.77.0.1"));
        let alone = answer("10.78.0.1/24");
        let (code, msg) = alone.call("ADD").error();
        assert_eq!(code, 7);
        assert!(msg.contains("comes without a gateway"), "{msg}");
        assert_eq!(node.veths().len(), 3, "undone");
        let none = ptp(node, "n", json!({ "ipam": {} }));
        assert_eq!(none.call("ADD").error().0, 7);
        assert_eq!(addresses(&result).len(), 1);
    });
}

/// Pods come and go at the same time, with and without rules: each has its
/// own addresses, and nothing of any is left.
#[test]
fn many_at_once() {
    on_a_node(|node| {
        let pods: Vec<Call> = (0..8)
            .map(|n| {
                let masquerade = n % 2 == 0;
                let members = json!({ "ipMasq": masquerade,
                    "ipMasqBackend": "nftables" });
                ptp(node, &format!("p{n}"), members)
            })
            .collect();
        for round in 0..3 {
            let results: Vec<Value> = std::thread::scope(|scope| {
                let begun: Vec<_> =
                    pods.iter().map(|pod| scope.spawn(|| pod.add())).collect();
                begun.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let mut ips: Vec<String> = results.iter().flat_map(plain).collect();
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), 2 * pods.len(), "round {round}: {ips:?}");
            assert_eq!((node.veths().len(), reserved()), (8, 16));
            for (pod, result) in pods.iter().zip(&results) {
                let answer = pod.after(result).call("CHECK");
                assert!(answer.ok, "round {round} {}: {answer:?}", pod.id);
                assert!(pod.pings("10.9.0.1") && pod.pings("fd00:9::1"));
            }
            std::thread::scope(|scope| {
                for pod in &pods {
                    scope.spawn(|| pod.del());
                }
            });
            assert_eq!((node.veths().len(), reserved()), (0, 0));
            let rules = run("nft", &["list", "ruleset"]);
            assert!(!rules.contains("id: p"), "round {round}: {rules}");
        }
    });
}
