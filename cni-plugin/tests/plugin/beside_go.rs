//! Beside the Go plugins of release v1.9.1, where they are there: CHECK of
//! one accepts what the other made, DEL of one leaves what DEL of the other
//! leaves, and the rules are the same line for line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::node::{Answer, Node, feed, on_a_node, run};

/// Where our programs are, by the names they are called by.
const OURS: &str = "/run/ours";

/// The Go plugins; `None` says, also where a test's output is captured, that
/// the test is skipped. Not in CI, which would count it as passed.
fn go(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FLANNEL_TEST_PEERS");
    let dir = dir.map(|dir| PathBuf::from(dir).join("cni"));
    let found = dir.filter(|dir| dir.join("firewall").is_file());
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{test}: no Go plugins in FLANNEL_TEST_PEERS");
        // not a macro: those are captured
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: no Go plugins in FLANNEL_TEST_PEERS \
             (`integration/setup peers` compiles them; where there is no Go it fetches one)"
        );
    }
    found
}

fn call(dir: &Path, verb: &str, conf: &Value) -> Answer {
    let mut command = Command::new(dir.join(conf["type"].as_str().unwrap()));
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "cA")
        .env("CNI_NETNS", "/run/netns/p")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", dir);
    Answer::of(&feed(&mut command, conf.to_string().as_bytes()))
}

