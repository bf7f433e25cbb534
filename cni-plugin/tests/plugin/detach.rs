//! DEL: any number of times, whatever is gone already.

use std::fs;

use netlink::Socket;
use serde_json::json;

use crate::node::{Call, Node, Stack, on_a_node, run};

fn attached(node: &Node, id: &str) -> Call {
    node.flanneld(Stack::Dual);
    let pod = node.pod(id);
    pod.add();
    pod
}

#[test]
fn of_nothing() {
    on_a_node(|node| {
        let pod = node.pod("a");
        pod.del();
        let mut gone = pod;
        gone.netns = "/run/netns/never-there".into();
        gone.del();
        node.assert_clean();
    });
}

/// R-8, S-60: after a restart of the machine CNI_NETNS is empty.
#[test]
fn with_the_namespace_gone() {
    for netns in ["", "/run/netns/a", "/run/netns/a/deeper"] {
        on_a_node(|node| {
            let mut pod = attached(node, "a");
            node.remove_netns("a");
            pod.netns = netns.into();
            pod.del();
            assert_eq!(node.reserved(), [""; 0], "{netns:?}");
            assert_eq!(node.scratch(), [""; 0]);
            pod.del();
        });
    }
}

/// CW-3: what a bind mount leaves behind at a restart.
#[test]
fn with_a_file_where_the_namespace_was() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        // at once, which the kernel takes its time for
        run("ip", &["-n", "a", "link", "delete", "eth0"]);
        node.remove_netns("a");
        fs::write(&pod.netns, "").unwrap();
        let answer = pod.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("not a network namespace"));
        assert_eq!(node.reserved(), [""; 0]);
    });
}

/// The same with a namespace of another kind.
#[test]
fn with_another_namespace_where_the_pods_was() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        run("ip", &["-n", "a", "link", "delete", "eth0"]);
        node.remove_netns("a");
        fs::write(&pod.netns, "").unwrap();
        run("mount", &["--bind", "/proc/self/ns/uts", &pod.netns]);
        let answer = pod.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("a namespace of another kind"));
        node.assert_clean();
    });
}

/// S-60, CW-1: subnet.env and the kept configuration may be gone.
#[test]
fn without_any_file_but_the_reservation() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        fs::remove_file("/run/flannel/subnet.env").unwrap();
        fs::remove_file("/var/lib/cni/flannel/a").unwrap();
        pod.del();
        node.assert_clean();
    });
}

#[test]
fn with_the_interface_gone() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        let mut socket = Socket::open_in(&pod.open()).unwrap();
        let delete = netlink::link::delete_by_name("eth0");
        socket.request(&delete).unwrap();
        pod.del();
        node.assert_clean();
    });
}

#[test]
fn with_an_unusable_kept_configuration() {
    for text in ["", "{\"name\":\"cb", "{\"name\":\"cbr0\"}"] {
        on_a_node(|node| {
            let pod = attached(node, "a");
            fs::write("/var/lib/cni/flannel/a", text).unwrap();
            pod.del();
            node.assert_clean();
        });
    }
}

/// HL-38: a configuration that would not do for ADD any more still names the
/// pool.
#[test]
fn with_a_configuration_that_became_wrong() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        fs::remove_file("/var/lib/cni/flannel/a").unwrap();
        let wrong = pod
            .delegate("ipMasq", true.into())
            .delegate("vlan", 7.into())
            .with(
                "ipam",
                serde_json::json!({ "routes": [{ "dst": "nonsense" }] }),
            )
            .env("CNI_ARGS", "no=arguments=at;all");
        assert_eq!(wrong.call("ADD").error().0, 7);
        wrong.del();
        node.assert_clean();
    });
}

/// An ADD that was killed while it wrote.
#[test]
fn with_a_kept_configuration_half_written() {
    on_a_node(|node| {
        let a = attached(node, "a");
        let b = attached(node, "b");
        fs::remove_file("/var/lib/cni/flannel/a").unwrap();
        for half in [".cbr0@a@eth0", ".cbr0@b@eth0"] {
            fs::write(format!("/var/lib/cni/flannel/{half}"), "{").unwrap();
        }
        a.del();
        assert_eq!(node.scratch(), [".cbr0@b@eth0", "b"]);
        b.del();
        node.assert_clean();
    });
}

