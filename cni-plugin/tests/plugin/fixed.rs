//! The bridge's address and MTU stay what they are (CT-15, P51, CW-8).

use netlink::link::bridge::BridgeSpec;
use netlink::link::{self, LinkInfo};
use netlink::{Socket, addr};

use crate::node::{Stack, on_a_node, run};

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
        assert_eq!(before.alias.as_deref(), Some("flannel bridge"));
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

/// An administrator's alias stays, and the address gets fixed as well; so it
/// does where somebody has removed the alias.
#[test]
fn an_alias_is_only_given_where_there_is_none() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let mut socket = node.socket();
        let before = make_bridge(&mut socket, None);
        let alias = |text: &str| {
            run("ip", &["link", "set", "cni0", "alias", text]);
        };
        alias("pods");
        node.pod("a").add();
        let now = cni0(&mut socket);
        assert_eq!(now.alias.as_deref(), Some("pods"));
        assert_eq!((now.mac, assign_type().as_str()), (before.mac, "3"));
        alias("");
        node.pod("b").add();
        let now = cni0(&mut socket);
        assert_eq!(now.alias.as_deref(), Some("flannel bridge"));
        assert_eq!(now.mac, before.mac);
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
        assert_eq!(cni0(&mut socket).mtu, 1450, "flannel's is put right");
        pod.del();
        assert_eq!(cni0(&mut socket).mtu, 1450);
    });
}

fn shown() -> String {
    run("ip", &["-br", "address", "show", "cni0"])
}

/// P10: the node has another subnet than the bridge was made for. Old pods
/// are named; addresses that are not flannel's stay.
#[test]
fn the_nodes_subnet_has_changed() {
    on_a_node(|node| {
        node.subnet_env(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.9.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:244::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:244:0:9::1/64\nFLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=true\n",
        );
        let old = node.pod("old");
        old.add();
        for foreign in ["192.168.7.1/24", "fd00:7::1/64"] {
            run("ip", &["address", "add", foreign, "dev", "cni0"]);
        }
        node.flanneld(Stack::Dual);
        let a = node.pod("a");
        let answer = a.call("ADD");
        answer.result();
        assert!(answer.stderr.contains("anew: old\n"), "{answer:?}");
        assert!(answer.stderr.contains("192.168.7.1/24 is outside"));
        let shown = shown();
        for there in [
            " 10.244.1.1/24 ",
            " fd00:244:0:1::1/64 ",
            " 192.168.7.1/24 ",
            " fd00:7::1/64 ",
        ] {
            assert!(shown.contains(there), "{there} in {shown}");
        }
        assert!(!shown.contains("10.244.9.1"), "{shown}");
        assert!(!shown.contains("fd00:244:0:9::1"), "{shown}");
        assert!(a.pings("10.244.1.1") && a.pings("fd00:244:0:1::1"));
        let b = node.pod("b");
        let second = b.call("ADD");
        assert!(second.ok && second.stderr.is_empty(), "said once: {second:?}");
        for pod in [old, a, b] {
            pod.del();
        }
        node.assert_clean();
    });
}

/// An address of this subnet that is not the gateway, or the gateway with
/// another length: running pods stay connected.
#[test]
fn wrong_addresses_of_the_right_subnet() {
    for wrong in ["10.244.1.7/24", "10.244.1.1/16"] {
        on_a_node(|node| {
            node.flanneld(Stack::V4);
            let a = node.pod("a");
            a.add();
            run("ip", &["address", "flush", "dev", "cni0"]);
            run("ip", &["address", "add", wrong, "dev", "cni0"]);
            // a secondary one goes with its primary
            run("ip", &["address", "replace", "10.244.1.1/24", "dev", "cni0"]);
            let b = node.pod("b");
            b.add();
            assert!(shown().contains(" 10.244.1.1/24 "), "{}", shown());
            assert!(!shown().contains(wrong), "{}", shown());
            assert!(a.pings("10.244.1.1") && b.pings("10.244.1.1"));
        });
    }
}

/// BR-36: `forceAddress` is for addresses that are not flannel's.
#[test]
fn foreign_addresses_go_where_that_is_asked_for() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        run("ip", &["link", "add", "cni0", "type", "bridge"]);
        run("ip", &["address", "add", "192.168.7.1/24", "dev", "cni0"]);
        node.pod("a").delegate("forceAddress", true.into()).add();
        assert!(!shown().contains("192.168.7.1"), "{}", shown());
        assert!(shown().contains(" 10.244.1.1/24 "), "{}", shown());
    });
}
