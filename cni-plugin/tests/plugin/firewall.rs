//! `firewall`: rules as the Go plugin makes them, and who reaches whom
//! (CT-37).

use serde_json::{Value, json};

use crate::deadlines::gives_up;
use crate::node::{Call, Node, Stack, exists, names, on_a_node, plain, run};

/// The call that follows the pod's ADD in the list.
fn firewall(pod: &Call, result: &Value) -> Call {
    Call {
        name: "firewall",
        conf: json!({
            "name": "tn",
            "cniVersion": result["cniVersion"],
            "type": "firewall",
            "prevResult": result,
        }),
        ..pod.clone()
    }
}

fn made_up(version: &str, netns: &str) -> Value {
    let mut ips = json!([
        { "address": "10.9.0.2/24", "interface": 2 },
        { "address": "fd00:9::2/64", "interface": 2 },
    ]);
    let mut out = json!({
        "cniVersion": version,
        "interfaces": [
            { "name": "cni0" },
            { "name": "veth1" },
            { "name": "eth0", "sandbox": netns },
        ],
    });
    if version == "0.4.0" {
        ips[0]["version"] = "4".into();
        ips[1]["version"] = "6".into();
        out["dns"] = json!({});
    }
    out["ips"] = ips;
    out
}

/// The rules of table filter, as they follow `-A `.
fn rules(save: &str) -> Vec<String> {
    let text = run(save, &["-t", "filter"]);
    let rules = text.lines().filter_map(|line| line.strip_prefix("-A "));
    rules.map(str::to_owned).collect()
}

const SHARED: &str =
    "FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD";
const ADMIN: &str = "CNI-FORWARD -m comment --comment \"CNI firewall plugin \
    admin overrides\" -j CNI-ADMIN";

/// FW-2, for each version there is.
#[test]
fn the_rules_of_upstream() {
    on_a_node(|node| {
        let pod = node.pod("cA");
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let result = made_up(version, &pod.netns);
            let call = firewall(&pod, &result);
            assert_eq!(call.add(), result);
            for (save, ip) in [
                ("iptables-save", "10.9.0.2/32"),
                ("ip6tables-save", "fd00:9::2/128"),
            ] {
                assert_eq!(
                    rules(save),
                    [
                        SHARED.to_owned(),
                        ADMIN.to_owned(),
                        format!(
                            "CNI-FORWARD -d {ip} -m conntrack --ctstate \
                             RELATED,ESTABLISHED -j ACCEPT"
                        ),
                        format!("CNI-FORWARD -s {ip} -j ACCEPT"),
                    ]
                );
            }
            let before = rules("iptables-save");
            call.add();
            assert_eq!(rules("iptables-save"), before, "again");
            assert!(call.call("CHECK").ok);
            call.del();
            call.del();
            for save in ["iptables-save", "ip6tables-save"] {
                assert_eq!(rules(save), [SHARED, ADMIN], "shared ones stay");
            }
            assert_eq!(call.call("CHECK").error().0, 100);
            assert_eq!(rules("iptables-save").len(), 2, "CHECK made nothing");
        }
        for version in ["0.3.1", "0.2.0", ""] {
            let old = firewall(&pod, &json!({})).version(version);
            assert_eq!(old.call("ADD").error().0, 1, "{version}");
        }
    });
}

