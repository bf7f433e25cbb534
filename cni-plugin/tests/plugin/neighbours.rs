//! What the bridge and the pods' neighbours know when ADD returns.

use netlink::{link, sysctl};
use serde_json::{Value, json};

use crate::node::{Stack, on_a_node, ping, run, wait_until};

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

/// A pod has the addresses of one that has just gone: those who talked to
/// that one learn where they are now, without having to ask.
#[test]
fn an_address_moves_to_another_pod() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let other = node.pod("other");
        other.add();
        let wanted = ["10.244.1.77", "fd00:244:0:1::77"];
        let ips = json!({ "ips": wanted });
        let (old, new) = (node.pod("old"), node.pod("new"));
        let old = old.with("runtimeConfig", ips.clone());
        let new = new.with("runtimeConfig", ips);
        let all_reach = |when: &str| {
            for address in wanted {
                assert!(ping(address), "{when}: node to {address}");
                assert!(other.pings(address), "{when}: pod to {address}");
            }
        };
        old.add();
        all_reach("before");
        old.del();
        let mac = |result: &Value| result["interfaces"][2]["mac"].to_string();
        let mac = mac(&new.add()).replace('"', "");
        // nobody sends them anything, so nobody but the new pod tells
        for address in wanted {
            let knows = |who: &[&str]| {
                let shown =
                    run("ip", &[who, &["neigh", "show", address]].concat());
                // one that has forgotten will ask
                shown.is_empty() || shown.contains(&mac)
            };
            wait_until(&format!("the node knows {address}"), || knows(&[]));
            wait_until(&format!("a pod knows {address}"), || {
                knows(&["-n", "other"])
            });
        }
        all_reach("after");
    });
}

/// PF-26 with a gateway that somebody else put there, tentative still.
#[test]
fn a_gateway_under_duplicate_address_detection_is_waited_for() {
    on_a_node(|node| {
        node.flanneld(Stack::V6);
        node.netns("port");
        for line in [
            "link add cni0 type bridge",
            "link add uplink type veth peer name eth0 netns port",
            "link set uplink master cni0 up",
            "-n port link set eth0 up",
            "link set cni0 up",
        ] {
            ip(line);
        }
        wait_until("the bridge runs", || {
            let cni0 = link::by_name(&mut node.socket(), "cni0").unwrap();
            cni0.operstate == link::OperState::Up
        });
        ip("address add fd00:244:0:1::1/64 dev cni0");
        let shown = run("ip", &["-6", "address", "show", "cni0", "tentative"]);
        assert!(shown.contains("fd00:244:0:1::1"), "{shown}");
        let pod = node.pod("a");
        pod.add();
        assert!(pod.pings("fd00:244:0:1::1"));
    });
}

/// The node's first pod: its bridge begins to run with the pod's port, and what
/// it sends before that is lost.
#[test]
fn the_first_pod_waits_for_the_bridge_to_run() {
    for _ in 0..5 {
        on_a_node(|node| {
            node.flanneld(Stack::V4);
            node.pod("a").add();
            let cni0 = link::by_name(&mut node.socket(), "cni0").unwrap();
            assert_eq!(cni0.operstate, link::OperState::Up);
        });
    }
}

/// BR-23: no pod may announce itself as the node's router, whoever made the
/// bridge.
#[test]
fn a_bridge_that_is_found_takes_no_router_advertisements() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        ip("link add cni0 type bridge");
        let key = "net/ipv6/conf/cni0/accept_ra";
        assert_eq!(sysctl::read(key).unwrap(), "1");
        node.pod("a").add();
        assert_eq!(sysctl::read(key).unwrap(), "0");
    });
}

/// The port passes frames only after half a minute, as the administrator
/// wants it; ADD says so and does not fail (as upstream's does not).
#[test]
fn a_bridge_with_spanning_tree() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        ip("link add cni0 type bridge stp_state 1");
        // not even tried while there is no port
        ip("address add fd00:244:0:1::1/64 dev cni0");
        let answer = node.pod("a").call("ADD");
        answer.result();
        assert!(answer.stderr.contains("spanning tree"), "{answer:?}");
        assert_eq!(node.veths().len(), 1);
    });
}

/// BR-42: without a gateway the bridge is somebody else's; its address goes
/// on following its ports, and the result tells the one it has.
#[test]
fn the_result_tells_the_address_that_the_bridge_has() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut socket = node.socket();
        let mut bridge = || link::by_name(&mut socket, "cni0").unwrap();
        ip("link add cni0 type bridge");
        let before = bridge().mac;
        let pod = node
            .pod("a")
            .delegate("isGateway", false.into())
            .delegate("isDefaultGateway", false.into());
        let result = pod.add();
        let now = bridge().mac.unwrap();
        assert_ne!(Some(now), before, "the first port's");
        let text = now.map(|b| format!("{b:02x}")).join(":");
        assert_eq!(result["interfaces"][0]["mac"], text);
        assert!(pod.after(&result).call("CHECK").ok);
    });
}

/// BR-32, whatever the families.
#[test]
fn the_settings_of_a_pods_interface() {
    for stack in [Stack::V4, Stack::Dual] {
        on_a_node(|node| {
            node.flanneld(stack);
            let pod = node.pod("a");
            pod.add();
            let read = |key: &str| sysctl::read(key).unwrap();
            pod.open()
                .enter(|| {
                    assert_eq!(read("net/ipv4/conf/eth0/arp_notify"), "1");
                    let ndisc = read("net/ipv6/conf/eth0/ndisc_notify");
                    assert_eq!(ndisc == "1", stack == Stack::Dual);
                    assert_eq!(read("net/ipv6/conf/eth0/accept_dad"), "0");
                })
                .unwrap();
        });
    }
}
