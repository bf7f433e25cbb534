//! What ports are in, what CHECK says of it, what is refused.

use std::fs;

use netlink::vlan::{self, Mode, Vlans};
use netlink::{Request, link};
use serde_json::{Value, json};

use super::{addresses, filters, host_end, names, of, peer};
use crate::node::{find, ipam, pod, socket};

/// CT-10
pub(crate) fn layer2() {
    let trunk = json!([{ "id": 101 }, { "minID": 200, "maxID": 210 }]);
    for (members, vlans) in [
        (json!({ "vlan": 100 }), "100 pvid untagged"),
        (
            json!({ "vlan": 100, "preserveDefaultVlan": true }),
            "1 untagged, 100 pvid untagged",
        ),
        (json!({ "vlanTrunk": trunk }), "1 pvid untagged, 101, 200-210"),
        (
            json!({ "vlan": 100, "vlanTrunk": trunk }),
            "100 pvid untagged, 101, 200-210",
        ),
        (
            json!({ "vlan": 205, "vlanTrunk": trunk,
                "preserveDefaultVlan": true }),
            "1 untagged, 101, 200-204, 205 pvid untagged, 206-210",
        ),
        (
            json!({ "vlanTrunk": [{ "minID": 1, "maxID": 4094 }] }),
            "1 pvid untagged, 2-4094",
        ),
        (json!({ "vlanTrunk": [] }), "1 pvid untagged"),
        // no address, so no gateway
        (json!({ "vlan": 100, "isGateway": true }), "100 pvid untagged"),
        (json!({ "vlan": 100, "isDefaultGateway": true }), "100 pvid untagged"),
    ] {
        let first = pod("a", &members);
        for version in ["0.1.0", "0.2.0"] {
            // no address, so these versions have no form for the result
            let old = first.clone().with(&json!({ "cniVersion": version }));
            old.call("ADD").unwrap_err();
            old.del();
            assert_eq!(names(), ["br0"], "{members}");
        }
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = first.clone().with(&json!({ "cniVersion": version }));
            let result = pod.add();
            let what = format!("{members} {version}");
            assert_eq!(of(&host_end(&result)), vlans, "{what}");
            assert!(filters("br0"), "{what}");
            assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
            if version >= "0.4.0" {
                pod.after(&result).expect("CHECK");
            }
            pod.del();
            pod.del();
            assert_eq!(names(), ["br0"], "{what}");
        }
        socket().request(&link::delete_by_name("br0")).unwrap();
    }
    // no bridge filters that nobody wants to
    let result = pod("b", &json!({ "vlan": 0, "vlanTrunk": null })).add();
    assert!(!filters("br0"), "{result}");
}

/// CT-11
pub(crate) fn layer3() {
    for (subnets, gateways) in [
        (&["10.1.2.0/24"][..], &["10.1.2.1/24"][..]),
        (&["2001:db8::/64"], &["2001:db8::1/64"]),
        (&["192.168.0.0/24", "fd00::/64"], &["192.168.0.1/24", "fd00::1/64"]),
        (
            &["192.168.0.0/24", "fd00::/64", "2001:db8::/64"],
            &["192.168.0.1/24", "2001:db8::1/64", "fd00::1/64"],
        ),
    ] {
        for (keep, vlans) in [
            (false, "100 pvid untagged"),
            (true, "1 untagged, 100 pvid untagged"),
        ] {
            let first = pod(
                "a",
                &json!({ "isDefaultGateway": true,
                "ipam": ipam(subnets), "vlan": 100,
                "preserveDefaultVlan": keep }),
            );
            for version in ["0.3.1", "1.0.0", "1.1.0"] {
                let pod = first.clone().with(&json!({ "cniVersion": version }));
                let result = pod.add();
                let what = format!("{subnets:?} {keep} {version}: {result}");
                let gateway = find("br0.100");
                let named = &result["interfaces"][3];
                assert_eq!(named["name"], "br0.100", "{what}");
                assert_eq!(
                    named["mac"].as_str().unwrap(),
                    mac(gateway.mac.unwrap())
                );
                assert_eq!(addresses(&gateway), gateways, "{what}");
                assert_eq!(addresses(&find("br0")), [""; 0], "{what}");
                let port = peer(&gateway);
                assert_eq!(port.index, gateway.index - 1, "as Go's tests say");
                assert_eq!(port.master, Some(find("br0").index));
                assert_eq!(of(&port), vlans, "{what}");
                assert_eq!(of(&host_end(&result)), vlans, "{what}");
                assert_eq!(names().len(), 4, "{what}");
                if version >= "0.4.0" {
                    pod.after(&result).expect("CHECK");
                }
                pod.del();
                assert_eq!(names(), ["br0"], "{what}");
            }
            socket().request(&link::delete_by_name("br0")).unwrap();
        }
    }
}