/// What is kept counts, not what became of the rest.
#[test]
fn with_a_configuration_that_says_nothing() {
    on_a_node(|node| {
        let pod = attached(node, "a")
            .with("delegate", "x".into())
            .with("ipam", 5.into())
            .with("subnetFile", false.into());
        assert_eq!(pod.call("ADD").error().0, 7);
        pod.del();
        node.assert_clean();
    });
}

/// The same when nothing is kept: what cannot be read counts as absent, so
/// that the pod does not wait for somebody who mends it.
#[test]
fn with_members_of_the_wrong_type() {
    for (key, value) in [
        ("delegate", json!("x")),
        ("delegate", json!({ "type": "bridge", "ipMasq": [] })),
        ("ipam", json!(5)),
        ("ipam", json!({ "type": ["host-local"] })),
        ("ipam", json!({ "dataDir": {} })),
        ("runtimeConfig", json!([])),
        ("subnetFile", json!(false)),
        ("dataDir", json!(7)),
        ("dataDir", json!("/proc/version")),
    ] {
        on_a_node(|node| {
            let pod = attached(node, "a");
            fs::remove_file("/var/lib/cni/flannel/a").unwrap();
            let wrong = pod.with(key, value.clone());
            assert!(!wrong.call("ADD").ok, "{key}: {value}");
            wrong.del();
            node.assert_clean();
        });
    }
}

/// The same of the plugins that keep nothing.
#[test]
fn with_another_ipam_than_that_of_add() {
    for name in ["bridge", "ptp"] {
        for (ipam, is_said) in [
            (json!("host-local"), true),
            (json!({ "type": 5 }), true),
            (json!([]), true),
            (json!({}), false),
            (json!(null), false),
        ] {
            on_a_node(|node| {
                let pod = plain_pod(node, name);
                pod.add();
                let wrong = pod.with("ipam", ipam.clone());
                assert!(!wrong.call("ADD").ok);
                let answer = wrong.call("DEL");
                assert!(answer.ok, "{name} {ipam}: {answer:?}");
                assert_eq!(answer.stderr.contains("ipam"), is_said);
                node.assert_clean();
            });
        }
    }
}

/// A call of `bridge` or `ptp` by its own name.
fn plain_pod(node: &Node, name: &'static str) -> Call {
    let ranges = json!([[{ "subnet": "10.9.0.0/24" }]]);
    let conf = json!({
        "name": "cbr0",
        "cniVersion": "1.1.0",
        "type": name,
        "isGateway": true,
        "ipam": { "type": "host-local", "ranges": ranges },
    });
    Call { name, conf, ..node.pod("a") }
}

/// The other container's address, link and file stay.
#[test]
fn touches_only_its_own() {
    on_a_node(|node| {
        let a = attached(node, "a");
        let b = attached(node, "b");
        a.del();
        assert_eq!(node.scratch(), ["b"]);
        assert_eq!(node.reserved(), ["10.244.1.3", "fd00:244:0:1::3"]);
        assert!(b.pings("10.244.1.1"));
        // the same container under another interface name
        let mut other = b.clone();
        other.ifname = "eth1".into();
        other.del();
        assert_eq!(node.reserved().len(), 2);
        assert!(b.pings("10.244.1.1"));
    });
}

/// Links say whose they are: DEL needs neither the namespace's path nor, in
/// it, the interface's name (P15).
#[test]
fn with_the_way_to_the_namespace_lost() {
    for netns in ["", "/run/netns/gone"] {
        on_a_node(|node| {
            let mut pod = attached(node, "a");
            let b = attached(node, "b");
            run("ip", &["-n", "a", "link", "set", "eth0", "down"]);
            run("ip", &["-n", "a", "link", "set", "eth0", "name", "moved"]);
            pod.netns = netns.into();
            pod.del();
            assert_eq!(node.veths().len(), 1, "{netns:?}: b's");
            assert_eq!(node.reserved().len(), 2);
            b.del();
            node.assert_clean();
        });
    }
}

/// A link that cannot be removed keeps its address: code 11.
#[test]
fn while_the_link_resists() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        let (code, msg) = pod.call_without("net_admin", "DEL").error();
        assert_eq!(code, 11);
        assert!(msg.contains("its address stays reserved"), "{msg}");
        assert!(!msg.contains("not found"));
        assert_eq!(node.scratch(), ["a"]);
        assert_eq!(node.reserved().len(), 2);
        pod.del();
        node.assert_clean();
    });
}

