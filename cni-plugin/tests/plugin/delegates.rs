//! Delegates that are executed: found in CNI_PATH, fed, and listened to
//! (S-5, S-57, S-67, P-27..P-30). The plugins are scripts (CT-49).

use std::fs;

use serde_json::json;

use crate::deadlines::gives_up;
use crate::node::{
    Call, Node, SUBNET_ENV, Stack, addresses, exists, on_a_node, plain, run,
    wait_until,
};

/// Writes down how it was called, then does what `/run/<command>.sh` says.
const RECORDER: &str = r#"
cat > /run/stdin.$CNI_COMMAND
env > /run/env.$CNI_COMMAND
echo "said on stderr" >&2
if [ -e /run/$CNI_COMMAND.sh ]; then . /run/$CNI_COMMAND.sh; fi
"#;

fn foreign(node: &Node, id: &str) -> Call {
    node.flanneld(Stack::V4);
    node.plugins(&[("other", RECORDER)]);
    node.pod(id).delegate("type", "other".into())
}

fn told(file: &str) -> serde_json::Value {
    let text = fs::read_to_string(format!("/run/{file}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn script(verb: &str, body: &str) {
    fs::write(format!("/run/{verb}.sh"), body).unwrap();
}

#[test]
fn add_and_del() {
    on_a_node(|node| {
        let pod = foreign(node, "a")
            .version("0.4.0")
            .env("CNI_ARGS", "IgnoreUnknown=1;X=1");
        // a result of another version, which says so
        script(
            "ADD",
            r#"echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.2/24","gateway":"10.9.0.1"}}'"#,
        );
        let answer = pod.call("ADD");
        let result = answer.result();
        assert_eq!(result["cniVersion"], "0.4.0");
        assert_eq!(addresses(&result), ["10.9.0.2/24"]);
        assert_eq!(answer.stderr, "said on stderr\n");
        let conf = told("stdin.ADD");
        assert_eq!(conf["type"], "other");
        assert_eq!(conf["mtu"], 1450);
        assert!(conf["isGateway"].is_null(), "for bridges only");
        let env = fs::read_to_string("/run/env.ADD").unwrap();
        for line in [
            "CNI_CONTAINERID=a",
            "CNI_ARGS=IgnoreUnknown=1;X=1",
            "CNI_IFNAME=eth0",
        ] {
            assert!(env.lines().any(|l| l == line), "{line}: {env}");
        }
        let kept = fs::read("/var/lib/cni/flannel/a").unwrap();
        assert_eq!(kept, fs::read("/run/stdin.ADD").unwrap());
        // DEL gets what ADD got, whatever flanneld says now (P-30)
        fs::remove_file(SUBNET_ENV).unwrap();
        script("DEL", "echo '{\"code\":11,\"msg\":\"busy\"}'; exit 1");
        assert_eq!(pod.call("DEL").error(), (11, "busy".into()));
        assert_eq!(node.scratch(), ["a"], "kept for the retry (CW-1)");
        script("DEL", "");
        pod.del();
        assert_eq!(kept, fs::read("/run/stdin.DEL").unwrap());
        assert_eq!(node.scratch(), [""; 0]);
        // nothing is known any more, and nothing can be found out
        fs::remove_file("/run/stdin.DEL").unwrap();
        pod.del();
        assert!(!exists("/run/stdin.DEL"));
    });
}

/// S-18: before the delegate makes anything.
#[test]
fn in_the_nodes_own_namespace() {
    on_a_node(|node| {
        let mut pod = foreign(node, "a");
        pod.netns = "/proc/thread-self/ns/net".into();
        let (code, msg) = pod.call("ADD").error();
        assert_eq!(code, 8, "{msg}");
        assert!(!exists("/run/stdin.ADD"));
        node.assert_clean();
        // what it is that is no namespace, the delegate knows
        pod.netns = "/run/vm.sock".into();
        assert!(pod.call("ADD").ok && exists("/run/stdin.ADD"));
    });
}

#[test]
fn check_and_status_are_passed_on() {
    on_a_node(|node| {
        let pod = foreign(node, "a").version("1.1.0");
        script(
            "ADD",
            r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"}]}'"#,
        );
        let result = pod.add();
        assert!(pod.after(&result).call("CHECK").ok);
        let conf = told("stdin.CHECK");
        assert_eq!(conf["prevResult"], result);
        assert_eq!(conf["name"], "cbr0");
        // a list whose version has changed since ADD
        pod.clone().version("0.3.1").add();
        assert!(pod.after(&result).call("CHECK").ok);
        assert_eq!(told("stdin.CHECK")["cniVersion"], "1.1.0");
        assert!(pod.call("STATUS").ok);
        script("STATUS", "echo '{\"code\":51,\"msg\":\"limited\"}'; exit 1");
        assert_eq!(pod.call("STATUS").error(), (51, "limited".into()));
        node.plugins(&[("flannel", "exit 0")]);
        let itself = pod.delegate("type", "flannel".into());
        let (code, why) = itself.call("STATUS").error();
        assert_eq!((7, why), itself.call("ADD").error());
        assert_eq!(code, 50);
    });
}

#[test]
fn errors_of_a_delegate() {
    on_a_node(|node| {
        let pod = foreign(node, "a");
        for (body, code, text) in [
            (
                r#"echo '{"code":103,"msg":"own","details":"more"}'; exit 1"#,
                103,
                "own more",
            ),
            ("exit 3", 999, "plugin \"other\" failed with exit status: 3"),
            ("echo oops; exit 1", 999, "an answer that is no CNI error oops"),
            ("kill -9 $$", 999, "signal: 9"),
            ("echo oops", 6, "result of plugin \"other\""),
        ] {
            script("ADD", body);
            let _ = fs::remove_file("/run/stdin.DEL");
            let (got, msg) = pod.call("ADD").error();
            assert_eq!(got, code, "{body}: {msg}");
            assert!(msg.contains(text), "{body}: {msg}");
            assert!(exists("/run/stdin.DEL"), "S-61: {body}");
            assert_eq!(node.scratch(), [""; 0], "{body}");
        }
        // S-49
        script("ADD", "echo null");
        assert_eq!(addresses(&pod.add()), [""; 0]);
    });
}

#[test]
fn plugins_that_are_not_there() {
    on_a_node(|node| {
        let pod = foreign(node, "a");
        let missing = pod.clone().delegate("type", "macvlan".into());
        assert_eq!(
            missing.call("ADD").error(),
            (
                101,
                "failed to find plugin \"macvlan\" in path [/run/plugins]"
                    .into()
            )
        );
        let slash = pod.clone().delegate("type", "../other".into());
        assert!(slash.call("ADD").error().1.starts_with("invalid plugin name"));
        let ourselves = pod.clone().delegate("type", "flannel".into());
        assert_eq!(ourselves.call("ADD").error().0, 7);
        let (code, msg) = pod.env("CNI_PATH", "").call("ADD").error();
        assert_eq!(code, 4);
        assert!(msg.contains("CNI_PATH"), "{msg}");
        let ipam = node.pod("i").with("ipam", json!({ "type": "dhcp" }));
        assert_eq!(ipam.call("ADD").error().0, 101);
        for pod in [&missing, &ipam] {
            let (code, msg) =
                pod.clone().version("1.1.0").call("STATUS").error();
            assert_eq!(code, 50, "{msg}");
            assert!(msg.starts_with("failed to find plugin"), "{msg}");
        }
        node.assert_clean();
        let cni0 = netlink::link::by_name(&mut node.socket(), "cni0");
        assert!(cni0.is_err(), "not even the bridge");
        // the pods can go away all the same
        for pod in [missing, slash, ourselves, ipam] {
            let answer = pod.call("DEL");
            assert!(answer.ok, "{answer:?}");
            assert!(answer.stderr.contains("nothing is kept"), "{answer:?}");
        }
    });
}

/// A failed ADD whose undoing fails as well: DEL finds what is needed.
#[test]
fn what_cannot_be_undone_is_kept() {
    on_a_node(|node| {
        let pod = foreign(node, "a");
        script("ADD", "exit 1");
        script("DEL", "exit 1");
        assert_eq!(pod.call("ADD").error().0, 999);
        assert_eq!(node.scratch(), ["a"]);
        fs::remove_file(SUBNET_ENV).unwrap();
        script("DEL", "");
        pod.del();
        assert_eq!(told("stdin.DEL"), told("stdin.ADD"));
        node.assert_clean();
    });
}

/// S-50: 0.2.0 has no form for a result without an address.
#[test]
fn a_result_that_cannot_be_told_is_undone() {
    on_a_node(|node| {
        let pod = foreign(node, "a").version("0.2.0");
        script("ADD", "echo '{\"cniVersion\":\"0.2.0\",\"dns\":{}}'");
        let (code, msg) = pod.call("ADD").error();
        assert_eq!(code, 6);
        assert!(msg.starts_with("cannot convert: no valid IP"), "{msg}");
        assert!(exists("/run/stdin.DEL"));
        node.assert_clean();
    });
}

/// S-67: a binary that is being replaced is tried again.
#[test]
fn a_busy_binary() {
    on_a_node(|node| {
        let pod = foreign(node, "a");
        fs::copy("/bin/true", "/run/plugins/busy").unwrap();
        let pod = pod.delegate("type", "busy".into());
        let writer = fs::OpenOptions::new()
            .append(true)
            .open("/run/plugins/busy")
            .unwrap();
        let close = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(writer);
        });
        assert_eq!(addresses(&pod.add()), [""; 0]);
        close.join().unwrap();
    });
}

