//! `portmap`: rules as the Go plugin makes them, and packets that come
//! through (CT-34).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Call, Node, Stack, on_a_node, run};

/// Both backends, as the configuration names them.
pub(crate) const BACKENDS: [&str; 2] = ["iptables", "nftables"];

/// The versions that have chains.
const CHAINED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The call that follows the pod's ADD in the list.
pub(crate) fn portmap(pod: &Call, result: &Value, ports: Value) -> Call {
    Call {
        name: "portmap",
        conf: json!({
            "name": "tn",
            "cniVersion": result["cniVersion"],
            "type": "portmap",
            "runtimeConfig": { "portMappings": ports },
            "prevResult": result,
        }),
        ..pod.clone()
    }
}

/// A result whose addresses nobody has: for tests that only look at rules.
fn made_up(version: &str, netns: &str) -> Value {
    let numbered = !version.starts_with('1');
    let mut ips = json!([
        { "address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 2 },
        { "address": "fd00:9::2/64", "gateway": "fd00:9::1", "interface": 2 },
    ]);
    let mut out = json!({
        "cniVersion": version,
        "interfaces": [
            { "name": "cni0", "mac": "02:00:00:00:00:01" },
            { "name": "veth1" },
            { "name": "eth0", "sandbox": netns },
        ],
    });
    if numbered {
        ips[0]["version"] = "4".into();
        ips[1]["version"] = "6".into();
        out["dns"] = json!({});
    }
    out["ips"] = ips;
    out
}

/// The way to the made-up pod's addresses.
fn bridge() {
    for line in [
        "link add cni0 type bridge",
        "address add 10.9.0.1/24 dev cni0",
        "link set cni0 up",
    ] {
        run("ip", &line.split(' ').collect::<Vec<_>>());
    }
}

/// Those of both backends and families.
pub(crate) fn all_rules() -> String {
    run("nft", &["list", "ruleset"]) + &all_nat()
}

pub(crate) fn port(
    host: u16,
    container: u16,
    protocol: &str,
    ip: &str,
) -> Value {
    json!({ "hostPort": host, "containerPort": container,
        "protocol": protocol, "hostIP": ip })
}

/// Five mappings with every kind of address.
fn mixed() -> Value {
    json!([
        port(8080, 80, "tcp", ""),
        port(8081, 81, "udp", ""),
        port(8082, 82, "tcp", "10.9.0.1"),
        port(8083, 83, "tcp", "fd00:9::1"),
        port(8084, 84, "tcp", "0.0.0.0"),
    ])
}

/// The rules of a chain in table nat.
fn nat(save: &str, chain: &str) -> Vec<String> {
    let text = run(save, &["-t", "nat"]);
    let start = format!("-A {chain} ");
    let rules = text.lines().filter_map(|l| l.strip_prefix(&start));
    rules.map(str::to_owned).collect()
}

fn all_nat() -> String {
    let both = ["iptables-save", "ip6tables-save"];
    both.map(|save| run(save, &["-t", "nat"])).concat()
}

/// Line for line what the Go plugin v1.9.1 makes (PM-6, PM-14).
#[test]
fn the_rules_of_upstream_in_iptables() {
    on_a_node(|node| {
        bridge();
        let pod = node.pod("cA");
        let result = made_up("1.0.0", &pod.netns);
        let call = portmap(&pod, &result, mixed());
        assert_eq!(call.add(), result);
        let own = "CNI-DN-8627aa4484433eaa48dbb";
        let mark = "-j CNI-HOSTPORT-SETMARK";
        let mut want = Vec::new();
        for (at, protocol, port, to) in [
            ("", "tcp", 8080, 80),
            ("", "udp", 8081, 81),
            ("-d 10.9.0.1/32 ", "tcp", 8082, 82),
            ("", "tcp", 8084, 84),
        ] {
            let matched =
                format!("{at}-p {protocol} -m {protocol} --dport {port}");
            want.push(format!("-s 10.9.0.0/24 {matched} {mark}"));
            want.push(format!("-s 127.0.0.1/32 {matched} {mark}"));
            want.push(format!(
                "{matched} -j DNAT --to-destination 10.9.0.2:{to}"
            ));
        }
        assert_eq!(nat("iptables-save", own), want);
        let six = nat("ip6tables-save", own);
        assert_eq!(six.len(), 6, "no rule for 127.0.0.1: {six:?}");
        assert_eq!(
            six[4..],
            [
                "-s fd00:9::/64 -d fd00:9::1/128 -p tcp -m tcp --dport 8083 \
                 -j CNI-HOSTPORT-SETMARK",
                "-d fd00:9::1/128 -p tcp -m tcp --dport 8083 -j DNAT \
                 --to-destination [fd00:9::2]:83",
            ]
        );
        let local = ["-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT"];
        let comment = r#"-m comment --comment "dnat name: \"tn\" id: \"cA\"""#;
        for save in ["iptables-save", "ip6tables-save"] {
            assert_eq!(nat(save, "PREROUTING"), local);
            assert_eq!(nat(save, "OUTPUT"), local);
            assert_eq!(
                nat(save, "POSTROUTING"),
                ["-m comment --comment \"CNI portfwd requiring masquerade\" \
                  -j CNI-HOSTPORT-MASQ"]
            );
            assert_eq!(
                nat(save, "CNI-HOSTPORT-MASQ"),
                ["-m mark --mark 0x2000/0x2000 -j MASQUERADE"]
            );
            assert_eq!(
                nat(save, "CNI-HOSTPORT-SETMARK"),
                ["-m comment --comment \"CNI portfwd masquerade mark\" -j \
                  MARK --set-xmark 0x2000/0x2000"]
            );
            assert_eq!(
                nat(save, "CNI-HOSTPORT-DNAT"),
                [
                    format!(
                        "-p tcp {comment} -m multiport --dports \
                         8080,8082,8083,8084 -j {own}"
                    ),
                    format!(
                        "-p udp {comment} -m multiport --dports 8081 -j {own}"
                    ),
                ]
            );
        }
        let localnet = "net/ipv4/conf/cni0/route_localnet";
        assert_eq!(netlink::sysctl::read(localnet).unwrap(), "1", "PM-9");
        assert!(call.call("CHECK").ok);
        // again changes nothing
        let before = all_nat();
        call.add();
        let rules = |text: &str| {
            let lines = text.lines().filter(|l| l.starts_with('-'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(rules(&all_nat()), rules(&before));
        // a changed mapping replaces the old one (CW-11)
        let fewer = json!([port(9090, 90, "tcp", "")]);
        let changed = portmap(&pod, &result, fewer);
        changed.add();
        assert_eq!(nat("iptables-save", own).len(), 3);
        assert_eq!(nat("iptables-save", "CNI-HOSTPORT-DNAT").len(), 1);
        assert_eq!(call.call("CHECK").error().0, 100);
        changed.del();
        changed.del();
        let left = all_nat();
        assert!(!left.contains("CNI-DN-"), "{left}");
        assert_eq!(changed.call("CHECK").error().0, 100);
    });
}

/// PM-6: every option that changes a rule.
#[test]
fn the_options_in_iptables() {
    on_a_node(|node| {
        bridge();
        let pod = node.pod("cB");
        let result = made_up("1.0.0", &pod.netns);
        let one = json!([port(80, 8080, "tcp", "")]);
        let call = portmap(&pod, &result, one);
        let own = "CNI-DN-b63c14c87f084b6ef9b5d";
        let inside = || nat("iptables-save", own);
        // conditions, and no masquerading
        let plain = call
            .clone()
            .with("snat", false.into())
            .with("conditionsV4", json!(["!", "-s", "1.2.3.4"]));
        plain.add();
        assert_eq!(
            inside(),
            ["-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.0.2:8080"]
        );
        let entry = nat("iptables-save", "CNI-HOSTPORT-DNAT");
        assert!(entry[0].starts_with("! -s 1.2.3.4/32 -p tcp -m comment"));
        assert!(!all_nat().contains("SETMARK"));
        assert!(plain.call("CHECK").ok);
        // all of it, with another mark
        let all = call
            .clone()
            .with("masqAll", true.into())
            .with("markMasqBit", 14.into());
        all.add();
        assert_eq!(
            inside()[0],
            "-p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK"
        );
        assert_eq!(inside().len(), 2);
        assert!(all_nat().contains("--set-xmark 0x4000/0x4000"));
        // somebody else's mark
        let other = call.with("externalSetMarkChain", "KUBE-MARK-MASQ".into());
        let (_, msg) = other.call("ADD").error();
        assert!(msg.contains("KUBE-MARK-MASQ is not in table nat"), "{msg}");
        assert!(!all_nat().contains("CNI-DN-"), "undone");
        for tool in ["iptables", "ip6tables"] {
            run(tool, &["-t", "nat", "-N", "KUBE-MARK-MASQ"]);
        }
        other.add();
        assert!(inside()[1].ends_with("-j KUBE-MARK-MASQ"), "{:?}", inside());
        assert!(other.call("CHECK").ok);
        // more ports than fit in one rule
        let many: Value =
            (1..=31).map(|n| port(1000 + n, n, "tcp", "")).collect();
        let many = portmap(&pod, &result, many);
        many.add();
        assert_eq!(nat("iptables-save", "CNI-HOSTPORT-DNAT").len(), 3);
        assert_eq!(inside().len(), 93);
        many.del();
        assert!(!all_nat().contains("CNI-DN-"));
    });
}

/// PM-12, as `nft` shows what the Go plugin v1.9.1 makes.
#[test]
fn the_rules_of_upstream_in_nftables() {
    on_a_node(|node| {
        bridge();
        let pod = node.pod("cA");
        let result = made_up("1.0.0", &pod.netns);
        let call =
            portmap(&pod, &result, mixed()).with("backend", "nftables".into());
        assert_eq!(call.add(), result);
        let want = "table ip cni_hostport {
	comment \"CNI portmap plugin\"
	chain hostports {
		ip saddr 10.9.0.0/24 tcp dport 8080 meta mark set meta mark | 0x00002000 comment \"cA\"
		ip saddr 10.9.0.0/24 udp dport 8081 meta mark set meta mark | 0x00002000 comment \"cA\"
		ip saddr 10.9.0.0/24 ip daddr 10.9.0.1 tcp dport 8082 meta mark set meta mark | 0x00002000 comment \"cA\"
		ip saddr 10.9.0.0/24 tcp dport 8084 meta mark set meta mark | 0x00002000 comment \"cA\"
		tcp dport 8080 dnat to 10.9.0.2:80 comment \"cA\"
		udp dport 8081 dnat to 10.9.0.2:81 comment \"cA\"
		ip daddr 10.9.0.1 tcp dport 8082 dnat to 10.9.0.2:82 comment \"cA\"
		tcp dport 8084 dnat to 10.9.0.2:84 comment \"cA\"
	}

	chain hostip_hostports {
	}

	chain hostports_all {
		jump hostip_hostports
		jump hostports
	}

	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump hostports_all
	}

	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump hostports_all
	}

	chain masquerading {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.9.0.0/24 ip daddr 10.9.0.2 ct status dnat meta mark & 0x00002000 == 0x00002000 masquerade comment \"cA\"
		ip saddr 10.9.0.2 ip daddr 10.9.0.2 masquerade comment \"cA\"
		ip saddr 127.0.0.1 ip daddr 10.9.0.2 masquerade comment \"cA\"
	}
}
";
        let shown =
            |family| run("nft", &["list", "table", family, "cni_hostport"]);
        assert_eq!(shown("ip"), want);
        let six = shown("ip6");
        assert!(six.contains(
            "ip6 daddr fd00:9::1 tcp dport 8083 dnat to [fd00:9::2]:83"
        ));
        assert!(
            six.contains("ip6 saddr fd00:9::2 ip6 daddr fd00:9::2 masquerade")
        );
        assert!(!six.contains("8082") && !six.contains("8084"), "{six}");
        assert!(call.call("CHECK").ok);
        call.add();
        assert_eq!(shown("ip"), want, "again");
        assert_eq!(
            run("iptables-save", &["-t", "nat"]).matches("CNI").count(),
            0
        );
        // each network's conditions are its own (CW-10)
        let b = node.pod("cB");
        let one = json!([port(9000, 90, "tcp", "")]);
        let limited = portmap(&b, &made_up("1.0.0", &b.netns), one)
            .with("masqAll", true.into())
            .with("conditionsV4", json!(["ip", "saddr", "!=", "1.2.3.4"]));
        limited.add();
        let both = shown("ip");
        assert!(both.contains(
            "ip saddr != 1.2.3.4 tcp dport 9000 dnat to 10.9.0.2:90 comment \"cB\""
        ));
        let mark = "0x00002000";
        for rule in [
            format!(
                "\t\tip saddr != 1.2.3.4 tcp dport 9000 meta mark set meta mark \
                 | {mark} comment \"cB\"\n"
            ),
            format!(
                "\t\tip daddr 10.9.0.2 ct status dnat meta mark & {mark} == \
                 {mark} masquerade comment \"cB\"\n"
            ),
        ] {
            assert_eq!(both.matches(&rule).count(), 1, "{rule}{both}");
        }
        assert_eq!(both.matches("comment \"cB\"").count(), 3, "{both}");
        assert!(both.contains("\t\tfib daddr type local jump"), "{both}");
        assert!(limited.call("CHECK").ok);
        limited.del();
        assert_eq!(shown("ip"), want, "the other's are gone");
        call.del();
        assert_eq!(call.call("CHECK").error().0, 100);
        for family in ["ip", "ip6"] {
            assert!(!shown(family).contains("comment \"cA\""));
        }
        call.del();
    });
}

/// What iptables shows while others change nf_tables may be cut, or nothing:
/// it is not taken for all there is.
#[test]
fn a_table_that_is_cut() {
    on_a_node(|node| {
        bridge();
        let cut = "
            echo >> /run/calls
            calls=$(wc -l < /run/calls)
            case $((calls % 3)) in
            0) exec /usr/sbin/iptables-save \"$@\";;
            1) echo '*nat'; echo COMMIT;;
            2) echo \"# Table \\`nat' is incompatible, use 'nft' tool.\";;
            esac
            nft add table ip churn$calls";
        let folder = node.plugins(&[("iptables-save", cut)]);
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", folder.display());
        let pod = node.pod("cA");
        let call = portmap(&pod, &made_up("1.0.0", &pod.netns), mixed())
            .with("backend", "iptables".into());
        let churned = call.clone().env("PATH", &path);
        call.add();
        let rules = || {
            let all = all_nat();
            let rules = all.lines().filter(|line| !line.starts_with('#'));
            rules.map(str::to_owned).collect::<Vec<_>>()
        };
        let all = rules();
        churned.add();
        assert_eq!(rules(), all, "nothing twice");
        assert!(churned.call("CHECK").ok);
        churned.del();
        assert!(!all_nat().contains("CNI-DN-"));
    });
}

