use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::link::vxlan::{self, VxlanSpec};
use netlink::{Socket, link};

use crate::ns::{another, fresh, sh};

#[test]
fn try_things() {
    fresh(|s| {
        let spec = VethSpec {
            end: VethEnd {
                name: "u0".into(),
                mtu: Some(1400),
                ..VethEnd::default()
            },
            master: None,
            up: true,
            peer: VethEnd {
                name: "eth0".into(),
                mtu: Some(1400),
                ..VethEnd::default()
            },
            peer_namespace: Some(another()),
        };
        s.request(&veth::add(&spec)).unwrap();
        let u0 = link::by_name(s, "u0").unwrap();
        let vx = VxlanSpec {
            name: "flannel.1".into(),
            vni: 1,
            parent: Some(u0.index),
            local: Some("10.0.0.1".parse().unwrap()),
            port: None,
            learning: false,
            gbp: true,
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: Some(1350),
            txqlen: Some(0),
            up: true,
        };
        s.request(&vxlan::add(&vx)).unwrap();
        println!("{}", sh("ip -d link"));
        let v = link::by_name(s, "flannel.1").unwrap();
        println!("{v:?}");
        s.request(&vxlan::set_learning(v.index, true)).unwrap();
        s.request(&vxlan::set_local(v.index, "10.0.0.2".parse().unwrap()))
            .unwrap();
        println!("{}", sh("ip -d link show flannel.1"));
        println!("{:?}", s.request(&vxlan::add(&vx)));
        println!(
            "{:?}",
            s.request(&vxlan::set_local(v.index, "fd00::1".parse().unwrap()))
        );
        println!("{:?}", link::by_name(s, "nix"));
        println!(
            "{:?}",
            link::list(s, link::Filter::default()).unwrap().items.len()
        );
        let _: &mut Socket = s;
    });
}
