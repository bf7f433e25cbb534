//! Type `loopback`, under its own name (LO-1, LO-2, CT-33).

use netlink::link;
use serde_json::json;

use crate::node::{Call, Node, VERSIONS, addresses, on_a_node, run};

fn lo_of(node: &Node, version: &str) -> Call {
    let mut call = node.pod(&format!("v{version}"));
    call.name = "loopback";
    call.ifname = "lo".into();
    // S-36: it does not look at CNI_ARGS
    call.env = vec![("CNI_ARGS", "none".into())];
    call.conf = json!({ "name": "cni-loopback", "cniVersion": version, "type": "loopback" });
    call
}

fn is_up(call: &Call) -> bool {
    let mut socket = netlink::Socket::open_in(&call.open()).unwrap();
    link::by_name(&mut socket, "lo").unwrap().up
}

/// S-53: each version in its own form.
#[test]
fn every_version() {
    on_a_node(|node| {
        for version in VERSIONS {
            let call = lo_of(node, version);
            assert!(!is_up(&call));
            let result = call.add();
            assert!(is_up(&call));
            assert_eq!(addresses(&result), ["127.0.0.1/8", "::1/128"]);
            assert_eq!(result["cniVersion"], version);
            if version >= "0.3.0" {
                let lo = &result["interfaces"][0];
                assert_eq!(lo["name"], "lo");
                assert_eq!(lo["mac"], "00:00:00:00:00:00");
                assert_eq!(lo["sandbox"], call.netns);
                assert_eq!(result["ips"][0]["interface"], 0);
            } else {
                assert!(result["interfaces"].is_null());
            }
            assert_eq!(
                result["ips"][0]["version"] == "4",
                ("0.3.0".."1.0.0").contains(&version)
            );
            // again is fine
            call.add();
            if version >= "0.4.0" {
                assert!(call.call("CHECK").ok);
            }
            call.del();
            assert!(!is_up(&call));
            call.del();
            if version >= "0.4.0" {
                let (code, msg) = call.call("CHECK").error();
                assert_eq!(code, 100);
                assert_eq!(msg, "loopback interface is down");
            }
        }
    });
}

#[test]
fn a_previous_result_is_passed_through() {
    on_a_node(|node| {
        let call = lo_of(node, "0.4.0");
        let previous = json!({
            "cniVersion": "0.3.1",
            "ips": [{ "version": "4", "address": "10.0.0.2/24" }],
        });
        assert_eq!(addresses(&call.after(&previous).add()), ["10.0.0.2/24"]);
        assert!(is_up(&call));
    });
}

#[test]
fn refusals_and_namespaces_that_are_gone() {
    on_a_node(|node| {
        let call = lo_of(node, "1.1.0");
        let at = |netns: &str| Call { netns: netns.into(), ..call.clone() };
        std::fs::write("/run/file", "").unwrap();
        for netns in ["/run/none", "/run/file", "/proc/thread-self/ns/net"] {
            assert_eq!(at(netns).call("ADD").error().0, 8, "{netns}");
        }
        // nor is the node's own loopback turned off
        for netns in ["", "/run/none", "/run/file", "/proc/thread-self/ns/net"]
        {
            at(netns).del();
        }
        let lo = netlink::link::by_name(&mut node.socket(), "lo").unwrap();
        assert!(lo.up);
        run(
            "ip",
            &["-n", "v1.1.0", "address", "add", "10.0.0.1/32", "dev", "lo"],
        );
        let (_, msg) = call.call("ADD").error();
        assert!(msg.contains("non-loopback address 10.0.0.1"), "{msg}");
        assert!(call.call("STATUS").ok);
        assert_eq!(call.call("GC").error().0, 7, "no list");
        assert!(call.clone().valid(&[]).call("GC").ok);
    });
}