/// Our bridge with somebody else's addresses.
#[test]
fn addresses_of_another_ipam() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        node.plugins(&[("static", RECORDER)]);
        let pod = node.pod("a").with("ipam", json!({ "type": "static" }));
        script(
            "ADD",
            r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.77.0.5/24"}]}'"#,
        );
        let result = pod.add();
        assert_eq!(result["ips"][0]["gateway"], "10.77.0.1", "BR-31");
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(told("stdin.ADD")["ipam"]["type"], "static");
        assert!(pod.pings("10.77.0.1"));
        assert!(pod.after(&result).call("CHECK").ok);
        assert!(exists("/run/stdin.CHECK"));
        pod.del();
        assert!(exists("/run/stdin.DEL"));
        assert_eq!((node.veths().len(), node.scratch().len()), (0, 0));
        // without an address there is no attachment
        script("ADD", "echo '{\"cniVersion\":\"1.0.0\"}'");
        fs::remove_file("/run/stdin.DEL").unwrap();
        let (_, msg) = pod.call("ADD").error();
        assert_eq!(msg, "IPAM plugin returned missing IP config");
        assert!(exists("/run/stdin.DEL"), "given back");
        assert_eq!((node.veths().len(), node.scratch().len()), (0, 0));
        let gone = run("ip", &["-n", "a", "-br", "link"]);
        assert!(!gone.contains("eth0"), "{gone}");
    });
}