/// Where `iptables` is the one with tables of its own.
#[test]
fn the_older_iptables() {
    on_a_node(|node| {
        bridge();
        std::fs::create_dir("/run/legacy").unwrap();
        for tool in ["iptables", "ip6tables"] {
            for what in ["save", "restore"] {
                std::os::unix::fs::symlink(
                    format!("/usr/sbin/{tool}-legacy-{what}"),
                    format!("/run/legacy/{tool}-{what}"),
                )
                .unwrap();
            }
        }
        let pod = node.pod("cA").env("PATH", "/run/legacy");
        let call = portmap(&pod, &made_up("1.0.0", &pod.netns), mixed());
        call.add();
        let own = "CNI-DN-8627aa4484433eaa48dbb";
        assert_eq!(nat("iptables-legacy-save", own).len(), 12);
        assert_eq!(nat("ip6tables-legacy-save", own).len(), 6);
        assert!(!all_nat().contains("CNI-"), "not over nf_tables");
        assert!(call.call("CHECK").ok);
        call.add();
        assert_eq!(nat("iptables-legacy-save", own).len(), 12);
        assert_eq!(nat("iptables-legacy-save", "CNI-HOSTPORT-DNAT").len(), 2);
        call.del();
        for save in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let left = run(save, &["-t", "nat"]);
            assert!(!left.contains("CNI-DN-"), "{left}");
        }
        assert_eq!(call.call("CHECK").error().0, 100);
    });
}

