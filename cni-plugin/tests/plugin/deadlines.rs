//! P09: no verb takes longer than it may, whatever it waits for, and says
//! what it was doing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::node::{Answer, Call, Node, on_a_node, run};

/// A time in seconds within which only a call ends that was given up: what it
/// waits for takes longer.
const LONG: u64 = 1000;

/// PATH with programs of iptables that do not end.
fn hanging_iptables(node: &Node) -> String {
    let hangs = format!("exec sleep {LONG}");
    let tools = ["iptables", "ip6tables"].iter();
    let names: Vec<String> = tools
        .flat_map(|tool| ["save", "restore"].map(|w| format!("{tool}-{w}")))
        .collect();
    let scripts: Vec<_> = names.iter().map(|n| (&**n, &*hangs)).collect();
    let folder = node.plugins(&scripts);
    format!("{}:/usr/sbin:/usr/bin:/bin", folder.display())
}

/// It gives up with code 11 and names the step that was under way. It has so
/// little time that a test can wait for its end, and more where a machine
/// under load does not come to that step. Returns what it said.
pub(crate) fn gives_up(call: &Call, verb: &str, phase: &str) -> String {
    let began = Instant::now();
    let mut said = String::new();
    let reached = [3, 15, 60].into_iter().any(|seconds| {
        let short = call.clone().with("timeoutSeconds", seconds.into());
        let (code, msg) = short.call(verb).error();
        assert_eq!(code, 11, "{verb}: {msg}");
        said = msg;
        said.contains(phase)
    });
    assert!(reached, "{verb}, {phase}: {said:?}");
    assert!(began.elapsed() < Duration::from_secs(LONG / 2), "{verb}");
    said
}

/// Each chained plugin that has rules in iptables.
#[test]
fn iptables_that_hangs() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let path = hanging_iptables(node);
        let pod = node.pod("a").version("1.1.0");
        let result = pod.add();
        let ports = json!([{ "hostPort": 8080, "containerPort": 80 }]);
        let portmap = pod
            .chained("portmap", &result)
            .with("runtimeConfig", json!({ "portMappings": ports }))
            .with("backend", "iptables".into());
        let firewall =
            pod.chained("firewall", &result).with("backend", "iptables".into());
        for (call, add, del) in [
            (portmap, "mapping host ports", "removing host ports"),
            (firewall, "opening the firewall", "closing the firewall"),
        ] {
            let call = call.valid(&[]);
            let hangs = call.clone().env("PATH", &path);
            gives_up(&hangs, "ADD", add);
            call.add();
            gives_up(&hangs, "CHECK", "iptables-save");
            gives_up(&hangs, "DEL", del);
            gives_up(&hangs, "GC", del);
            gives_up(&hangs, "STATUS", "iptables-save");
            assert!(call.call("CHECK").ok, "nothing was removed");
            call.del();
        }
        let rules = run("iptables-save", &[]);
        assert!(!rules.contains("CNI-DN-"), "{rules}");
    });
}

/// Also where rules stay the address is free again, as the link is gone. The
/// next DEL removes the rest.
#[test]
fn a_hanging_iptables_keeps_no_address() {
    on_a_node(|node| {
        node.flanneld_alone_dual();
        let pod = node
            .pod("a")
            .delegate("ipMasq", true.into())
            .delegate("ipMasqBackend", "iptables".into());
        let hangs = pod.clone().env("PATH", &hanging_iptables(node));
        gives_up(&hangs, "ADD", "masquerading for the pod");
        // what was there was removed, rules could not be looked for
        assert_eq!(node.reserved(), [""; 0]);
        pod.add();
        gives_up(&hangs, "DEL", "removing the pod's masquerade rules");
        assert_eq!((node.veths().len(), node.reserved().len()), (0, 0));
        assert!(run("iptables-save", &[]).contains("id: \\\"a\\\""));
        pod.del();
        assert!(!run("iptables-save", &[]).contains("id: \\\"a\\\""));
        node.assert_clean();
    });
}

/// The kernel takes its time: it asks ten times, a second each, whether
/// somebody else has the pod's address.
#[test]
fn duplicate_address_detection() {
    on_a_node(|node| {
        node.flanneld_alone_dual();
        let pod = node.pod("a").delegate("enabledad", true.into());
        pod.open()
            .enter(|| {
                let key = "net/ipv6/conf/default/dad_transmits";
                netlink::sysctl::write_if_different(key, "10").unwrap();
            })
            .unwrap();
        gives_up(&pod, "ADD", "configuring the pod's interface");
        node.assert_clean();
    });
}

/// Nobody has said yet how long it may take, so it takes the usual time.
#[test]
fn stdin_that_is_never_closed() {
    on_a_node(|node| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
        node.pod("a").environment(&mut command, "ADD");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // held open until the plugin has ended
        let stdin = child.stdin.take();
        let out = child.wait_with_output().unwrap();
        drop(stdin);
        let (code, msg) = Answer::of(&out).error();
        assert_eq!(code, 11, "{msg}");
        assert!(msg.contains("reading the configuration"), "{msg}");
        assert!(msg.contains("has not closed"), "{msg}");
    });
}
