//! `host-local` under its own name, as other plugins execute it (CT-26).

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::node::{Call, Node, VERSIONS, addresses, exists, names, on_a_node};

fn host_local(_: &Node, id: &str, ipam: Value) -> Call {
    Call {
        name: "host-local",
        id: id.to_owned(),
        netns: "/some/where".to_owned(),
        ifname: "eth0".to_owned(),
        conf: json!({
            "name": "mynet",
            "cniVersion": "1.1.0",
            "type": "ipvlan",
            "ipam": ipam,
        }),
        env: Vec::new(),
    }
}

fn two_sets() -> Value {
    json!({
        "type": "host-local",
        "ranges": [
            [{ "subnet": "10.1.2.0/24" }, { "subnet": "10.2.2.0/24" }],
            [{ "subnet": "2001:db8:1::0/64" }],
        ],
        "routes": [
            { "dst": "0.0.0.0/0" },
            { "dst": "::/0" },
            { "dst": "192.168.0.0/16", "gw": "1.1.1.1" },
            { "dst": "2001:db8:2::0/64", "gw": "2001:db8:3::1" },
        ],
    })
}

const FOLDER: &str = "/var/lib/cni/networks/mynet";

#[test]
fn every_version() {
    on_a_node(|node| {
        for (n, version) in (2..).zip(VERSIONS) {
            let call = host_local(node, "dummy", two_sets()).version(version);
            let result = call.add();
            let want =
                [format!("10.1.2.{n}/24"), format!("2001:db8:1::{n}/64")];
            assert_eq!(addresses(&result), want, "{version}");
            let (routes, gateway) = match version {
                "0.1.0" | "0.2.0" => {
                    let of = |key: &str| result[key]["routes"].clone();
                    let both = [of("ip4"), of("ip6")];
                    let count =
                        both.iter().map(|r| r.as_array().unwrap().len());
                    (count.sum(), &result["ip4"]["gateway"])
                }
                _ => (
                    result["routes"].as_array().unwrap().len(),
                    &result["ips"][0]["gateway"],
                ),
            };
            assert_eq!((routes, gateway), (4, &json!("10.1.2.1")), "{version}");
            let file = format!("{FOLDER}/10.1.2.{n}");
            assert_eq!(fs::read(&file).unwrap(), b"dummy\r\neth0");
            let last =
                fs::read_to_string(format!("{FOLDER}/last_reserved_ip.1"));
            assert_eq!(last.unwrap(), format!("2001:db8:1::{n}"));
            if version >= "0.4.0" {
                assert!(call.call("CHECK").ok, "{version}");
            }
            call.del();
            assert!(!exists(&file), "{version}");
            call.del();
        }
        assert!(exists(&format!("{FOLDER}/last_reserved_ip.0")));
    });
}

/// Ids one after the other, repeated ADDs, other interfaces and networks.
#[test]
fn attachments_are_kept_apart() {
    on_a_node(|node| {
        let ipam = json!({ "type": "host-local", "subnet": "10.1.2.0/24" });
        let a = host_local(node, "a", ipam.clone());
        assert_eq!(addresses(&a.add()), ["10.1.2.2/24"]);
        let (_, msg) = a.call("ADD").error();
        let want = "10.1.2.2 has been allocated to a, duplicate allocation is \
                    not allowed";
        assert!(msg.contains(want), "{msg}");
        let b = host_local(node, "b", ipam.clone());
        assert_eq!(addresses(&b.add()), ["10.1.2.3/24"]);
        let mut second = a.clone();
        second.ifname = "eth1".into();
        assert_eq!(addresses(&second.add()), ["10.1.2.4/24"]);
        let other = a.clone().with("name", "other".into());
        assert_eq!(addresses(&other.add()), ["10.1.2.2/24"]);
        a.del();
        assert!(second.call("CHECK").ok && other.call("CHECK").ok);
        let (code, msg) = a.call("CHECK").error();
        assert_eq!(code, 100);
        let want = "host-local: Failed to find address added by container a";
        assert_eq!(msg, want);
        // CT-26: legacy and unknown ones
        fs::write(format!("{FOLDER}/10.1.2.99"), "old\n").unwrap();
        host_local(node, "old", ipam.clone()).del();
        assert!(!exists(&format!("{FOLDER}/10.1.2.99")));
        host_local(node, "nobody", ipam).del();
    });
}

