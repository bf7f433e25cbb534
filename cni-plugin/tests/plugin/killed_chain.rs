//! As `killed`, for the plugins of a chain: each is killed after its system
//! calls while the pod lives; DEL or GC leaves nothing of it, and the next ADD
//! works.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use netlink::{Dump, Socket, link};
use serde_json::{Value, json};

use crate::killed::{ID, NODES, killed_after, on_all_nodes, rules};
use crate::node::{
    Call, Node, exists, feed_no_answer, on_a_node, plain, run, wait_until,
};

/// All that a plugin of the chain may have made for the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Rules and chains.
    rules: Vec<String>,
    /// Devices.
    links: Vec<String>,
    /// Files.
    files: Vec<String>,
    /// MTU and length of the queue of the pod's interface.
    attributes: (u32, u32),
}

// === impl State ===

impl State {
    fn of(node: &Node, pod: &Call, ips: &[String]) -> Self {
        let words = [ID, "CNI-DN-"].into_iter();
        let words: Vec<&str> =
            words.chain(ips.iter().map(String::as_str)).collect();
        let all = rules();
        let own = |line: &&str| words.iter().any(|word| line.contains(word));
        let rules = all.lines().filter(own).map(str::to_owned).collect();
        let ifbs = link::Filter { kind: Some("ifb"), master: None };
        let ifbs = link::list(&mut node.socket(), ifbs);
        let ifbs = ifbs.and_then(Dump::complete).unwrap();
        let mut files = Vec::new();
        for folder in ["/run/flannel", "/run/cni"] {
            list(Path::new(folder), &mut files);
        }
        let mut inside = Socket::open_in(&pod.open()).unwrap();
        let eth0 = link::by_name(&mut inside, "eth0").unwrap();
        Self {
            rules,
            links: ifbs.into_iter().map(|link| link.name).collect(),
            files,
            attributes: (eth0.mtu, eth0.txqlen),
        }
    }
}

/// The files below `folder` that have the pod's name.
fn list(folder: &Path, out: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let text = path.display().to_string();
        match path.is_dir() {
            true => list(&path, out),
            false if text.contains(ID) => out.push(text),
            false => {}
        }
    }
}

/// Every `step`th call of ADD and of DEL of the plugin `kind`, with `members`
/// in its configuration.
fn try_plugin(kind: &'static str, step: usize, members: &Value) {
    on_all_nodes(|first| try_every(kind, first, step, members));
}

fn try_every(kind: &'static str, first: usize, step: usize, members: &Value) {
    on_a_node(|node| {
        node.flanneld_alone_dual();
        let pod = node.pod(ID).version("1.1.0");
        let result = pod.add();
        let ips = plain(&result);
        let mut call = pod.chained(kind, &result);
        for (key, value) in members.as_object().unwrap() {
            call = call.with(key, value.clone());
        }
        let gc = call.clone().valid(&[]);
        let state = || State::of(node, &pod, &ips);
        let before = state();
        let mut left = 0;
        for verb in ["ADD", "DEL"] {
            let (mut n, mut ended) = (first * step, false);
            while !ended {
                for by in [&call, &gc] {
                    if verb == "DEL" {
                        call.add();
                    }
                    ended = killed_after(&call, verb, n).ended;
                    left += usize::from(state() != before);
                    let by_gc = std::ptr::eq(by, &gc);
                    let answer = by.call(if by_gc { "GC" } else { "DEL" });
                    let what = format!("{kind}: {verb} killed after {n} calls");
                    assert!(answer.ok, "{what}: {answer:?}");
                    if by_gc {
                        // a pod that is gone has no attributes to put back
                        put_back(&before);
                    }
                    assert_eq!(state(), before, "{what}, GC: {by_gc}");
                }
                n += NODES * step;
            }
            assert!(n > 50, "{n} calls cannot be all");
        }
        assert!(left > 1, "they were killed in between");
        let out = call.add();
        assert_ne!(state(), before);
        let answer = call.after(&out).call("CHECK");
        assert!(answer.ok, "{kind}: {answer:?}");
        call.del();
        assert_eq!(state(), before, "{kind}: the last DEL");
        pod.del();
        node.assert_clean();
    });
}

fn put_back(before: &State) {
    let (mtu, txqlen) = before.attributes;
    let (mtu, txqlen) = (mtu.to_string(), txqlen.to_string());
    let set = ["-n", ID, "link", "set", "eth0", "mtu", &mtu];
    run("ip", &[&set[..], &["txqueuelen", &txqlen]].concat());
}

fn ports(backend: &str) -> Value {
    let ports = json!([
        { "hostPort": 8080, "containerPort": 80 },
        { "hostPort": 5353, "containerPort": 53, "protocol": "udp" },
    ]);
    json!({ "backend": backend, "runtimeConfig": { "portMappings": ports } })
}

#[test]
fn portmap_in_nftables() {
    try_plugin("portmap", 3, &ports("nftables"));
}

/// Its children make thousands of calls.
#[test]
fn portmap_by_iptables() {
    try_plugin("portmap", 97, &ports("iptables"));
}

#[test]
fn firewall_by_iptables() {
    let members =
        json!({ "backend": "iptables", "ingressPolicy": "same-bridge" });
    try_plugin("firewall", 97, &members);
}

/// The plugin alone is killed, as by a runtime: iptables, which waits for
/// others, goes on. DEL waits for it.
#[test]
fn what_a_killed_plugin_has_started() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let slow = "touch /run/started; sleep 2
            /usr/sbin/iptables-restore \"$@\"; touch /run/done";
        let folder = node.plugins(&[("iptables-restore", slow)]);
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", folder.display());
        let pod = node.pod(ID).version("1.1.0");
        let mut call = pod.chained("portmap", &pod.add());
        for (key, value) in ports("iptables").as_object().unwrap() {
            call = call.with(key, value.clone());
        }
        for by_gc in [false, true] {
            for file in ["/run/started", "/run/done"] {
                drop(fs::remove_file(file));
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
            command.arg0(call.name).stdout(Stdio::null());
            call.clone().env("PATH", &path).environment(&mut command, "ADD");
            let text = call.conf.to_string();
            let mut child = feed_no_answer(&mut command, text.as_bytes());
            wait_until("iptables was started", || exists("/run/started"));
            child.kill().unwrap();
            child.wait().unwrap();
            match by_gc {
                true => assert!(call.clone().valid(&[]).call("GC").ok),
                false => call.del(),
            }
            wait_until("iptables has ended", || exists("/run/done"));
            let rules = rules();
            assert!(!rules.contains("CNI-DN-"), "GC: {by_gc}: {rules}");
        }
    });
}

#[test]
fn bandwidth() {
    let members = json!({
        "ingressRate": 8_000_000, "ingressBurst": 16_000_000,
        "egressRate": 8_000_000, "egressBurst": 16_000_000,
    });
    try_plugin("bandwidth", 1, &members);
}

#[test]
fn tuning() {
    try_plugin("tuning", 1, &json!({ "mtu": 1400, "txQLen": 555 }));
}
