//! ADD that fails leaves nothing of its own, and says what is wrong.

use std::fs;

use serde_json::json;

use crate::node::{
    Answer, Call, Node, SUBNET_ENV, Stack, on_a_node, plain, run,
};

/// ADD fails with `code` and a message that holds `text`; nothing is left.
fn fails(node: &Node, pod: &Call, code: u64, text: &str) -> Answer {
    let answer = pod.call("ADD");
    let (got, msg) = answer.error();
    assert_eq!(got, code, "{msg}");
    assert!(msg.contains(text), "{msg}");
    node.assert_clean();
    answer
}

/// P-20, FL-5, P01: the text every flannel user knows, and the reason.
#[test]
fn flanneld_is_not_ready() {
    on_a_node(|node| {
        let pod = node.pod("a");
        let classic = "failed to load flannel 'subnet.env' file: open \
                       /run/flannel/subnet.env: no such file or directory. \
                       Check the flannel pod log for this node.";
        fails(node, &pod, 11, classic);
        fs::create_dir_all("/run/flannel").unwrap();
        let boot_id = netlink::sysctl::read("kernel/random/boot_id").unwrap();
        let state = json!({
            "version": 1,
            "phase": "waiting-for-store",
            "reason": "etcd 10.0.0.1:2379 refuses connections",
            "since": 1,
            "boot_id": boot_id,
            "subnet_file": SUBNET_ENV,
        });
        fs::write("/run/flannel/state.json", state.to_string()).unwrap();
        let reason = "for this node. flanneld says: waiting for the store: \
                      etcd 10.0.0.1:2379 refuses connections";
        fails(node, &pod, 11, reason);
        node.subnet_env("FLANNEL_MTU=1450\n");
        fails(
            node,
            &pod,
            11,
            "/run/flannel/subnet.env is missing FLANNEL_NETWORK, \
             FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, \
             FLANNEL_IPMASQ",
        );
        // STATUS for those who ask before
        let status = pod.version("1.1.0");
        let (code, msg) = status.call("STATUS").error();
        assert_eq!(code, 50);
        assert!(msg.contains("refuses connections"), "{msg}");
        node.flanneld(Stack::V4);
        assert!(status.call("STATUS").ok);
    });
}

#[test]
fn the_subnet_is_full() {
    on_a_node(|node| {
        node.subnet_env(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/30\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        );
        let a = node.pod("a");
        a.add();
        let b = node.pod("b");
        let (code, msg) = b.call("ADD").error();
        assert_eq!(code, 11);
        assert_eq!(
            msg,
            "failed to allocate for range 0: no IP addresses available in \
             range set: 10.244.1.1-10.244.1.2 all are reserved: let pods end, \
             or give the network larger ranges (flannel: SubnetLen)"
        );
        assert_eq!((node.veths().len(), node.scratch()), (1, vec!["a".into()]));
        a.del();
        b.add();
    });
}

/// S-59: the living attachment keeps all it has.
#[test]
fn a_second_add_is_refused() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let pod = node.pod("a");
        let result = pod.add();
        let kept = fs::read("/var/lib/cni/flannel/a").unwrap();
        let (_, msg) = pod.call("ADD").error();
        assert!(
            msg.starts_with("container veth name (\"eth0\") peer provided")
                && msg.contains("already exists"),
            "{msg}"
        );
        assert_eq!(node.veths().len(), 1);
        assert_eq!(fs::read("/var/lib/cni/flannel/a").unwrap(), kept);
        let mut reserved = plain(&result);
        reserved.sort();
        assert_eq!(node.reserved(), reserved);
        assert!(pod.pings("10.244.1.1") && pod.pings("fd00:244:0:1::1"));
        pod.del();
        node.assert_clean();
    });
}

/// The same attachment in another namespace: what the first ADD reserved is
/// in use and stays.
#[test]
fn a_second_add_elsewhere_leaves_the_first_its_addresses() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let mut pod = node.pod("a");
        let mut reserved = plain(&pod.add());
        reserved.sort();
        let first = std::mem::replace(&mut pod.netns, node.pod("b").netns);
        let (_, msg) = pod.call("ADD").error();
        assert!(msg.contains("already exists"), "{msg}");
        assert_eq!(node.reserved(), reserved);
        assert_eq!(node.veths().len(), 1);
        pod.netns = first;
        assert!(pod.pings("10.244.1.1") && pod.pings("fd00:244:0:1::1"));
        pod.del();
        node.assert_clean();
    });
}

