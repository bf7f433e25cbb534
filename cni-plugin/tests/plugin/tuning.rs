//! `tuning`: attributes from everywhere, put back on DEL (CT-36).

use netlink::link::{self, LinkInfo};
use netlink::{Socket, sysctl};
use serde_json::{Value, json};

use crate::node::{Call, Stack, exists, names, on_a_node, run};

fn eth0(pod: &Call) -> LinkInfo {
    let mut socket = Socket::open_in(&pod.open()).unwrap();
    link::by_name(&mut socket, "eth0").unwrap()
}

/// The call that follows the pod's ADD in the list.
fn tuning(pod: &Call, result: &Value, members: Value) -> Call {
    let mut conf = json!({
        "name": "cbr0",
        "cniVersion": result["cniVersion"],
        "type": "tuning",
        "prevResult": result,
    });
    for (key, value) in members.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Call { name: "tuning", conf, ..pod.clone() }
}

const KEPT: &str = "/run/cni/tuning/a_eth0.json";

/// Everything, for each version that has chains.
#[test]
fn all_attributes() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let all = json!({
            "mac": "02:00:00:00:00:77", "mtu": 1400, "promisc": true,
            "allmulti": true, "txQLen": 555,
            // the kernel shows the two with a tab between them
            "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1",
                "net.ipv4.ip_local_port_range": "1024 65000" },
        });
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.pod("a").version(version);
            let result = pod.add();
            let before = eth0(&pod);
            let call = tuning(&pod, &result, all.clone());
            let mut want = result.clone();
            want["interfaces"][2]["mac"] = "02:00:00:00:00:77".into();
            assert_eq!(call.add(), want, "{version}");
            let now = eth0(&pod);
            assert_eq!(now.mac, Some([2, 0, 0, 0, 0, 0x77]));
            assert_eq!((now.mtu, now.txqlen), (1400, 555));
            assert!(now.is_promiscuous() && now.takes_all_multicast());
            let key = "net/ipv4/conf/eth0/arp_filter";
            let set = pod.open().enter(|| sysctl::read(key)).unwrap();
            assert_eq!(set.unwrap(), "1");
            let kept: Value =
                serde_json::from_str(&std::fs::read_to_string(KEPT).unwrap())
                    .unwrap();
            assert_eq!(kept["mtu"], before.mtu, "TU-3");
            assert_eq!(kept["promisc"], false);
            assert_eq!(kept["txQLen"], before.txqlen);
            // again: what was before stays kept
            call.add();
            let later = call.after(&want);
            if !version.starts_with("0.3") {
                assert!(later.call("CHECK").ok, "{version}");
                run("ip", &["-n", "a", "link", "set", "eth0", "mtu", "1300"]);
                let (code, msg) = later.call("CHECK").error();
                assert_eq!(code, 100);
                let want = "interface eth0: mtu is 1300, but should be 1400";
                assert_eq!(msg, want);
            }
            later.del();
            let mut after = eth0(&pod);
            after.operstate = before.operstate;
            assert_eq!(after, before, "{version}");
            assert!(!exists(KEPT));
            later.del();
            pod.del();
            node.remove_netns("a");
        }
    });
}

/// CT-36: nothing to do, a folder of one's own, other places of the MAC.
#[test]
fn what_is_not_said_is_not_touched() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let result = pod.add();
        let before = eth0(&pod);
        assert_eq!(tuning(&pod, &result, json!({})).add(), result);
        assert_eq!(eth0(&pod), before);
        assert!(!exists("/run/cni"));
        let own = json!({ "dataDir": "/run/elsewhere", "mtu": 1300 });
        let call = tuning(&pod, &result, own);
        call.add();
        assert_eq!(names("/run/elsewhere"), ["a_eth0.json"]);
        call.del();
        assert_eq!(names("/run/elsewhere"), [""; 0]);
        assert_eq!(eth0(&pod).mtu, before.mtu);
        let args = tuning(&pod, &result, json!({}))
            .env("CNI_ARGS", "IgnoreUnknown=1;MAC=02:00:00:00:00:05");
        assert_eq!(args.add()["interfaces"][2]["mac"], "02:00:00:00:00:05");
        args.del();
        assert_eq!(eth0(&pod).mac, before.mac);
        let mut none = tuning(&pod, &result, json!({ "mtu": 1300 }));
        none.conf.as_object_mut().unwrap().remove("prevResult");
        assert_eq!(
            none.call("ADD").error(),
            (7, "Required prevResult missing".into())
        );
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let result = pod.add();
        let before = eth0(&pod);
        for (members, text) in [
            (json!({ "promisc": true, "mtu": 70_000_000 }), "mtu of eth0"),
            (json!({ "mac": "01:00:00:00:00:00" }), "mac of eth0"),
            (
                json!({ "sysctl": { "net.ipv4.conf.IFNAME.nonex": "1" } }),
                "/proc/sys/net/ipv4/conf/eth0/nonex",
            ),
            (
                json!({ "sysctl": { "kernel.shmmax": "1" } }),
                "invalid net sysctl",
            ),
        ] {
            let call = tuning(&pod, &result, members);
            let (_, msg) = call.call("ADD").error();
            assert!(msg.contains(text), "{msg}");
            assert_eq!(eth0(&pod), before, "{msg}");
            assert!(!exists(KEPT), "{msg}");
            call.del();
        }
    });
}

