//! `sbr` (CT-38).

use serde_json::{Value, json};

use crate::node::{Call, exists, on_a_node, run};

/// A pod with an interface per address pair, made by hand.
fn pod(node: &crate::node::Node, version: &str, members: Value) -> Call {
    // a namespace that is removed ends a moment later
    drop(node.socket().request(&netlink::link::delete_by_name("v0")));
    node.netns("p");
    for line in [
        "link add v0 type veth peer name net1 netns p",
        "link set v0 up",
        "-n p link set lo up",
        "-n p address add 192.168.1.209/24 dev net1",
        "-n p -6 address add fd00:1::209/64 dev net1 nodad",
        "-n p link set net1 up",
        "-n p route add default via 192.168.1.1 dev net1",
        "-n p -6 route add default via fd00:1::1 dev net1",
    ] {
        run("ip", &line.split(' ').collect::<Vec<_>>());
    }
    let numbered = !version.starts_with('1');
    let mut ips = json!([
        { "address": "192.168.1.209/24", "gateway": "192.168.1.1", "interface": 1 },
        { "address": "fd00:1::209/64", "gateway": "fd00:1::1", "interface": 1 },
    ]);
    if numbered {
        ips[0]["version"] = "4".into();
        ips[1]["version"] = "6".into();
    }
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [
            { "name": "v0" },
            { "name": "net1", "sandbox": "/run/netns/p" },
        ],
    });
    if numbered {
        result["dns"] = json!({});
    }
    result["ips"] = ips;
    let mut conf = json!({
        "name": "tn",
        "cniVersion": version,
        "type": "sbr",
        "prevResult": result,
    });
    for (key, value) in members.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Call {
        name: "sbr",
        id: "p".to_owned(),
        netns: "/run/netns/p".to_owned(),
        ifname: "net1".to_owned(),
        conf,
        env: Vec::new(),
    }
}

fn ip(args: &str) -> Vec<String> {
    let args: Vec<_> = ["-n", "p"].into_iter().chain(args.split(' ')).collect();
    let text = run("ip", &args);
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn rules(family: &str) -> Vec<String> {
    let all = ip(&format!("{family} rule"));
    let ours = all.into_iter().filter(|r| !r.contains("from all"));
    ours.map(|r| r.split(":\t").nth(1).unwrap().to_owned()).collect()
}

/// For each version that has chains.
#[test]
fn tables_and_rules() {
    on_a_node(|node| {
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let call = pod(node, version, json!({}));
            let result = call.conf["prevResult"].clone();
            assert_eq!(call.add(), result, "{version}");
            assert_eq!(rules("-4"), ["from 192.168.1.209 lookup 100"]);
            assert_eq!(rules("-6"), ["from fd00:1::209 lookup 101"]);
            let four = ip("-4 route show table 100");
            assert_eq!(
                four,
                [
                    "default via 192.168.1.1 dev net1 onlink",
                    "192.168.1.0/24 dev net1 proto kernel scope link src \
                     192.168.1.209",
                ]
            );
            let six = ip("-6 route show table 101");
            let default = "default via fd00:1::1 dev net1";
            assert!(six.iter().any(|r| r.starts_with(default)), "{six:?}");
            assert!(
                six.iter().any(|r| r.starts_with("fd00:1::/64")),
                "{six:?}"
            );
            assert_eq!(ip("-4 route show table main"), [""; 0]);
            let main = ip("-6 route show table main");
            assert!(main.iter().all(|r| r.starts_with("fe80::")), "{main:?}");
            // again changes nothing
            call.add();
            assert_eq!(ip("-4 route show table 100"), four);
            assert_eq!(rules("-4").len(), 1);
            if version >= "0.4.0" {
                assert!(call.call("CHECK").ok, "{version}");
                run("ip", &["-n", "p", "route", "flush", "table", "100"]);
                let (code, msg) = call.call("CHECK").error();
                assert_eq!(code, 100);
                let want = "table 100 lacks the default route via 192.168.1.1";
                assert_eq!(msg, want);
            }
            call.del();
            call.del();
            assert_eq!(rules("-4"), [""; 0]);
            assert_eq!(rules("-6"), [""; 0]);
            if version >= "0.4.0" {
                assert_eq!(call.call("CHECK").error().0, 100);
            }
            node.remove_netns("p");
        }
        let old = pod(node, "1.0.0", json!({})).version("0.2.0");
        assert_eq!(old.call("ADD").error().0, 1);
    });
}