/// FW-3
#[test]
fn the_rules_of_policies() {
    on_a_node(|node| {
        let pod = node.pod("cA");
        let call = firewall(&pod, &made_up("1.0.0", &pod.netns));
        let comment = |what: &str| {
            format!(
                "-m comment --comment \"CNI firewall plugin rules \
                 (ingressPolicy: {what})\""
            )
        };
        let (either, same, isolated) = (
            comment("same-bridge|isolated"),
            comment("same-bridge"),
            comment("isolated"),
        );
        call.clone().with("ingressPolicy", "same-bridge".into()).add();
        let stages = || {
            let all = rules("iptables-save");
            let ours = all.into_iter().filter(|r| r.contains("ISOLATION"));
            ours.collect::<Vec<_>>()
        };
        let first = format!("FORWARD {either} -j CNI-ISOLATION-STAGE-1");
        let own = |comment: &str| {
            format!(
                "CNI-ISOLATION-STAGE-1 -i cni0 ! -o cni0 {comment} -j \
                 CNI-ISOLATION-STAGE-2"
            )
        };
        let rest = [
            format!("CNI-ISOLATION-STAGE-1 {either} -j RETURN"),
            format!("CNI-ISOLATION-STAGE-2 -o cni0 {either} -j DROP"),
            format!("CNI-ISOLATION-STAGE-2 {either} -j RETURN"),
        ];
        let want = [&[first.clone(), own(&same)][..], &rest].concat();
        assert_eq!(stages(), want);
        assert_eq!(rules("iptables-save")[1], SHARED, "behind the isolation");
        let call = call
            .with("ingressPolicy", "isolated".into())
            .with("iptablesAdminChainName", "MYADM".into());
        call.add();
        let drop =
            format!("CNI-ISOLATION-STAGE-1 -i cni0 -o cni0 {isolated} -j DROP");
        let want =
            [&[first, drop, own(&isolated), own(&same)][..], &rest].concat();
        assert_eq!(stages(), want);
        assert!(call.call("CHECK").ok);
        // what somebody removed comes back behind the isolation
        run("iptables", &["-D", "FORWARD", "2"]);
        assert_eq!(call.call("CHECK").error().0, 100);
        call.add();
        assert_eq!(rules("iptables-save")[1], SHARED);
        call.del();
        let bad = call.with("ingressPolicy", "foo".into());
        assert_eq!(bad.call("ADD").error().0, 7);
        // it does not keep a pod from going away
        bad.del();
    });
}

/// CW-17: by owner, without `prevResult` or the pod.
#[test]
fn del_and_gc_without_a_result() {
    on_a_node(|node| {
        let calls: Vec<Call> = (2..5)
            .map(|n| {
                let pod = node.pod(&format!("p{n}"));
                let ips = json!([{ "address": format!("10.9.0.{n}/24") }]);
                let result = json!({ "cniVersion": "1.1.0", "ips": ips });
                firewall(&pod, &result)
            })
            .collect();
        let other = calls[2].clone().with("name", "other".into());
        for call in [&calls[0], &calls[1], &other] {
            call.add();
        }
        assert!(rules("ip6tables-save").is_empty(), "IPv4 pods");
        let mut blind = calls[0].clone();
        blind.netns = String::new();
        blind.conf.as_object_mut().unwrap().remove("prevResult");
        blind.del();
        assert_eq!(rules("iptables-save").len(), 6);
        assert_eq!(blind.call("GC").error().0, 7, "R-17");
        let answer = blind.valid(&[]).call("GC");
        assert!(answer.ok, "{answer:?}");
        let left = rules("iptables-save");
        assert_eq!(left.len(), 4, "the other network's: {left:?}");
        assert!(other.call("CHECK").ok);
        assert_eq!(names("/run/flannel/firewall/tn"), [""; 0]);
        // an address that another pod has got meanwhile
        let heir = firewall(&node.pod("heir"), &other.conf["prevResult"]);
        heir.add();
        other.del();
        assert!(heir.call("CHECK").ok);
        heir.del();
        assert_eq!(rules("iptables-save").len(), 2);
        assert!(!exists("/run/flannel/firewall/tn/heir@eth0"));
    });
}

