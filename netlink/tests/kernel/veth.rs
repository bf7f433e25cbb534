//! Veth pairs straight into another namespace.

use netlink::link::bridge::{self, BridgeSpec};
use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::{NetNs, Socket, link};

use crate::ns::{another, fresh, underlay};

fn spec(pod: NetNs, bridge: u32) -> VethSpec {
    VethSpec {
        end: VethEnd {
            name: "veth01234567".into(),
            mtu: Some(1450),
            mac: Some([2, 0, 0, 0, 1, 1]),
            txqlen: Some(0),
            queues: Some(1),
        },
        master: Some(bridge),
        up: true,
        peer: VethEnd {
            name: "eth0".into(),
            mtu: Some(1450),
            mac: Some([2, 0, 0, 0, 1, 2]),
            txqlen: None,
            queues: Some(1),
        },
        peer_namespace: Some(pod),
    }
}

fn bridge(socket: &mut Socket) -> u32 {
    let spec = BridgeSpec {
        name: "cni0".into(),
        mtu: None,
        mac: None,
        vlan_filtering: false,
        up: true,
    };
    socket.request(&bridge::add(&spec)).expect("bridge");
    link::by_name(socket, "cni0").expect("cni0").index
}

#[test]
fn one_message_from_the_host() {
    fresh(|host| {
        let cni0 = bridge(host);
        let pod = another();
        let spec = spec(pod.clone(), cni0);
        host.request(&veth::add(&spec)).expect("veth");

        let near = link::by_name(host, "veth01234567").expect("host end");
        assert_eq!(near.kind.as_deref(), Some("veth"));
        assert_eq!((near.mtu, near.mac), (1450, spec.end.mac));
        assert_eq!((near.txqlen, near.up), (0, true));
        assert_eq!(near.master, Some(cni0));
        assert!(near.peer_netns.is_some());

        let mut inside = Socket::open_in(&pod).expect("socket in the pod");
        let far = link::by_name(&mut inside, "eth0").expect("pod end");
        assert_eq!((far.mtu, far.mac, far.up), (1450, spec.peer.mac, false));
        assert_eq!((far.peer, near.peer), (Some(near.index), Some(far.index)));
        assert_eq!(far.txqlen, 1000);

        inside.request(&link::set(far.index).up().build()).expect("up");
        let near = link::by_index(host, near.index).expect("host end");
        assert_eq!(near.operstate, link::OperState::Up);

        // Deleting one end takes the other.
        inside.request(&link::delete(far.index)).expect("delete");
        let gone = link::by_index(host, near.index).expect_err("gone");
        assert!(gone.is_not_found(), "{gone}");
    });
}

#[test]
fn one_message_from_the_pod() {
    // As upstream's plugin does it (BR-25).
    fresh(|host| {
        bridge(host);
        let host_ns = NetNs::current().expect("own namespace");
        let pod = another();
        let mut inside = Socket::open_in(&pod).expect("socket in the pod");
        let pair = VethSpec {
            end: VethEnd { name: "eth0".into(), ..VethEnd::default() },
            master: None,
            up: true,
            peer: VethEnd { name: "vethabc".into(), ..VethEnd::default() },
            peer_namespace: Some(host_ns),
        };
        inside.request(&veth::add(&pair)).expect("veth");
        assert!(link::by_name(&mut inside, "eth0").expect("eth0").up);
        assert!(!link::by_name(host, "vethabc").expect("host end").up);
        let again = inside.request(&veth::add(&pair)).expect_err("taken");
        assert!(again.is_exists(), "{again}");
    });
}

#[test]
fn a_request_keeps_its_namespace_open() {
    fresh(|host| {
        let cni0 = bridge(host);
        let request = veth::add(&spec(another(), cni0));
        // The only other handle on the pod's namespace is gone by now.
        host.request(&request).expect("veth");
        assert!(link::by_name(host, "veth01234567").is_ok());
    });
}

#[test]
fn the_alias_is_ignored_at_creation() {
    // Why VethSpec has none, and the plugin sends a second message.
    fresh(|socket| {
        let mut body = vec![0; 16];
        attr(&mut body, 3, b"v0\0");
        attr(&mut body, 20, b"pod a/b");
        attr(&mut body, 18, &[9, 0, 1, 0, b'v', b'e', b't', b'h', 0]);
        let add = netlink::Request::raw("veth with alias", 16, 0x600, &body);
        socket.request(&add).expect("veth");
        let v0 = link::by_name(socket, "v0").expect("v0");
        assert_eq!(v0.alias, None);
        let set = link::set(v0.index).alias("pod a/b").build();
        socket.request(&set).expect("alias");
        let v0 = link::by_index(socket, v0.index).expect("v0");
        assert_eq!(v0.alias.as_deref(), Some("pod a/b"));
    });
}

#[test]
fn a_link_moves_to_another_namespace() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let pod = another();
        let set = link::set(u0).namespace(&pod).name("moved").build();
        socket.request(&set).expect("move");
        assert!(link::by_index(socket, u0).is_err());
        let mut inside = Socket::open_in(&pod).expect("socket in the pod");
        let moved = link::by_name(&mut inside, "moved").expect("moved");
        assert!(!moved.up);
    });
}

fn attr(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((value.len() as u16 + 4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
