//! Who hears whom: what VLANs are for. All pods here are in one IP network,
//! so that nothing but their VLANs keeps them apart.

use netlink::addr::{self, AddrSpec};
use netlink::{Request, Socket, link};
use serde_json::{Value, json};

use super::{filters, ips};
use crate::node::{Call, find, ipam, pod};
use crate::udp::Place;

/// A pod with one address.
fn place(id: &str, members: &Value) -> Place {
    let pod = pod(id, &json!({ "ipam": ipam(&["10.1.2.0/24"]) }));
    let pod = pod.with(members);
    let result = pod.add();
    Place::new(Some(&pod.netns()), ips(&result)[0])
}

/// Pods of one VLAN hear each other and their gateway; nobody else hears them.
pub(crate) fn apart() {
    let vlan = |id, vlan: u16| {
        place(id, &json!({ "vlan": vlan, "isGateway": vlan == 100 }))
    };
    let (a, b) = (vlan("a", 100), vlan("b", 100));
    let (c, d) = (vlan("c", 200), vlan("d", 200));
    let (e, f) = (place("e", &json!({})), place("f", &json!({})));
    let gateway = Place::new(None, "10.1.2.1".parse().unwrap());
    for (one, other) in [(&a, &b), (&c, &d), (&e, &f), (&a, &gateway)] {
        assert!(one.reaches(other) && other.reaches(one));
    }
    for (stranger, one, other) in
        [(&c, &a, &b), (&e, &a, &b), (&a, &c, &d), (&e, &c, &d), (&a, &e, &f)]
    {
        stranger.is_apart_from(one, other);
    }
}

/// A trunk's pod speaks with tags: it reaches the VLANs of the trunk and, by
/// what has no tag, its own, and nobody else.
pub(crate) fn tagged() {
    let vlan = |id, vlan: u16| place(id, &json!({ "vlan": vlan }));
    let (a, b) = (vlan("a", 100), vlan("b", 100));
    let (c, d) = (vlan("c", 300), vlan("d", 300));
    let (e, f) = (place("e", &json!({})), place("f", &json!({})));
    let trunk = json!([{ "minID": 99, "maxID": 101 }]);
    let trunk = |id, native: u16| {
        let pod = pod(id, &json!({ "vlan": native, "vlanTrunk": trunk }));
        pod.add();
        pod
    };
    let (g, h) = (trunk("g", 0), trunk("h", 0));
    let (i, j) = (trunk("i", 0), trunk("j", 300));

    let by_tag = speaks(&g, Some(100), 100);
    assert!(by_tag.reaches(&a) && a.reaches(&by_tag));
    by_tag.is_apart_from(&c, &d);
    by_tag.is_apart_from(&e, &f);
    // a tag that is not the trunk's
    let outside = speaks(&h, Some(300), 101);
    outside.is_apart_from(&c, &d);
    outside.is_apart_from(&a, &b);
    let without = speaks(&i, None, 102);
    assert!(without.reaches(&e) && e.reaches(&without));
    without.is_apart_from(&a, &b);
    let native = speaks(&j, None, 103);
    assert!(native.reaches(&c) && c.reaches(&native));
    native.is_apart_from(&e, &f);
}

/// CW-7: a bridge that is there without filtering gets it, and the pods on it
/// go on hearing each other.
pub(crate) fn unfiltered_bridge() {
    let (a, b) = (place("a", &json!({})), place("b", &json!({})));
    assert!(!filters("br0") && a.reaches(&b));
    assert_eq!(find("br0").bridge.unwrap().default_vlan, 1);
    let vlan = |id| place(id, &json!({ "vlan": 100 }));
    let (c, d) = (vlan("c"), vlan("d"));
    assert!(filters("br0"));
    assert!(a.reaches(&b) && c.reaches(&d));
    a.is_apart_from(&c, &d);
    c.is_apart_from(&a, &b);
    // the default VLAN can be changed without filtering only
    for file in ["vlan_filtering", "default_pvid"] {
        let path = format!("/sys/class/net/br0/bridge/{file}");
        std::fs::write(path, "0").unwrap();
    }
    assert_eq!(find("br0").bridge.unwrap().default_vlan, 0);
    let (e, f) = (vlan("e"), vlan("f"));
    assert!(filters("br0"));
    assert!(e.reaches(&f) && c.reaches(&e));
}

/// A pod that has no address yet, by the address `10.1.2.<host>` of its
/// interface, or of one for the frames with that tag.
pub(super) fn speaks(pod: &Call, tag: Option<u16>, host: u8) -> Place {
    let netns = pod.netns();
    let mut socket = Socket::open_in(&netns).unwrap();
    let eth0 = link::by_name(&mut socket, "eth0").unwrap().index;
    let name = if let Some(tag) = tag {
        socket.request(&tagging(eth0, tag)).unwrap();
        "tagged"
    } else {
        "eth0"
    };
    let index = link::by_name(&mut socket, name).unwrap().index;
    let ip = format!("10.1.2.{host}").parse().unwrap();
    let own = AddrSpec { index, ip, len: 24, nodad: true, broadcast: None };
    for index in [eth0, index] {
        socket.request(&link::set(index).up().build()).unwrap();
    }
    socket.request(&addr::add(&own)).unwrap();
    Place::new(Some(&netns), ip)
}

/// Makes the link `tagged`, of kind `vlan`, over `below`. The `netlink` crate
/// has none.
fn tagging(below: u32, id: u16) -> Request {
    const RTM_NEWLINK: u16 = 16;
    const CREATE_EXCLUSIVE: u16 = 0x600;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINK: u16 = 5;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VLAN_ID: u16 = 1;
    let id = attr(IFLA_VLAN_ID, &id.to_ne_bytes());
    let kind = attr(IFLA_INFO_KIND, b"vlan");
    let info = [kind, attr(IFLA_INFO_DATA, &id)].concat();
    let body = [
        vec![0; 16],
        attr(IFLA_IFNAME, b"tagged\0"),
        attr(IFLA_LINK, &below.to_ne_bytes()),
        attr(IFLA_LINKINFO, &info),
    ];
    let body = body.concat();
    Request::raw("create link tagged", RTM_NEWLINK, CREATE_EXCLUSIVE, &body)
}

/// One attribute, with what fills up its last word.
fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len() + 4).unwrap();
    let mut out = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}