/// CT-24, CT-25: nothing is made, not even the bridge.
pub(crate) fn refusals() {
    for (members, text) in [
        (
            json!({ "vlan": 4095 }),
            "invalid VLAN ID 4095 (must be between 0 and 4094)",
        ),
        (
            json!({ "vlanTrunk": [{ "minID": 10 }] }),
            "minID and maxID should be configured simultaneously, maxID is \
             missing",
        ),
        (
            json!({ "vlanTrunk": [{ "id": 4095 }] }),
            "incorrect trunk id parameter",
        ),
    ] {
        let (code, msg) = pod("a", &members).error("ADD");
        assert_eq!((code, msg.as_str()), (7, text), "{members}");
        assert_eq!(names(), [""; 0], "{members}");
    }
}

/// CHECK names each difference, and nothing once it is put right.
pub(crate) fn differences() {
    let pod = pod(
        "a",
        &json!({ "isGateway": true, "vlan": 100,
        "vlanTrunk": [{ "minID": 200, "maxID": 201 }],
        "ipam": ipam(&["10.1.2.0/24"]) }),
    );
    let result = pod.add();
    let port = host_end(&result);
    let gateway = find("br0.100");
    let behind = peer(&gateway);
    let native = Mode { pvid: true, untagged: true };
    let own = Vlans::from([(100, native)]);
    let all: Vlans = own
        .clone()
        .into_iter()
        .chain([(200, Mode::default()), (201, Mode::default())])
        .collect();
    let ask = |request: Request| socket().request(&request).unwrap();
    let differs = |text: &str| {
        let (code, msg) = pod.after(&result).error("CHECK");
        assert!(code == 100 && msg.contains(text), "{code} {msg}");
    };
    let filter = |on: &str| {
        fs::write("/sys/class/net/br0/bridge/vlan_filtering", on).unwrap();
    };

    ask(vlan::retain(port.index, &own));
    differs(
        "is in the VLANs 100 pvid untagged, but should be in 100 pvid \
             untagged, 200-201",
    );
    ask(vlan::add(port.index, &all));
    ask(vlan::add(port.index, &Vlans::from([(300, Mode::default())])));
    differs("is in the VLANs 100 pvid untagged, 200-201, 300, but");
    ask(vlan::retain(port.index, &all));
    ask(vlan::add(port.index, &Vlans::from([(100, Mode::default())])));
    differs("is in the VLANs 100, 200-201, but");
    ask(vlan::add(port.index, &all));

    filter("0");
    differs("bridge br0 does not keep VLANs apart");
    filter("1");

    ask(vlan::retain(behind.index, &Vlans::new()));
    differs(&format!("port {} is in the VLANs none, but", behind.name));
    ask(vlan::add(behind.index, &own));
    ask(link::set(behind.index).master(None).build());
    differs("of br0.100 is not a port of bridge br0");
    let back = link::set(behind.index).master(Some(find("br0").index));
    ask(back.build());
    ask(vlan::add(behind.index, &own));
    ask(vlan::retain(behind.index, &own));
    ask(link::set(gateway.index).down().build());
    differs("interface br0.100 is down");
    ask(link::set(gateway.index).up().build());
    pod.after(&result).expect("CHECK");
    ask(link::delete(gateway.index));
    differs("interface br0.100 is missing");
    pod.del();

    // the default VLAN may be there or not, where it was to be kept
    let members: Value = json!({ "vlan": 7, "preserveDefaultVlan": true,
        "isGateway": false, "ipam": {}, "vlanTrunk": null });
    let pod = pod.with(&members);
    let result = pod.add();
    pod.after(&result).expect("CHECK");
    let own = Vlans::from([(7, native)]);
    ask(vlan::retain(host_end(&result).index, &own));
    pod.after(&result).expect("CHECK");
}

fn mac(mac: link::Mac) -> String {
    let bytes = mac.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(":")
}