#[test]
fn the_interface_name_is_taken() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        run("ip", &["-n", "a", "link", "add", "eth0", "type", "bridge"]);
        fails(node, &pod, 999, "already exists");
        run("ip", &["-n", "a", "link", "show", "eth0"]);
    });
}

/// After everything is made: a route the kernel refuses.
#[test]
fn a_route_that_leads_nowhere() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let route = json!({ "dst": "192.168.5.0/24", "gw": "172.31.0.1" });
        let pod = node.pod("a").with("ipam", json!({ "routes": [route] }));
        let answer = fails(node, &pod, 999, "192.168.5.0/24 via 172.31.0.1");
        assert_eq!(answer.stderr, "");
        // the same container, put right
        node.flanneld(Stack::Dual);
        let mut right = pod;
        right.conf.as_object_mut().unwrap().remove("ipam");
        right.add();
        right.del();
        node.assert_clean();
    });
}

#[test]
fn the_bridge_is_something_else() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let veth = "link add cni0 type veth peer name other";
        run("ip", &veth.split(' ').collect::<Vec<_>>());
        let pod = node.pod("a");
        let (code, msg) = pod.call("ADD").error();
        assert_eq!(code, 7);
        assert_eq!(msg, "\"cni0\" already exists but is not a bridge");
        assert_eq!(node.reserved(), [""; 0]);
    });
}

/// Contradictions, and values that no option has (code 7).
#[test]
fn options() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        for (key, value, code, text) in [
            ("ipMasqBackend", json!("x"), 7, "unknown ipmasq backend \"x\""),
            ("vlan", json!(5000), 7, "invalid VLAN ID 5000 (must be"),
            ("promiscMode", json!(true), 7, "cannot set hairpin mode and"),
            ("mtu", json!("big"), 7, "mtu is \"big\""),
            ("name", json!("x"), 7, "must not have 'name' field"),
            ("mac", json!(1), 0, ""),
        ] {
            let pod = node.pod(&format!("p{key}")).delegate(key, value);
            if code == 0 {
                // not an option of the bridge, so nobody reads it
                pod.add();
                pod.del();
                continue;
            }
            fails(node, &pod, code, text);
        }
        let mac = node.pod("m").env("CNI_ARGS", "MAC=no");
        fails(node, &mac, 7, "mac is \"no\"");
        let unknown = node.pod("u").env("CNI_ARGS", "FOO=1");
        fails(node, &unknown, 4, "ARGS: unknown args [\"FOO=1\"]");
    });
}

/// BR-22: where bridges cannot keep VLANs apart, ADD says so and leaves
/// nothing, not even the bridge. `integration/guest` tests the other kernels.
#[test]
fn vlans_where_the_kernel_has_none() {
    on_a_node(|node| {
        let probe = "link add p type bridge vlan_filtering 1";
        let args: Vec<_> = probe.split(' ').collect();
        let probed = std::process::Command::new("ip").args(args).output();
        if probed.unwrap().status.success() {
            run("ip", &["link", "del", "p"]);
            node.flanneld(Stack::V4);
            let pod = node.pod("a").delegate("vlan", json!(100));
            assert!(pod.clone().version("1.1.0").call("STATUS").ok);
            pod.add();
            return;
        }
        node.flanneld(Stack::V4);
        for (key, value) in
            [("vlan", json!(100)), ("vlanTrunk", json!([{ "id": 5 }]))]
        {
            let text = "this kernel has no VLAN filtering \
                        (CONFIG_BRIDGE_VLAN_FILTERING)";
            let pod = node.pod(&format!("p{key}")).delegate(key, value.clone());
            fails(node, &pod, 2, text);
            let (code, msg) = pod.version("1.1.0").call("STATUS").error();
            assert!(code == 50 && msg.contains(text), "{code} {msg}");
            assert!(msg.contains("leave both options out"), "{msg}");
            let cni0 = netlink::link::by_name(&mut node.socket(), "cni0");
            assert!(cni0.is_err(), "not even the bridge: {key}");
            // nor on a bridge that is there
            let other = node.pod(&format!("q{key}"));
            other.add();
            let again = node.pod(&format!("r{key}")).delegate(key, value);
            let (code, msg) = again.call("ADD").error();
            assert!(code == 2 && msg.contains(text), "{msg}");
            other.del();
            node.assert_clean();
            run("ip", &["link", "del", "cni0"]);
        }
    });
}

