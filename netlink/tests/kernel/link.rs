//! Vxlan devices, bridges, and what every link takes.

use std::sync::atomic::{AtomicBool, Ordering};

use netlink::link::bridge::{self, BridgeSpec};
use netlink::link::vxlan::{self, VxlanInfo, VxlanSpec};
use netlink::link::{self, Filter, OperState};
use netlink::{Errno, Error, Socket};

use crate::ns::{
    drop_privilege, flannel, flannel_spec, fresh, ip, sh, underlay,
};

/// The attributes of B-21 as the kernel gives them back, IPv4.
fn as_created(parent: u32) -> VxlanInfo {
    VxlanInfo {
        vni: 1,
        parent: Some(parent),
        local: Some(ip("10.9.0.1")),
        group: None,
        port: 8472,
        learning: false,
        gbp: false,
        ttl: 0,
        tos: 0,
        ageing: 300,
        proxy: false,
        rsc: false,
        l2miss: false,
        l3miss: false,
        udp_csum: true,
        udp6_zero_csum_tx: false,
        udp6_zero_csum_rx: false,
        collect_metadata: false,
    }
}

#[test]
fn vxlan_v4_reads_back_as_created() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        let link = link::by_index(socket, index).expect("link");
        assert_eq!(link.name, "flannel.1");
        assert_eq!(link.kind.as_deref(), Some("vxlan"));
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((link.mtu, link.txqlen, link.up), (1450, 0, true));
        assert_eq!(link.vxlan, Some(as_created(parent)));
        // The kernel's own tool sees what B-21 says upstream's device shows.
        let shown = sh("ip -d link show flannel.1");
        assert!(
            shown.contains(
                "vxlan id 1 local 10.9.0.1 dev u0 srcport 0 0 dstport 8472 \
                 nolearning ttl auto ageing 300 udpcsum noudp6zerocsumtx \
                 noudp6zerocsumrx"
            ),
            "{shown}"
        );
    });
}

#[test]
fn vxlan_v6_with_every_option_reads_back() {
    fresh(|socket| {
        let parent = underlay(socket);
        let spec = VxlanSpec {
            name: "flannel-v6.7".into(),
            vni: 7,
            local: Some(ip("fd09::1")),
            port: Some(4789),
            learning: true,
            gbp: true,
            mtu: Some(1430),
            up: false,
            ..flannel_spec(parent)
        };
        socket.request(&vxlan::add(&spec)).expect("create");
        let link = link::by_name(socket, "flannel-v6.7").expect("link");
        assert!(!link.up);
        assert_eq!(link.mtu, 1430);
        let expected = VxlanInfo {
            vni: 7,
            local: Some(ip("fd09::1")),
            port: 4789,
            learning: true,
            gbp: true,
            ..as_created(parent)
        };
        assert_eq!(link.vxlan, Some(expected));
    });
}

#[test]
fn vxlan_mtu_is_clamped_without_a_word() {
    // B-7: parent less 50 for IPv4, less 70 for IPv6.
    fresh(|socket| {
        let parent = underlay(socket);
        let v4 = VxlanSpec { mtu: Some(1480), ..flannel_spec(parent) };
        let v6 = VxlanSpec {
            name: "flannel-v6.1".into(),
            local: Some(ip("fd09::1")),
            mtu: Some(1480),
            ..flannel_spec(parent)
        };
        for (spec, mtu) in [(v4, 1450), (v6, 1430)] {
            socket.request(&vxlan::add(&spec)).expect("create");
            let link = link::by_name(socket, &spec.name).expect("link");
            assert_eq!(link.mtu, mtu, "{}", spec.name);
        }
    });
}

#[test]
fn vxlan_learning_and_underlay_change_on_a_live_device() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        for learning in [true, false] {
            let set = vxlan::set_learning(index, learning);
            socket.request(&set).expect("learning");
            let link = link::by_index(socket, index).expect("link");
            let expected = VxlanInfo { learning, ..as_created(parent) };
            assert_eq!(link.vxlan, Some(expected));
        }
        let local = ip("10.9.0.77");
        sh("ip link add under1 type bridge");
        let other = link::by_name(socket, "under1").expect("link").index;
        for parent in [parent, other] {
            let set = vxlan::set_underlay(index, parent, local);
            socket.request(&set).expect("underlay");
            let link = link::by_index(socket, index).expect("link");
            let expected =
                VxlanInfo { local: Some(local), ..as_created(parent) };
            assert_eq!(link.vxlan, Some(expected));
            assert!(link.up);
        }

        let other_family = vxlan::set_underlay(index, parent, ip("fd09::1"));
        let error = socket.request(&other_family).expect_err("family");
        assert!(error.is_unsupported(), "{error}");
        assert!(error.kernel_text().is_some(), "{error}");
    });
}

