//! VLANs together with what else keeps a pod from others: `portIsolation`
//! (BR-15..BR-17) and `macspoofchk` (BR-57).

use netlink::{Socket, link};
use serde_json::{Value, json};

use super::traffic::speaks;
use super::{host_end, ips};
use crate::node::{Call, ipam, pod};
use crate::udp::Place;

/// An address that the kernel did not give to the pod.
const FORGED: link::Mac = [2, 0, 0, 0, 0, 0x99];

/// Another link-layer address for what the pod sends.
fn forge(pod: &Call) {
    let mut socket = Socket::open_in(&pod.netns()).unwrap();
    let eth0 = link::by_name(&mut socket, "eth0").unwrap();
    let forged = link::set(eth0.index).mac(FORGED).build();
    socket.request(&forged).unwrap();
}

/// The pod with its result and its place.
fn attached(id: &str, members: &Value) -> (Call, Value, Place) {
    let pod = pod(id, members);
    let result = pod.add();
    let place = Place::new(Some(&pod.netns()), ips(&result)[0]);
    (pod, result, place)
}

/// Isolated pods of one VLAN hear their gateway, which is no isolated port,
/// and not each other; their gateway does not hear who lies about its
/// link-layer address.
pub(crate) fn isolated() {
    let members = json!({ "vlan": 100, "isGateway": true,
        "portIsolation": true, "macspoofchk": true,
        "ipam": ipam(&["10.1.2.0/24"]) });
    pod("s", &members).expect("STATUS");
    let (a, of_a, place_a) = attached("a", &members);
    let (b, of_b, place_b) = attached("b", &members);
    let gateway = Place::new(None, "10.1.2.1".parse().unwrap());
    for place in [&place_a, &place_b] {
        assert!(place.reaches(&gateway) && gateway.reaches(place));
    }
    place_a.is_apart_from(&place_b, &gateway);
    place_b.is_apart_from(&place_a, &gateway);
    for (pod, result) in [(&a, &of_a), (&b, &of_b)] {
        assert!(host_end(result).port.unwrap().isolated);
        pod.after(result).expect("CHECK");
    }
    forge(&a);
    place_a.is_apart_from(&gateway, &place_b);
    // what one pod is kept from, its end does not take from others
    a.del();
    assert!(place_b.reaches(&gateway));
    b.del();
}

/// The same of frames with a tag: a trunk's pod reaches the VLANs of the trunk
/// with its own link-layer address only.
pub(crate) fn by_tag() {
    let vlan = json!({ "vlan": 100, "ipam": ipam(&["10.1.2.0/24"]) });
    let (_, _, one) = attached("a", &vlan);
    let (_, _, other) = attached("b", &vlan);
    let trunk = json!({ "vlanTrunk": [{ "id": 100 }], "macspoofchk": true });
    let (honest, liar) = (pod("c", &trunk), pod("d", &trunk));
    honest.add();
    liar.add();
    let says = speaks(&honest, Some(100), 100);
    assert!(says.reaches(&one) && one.reaches(&says));
    forge(&liar);
    let lies = speaks(&liar, Some(100), 101);
    lies.is_apart_from(&one, &other);
}