/// Every version that has chains, and the two backends; DEL also of what the
/// other backend made.
#[test]
fn every_version() {
    on_a_node(|node| {
        bridge();
        let pod = node.pod("a");
        for version in CHAINED {
            let result = made_up(version, &pod.netns);
            for backend in BACKENDS {
                let call = portmap(&pod, &result, mixed());
                let named = call.clone().with("backend", backend.into());
                assert_eq!(named.add(), result, "{version} {backend}");
                if !version.starts_with("0.3") {
                    let answer = named.call("CHECK");
                    assert!(answer.ok, "{version} {backend}: {answer:?}");
                }
                // without a prevResult, as 0.3.1 has it
                let mut del = call;
                del.conf.as_object_mut().unwrap().remove("prevResult");
                del.del();
                assert!(!all_nat().contains("CNI-DN-"), "{version} {backend}");
                let left = run("nft", &["list", "ruleset"]);
                assert!(!left.contains("comment \"a\""), "{version} {backend}");
            }
        }
        // 0.1.0 and 0.2.0 have no chains, so no prevResult
        for version in ["0.1.0", "0.2.0"] {
            let mut call = portmap(&pod, &made_up("0.2.0", ""), mixed());
            call.conf.as_object_mut().unwrap().remove("prevResult");
            let (code, msg) = call.version(version).call("ADD").error();
            assert_eq!(code, 7);
            assert!(
                msg.starts_with("must be called as chained plugin"),
                "{msg}"
            );
        }
    });
}

