//! The bridge's address and MTU stay what they are (CT-15, P51, CW-8).

use netlink::link::bridge::BridgeSpec;
use netlink::link::{self, LinkInfo};
use netlink::{Socket, addr};

use crate::node::{Stack, on_a_node};

fn cni0(socket: &mut Socket) -> LinkInfo {
    link::by_name(socket, "cni0").unwrap()
}

fn make_bridge(socket: &mut Socket, mac: Option<[u8; 6]>) -> LinkInfo {
    let spec = BridgeSpec {
        name: "cni0".into(),
        mtu: None,
        mac,
        vlan_filtering: false,
        up: false,
    };
    socket.request(&link::bridge::add(&spec)).unwrap();
    cni0(socket)
}

fn assign_type() -> String {
    let path = "/sys/class/net/cni0/addr_assign_type";
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn a_new_bridge_keeps_its_address_whatever_its_ports() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pods: Vec<_> = (0..6).map(|n| node.pod(&format!("p{n}"))).collect();
        pods[0].add();
        let mut socket = node.socket();
        let before = cni0(&mut socket);
        assert_eq!(assign_type(), "3");
        for pod in &pods[1..] {
            pod.add();
            assert_eq!(cni0(&mut socket).mac, before.mac);
        }
        for pod in &pods {
            pod.del();
            let now = cni0(&mut socket);
            assert_eq!((now.mac, now.mtu), (before.mac, 1450));
        }
    });
}

/// One made by somebody else, down, its address not fixed: the first port
/// would change it.
#[test]
fn a_bridge_that_is_found_gets_its_address_fixed() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let mut socket = node.socket();
        let before = make_bridge(&mut socket, None);
        assert_ne!(assign_type(), "3");
        for n in 0..4 {
            node.pod(&format!("p{n}")).add();
            let now = cni0(&mut socket);
            assert_eq!((now.mac, now.index), (before.mac, before.index));
            assert!(now.up);
        }
        assert_eq!(assign_type(), "3");
    });
}

/// The gateway is there already, so nothing is added to the bridge (CW-8).
#[test]
fn also_with_the_gateway_there_already() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut socket = node.socket();
        let before = make_bridge(&mut socket, None);
        let spec = addr::AddrSpec {
            index: before.index,
            ip: "10.244.1.1".parse().unwrap(),
            len: 24,
            nodad: false,
            broadcast: None,
        };
        socket.request(&addr::add(&spec)).unwrap();
        node.pod("a").add();
        assert_eq!(cni0(&mut socket).mac, before.mac);
        assert_eq!(assign_type(), "3");
    });
}

/// CT-15
#[test]
fn an_address_that_was_chosen_stays() {
    on_a_node(|node| {
        node.flanneld(Stack::V6);
        let mut socket = node.socket();
        let mac = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
        make_bridge(&mut socket, Some(mac));
        let pod = node.pod("a");
        pod.add();
        assert_eq!(cni0(&mut socket).mac, Some(mac));
        pod.del();
        assert_eq!(cni0(&mut socket).mac, Some(mac));
    });
}

#[test]
fn ports_leave_the_mtu_alone() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut socket = node.socket();
        let first = node.pod("first");
        first.add();
        assert_eq!(cni0(&mut socket).mtu, 1450);
        for (id, mtu) in [("small", 1300), ("large", 8000)] {
            node.pod(id).delegate("mtu", mtu.into()).add();
            assert_eq!(cni0(&mut socket).mtu, 1450, "{id}");
        }
        first.del();
        assert_eq!(cni0(&mut socket).mtu, 1450);
    });
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut socket = node.socket();
        let found = make_bridge(&mut socket, None);
        let request = link::set(found.index).mtu(1400).build();
        socket.request(&request).unwrap();
        let pod = node.pod("a");
        pod.add();
        assert_eq!(cni0(&mut socket).mtu, 1400, "of one that was found");
        pod.del();
        assert_eq!(cni0(&mut socket).mtu, 1400);
    });
}