/// The DEL of a pod never came, and others have its addresses meanwhile, or it
/// comes back itself with another: the rules go with the last of these.
#[test]
fn addresses_of_a_pod_that_was_forgotten() {
    on_a_node(|node| {
        let call = |id: &str, ips: &[&str]| {
            let one = |ip: &&str| json!({ "address": format!("{ip}/24") });
            let ips: Vec<Value> = ips.iter().map(one).collect();
            let result = json!({ "cniVersion": "1.1.0", "ips": ips });
            firewall(&node.pod(id), &result)
        };
        let forgotten = call("forgotten", &["10.9.0.2", "10.9.1.2"]);
        forgotten.add();
        let one = call("one", &["10.9.0.2"]);
        one.add();
        let file = "/run/flannel/firewall/tn/forgotten@eth0";
        let left = std::fs::read_to_string(file).unwrap();
        assert_eq!(left, "10.9.1.2\n");
        let other = call("other", &["10.9.1.2"]);
        other.add();
        assert!(!exists(file), "has none left");
        // late, and with all that it had
        forgotten.del();
        for call in [&one, &other] {
            let answer = call.call("CHECK");
            assert!(answer.ok, "{answer:?}");
            call.del();
        }
        assert_eq!(rules("iptables-save"), [SHARED, ADMIN]);
        one.add();
        let again = one.after(&other.conf["prevResult"]);
        again.add();
        assert_eq!(rules("iptables-save").len(), 6);
        again.del();
        assert_eq!(rules("iptables-save"), [SHARED, ADMIN]);
    });
}

/// What the Go plugin leaves of a pod of ours is our file: its addresses are
/// those of whoever has them on its interface, whose rules the Go plugin may
/// have made.
#[test]
fn rules_of_the_go_plugin_beside_an_old_file() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let folder = "/run/flannel/firewall/cbr0";
        let pod = node.pod("a");
        let result = pod.add();
        let call = pod.chained("firewall", &result);
        call.add();
        std::fs::remove_file(format!("{folder}/a@eth0")).unwrap();
        let old = plain(&result).join("\n");
        std::fs::write(format!("{folder}/old@eth0"), old + "\n").unwrap();
        // the addresses may be the other's once the pod has lost them
        let mut gone = call.clone();
        gone.netns = String::new();
        gone.del();
        assert!(call.call("CHECK").ok);
        call.del();
        assert_eq!(rules("iptables-save"), [SHARED, ADMIN]);
        assert_eq!(rules("ip6tables-save"), [SHARED, ADMIN]);
    });
}

/// The matrix of CT-37: two pods on one bridge, one on another.
fn reaches(node: &Node, policy: &str, [same, other]: [bool; 2]) {
    let attached =
        [("a", "br3"), ("b", "br3"), ("c", "br4")].map(|(id, br)| {
            let subnet = br.replace("br", "10.88.") + ".1/24";
            node.subnet_env(&format!(
                "FLANNEL_NETWORK=10.88.0.0/16\nFLANNEL_SUBNET={subnet}\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
            ));
            let pod = node.pod(id).delegate("bridge", br.into());
            let pod = pod.with("name", br.into());
            let result = pod.add();
            firewall(&pod, &result).with("ingressPolicy", policy.into()).add();
            (pod, plain(&result).remove(0))
        });
    let [(a, _), (b, b_ip), (c, c_ip)] = &attached;
    assert!(b.pings("10.88.3.1") && c.pings("10.88.4.1"), "{policy}");
    for (ip, reached) in [(b_ip, same), (c_ip, other)] {
        let as_wanted = match reached {
            true => a.pings(ip),
            false => a.pings_in_vain(ip),
        };
        assert!(as_wanted, "{policy}: {ip}: {reached}");
    }
}

#[test]
fn who_reaches_whom() {
    for (policy, want) in [
        ("open", [true, true]),
        ("same-bridge", [true, false]),
        ("isolated", [false, false]),
    ] {
        on_a_node(|node| {
            // what crosses a bridge passes iptables only with this
            let filtered =
                exists("/proc/sys/net/bridge/bridge-nf-call-iptables");
            let mut want = want;
            if !filtered {
                want[0] = true;
            }
            reaches(node, policy, want);
        });
    }
}

