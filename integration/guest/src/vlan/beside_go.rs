//! Beside the Go plugins: what either makes the other finds and removes, and
//! it is the same.

use netlink::vlan;
use serde_json::{Value, json};

use super::{addresses, filters, host_end, names, of, peer};
use crate::node::{Call, GO, OURS, find, ipam, pod, socket};

/// What an ADD has made, with what is random left out.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    /// Of the pod's port, of the gateway's, of the bridge itself.
    vlans: [String; 3],
    filters: bool,
    addresses: Vec<String>,
    links: usize,
    interfaces: usize,
}

/// ADD by `dir`.
fn made(call: &Call, dir: &'static str) -> (Made, Value) {
    let result = call.by(dir).add();
    let has_gateway = names().iter().any(|name| name == "br0.100");
    let gateway = has_gateway.then(|| find("br0.100"));
    let made = Made {
        vlans: [
            of(&host_end(&result)),
            gateway.as_ref().map(|g| of(&peer(g))).unwrap_or_default(),
            of(&find("br0")),
        ],
        filters: filters("br0"),
        addresses: gateway.as_ref().map(addresses).unwrap_or_default(),
        links: names().len(),
        interfaces: result["interfaces"].as_array().unwrap().len(),
    };
    (made, result)
}

/// Removes all links of a try.
fn clean() {
    for name in names() {
        // the other end may have taken it along
        let _ = socket().request(&netlink::link::delete_by_name(&name));
    }
    assert_eq!(names(), [""; 0]);
}

pub(crate) fn either() {
    let trunk = json!([{ "id": 101 }, { "minID": 200, "maxID": 210 }]);
    let both = ipam(&["10.1.2.0/24", "fd00:2::/64"]);
    for members in [
        json!({ "vlan": 100 }),
        json!({ "vlan": 100, "preserveDefaultVlan": true }),
        json!({ "vlanTrunk": trunk }),
        json!({ "vlanTrunk": trunk, "preserveDefaultVlan": true }),
        json!({ "vlan": 100, "vlanTrunk": trunk }),
        json!({ "vlanTrunk": [] }),
        json!({ "vlan": 100, "ipam": both }),
        json!({ "vlan": 100, "ipam": both, "isDefaultGateway": true }),
        json!({ "vlan": 100, "ipam": both, "isGateway": true, "mtu": 1400,
            "preserveDefaultVlan": true }),
        json!({ "vlanTrunk": trunk, "ipam": both, "isGateway": true }),
    ] {
        let call = pod("a", &members);
        let [(go, _), (ours, _)] = [GO, OURS].map(|dir| {
            let made = made(&call, dir);
            call.by(dir).del();
            clean();
            made
        });
        assert_eq!(ours, go, "{members}");
        for (first, second) in [(GO, OURS), (OURS, GO)] {
            let (_, result) = made(&call, first);
            let later = call.by(second).after(&result);
            // Go's plugin can check nothing without an IPAM (BR-59)
            if second == OURS || members["ipam"].is_object() {
                later.expect("CHECK");
            }
            later.del();
            let left = match members["isGateway"] == true
                || members["isDefaultGateway"] == true
            {
                // only what made it removes it, and Go's does not
                true if members["vlan"] == 100 => 3,
                _ => 1,
            };
            assert_eq!(names().len(), left, "{members}: {:?}", names());
            clean();
        }
    }
    let all = vlan::list(&mut socket()).unwrap().complete().unwrap();
    assert_eq!(all, [], "every try was cleaned up");
}