/// The pod may be gone; the file must not stay.
#[test]
fn del_and_gc_without_the_pod() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mtu = json!({ "mtu": 1300 });
        let calls: Vec<Call> = ["a", "b", "c"]
            .iter()
            .map(|id| {
                let pod = node.pod(id).version("1.1.0");
                let call = tuning(&pod, &pod.add(), mtu.clone());
                let name = if *id == "c" { "other" } else { "cbr0" };
                let call = call.with("name", name.into());
                call.add();
                call
            })
            .collect();
        // as the Go plugin leaves it
        std::fs::write("/run/cni/tuning/go_eth0.json", "{\n \"mtu\": 1500\n}")
            .unwrap();
        let mut gone = calls[0].clone();
        gone.netns = String::new();
        gone.conf.as_object_mut().unwrap().remove("prevResult");
        gone.del();
        assert!(!exists(KEPT));
        assert_eq!(gone.call("GC").error().0, 7, "R-17");
        assert!(gone.clone().valid(&[&calls[1]]).call("GC").ok);
        assert_eq!(names("/run/cni/tuning").len(), 3);
        assert!(gone.valid(&[]).call("GC").ok);
        let left = names("/run/cni/tuning");
        assert_eq!(left, ["c_eth0.json", "go_eth0.json"]);
        assert!(calls[2].call("STATUS").ok);
        // a file that says nothing
        std::fs::write("/run/cni/tuning/c_eth0.json", "").unwrap();
        calls[2].del();
        assert_eq!(names("/run/cni/tuning"), ["go_eth0.json"]);
    });
}

/// A second DEL, whose path leads to another pod's namespace by now, leaves
/// that pod's interface as it is.
#[test]
fn the_interface_of_another_pod_is_not_put_back() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let a = node.pod("a");
        let call = tuning(&a, &a.add(), json!({ "mtu": 1300 }));
        call.add();
        a.del();
        let b = node.pod("b");
        b.add();
        let before = eth0(&b);
        let moved = Call { netns: b.netns.clone(), ..call };
        let answer = moved.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("another attachment's"), "{answer:?}");
        assert_eq!(eth0(&b), before);
        assert!(!exists(KEPT));
        run("ip", &["-n", "b", "link", "set", "eth0", "mtu", "1280"]);
        b.del();
    });
}

/// TU-4: an old value that can no longer be set keeps no pod from going away,
/// nor do the other values stay as they are.
#[test]
fn what_cannot_be_put_back() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let call = tuning(&pod, &pod.add(), json!({ "txQLen": 555 }));
        call.add();
        let old = r#"{"mac":"01:00:00:00:00:00","mtu":70000000,"txQLen":77}"#;
        std::fs::write(KEPT, old).unwrap();
        std::fs::write("/run/cni/tuning/flannel:cbr0:a:eth0", "{").unwrap();
        let answer = call.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert!(answer.stderr.contains("mtu of eth0 cannot"), "{answer:?}");
        assert_eq!(eth0(&pod).txqlen, 77);
        assert_eq!(names("/run/cni/tuning"), [""; 0]);
    });
}

/// S-63: a setting that ADD could never make is told before.
#[test]
fn status_judges_the_settings() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a").version("1.1.0");
        let result = pod.add();
        let of = |key: &str| {
            tuning(&pod, &result, json!({ "sysctl": { key: "1" } }))
        };
        assert!(of("net.ipv4.conf.IFNAME.arp_filter").call("STATUS").ok);
        // the same for eth0 alone, and which one it will be is not known yet
        let both = json!({ "sysctl": {
            "net.ipv4.conf.eth0.arp_filter": "1",
            "net.ipv4.conf.IFNAME.arp_filter": "1",
        } });
        let both = tuning(&pod, &result, both);
        assert!(both.call("STATUS").ok);
        assert_eq!(both.call("ADD").error().0, 7);
        for (verb, want) in [("STATUS", 50), ("ADD", 7)] {
            let (code, msg) = of("kernel.shmmax").call(verb).error();
            assert_eq!(code, want, "{verb}: {msg}");
            assert!(msg.contains("kernel/shmmax"), "{verb}: {msg}");
        }
    });
}