/// S-18, BR-24: before anything is made.
#[test]
fn namespaces_that_will_not_do() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let at = |netns: &str| {
            let mut pod = pod.clone();
            pod.netns = netns.to_owned();
            pod
        };
        fs::write("/run/file", "").unwrap();
        for (netns, text) in [
            ("/run/netns/none", "does not exist"),
            ("/run/file", "is not a network namespace but a regular file"),
            (
                "/proc/thread-self/ns/net",
                "plugin's netns and netns from CNI_NETNS should not be the \
                 same",
            ),
        ] {
            fails(node, &at(netns), 8, text);
        }
        let cni0 = netlink::link::by_name(&mut node.socket(), "cni0");
        assert!(cni0.is_err(), "not even the bridge");
    });
}

/// CT-1: suites that use one namespace for both say so.
#[test]
fn the_same_namespace_on_request() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut pod = node.pod("a").env("CNI_NETNS_OVERRIDE", "TRUE");
        pod.netns = "/proc/thread-self/ns/net".into();
        pod.add();
        assert_eq!(node.veths().len(), 2);
        pod.del();
        node.assert_clean();
    });
}

/// The disk says no at the last moment: what was there before comes back.
#[test]
fn the_kept_configuration_of_before_is_put_back() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        fs::create_dir_all("/var/lib/cni/flannel").unwrap();
        fs::write("/var/lib/cni/flannel/a", "before").unwrap();
        let (code, _) = pod.delegate("vlan", (-9).into()).call("ADD").error();
        assert_eq!(code, 7);
        let kept = fs::read_to_string("/var/lib/cni/flannel/a").unwrap();
        assert_eq!(kept, "before");
    });
}

#[test]
fn the_pool_is_no_folder() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        fs::create_dir_all("/var/lib/cni/networks").unwrap();
        fs::write("/var/lib/cni/networks/cbr0", "").unwrap();
        let pod = node.pod("a");
        let (code, msg) = pod.call("ADD").error();
        assert_eq!(code, 5);
        assert!(msg.contains("/var/lib/cni/networks/cbr0"), "{msg}");
        assert_eq!((node.veths().len(), node.scratch().len()), (0, 0));
        let told = pod.clone().version("1.1.0").call("STATUS").error();
        assert_eq!(told.0, 50, "{told:?}");
        // the runtime's DEL of that ADD must come to its end
        pod.del();
        node.assert_clean();
    });
}

/// The host's end takes the pod's along, whatever became of that.
#[test]
fn the_pods_interface_is_renamed_under_way() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let rename = "case $CNI_COMMAND in ADD) ip -n a link set eth0 name x; \
                      exit 1;; esac";
        node.plugins(&[("static", rename)]);
        let pod = node.pod("a").with("ipam", json!({ "type": "static" }));
        fails(node, &pod, 999, "plugin \"static\" failed");
        let left = run("ip", &["-n", "a", "-br", "link"]);
        assert_eq!(left.lines().count(), 1, "{left}");
    });
}

