//! Packets: a pod behind a node, a host outside, upstream's rules between.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netlink::addr::{self, AddrSpec};
use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::route::{self, RouteSpec};
use netlink::{NetNs, Socket, link, sysctl};

use super::upstream::Upstream;
use super::*;
use crate::ns::{another, ip};

const LIMIT: Duration = Duration::from_secs(5);

/// The addresses of one family.
struct Addresses {
    family: Family,
    pod: IpAddr,
    gateway: IpAddr,
    node: IpAddr,
    outside: IpAddr,
    /// A pod of another node, on the host outside.
    remote_pod: IpAddr,
    remote_subnet: Subnet,
    host_len: u8,
}

fn addresses(family: Family) -> Addresses {
    let [pod, gateway, node, outside, remote_pod] = match family {
        Family::V4 => {
            ["10.244.1.2", "10.244.1.1", "192.0.2.1", "192.0.2.2", "10.244.2.2"]
        }
        Family::V6 => [
            "fd00:10:0:1::2",
            "fd00:10:0:1::1",
            "2001:db8::1",
            "2001:db8::2",
            "fd00:10:0:2::2",
        ],
    }
    .map(ip);
    let (remote_subnet, host_len) = match family {
        Family::V4 => (net("10.244.2.0/24"), 24),
        Family::V6 => (net("fd00:10:0:2::/64"), 64),
    };
    Addresses {
        family,
        pod,
        gateway,
        node,
        outside,
        remote_pod,
        remote_subnet,
        host_len,
    }
}

/// A cable from this namespace's `name` to the other one's `eth0`, with the
/// addresses.
fn cable(
    socket: &mut Socket,
    name: &str,
    there: &NetNs,
    len: u8,
    addresses: [IpAddr; 2],
) -> [u32; 2] {
    let spec = VethSpec {
        end: VethEnd { name: name.into(), ..VethEnd::default() },
        master: None,
        up: true,
        peer: VethEnd { name: "eth0".into(), ..VethEnd::default() },
        peer_namespace: Some(there.clone()),
    };
    socket.request(&veth::add(&spec)).expect("veth");
    let mut far = Socket::open_in(there).expect("socket");
    let [near_ip, far_ip] = addresses;
    let mut ends = [(socket, name, near_ip), (&mut far, "eth0", far_ip)];
    ends.each_mut().map(|(socket, name, ip)| {
        let index = link::by_name(socket, name).expect("link").index;
        socket.request(&link::set(index).up().build()).expect("up");
        let addr =
            AddrSpec { index, ip: *ip, len, nodad: true, broadcast: None };
        socket.request(&addr::add(&addr)).expect("address");
        index
    })
}

fn udp(namespace: &NetNs, at: IpAddr, port: u16) -> UdpSocket {
    let socket = namespace
        .enter(|| UdpSocket::bind(SocketAddr::new(at, port)))
        .expect("enter")
        .expect("bind");
    socket.set_read_timeout(Some(LIMIT)).expect("timeout");
    socket
}

/// Sends from the pod to `to`; returns whom `to` sees, and answers them.
fn seen(pod: &UdpSocket, outside: &UdpSocket) -> SocketAddr {
    let to = outside.local_addr().expect("address");
    let mut buf = [0; 16];
    // The kernel drops what is sent before it has got to a new cable.
    for _ in 0..5 {
        pod.send_to(b"ping", to).expect("send");
        if let Ok((len, from)) = outside.recv_from(&mut buf) {
            assert_eq!(buf.get(..len), Some(&b"ping"[..]));
            return from;
        }
    }
    panic!("no ping at {to}");
}

/// The answer reaches the pod, from whom it wrote to.
fn answer(pod: &UdpSocket, outside: &UdpSocket, to: SocketAddr) {
    let mut buf = [0; 16];
    outside.send_to(b"pong", to).expect("answer");
    let (len, from) = pod.recv_from(&mut buf).expect("pong");
    assert_eq!(buf.get(..len), Some(&b"pong"[..]));
    assert_eq!(from, outside.local_addr().expect("address"));
}

fn packets(family: Family) {
    let a = addresses(family);
    fresh(move |socket| {
        let (pod, outside) = (another(), another());
        sysctl::write_if_different("net/ipv4/ip_forward", "1").expect("set");
        sysctl::write_if_different("net/ipv6/conf/all/forwarding", "1")
            .expect("set");
        cable(socket, "pod0", &pod, a.host_len, [a.gateway, a.pod]);
        let [uplink, far] =
            cable(socket, "up0", &outside, a.host_len, [a.node, a.outside]);
        let everything = match a.family {
            Family::V4 => net("0.0.0.0/0"),
            Family::V6 => net("::/0"),
        };
        let via = |dst, gateway| RouteSpec {
            gateway: Some(gateway),
            ..RouteSpec::to(dst)
        };
        let mut inside = Socket::open_in(&pod).expect("socket");
        inside
            .request(&route::add(&via(everything, a.gateway)))
            .expect("default route");
        // Outside, only the other node's pod knows the way to this one.
        socket
            .request(&route::add(&RouteSpec {
                oif: Some(uplink),
                ..via(a.remote_subnet, a.outside)
            }))
            .expect("route to the other node");
        let mut there = Socket::open_in(&outside).expect("socket");
        let remote = AddrSpec {
            index: far,
            ip: a.remote_pod,
            len: a.host_len,
            nodad: true,
            broadcast: None,
        };
        there.request(&addr::add(&remote)).expect("address");
        let upstream = Upstream::of(family);
        there
            .request(&route::add(&via(upstream.subnet, a.node)))
            .expect("route to the pod");

        let mut nft = NftSocket::open().expect("socket");
        let world = udp(&outside, a.outside, 53);
        let remote_pod = udp(&outside, a.remote_pod, 53);
        let early = udp(&pod, a.pod, 5001);
        assert_eq!(seen(&early, &world).ip(), a.pod, "no rules yet");

        nft.commit(&upstream.batch()).expect("rules");
        let mut ports_kept = 0;
        for port in 5002..=5004 {
            let from_pod = udp(&pod, a.pod, port);
            let from = seen(&from_pod, &world);
            assert_eq!(from.ip(), a.node, "masqueraded");
            ports_kept += usize::from(from.port() == port);
            answer(&from_pod, &world, from);

            let from = seen(&from_pod, &remote_pod);
            assert_eq!(from, from_pod.local_addr().expect("address"));
            answer(&from_pod, &remote_pod, from);
        }
        assert!(ports_kept < 3, "fully random");
    });
}

#[test]
fn a_pod_is_masqueraded_to_the_world_but_not_to_pods_v4() {
    packets(Family::V4);
}

#[test]
fn a_pod_is_masqueraded_to_the_world_but_not_to_pods_v6() {
    packets(Family::V6);
}