/// All that a plugin may leave, with what is random taken out.
fn left() -> String {
    let mut out = String::new();
    for save in ["iptables-save", "ip6tables-save"] {
        for table in ["nat", "filter"] {
            let text = run(save, &["-t", table]);
            let rules = text.lines().filter(|l| l.starts_with(['-', ':']));
            for rule in rules {
                let (rule, _) = rule.split_once(" [").unwrap_or((rule, ""));
                out += &format!("{save} {rule}\n");
            }
        }
    }
    for (family, table) in [
        ("ip", "cni_hostport"),
        ("ip6", "cni_hostport"),
        ("inet", "cni_plugins_masquerade"),
        ("bridge", "nat"),
    ] {
        let args = ["list", "table", family, table];
        let shown = Command::new("nft").args(args).output().unwrap();
        out += &String::from_utf8_lossy(&shown.stdout);
    }
    // where ours goes beyond the Go plugin's (docs/cni-plugins.md)
    let own = |line: &&str| {
        !(line.contains(" saddr ") && line.contains(" meta mark "))
    };
    out = out.lines().filter(own).flat_map(|l| [l, "\n"]).collect();
    let links = run("ip", &["-br", "link"]);
    out += &format!("veths {}\n", links.matches("veth").count());
    out += &format!("ifbs {}\n", links.matches("bwp").count());
    let qdiscs = run("tc", &["qdisc", "show"]);
    let limits = qdiscs.lines().filter(|l| l.contains(" tbf "));
    for limit in limits {
        let (_, numbers) = limit.split_once(" rate ").unwrap();
        out += &format!("limit {numbers}\n");
    }
    for file in crate::node::names("/var/lib/cni/networks/tn") {
        out += &format!("file {file}\n");
    }
    let kept = crate::node::names("/run/cni/tuning");
    out += &format!("backups {kept:?}\n");
    let plain = |line: &str| {
        // names and addresses of links
        let words = line.split(' ').map(|word| {
            let mac = word.len() == 17 && word.matches(':').count() == 5;
            let veth = word.trim_matches('"').starts_with("veth");
            if mac || veth { "X" } else { word }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    out.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// A pod as `bridge` makes it, and its result.
fn pod() -> Value {
    for line in [
        "netns add p",
        "link add cni0 type bridge",
        "address add 10.9.0.1/24 dev cni0",
        "link set cni0 up",
        "link add vethp type veth peer name eth0 netns p",
        "link set vethp master cni0 up",
        "-n p address add 10.9.0.2/24 dev eth0",
        "-n p link set eth0 up",
        "-n p route add default via 10.9.0.1",
    ] {
        run("ip", &line.split(' ').collect::<Vec<_>>());
    }
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": "cni0" },
            { "name": "vethp" },
            { "name": "eth0", "sandbox": "/run/netns/p" },
        ],
        "ips": [
            { "address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 2 },
            { "address": "fd00:9::2/64", "gateway": "fd00:9::1", "interface": 2 },
        ],
    })
}

/// What ADD of the first and DEL of the second leave.
fn one(
    first: &Path,
    second: &Path,
    kind: &str,
    members: &Value,
) -> (String, String) {
    let mut out = (String::new(), String::new());
    on_a_node(|_: &Node| {
        fs::create_dir_all(OURS).unwrap();
        for name in ["bridge", "host-local", "ptp", kind] {
            let file = Path::new(OURS).join(name);
            fs::copy(env!("CARGO_BIN_EXE_flannel"), file).unwrap();
        }
        let mut conf = json!({ "cniVersion": "1.0.0", "name": "tn",
            "type": kind });
        for (key, value) in members.as_object().unwrap() {
            conf[key] = value.clone();
        }
        let chained = !members["ipam"].is_object();
        if chained {
            conf["prevResult"] = pod();
        } else {
            run("ip", &["netns", "add", "p"]);
        }
        let result = call(first, "ADD", &conf).result();
        out.0 = left();
        let mut later = conf.clone();
        later["prevResult"] = result;
        let what = format!("{kind} {members}, made by {}", first.display());
        for verb in ["CHECK", "DEL"] {
            let answer = call(second, verb, &later);
            assert!(answer.ok, "{verb} of {what}: {answer:?}");
        }
        out.1 = left();
    });
    out
}

#[test]
fn either_removes_what_the_other_made() {
    let Some(go) = go("beside_go") else { return };
    let ours = PathBuf::from(OURS);
    let ports = json!({ "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8081, "containerPort": 81, "protocol": "udp" },
        { "hostPort": 8082, "containerPort": 82, "protocol": "tcp",
            "hostIP": "10.9.0.1" },
        { "hostPort": 8083, "containerPort": 83, "protocol": "tcp",
            "hostIP": "fd00:9::1" },
    ] });
    let ipam = json!({ "type": "host-local", "ranges":
        [[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd00:9::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
    for (kind, members) in [
        ("portmap", json!({ "runtimeConfig": ports, "backend": "iptables" })),
        ("portmap", json!({ "runtimeConfig": ports, "backend": "nftables" })),
        (
            "portmap",
            json!({ "runtimeConfig": ports, "snat": false,
                "conditionsV4": ["!", "-s", "1.2.3.4"] }),
        ),
        (
            "portmap",
            json!({ "runtimeConfig": ports, "masqAll": true, "markMasqBit": 5,
                "backend": "iptables" }),
        ),
        ("firewall", json!({})),
        ("firewall", json!({ "ingressPolicy": "same-bridge" })),
        ("firewall", json!({ "ingressPolicy": "isolated" })),
        (
            "bandwidth",
            json!({ "ingressRate": 8_000_000, "ingressBurst": 16_000_000,
                "egressRate": 3_333_333, "egressBurst": 16_000_007 }),
        ),
        (
            "tuning",
            json!({ "mac": "02:00:00:00:00:77", "mtu": 1400, "promisc": true,
                "allmulti": true, "txQLen": 555,
                "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } }),
        ),
        (
            "bridge",
            json!({ "ipam": ipam, "isGateway": true, "ipMasq": true,
                "ipMasqBackend": "iptables", "macspoofchk": true }),
        ),
        (
            "bridge",
            json!({ "ipam": ipam, "isGateway": true, "ipMasq": true,
                "ipMasqBackend": "nftables" }),
        ),
        (
            "ptp",
            json!({ "ipam": ipam, "ipMasq": true, "ipMasqBackend": "iptables" }),
        ),
        ("host-local", json!({ "ipam": ipam })),
    ] {
        let (made, removed) = one(&go, &go, kind, &members);
        let what = format!("{kind} {members}");
        assert_ne!(made, removed, "there is something to see: {what}");
        let (by_us, left) = one(&ours, &go, kind, &members);
        assert_eq!(by_us, made, "ADD: {what}");
        assert_eq!(left, removed, "ours removed by Go's: {what}");
        let (_, left) = one(&go, &ours, kind, &members);
        assert_eq!(left, removed, "Go's removed by ours: {what}");
    }
}