#[test]
fn options() {
    on_a_node(|node| {
        let call = pod(node, "1.0.0", json!({ "table": 5000 }));
        call.add();
        assert_eq!(rules("-4"), ["from 192.168.1.209 lookup 5000"]);
        assert_eq!(ip("-4 route show table main").len(), 2, "only rules");
        assert!(call.call("CHECK").ok);
        call.del();
        node.remove_netns("p");

        let gateways = json!(["192.168.1.7", "fd00:1::7"]);
        let call = pod(node, "1.0.0", json!({ "gateways": gateways }));
        call.add();
        let table = ip("-4 route show table 100");
        assert_eq!(table[0], "default via 192.168.1.7 dev net1 onlink");
        assert!(call.call("CHECK").ok);
        node.remove_netns("p");

        let hints = json!({ "addSourceHints": true });
        let call = pod(node, "1.0.0", hints);
        call.add();
        assert_eq!(
            ip("-4 route show table main"),
            [
                "192.168.1.0/24 dev net1 proto kernel scope link src 192.168.1.209"
            ]
        );
        assert!(call.call("CHECK").ok);
        node.remove_netns("p");

        let two = json!({ "gateways": ["192.168.1.7", "192.168.1.8"] });
        let call = pod(node, "1.0.0", two);
        let (code, msg) = call.call("ADD").error();
        assert_eq!(code, 7);
        assert!(msg.starts_with("gateways has two of"), "{msg}");
    });
}

/// Two addresses of one family: a table each, without the other's routes.
#[test]
fn two_addresses() {
    on_a_node(|node| {
        let mut call = pod(node, "1.1.0", json!({}));
        run(
            "ip",
            &["-n", "p", "address", "add", "192.168.2.9/24", "dev", "net1"],
        );
        run(
            "ip",
            &["-n", "p", "route", "add", "10.0.0.0/8", "via", "192.168.2.1"],
        );
        call.conf["prevResult"]["ips"][1] = json!({ "address":
            "192.168.2.9/24", "gateway": "192.168.2.1", "interface": 1 });
        call.add();
        let rules = rules("-4");
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert!(rules.contains(&"from 192.168.2.9 lookup 101".to_owned()));
        let (one, two) =
            (ip("-4 route show table 100"), ip("-4 route show table 101"));
        let has = |table: &[String], what: &str| {
            table.iter().any(|route| route.contains(what))
        };
        assert!(has(&one, "default via 192.168.1.1") && !has(&one, "168.2."));
        assert!(has(&two, "default via 192.168.2.1"), "{two:?}");
        assert!(
            has(&two, "10.0.0.0/8 via 192.168.2.1") && !has(&two, "168.1.")
        );
        assert!(call.call("CHECK").ok);
    });
}

/// SB-3: nothing is made where the namespace was.
#[test]
fn del_without_the_pod() {
    on_a_node(|node| {
        let call = pod(node, "1.1.0", json!({}));
        node.remove_netns("p");
        call.del();
        assert!(!exists("/run/netns/p"));
        assert!(call.call("STATUS").ok);
        assert_eq!(call.call("GC").error().0, 7, "R-17");
        let mut none = call;
        none.conf["prevResult"]["ips"] = json!([]);
        node.netns("p");
        assert_eq!(none.call("ADD").error().0, 7);
    });
}

/// A runtime may attach several networks at the same time: each interface has
/// a table of its own.
#[test]
fn two_interfaces_at_once() {
    on_a_node(|node| {
        let one = pod(node, "1.1.0", json!({}));
        for line in [
            "link add v1 type veth peer name net2 netns p",
            "link set v1 up",
            "-n p address add 192.168.2.9/24 dev net2",
            "-n p link set net2 up",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        let mut other = Call { ifname: "net2".into(), ..one.clone() };
        other.conf["prevResult"]["interfaces"][1]["name"] = "net2".into();
        other.conf["prevResult"]["ips"] = json!([{ "address": "192.168.2.9/24",
            "gateway": "192.168.2.1", "interface": 1 }]);
        for round in 0..10 {
            std::thread::scope(|scope| {
                let first = scope.spawn(|| one.add());
                other.add();
                first.join().unwrap();
            });
            let table = |source: &str| {
                let all = [rules("-4"), rules("-6")].concat();
                let of =
                    |r: &&String| r.starts_with(&format!("from {source} "));
                let rule = all.iter().find(of).expect(source);
                rule.rsplit(' ').next().unwrap().to_owned()
            };
            let tables = ["192.168.1.209", "fd00:1::209", "192.168.2.9"];
            let mut tables: Vec<_> = tables.map(table).into();
            tables.sort();
            tables.dedup();
            assert_eq!(tables.len(), 3, "round {round}: {tables:?}");
            assert!(one.call("CHECK").ok && other.call("CHECK").ok);
            for call in [&one, &other] {
                call.del();
            }
            for table in tables {
                let flush = ["-n", "p", "route", "flush", "table", &table];
                let _ = std::process::Command::new("ip").args(flush).output();
            }
        }
    });
}

/// A repeated DEL whose path leads to another pod's namespace by now.
#[test]
fn del_with_another_pods_namespace_at_the_path() {
    on_a_node(|node| {
        node.flanneld(crate::node::Stack::V4);
        let pods = ["a", "b"].map(|id| node.pod(id).version("1.1.0"));
        let calls = pods.clone().map(|pod| {
            let call = pod.chained("sbr", &pod.add());
            call.add();
            call
        });
        let [mut a, b] = calls;
        a.del();
        pods[0].del();
        a.netns = b.netns.clone();
        a.del();
        let answer = b.call("CHECK");
        assert!(answer.ok, "{answer:?}");
        b.del();
        assert_eq!(b.call("CHECK").error().0, 100);
    });
}