/// PM-3, PM-5: without ports, or without an address on the interface, nothing
/// is looked at, and no program is run.
#[test]
fn nothing_to_do() {
    on_a_node(|node| {
        let pod = node.pod("a").env("PATH", "/nonexistent");
        let result = made_up("1.1.0", &pod.netns);
        for ports in [json!([]), Value::Null] {
            let call = portmap(&pod, &result, ports);
            assert_eq!(call.add(), result);
            assert!(call.call("CHECK").ok);
            call.del();
        }
        let mut other = result.clone();
        for n in [0, 1] {
            other["ips"][n]["interface"] = 7.into();
        }
        assert_eq!(portmap(&pod, &other, mixed()).add(), other);
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        // no iptables in PATH: nf_tables, without saying so
        bridge();
        let call = portmap(&pod, &result, mixed());
        call.add();
        assert!(run("nft", &["list", "ruleset"]).contains("comment \"a\""));
        assert!(call.call("CHECK").ok && call.call("STATUS").ok);
        call.del();
        assert!(!run("nft", &["list", "ruleset"]).contains("comment \"a\""));
        let named = call.with("backend", "iptables".into());
        for verb in ["ADD", "STATUS"] {
            let (code, msg) = named.call(verb).error();
            assert_eq!(code, 50, "{verb}: {msg}");
        }
    });
}