/// The host's end tells whose it is: the namespace need not be opened.
#[test]
fn with_a_path_that_cannot_be_opened() {
    on_a_node(|node| {
        let mut pod = attached(node, "a");
        pod.netns = "/run/loop".into();
        std::os::unix::fs::symlink("loop", &pod.netns).unwrap();
        pod.del();
        node.assert_clean();
        // what else is there cannot be known
        assert_eq!(pod.call("DEL").error().0, 8);
    });
}

/// An interface of another kind was made by somebody else, whatever its name:
/// an ADD that fails for it is followed by DEL.
#[test]
fn of_an_interface_that_others_made() {
    for (name, kind) in [("flannel", "flannel"), ("ptp", "ptp")] {
        on_a_node(|node| {
            let mut pod = match kind {
                "ptp" => plain_pod(node, name),
                _ => node.pod("a"),
            };
            node.flanneld(Stack::V4);
            let link = ["-n", "a", "link"];
            run(
                "ip",
                &[&link[..], &["add", "eth0", "type", "bridge"]].concat(),
            );
            for ifname in ["eth0", "lo"] {
                pod.ifname = ifname.into();
                let (_, msg) = pod.call("ADD").error();
                assert!(msg.contains("did not make"), "{name}: {msg}");
                let answer = pod.call("DEL");
                assert!(answer.ok, "{name}: {answer:?}");
                assert!(answer.stderr.contains("no veth"), "{answer:?}");
            }
            run("ip", &[&link[..], &["show", "eth0"]].concat());
            node.assert_clean();
        });
    }
}

/// S-18 on DEL: the node's own interfaces are not the plugin's to remove.
#[test]
fn of_the_nodes_own_namespace() {
    on_a_node(|node| {
        let mut pod = attached(node, "a");
        pod.netns = "/proc/thread-self/ns/net".into();
        pod.ifname = node.veths()[0].clone();
        // and the container's to go away with
        let answer = pod.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("taken as gone"), "{answer:?}");
        assert_eq!(node.veths().len(), 1);
    });
}

/// CNI_NETNS became the node's own: the attachment goes all the same.
#[test]
fn with_the_nodes_own_namespace_at_the_path() {
    on_a_node(|node| {
        let mut pod = attached(node, "a");
        pod.netns = "/proc/thread-self/ns/net".into();
        pod.del();
        node.assert_clean();
    });
}

/// After an ADD that failed because another network has the name already.
#[test]
fn of_a_name_that_another_network_has() {
    on_a_node(|node| {
        let one = attached(node, "a");
        let two = one.clone().with("name", "n2".into());
        let (_, msg) = two.call("ADD").error();
        assert!(msg.contains("already exists"), "{msg}");
        let answer = two.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("another attachment's"), "{answer:?}");
        assert!(one.pings("10.244.1.1") && one.pings("fd00:244:0:1::1"));
        one.del();
        node.assert_clean();
    });
}

/// A repeated DEL whose path leads to another pod's namespace by now.
#[test]
fn with_another_pods_namespace_at_the_path() {
    on_a_node(|node| {
        let mut a = attached(node, "a");
        let b = attached(node, "b");
        a.del();
        a.netns = b.netns.clone();
        a.del();
        assert!(b.pings("10.244.1.1") && b.pings("fd00:244:0:1::1"));
        b.del();
        node.assert_clean();
    });
}

/// Failures that must be retried do not read as success (R-9, S-58).
#[test]
fn a_pool_that_cannot_be_read() {
    on_a_node(|node| {
        let pod = attached(node, "a");
        let lock = "/var/lib/cni/networks/cbr0/lock";
        fs::remove_file(lock).unwrap();
        fs::create_dir(lock).unwrap();
        let (_, msg) = pod.call("DEL").error();
        assert!(!msg.contains("not found"), "{msg}");
        assert!(!msg.contains("no such file"), "{msg}");
        assert_eq!(node.scratch(), ["a"], "kept for the retry (FL-8)");
        fs::remove_dir(lock).unwrap();
        pod.del();
        node.assert_clean();
    });
}