/// FW-4, with a program that plays firewalld's.
#[test]
fn firewalld() {
    on_a_node(|node| {
        let script = r#"
touch /run/zone
case "$1" in
--state) exit 0;;
esac
ip=${2#*=}
case "$2" in
--query-source*) grep -qx -- "$1 $ip" /run/zone;;
--add-source*) echo "$1 $ip" >> /run/zone;;
--remove-source*) grep -vx -- "$1 $ip" /run/zone > /run/zone.new; mv /run/zone.new /run/zone;;
esac"#;
        let folder = node.plugins(&[("firewall-cmd", script)]);
        let path =
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
        let pod = node.pod("cA").env("PATH", &path);
        let call = firewall(&pod, &made_up("1.1.0", &pod.netns));
        call.add();
        call.add();
        let zone = || std::fs::read_to_string("/run/zone").unwrap();
        assert_eq!(
            zone(),
            "--zone=trusted 10.9.0.2/32\n--zone=trusted fd00:9::2/128\n"
        );
        assert!(call.call("CHECK").ok && call.call("STATUS").ok);
        assert!(rules("iptables-save").is_empty(), "it runs, so it is used");
        call.del();
        assert_eq!(zone(), "");
        assert_eq!(call.call("CHECK").error().0, 100);
        let asked = call
            .env("PATH", "/nonexistent")
            .with("backend", "firewalld".into());
        let (code, msg) = asked.call("ADD").error();
        assert_eq!(code, 50);
        assert!(msg.starts_with("firewall-cmd is not in PATH"), "{msg}");
        assert_eq!(asked.call("STATUS").error().0, 50);
        // stopped or removed, its zones are gone, and the pod may go too
        let asked = asked.valid(&[]);
        asked.del();
        let mut stopped = asked;
        stopped.env.clear();
        let folder = node.plugins(&[("firewall-cmd", "exit 252")]);
        let path = format!("{}:/usr/sbin:/usr/bin", folder.display());
        let stopped = stopped.env("PATH", &path);
        for verb in ["DEL", "GC"] {
            std::fs::create_dir_all("/run/flannel/firewall/tn").unwrap();
            let kept = "/run/flannel/firewall/tn/cA@eth0";
            std::fs::write(kept, "10.9.0.2\n").unwrap();
            let answer = stopped.call(verb);
            assert!(answer.ok, "{verb}: {answer:?}");
            assert!(!exists(kept), "{verb}");
        }
    });
}

/// An ADD that was killed while it wrote, and a container whose id is too
/// long for a file.
#[test]
fn what_a_killed_add_wrote() {
    on_a_node(|node| {
        let pod = node.pod("cA");
        let call = firewall(&pod, &made_up("1.1.0", &pod.netns));
        let folder = "/run/flannel/firewall/tn";
        std::fs::create_dir_all(folder).unwrap();
        for verb in ["DEL", "GC"] {
            std::fs::write(format!("{folder}/.cA@eth0"), "10.9").unwrap();
            std::fs::write(format!("{folder}/.cB@eth0"), "10.9").unwrap();
            let mut other = call.clone();
            other.id = "cB".into();
            assert!(call.clone().valid(&[&other]).call(verb).ok);
            assert_eq!(names(folder), [".cB@eth0"], "{verb}");
        }
        // whole, but not in its place yet: still the attachment's own
        call.add();
        std::fs::write(format!("{folder}/.cA@eth0"), "10.9.0.2\n").unwrap();
        call.del();
        assert_eq!(rules("iptables-save"), [SHARED, ADMIN]);
    });
}

/// P09: firewalld that does not answer.
#[test]
fn firewalld_that_hangs() {
    on_a_node(|node| {
        let hangs = "case $1 in --state) exit 0;; esac; exec sleep 60";
        let folder = node.plugins(&[("firewall-cmd", hangs)]);
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", folder.display());
        let pod = node.pod("cA").env("PATH", &path);
        let call = firewall(&pod, &made_up("1.1.0", &pod.netns))
            .with("backend", "firewalld".into());
        for verb in ["ADD", "CHECK", "DEL"] {
            gives_up(&call, verb, "gave up after");
        }
    });
}