/// Names and addresses that the kernel would refuse without saying what it
/// minds, or make another name of.
#[test]
fn values_no_link_can_have() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for (bridge, text) in [
            ("br%d", "bridge is \"br%d\", but must not contain %"),
            ("a-name-too-long-for-linux", "interface name is too long"),
            ("a/b", "bridge is \"a/b\": interface name contains / or :"),
        ] {
            let pod = node.pod(&format!("p{}", bridge.len()));
            fails(node, &pod.delegate("bridge", bridge.into()), 7, text);
        }
        let mut pattern = node.pod("pattern");
        pattern.ifname = "eth%d".into();
        fails(node, &pattern, 4, "CNI_IFNAME is \"eth%d\"");
        let group = json!({ "mac": "01:00:00:00:00:01" });
        let group = node.pod("group").with("runtimeConfig", group);
        fails(node, &group, 7, "must be the address of one host");
        // 1280 is IPv6's least
        let small = node.pod("small").delegate("mtu", 1000.into());
        fails(node, &small, 999, "can have no IPv6 address: its MTU is below");
        for netns in ["pattern", "group", "small"] {
            let left = run("ip", &["-n", netns, "-br", "link"]);
            assert_eq!(left.lines().count(), 1, "{left}");
        }
        assert!(netlink::link::by_name(&mut node.socket(), "br0").is_err());
    });
}

/// S-9 has no limit of length; Linux's file names have.
#[test]
fn long_names() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let network = "n".repeat(240);
        let mut pod = node.pod("a").with("name", network.as_str().into());
        pod.id = "c".repeat(255);
        pod.add();
        let veth = node.veths().remove(0);
        let veth = netlink::link::by_name(&mut node.socket(), &veth).unwrap();
        let alias = veth.alias.unwrap();
        assert!(alias.starts_with("flannel:nnn"), "{alias}");
        pod.del();
        node.assert_clean();
        assert_eq!(
            crate::node::names(&format!("/var/lib/cni/networks/{network}")),
            ["last_reserved_ip.0", "lock"]
        );
        // nothing can be kept under these
        pod.id.push('c');
        fails(node, &pod, 5, "File name too long");
        pod.del();
        let mut pod = node.pod("b").with("name", "n".repeat(256).into());
        assert_eq!(pod.call("ADD").error().0, 5);
        pod.conf["ipam"] = json!({ "dataDir": "/var/lib/cni/networks" });
        pod.del();
        node.assert_clean();
    });
}

/// What chained plugins keep has an interface's name beside the container's.
#[test]
fn long_ids_in_a_chain() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut pod = node.pod("a").version("1.1.0");
        pod.id = "c".repeat(255);
        let result = pod.add();
        let tuning = pod.chained("tuning", &result).with("mtu", 1400.into());
        let chain = [tuning, pod.chained("firewall", &result)];
        let kept = || {
            let folders = ["/run/cni/tuning", "/run/flannel/firewall/cbr0"];
            folders.map(|folder| crate::node::names(folder).len())
        };
        let gc = |valid: &[&Call]| {
            for call in &chain {
                let answer = call.clone().valid(valid).call("GC");
                assert!(answer.ok, "{answer:?}");
            }
        };
        chain.iter().for_each(|call| drop(call.add()));
        gc(&[&pod]);
        assert_eq!(kept(), [1, 1]);
        chain.iter().for_each(|call| assert!(call.call("CHECK").ok));
        chain.iter().for_each(Call::del);
        assert_eq!(kept(), [0, 0]);
        chain.iter().for_each(|call| drop(call.add()));
        let mut other = pod.clone();
        other.id.replace_range(254.., "d");
        gc(&[&other]);
        assert_eq!(kept(), [0, 0]);
        pod.del();
        node.assert_clean();
    });
}

/// CW-19: a machine that is short of files has some later, wherever it is
/// noticed.
#[test]
fn short_of_files() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        // not by programs, which have too few as well
        let masquerading = node
            .pod("b")
            .delegate("ipMasq", true.into())
            .delegate("ipMasqBackend", "nftables".into());
        for pod in [node.pod("a"), masquerading] {
            let pod = pod.version("1.1.0");
            for verb in ["ADD", "DEL"] {
                let mut refused = 0;
                let passes = (3..50).any(|most| {
                    let answer = pod.call_with_files(most, verb);
                    // none to load the program's libraries
                    if !answer.ok && !answer.stdout.is_empty() {
                        let (code, msg) = answer.error();
                        assert_eq!(code, 11, "{verb}, {most}: {msg}");
                        refused += 1;
                    }
                    answer.ok
                });
                assert!(passes && refused > 0, "{verb}: {refused}");
            }
            node.assert_clean();
        }
    });
}
