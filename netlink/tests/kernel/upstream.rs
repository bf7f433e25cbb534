//! Upstream's daemon and this crate on one device: each takes over what the
//! other left. Upstream's requests are written out here as B-1, B-28 and B-37
//! describe them, without this crate's encoder.

use std::net::IpAddr;

use ipam::{Family, Subnet};
use netlink::fdb::{self, FdbSpec};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::route::{self, RouteInfo, RouteMatch, RouteSpec, TABLE_MAIN};
use netlink::{Errno, Request, Socket};

use crate::ns::{flannel, fresh, ip, net, underlay};

const CREATE_REPLACE: u16 = 0x500;
const MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const PEERS: [(u32, &str, &str); 2] = [
    (0x8000_0002, "10.244.2.0/24", "10.244.2.0"),
    (0x8000_0003, "fd42:2::/64", "fd42:2::"),
];

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn af(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

fn attr(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((value.len() as u16 + 4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Upstream's tunnel route: replace (type 24) or delete (type 25).
fn upstream_route(kind: u16, dst: Subnet, oif: u32) -> Request {
    let (flags, protocol, unicast) =
        if kind == 24 { (CREATE_REPLACE, 3, 1) } else { (0, 0, 0) };
    let mut body =
        vec![af(dst.base()), dst.len(), 0, 0, 254, protocol, 0, unicast];
    body.extend(4u32.to_ne_bytes());
    attr(&mut body, 1, &octets(dst.base()));
    attr(&mut body, 5, &octets(dst.base()));
    attr(&mut body, 4, &oif.to_ne_bytes());
    Request::raw("upstream's route", kind, flags, &body)
}

/// Upstream's neighbour (type 1) or forwarding entry (type 0, family bridge,
/// flag self).
fn upstream_neigh(index: u32, fdb: bool, dst: IpAddr) -> Request {
    let (af, flags, unicast) = if fdb { (7, 2, 0) } else { (af(dst), 0, 1) };
    let mut body = vec![af, 0, 0, 0];
    body.extend(index.to_ne_bytes());
    body.extend(0x80u16.to_ne_bytes());
    body.extend([flags, unicast]);
    attr(&mut body, 1, &octets(dst));
    attr(&mut body, 2, &MAC);
    Request::raw("upstream's neighbour", 28, CREATE_REPLACE, &body)
}

fn only_route(socket: &mut Socket, dst: Subnet) -> RouteInfo {
    let found = route::exact(socket, dst, TABLE_MAIN).expect("exact");
    let [found] = found.as_slice() else { panic!("{found:?}") };
    found.clone()
}

#[test]
fn routes_change_hands_in_both_directions() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        for (id, dst, gateway) in PEERS {
            let dst = net(dst);
            let nexthop = NexthopSpec {
                id,
                oif: index,
                gateway: ip(gateway),
                onlink: true,
                protocol: 99,
            };
            let ours = RouteSpec {
                nexthop: Some(id),
                protocol: 99,
                ..RouteSpec::to(dst)
            };
            let theirs = upstream_route(24, dst, index);

            // Upstream first; ours takes the route over.
            socket.request(&theirs).expect("upstream's");
            let before = only_route(socket, dst);
            assert_eq!((before.protocol, before.nexthop), (3, None));
            assert_eq!(before.gateway, Some(ip(gateway)));
            assert!(before.onlink);
            socket.request(&nexthop::replace(&nexthop)).expect("nexthop");
            socket.request(&route::replace(&ours)).expect("ours");
            let taken = only_route(socket, dst);
            assert_eq!((taken.protocol, taken.nexthop), (99, Some(id)));
            assert_eq!(taken.gateway, before.gateway);
            assert_eq!(taken.oif, before.oif);

            // Upstream cannot delete a route of ours that it has not set: it
            // names the gateway, and IPv4 compares that with nexthop objects
            // by refusing.
            if dst.family() == Family::V4 {
                let error = socket.request(&upstream_route(25, dst, index));
                let error = error.expect_err("by gateway");
                assert_eq!(error.errno(), Some(Errno::ESRCH));
            }

            // Upstream again: a start sets every route, then deletion works.
            socket.request(&theirs).expect("upstream's");
            let back = only_route(socket, dst);
            assert_eq!(back, before);
            let delete = upstream_route(25, dst, index);
            socket.request(&delete).expect("upstream's deletion");
            let left = route::exact(socket, dst, TABLE_MAIN);
            assert_eq!(left.expect("exact"), []);
        }
    });
}

#[test]
fn a_route_of_upstreams_is_deleted_as_read() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        for (_, dst, _) in PEERS {
            let dst = net(dst);
            let theirs = upstream_route(24, dst, index);
            socket.request(&theirs).expect("upstream's");
            let found = only_route(socket, dst);
            let delete = route::delete(&RouteMatch::of(&found));
            socket.request(&delete).expect("delete");
            let left = route::exact(socket, dst, TABLE_MAIN);
            assert_eq!(left.expect("exact"), []);
        }
    });
}

#[test]
fn entries_are_equal_whoever_set_them() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        let (far, dst) = (ip("10.244.2.0"), ip("10.9.0.2"));
        socket.request(&upstream_neigh(index, false, far)).expect("neigh");
        socket.request(&upstream_neigh(index, true, dst)).expect("fdb");
        let neigh = neigh::get(socket, index, far).expect("neigh");
        let fdb = fdb::get(socket, index, MAC).expect("fdb");
        let ours = [
            neigh::set(&NeighSpec { index, ip: far, mac: MAC }),
            fdb::set(&FdbSpec { index, mac: MAC, dst }),
        ];
        let results = socket.batch(&ours);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(neigh::get(socket, index, far).expect("neigh"), neigh);
        assert_eq!(fdb::get(socket, index, MAC).expect("fdb"), fdb);
        // And the messages themselves are upstream's.
        let [our_neigh, our_fdb] = &ours;
        let theirs = upstream_neigh(index, false, far);
        assert_eq!(our_neigh.message(), theirs.message());
        let theirs = upstream_neigh(index, true, dst);
        assert_eq!(our_fdb.message(), theirs.message());
    });
}