/// S-64
#[test]
fn gc_keeps_what_is_valid_and_what_is_not_of_this_network() {
    on_a_node(|_| {
        bridge();
        for backend in BACKENDS {
            let one = |n: u16| json!([port(8000 + n, n, "tcp", "")]);
            let calls: Vec<Call> = ["a", "b", "c"]
                .iter()
                .zip(1..)
                .map(|(id, n)| {
                    let pod = Call { id: (*id).to_owned(), ..node_call() };
                    let result = made_up("1.1.0", &pod.netns);
                    let call = portmap(&pod, &result, one(n));
                    let name = if *id == "c" { "other" } else { "tn" };
                    call.with("backend", backend.into())
                        .with("name", name.into())
                })
                .collect();
            for call in &calls {
                call.add();
            }
            let gc = calls[1].clone();
            assert_eq!(gc.call("GC").error().0, 7, "R-17");
            let answer = gc.valid(&[&calls[0]]).call("GC");
            assert!(answer.ok, "{answer:?}");
            assert!(calls[0].call("CHECK").ok, "{backend}");
            assert_eq!(calls[1].call("CHECK").error().0, 100, "{backend}");
            assert!(calls[2].call("CHECK").ok, "{backend}");
            for call in &calls {
                call.del();
            }
            assert!(!all_nat().contains("CNI-DN-"));
        }
    });
}