/// The answer is what making one would show; nothing is made.
#[test]
fn whether_bridges_keep_vlans_apart() {
    fresh(|socket| {
        let can = bridge::can_filter_vlans(socket).expect("an answer");
        let links = link::list(socket, Filter::default()).expect("links");
        assert_eq!(names(&links.complete().expect("complete")), ["lo"]);
        let spec = BridgeSpec {
            name: "br7".into(),
            mtu: None,
            mac: None,
            vlan_filtering: true,
            up: false,
        };
        let made = socket.request(&bridge::add(&spec));
        assert_eq!(made.is_ok(), can, "{made:?}");
    });
}

#[test]
fn bridge_and_port_flags() {
    fresh(|socket| {
        let spec = BridgeSpec {
            name: "cni0".into(),
            mtu: Some(1450),
            mac: Some([2, 0, 0, 0, 0, 9]),
            vlan_filtering: false,
            up: true,
        };
        socket.request(&bridge::add(&spec)).expect("bridge");
        let cni0 = link::by_name(socket, "cni0").expect("cni0");
        assert_eq!(cni0.kind.as_deref(), Some("bridge"));
        assert_eq!((cni0.mtu, cni0.mac, cni0.up), (1450, spec.mac, true));
        assert!(!cni0.bridge.expect("bridge data").vlan_filtering);

        let port = underlay(socket);
        let error = socket
            .request(&link::set(port).port(true, true).build())
            .expect_err("no port yet");
        assert!(error.errno().is_some(), "{error}");
        let enslave = link::set(port).master(Some(cni0.index)).build();
        socket.request(&enslave).expect("master");
        for (hairpin, isolated) in
            [(true, false), (false, true), (true, true), (false, false)]
        {
            let set = link::set(port).port(hairpin, isolated).build();
            socket.request(&set).expect("port flags");
            let link = link::by_index(socket, port).expect("port");
            assert_eq!(link.master, Some(cni0.index));
            let info = link.port.expect("port data");
            assert_eq!((info.hairpin, info.isolated), (hairpin, isolated));
        }

        let ports = Filter { master: Some(cni0.index), kind: None };
        let ports = link::list(socket, ports).expect("ports");
        let ports = ports.complete().expect("complete");
        assert_eq!(names(&ports), ["u0"]);
        let bridges = Filter { kind: Some("bridge"), master: None };
        let bridges = link::list(socket, bridges).expect("bridges");
        assert_eq!(names(&bridges.complete().expect("complete")), ["cni0"]);

        let free = link::set(port).master(None).build();
        socket.request(&free).expect("no master");
        let link = link::by_index(socket, port).expect("port");
        assert_eq!((link.master, link.port), (None, None));
    });
}

#[test]
fn every_setting_of_a_link() {
    fresh(|socket| {
        let index = underlay(socket);
        let mac = [2, 0, 0, 0, 0, 0x42];
        let set = link::set(index)
            .down()
            .mtu(1280)
            .mac(mac)
            .txqlen(77)
            .alias("pod default/web-0")
            .name("renamed")
            .build();
        socket.request(&set).expect("set");
        let link = link::by_name(socket, "renamed").expect("renamed");
        assert_eq!(link.index, index);
        assert_eq!((link.mtu, link.txqlen, link.mac), (1280, 77, Some(mac)));
        assert_eq!(link.alias.as_deref(), Some("pod default/web-0"));
        assert!(!link.up);
        assert_eq!(link.operstate, OperState::Down);

        socket.request(&link::set(index).up().alias("").build()).expect("up");
        let link = link::by_index(socket, index).expect("link");
        assert!(link.up && link.has_carrier());
        assert_eq!(link.operstate, OperState::Up);
        assert_eq!(link.alias, None);
    });
}

#[test]
fn deletion_by_index_and_by_name() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        socket.request(&link::delete(index)).expect("delete");
        for again in [link::delete(index), link::delete_by_name("flannel.1")] {
            let error = socket.request(&again).expect_err("gone");
            assert!(error.is_not_found(), "{error}");
        }
        flannel(socket, parent);
        let delete = link::delete_by_name("flannel.1");
        socket.request(&delete).expect("delete by name");
        assert!(!sh("ip link").contains("flannel"));
    });
}