#[test]
fn addresses_that_are_asked_for() {
    on_a_node(|node| {
        let call = host_local(node, "a", two_sets());
        let env = call.clone().env("CNI_ARGS", "IP=10.1.2.88");
        assert_eq!(addresses(&env.add())[0], "10.1.2.88/24");
        env.del();
        let ips =
            json!({ "cni": { "ips": ["10.1.2.89", "2001:db8:1::89/64"] } });
        let args = call.clone().with("args", ips);
        let want = ["10.1.2.89/24", "2001:db8:1::89/64"];
        assert_eq!(addresses(&args.add()), want);
        args.del();
        let foreign =
            call.with("runtimeConfig", json!({ "ips": ["10.5.0.3"] }));
        let (_, msg) = foreign.call("ADD").error();
        let want = "failed to allocate all requested IPs: 10.5.0.3";
        assert!(msg.contains(want), "{msg}");
        let left = names(FOLDER);
        assert!(!left.iter().any(|n| n.starts_with("10.1.2.")), "{left:?}");
    });
}

/// HL-9, HL-10: texts as the Go plugin's; and the verbs it does not have.
#[test]
fn refusals_gc_and_status() {
    on_a_node(|node| {
        let none = host_local(node, "a", Value::Null);
        assert_eq!(
            none.call("ADD").error(),
            (7, "IPAM config missing 'ipam' key".into())
        );
        let tiny = json!({ "type": "host-local", "subnet": "10.1.0.0/30" });
        let a = host_local(node, "a", tiny.clone());
        assert!(a.call("STATUS").ok);
        a.add();
        let b = host_local(node, "b", tiny);
        let (code, msg) = b.call("ADD").error();
        assert_eq!(code, 11);
        assert!(msg.contains("no IP addresses available"), "{msg}");
        assert_eq!(a.call("GC").error().0, 7, "R-17");
        assert!(a.clone().valid(&[&a]).call("GC").ok);
        assert!(a.call("CHECK").ok);
        assert!(a.clone().valid(&[]).call("GC").ok);
        assert_eq!(a.call("CHECK").error().0, 100);
    });
}

/// A virtual machine, or a driver in user space, has its address on no link:
/// only the runtime's list tells that it is free.
#[test]
fn an_address_on_no_link_is_not_taken_back() {
    on_a_node(|node| {
        let (net, _) = node.own_networks();
        let subnet = format!("{net}.0/30");
        let reservation = format!("{FOLDER}/{net}.2");
        let tiny = json!({ "type": "host-local", "subnet": subnet });
        let a = host_local(node, "a", tiny.clone());
        a.add();
        let file = fs::File::open(&reservation).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        file.set_modified(long_ago).unwrap();
        let b = host_local(node, "b", tiny);
        for verb in ["STATUS", "ADD"] {
            let code = if verb == "ADD" { 11 } else { 50 };
            assert_eq!(b.call(verb).error().0, code);
            assert!(a.call("CHECK").ok, "{verb}");
        }
        assert!(b.clone().valid(&[]).call("GC").ok);
        b.add();
        // a power loss leaves these of reservations whose pods it ended (HL-42)
        for rubbish in ["", "\0\0"] {
            b.del();
            fs::write(&reservation, rubbish).unwrap();
            assert!(b.call("STATUS").ok, "{rubbish:?}");
            fs::write(&reservation, rubbish).unwrap();
            b.add();
        }
    });
}