/// Several of one kind at the same time: addresses stay distinct.
#[test]
fn many_at_once() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let pods: Vec<Call> =
            (0..12).map(|n| node.pod(&format!("p{n}"))).collect();
        let node_ns = netlink::NetNs::current().unwrap();
        // threads begin in this thread's namespaces
        let results: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> =
                pods.iter().map(|p| scope.spawn(|| p.add())).collect();
            calls.into_iter().map(|c| c.join().unwrap()).collect()
        });
        assert!(node_ns.same_as(&netlink::NetNs::current().unwrap()).unwrap());
        let mut all: Vec<String> = results.iter().flat_map(plain).collect();
        all.sort();
        let mut unique = all.clone();
        unique.dedup();
        assert_eq!((all.len(), unique.len()), (24, 24));
        for pod in &pods {
            assert!(pod.pings("10.244.1.1") && pod.pings("fd00:244:0:1::1"));
        }
        std::thread::scope(|scope| {
            for pod in &pods {
                scope.spawn(|| pod.del());
            }
        });
        node.assert_clean();
    });
}

/// P09: one that never answers is killed.
#[test]
fn a_delegate_that_hangs() {
    on_a_node(|node| {
        let pod = foreign(node, "a");
        script("ADD", "sleep 1000 & echo $! > /run/pid; wait");
        // a machine under load may not come to the script's second step
        let began = (0..5).any(|_| {
            gives_up(&pod, "ADD", "waiting for the plugin");
            exists("/run/pid")
        });
        assert!(began, "the delegate was started");
        // its children too; one that nobody has waited for yet is a zombie
        let pid = fs::read_to_string("/run/pid").unwrap();
        let ended = || {
            let stat = format!("/proc/{}/stat", pid.trim());
            let stat = fs::read_to_string(stat).unwrap_or_default();
            !stat.contains("(sleep)") || stat.contains("(sleep) Z")
        };
        wait_until("its child has ended", ended);
        assert_eq!(told("stdin.DEL")["type"], "other", "undone (S-61)");
        assert_eq!(node.scratch(), [""; 0]);
    });
}

/// S-64: a delegate is told what is valid.
#[test]
fn gc_goes_on_to_the_delegate() {
    on_a_node(|node| {
        let a = foreign(node, "a").version("1.1.0");
        let b = Call { id: "b".into(), ..a.clone() };
        for pod in [&a, &b] {
            assert!(pod.call("ADD").ok);
        }
        let answer = a.clone().valid(&[&a]).call("GC");
        assert!(answer.ok, "{answer:?}");
        let conf = told("stdin.GC");
        let list = json!([{ "containerID": "a", "ifname": "eth0" }]);
        assert_eq!(conf["cni.dev/valid-attachments"], list);
        assert_eq!(conf["type"], "other");
        assert_eq!(node.scratch(), ["a"]);
        script("GC", "echo '{\"code\":11,\"msg\":\"busy\"}'; exit 1");
        let (code, msg) = a.valid(&[]).call("GC").error();
        assert_eq!((code, msg.as_str()), (11, "busy"));
        assert_eq!(node.scratch(), ["a"], "its DEL may need it");
    });
}