fn node_call() -> Call {
    Call {
        name: "portmap",
        id: String::new(),
        netns: "/run/netns/x".to_owned(),
        ifname: "eth0".to_owned(),
        conf: Value::Null,
        env: Vec::new(),
    }
}

/// Sixteen at once: the shared chains once, no rule lost.
#[test]
fn many_at_once() {
    on_a_node(|_| {
        bridge();
        for backend in BACKENDS {
            let calls: Vec<Call> = (1..=16)
                .map(|n| {
                    let pod = Call { id: format!("p{n}"), ..node_call() };
                    let result = made_up("1.0.0", &pod.netns);
                    let ports = json!([port(7000 + n, n, "tcp", "")]);
                    // they wait for each other's turn
                    portmap(&pod, &result, ports)
                        .with("backend", backend.into())
                        .with("timeoutSeconds", 900.into())
                })
                .collect();
            let each = |verb: &str| {
                let answers: Vec<_> = std::thread::scope(|scope| {
                    let run = |c| scope.spawn(move || Call::call(c, verb));
                    let all: Vec<_> = calls.iter().map(run).collect();
                    all.into_iter().map(|t| t.join().unwrap()).collect()
                });
                for answer in answers {
                    assert!(answer.ok, "{backend} {verb}: {answer:?}");
                }
            };
            each("ADD");
            each("CHECK");
            let jumps = match backend {
                "iptables" => nat("iptables-save", "PREROUTING").len(),
                _ => run(
                    "nft",
                    &["list", "chain", "ip", "cni_hostport", "prerouting"],
                )
                .matches("jump")
                .count(),
            };
            assert_eq!(jumps, 1, "{backend}");
            each("DEL");
            assert!(!all_nat().contains("CNI-DN-"));
        }
    });
}

// === packets ===

/// In the pod, for all that ask: a port that was in use a moment ago may still
/// be open in what another test has just started.
pub(crate) fn listen(pod: &Call, port: u16) -> TcpListener {
    let any = format!("[::]:{port}");
    pod.open().enter(|| TcpListener::bind(any)).unwrap().unwrap()
}

/// Answers with who asked, once.
pub(crate) fn serve_tcp(bound: &TcpListener) -> std::thread::JoinHandle<()> {
    let bound = bound.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut stream, from) = bound.accept().unwrap();
        write!(stream, "{}", from.ip().to_canonical()).unwrap();
    })
}

/// What the server says it sees as the asker.
pub(crate) fn ask(to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(30))
        .expect("connect");
    let mut seen = String::new();
    stream.read_to_string(&mut seen).unwrap();
    seen
}