#[test]
fn refusals_say_object_errno_and_the_kernels_words() {
    fresh(|socket| {
        let parent = underlay(socket);
        flannel(socket, parent);

        let exists = refusal(socket, &vxlan::add(&flannel_spec(parent)));
        assert!(exists.is_exists());
        assert_eq!(
            exists.to_string(),
            "create vxlan device flannel.1: File exists (EEXIST)"
        );

        let clash = VxlanSpec { name: "other".into(), ..flannel_spec(parent) };
        let clash = refusal(socket, &vxlan::add(&clash));
        assert_eq!(clash.errno(), Some(Errno::EEXIST));
        let text = clash.kernel_text().expect("text");
        assert!(text.contains("VNI"), "{clash}");
        assert!(clash.to_string().contains("(EEXIST)"), "{clash}");

        let no_parent =
            VxlanSpec { name: "v".into(), vni: 9, ..flannel_spec(4242) };
        let no_parent = refusal(socket, &vxlan::add(&no_parent));
        assert!(no_parent.is_not_found(), "{no_parent}");
        assert!(no_parent.kernel_text().is_some(), "{no_parent}");

        let not_a_bridge = link::set(parent).master(Some(1)).build();
        let not_a_bridge = refusal(socket, &not_a_bridge);
        assert!(not_a_bridge.errno().is_some());
        assert!(
            not_a_bridge.object().contains(&parent.to_string()),
            "{not_a_bridge}"
        );

        // The kind that this kernel lacks (rust-ecosystem.md §0).
        let unknown = refusal(socket, &unknown_kind());
        assert!(unknown.is_unsupported(), "{unknown}");
        assert_eq!(unknown.kernel_text(), Some("Unknown device type"));

        let missing = link::by_name(socket, "absent").expect_err("absent");
        assert!(missing.is_not_found(), "{missing}");
        assert_eq!(missing.to_string(), "link absent: No such device (ENODEV)");
        let missing = link::by_index(socket, 4242).expect_err("absent");
        assert!(missing.is_not_found(), "{missing}");
        let zero = link::by_index(socket, 0).expect_err("zero");
        assert!(zero.is_not_found(), "{zero}");
    });
}

#[test]
fn without_privilege_the_message_names_the_capability() {
    fresh(|socket| {
        let parent = underlay(socket);
        drop_privilege();
        // The sender is asked for the privilege, and the socket's opener.
        let result = socket.request(&link::delete(parent));
        let error = result.expect_err("denied");
        assert!(error.is_denied(), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn a_list_read_while_links_come_and_go_is_whole_or_an_error() {
    // rust-ecosystem.md A.3, trap 4. 120 links are several datagrams.
    const STABLE: usize = 120;
    fresh(|socket| {
        let bridge = |name: String| {
            bridge::add(&BridgeSpec {
                name,
                mtu: None,
                mac: None,
                vlan_filtering: false,
                up: false,
            })
        };
        let requests: Vec<_> =
            (0..STABLE).map(|n| bridge(format!("stable{n}"))).collect();
        let results = socket.batch(&requests);
        assert!(results.iter().all(Result::is_ok), "{results:?}");

        let home = netlink::NetNs::current().expect("own namespace");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut other = Socket::open_in(&home).expect("socket");
                while !stop.load(Ordering::Relaxed) {
                    let add = bridge("passing".to_owned());
                    other.request(&add).expect("add");
                    let delete = link::delete_by_name("passing");
                    other.request(&delete).expect("delete");
                }
            });
            let mut whole = 0;
            for _ in 0..50 {
                match link::list(socket, Filter::default()) {
                    Ok(list) => {
                        let list = list.complete().expect("complete");
                        let stable = names(&list)
                            .iter()
                            .filter(|n| n.starts_with("stable"))
                            .count();
                        assert_eq!(stable, STABLE);
                        whole += 1;
                    }
                    Err(Error::Interrupted { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(whole > 0, "not one of 50 lists was undisturbed");
        });
    });
}

fn refusal(socket: &mut Socket, request: &netlink::Request) -> netlink::Error {
    let error = socket.request(request).expect_err("refused");
    assert_eq!(error.object(), request.object());
    error
}

/// RTM_NEWLINK with a kind no kernel has.
fn unknown_kind() -> netlink::Request {
    let mut body = vec![0; 16];
    let kind = b"flanneltest";
    let inner = 4 + kind.len() as u16;
    let padded = inner.next_multiple_of(4);
    body.extend((4 + padded).to_ne_bytes());
    body.extend(18u16.to_ne_bytes());
    body.extend(inner.to_ne_bytes());
    body.extend(1u16.to_ne_bytes());
    body.extend(kind);
    body.resize(16 + 4 + usize::from(padded), 0);
    netlink::Request::raw("create a strange link", 16, 0x600, &body)
}

fn names(links: &[link::LinkInfo]) -> Vec<&str> {
    links.iter().map(|l| l.name.as_str()).collect()
}