/// From the node by its addresses, from another pod, from the pod itself;
/// IPv4 and IPv6.
#[test]
fn connections_come_through() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for backend in BACKENDS {
            let (a, b) = (node.pod("a"), node.pod("b"));
            let result = a.add();
            b.add();
            let ports = json!([port(8080, 80, "tcp", "")]);
            let call =
                portmap(&a, &result, ports).with("backend", backend.into());
            call.add();
            let bound = listen(&a, 80);
            let from = |who: Option<&Call>, to: &str| {
                let served = serve_tcp(&bound);
                let seen = match who {
                    None => ask(to),
                    Some(pod) => pod.open().enter(|| ask(to)).unwrap(),
                };
                served.join().unwrap();
                seen
            };
            assert_eq!(from(None, "127.0.0.1:8080"), "10.244.1.1", "{backend}");
            assert_eq!(from(None, "10.244.1.1:8080"), "10.244.1.1");
            from(Some(&b), "10.244.1.1:8080");
            from(Some(&a), "10.244.1.1:8080");
            from(None, "[fd00:244:0:1::1]:8080");
            from(Some(&b), "[fd00:244:0:1::1]:8080");
            from(Some(&a), "[fd00:244:0:1::1]:8080");
            // also where the node's rules do not see what crosses a bridge
            let bridged = |on: &str| {
                for tables in ["iptables", "ip6tables"] {
                    let key = format!("net/bridge/bridge-nf-call-{tables}");
                    netlink::sysctl::write_if_different(&key, on).unwrap();
                }
            };
            bridged("0");
            let gateway = from(Some(&b), "10.244.1.1:8080");
            assert_eq!(gateway, "10.244.1.1", "{backend}");
            from(Some(&a), "10.244.1.1:8080");
            from(Some(&b), "[fd00:244:0:1::1]:8080");
            bridged("1");
            call.del();
            let closed = TcpStream::connect("127.0.0.1:8080");
            assert!(closed.is_err(), "{backend}");
            for pod in [a, b] {
                pod.del();
                node.remove_netns(&pod.id);
            }
        }
        node.assert_clean();
    });
}

/// PM-10: who never stops sending comes to the pod that has the port now.
#[test]
fn udp_follows_the_port() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let client = UdpSocket::bind("10.244.1.1:0");
        assert!(client.is_err(), "the bridge is not there yet");
        for backend in BACKENDS {
            let mapped = |id: &str| {
                let pod = node.pod(id);
                let result = pod.add();
                let ports = json!([port(5353, 53, "udp", "")]);
                let call = portmap(&pod, &result, ports)
                    .with("backend", backend.into());
                call.add();
                let server = pod
                    .open()
                    .enter(|| UdpSocket::bind("0.0.0.0:53").unwrap())
                    .unwrap();
                server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                (pod, call, server)
            };
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            let send = || client.send_to(b"x", "127.0.0.1:5353").unwrap();
            let got = |server: &UdpSocket| server.recv(&mut [0; 9]).unwrap();
            let (a, call_a, at_a) = mapped("a");
            send();
            got(&at_a);
            call_a.del();
            let (b, call_b, at_b) = mapped("b");
            send();
            got(&at_b);
            call_b.del();
            for pod in [a, b] {
                pod.del();
                node.remove_netns(&pod.id);
            }
        }
    });
}

/// The namespace and the interface may be gone long since.
#[test]
fn del_without_anything() {
    on_a_node(|node: &Node| {
        let mut call = portmap(&node_call(), &made_up("1.0.0", ""), mixed());
        call.id = "gone".into();
        call.netns = String::new();
        call.conf["conditionsV4"] = json!(["nonsense"]);
        call.del();
        assert_eq!(node.veths(), [""; 0]);
    });
}

/// Rules go by their owner, also with ports that no ADD would take: another
/// plugin may have.
#[test]
fn del_with_ports_that_cannot_be_read() {
    on_a_node(|node| {
        bridge();
        let pod = node.pod("p");
        for backend in BACKENDS {
            let result = made_up("1.0.0", &pod.netns);
            let call = portmap(&pod, &result, mixed());
            let mut call = call.with("backend", backend.into());
            call.add();
            assert!(all_rules().contains("dnat"), "{backend}");
            let odd = json!([port(8080, 0, "tcp", "")]);
            call.conf["runtimeConfig"]["portMappings"] = odd;
            call.del();
            let left = all_rules();
            assert!(!left.contains("dnat"), "{backend}: {left}");
        }
    });
}
