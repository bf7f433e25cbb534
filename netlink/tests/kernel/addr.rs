//! Addresses.

use ipam::Family;
use netlink::addr::{self, AddrInfo, AddrSpec};
use netlink::route::Scope;
use netlink::{Socket, link};

use crate::ns::{fresh, ip, sh, underlay};

fn spec(index: u32, text: &str, len: u8) -> AddrSpec {
    AddrSpec { index, ip: ip(text), len, nodad: false, broadcast: None }
}

fn find(socket: &mut Socket, index: u32, text: &str) -> Option<AddrInfo> {
    let all = addr::list(socket, None, Some(index)).expect("list");
    let all = all.complete().expect("complete");
    all.into_iter().find(|a| a.ip == ip(text))
}

#[test]
fn v4_with_and_without_broadcast() {
    fresh(|socket| {
        let u0 = underlay(socket);
        // B-25: the tunnel device's address is its subnet's base.
        let host = spec(u0, "10.244.1.0", 32);
        socket.request(&addr::add(&host)).expect("add");
        let found = find(socket, u0, "10.244.1.0").expect("found");
        assert_eq!((found.len, found.scope), (32, Scope::Universe));
        assert_eq!((found.broadcast, found.peer), (None, None));
        assert!(found.flags.permanent() && !found.flags.tentative());
        assert_eq!(found.valid_lifetime, None);

        let wide = AddrSpec {
            broadcast: Some(ip("10.244.1.255")),
            ..spec(u0, "10.244.1.1", 24)
        };
        socket.request(&addr::add(&wide)).expect("add");
        let found = find(socket, u0, "10.244.1.1").expect("found");
        assert_eq!(found.broadcast, wide.broadcast);
        assert_eq!(found.label.as_deref(), Some("u0"));

        let error = socket.request(&addr::add(&wide)).expect_err("there");
        assert!(error.is_exists(), "{error}");
        assert_eq!(error.object(), "add address 10.244.1.1/24 on link 3");
        socket.request(&addr::replace(&wide)).expect("replace");

        let delete = addr::delete(u0, wide.ip, 24);
        socket.request(&delete).expect("delete");
        assert_eq!(find(socket, u0, "10.244.1.1"), None);
        let error = socket.request(&delete).expect_err("gone");
        assert!(error.is_not_found(), "{error}");
    });
}

/// Only iproute2 sets such ones; in IPv4 both ends are what identifies them.
#[test]
fn an_address_with_another_end_is_deleted_by_both() {
    fresh(|socket| {
        let u0 = underlay(socket);
        for (own, peer, len) in
            [("10.77.0.1", "10.77.0.2", 32), ("fd77::1", "fd77::2", 128)]
        {
            sh(&format!("ip addr add {own} peer {peer}/{len} dev u0"));
            let found = find(socket, u0, own).expect("found");
            assert_eq!((found.peer, found.len), (Some(ip(peer)), len));
            let delete = addr::delete_pair(u0, found.ip, found.peer, len);
            socket.request(&delete).expect("delete");
            assert_eq!(find(socket, u0, own), None);
        }
    });
}

#[test]
fn v6_nodad_is_usable_at_once() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let waiting = spec(u0, "fd00::1", 64);
        let nodad = AddrSpec { nodad: true, ..spec(u0, "fd00::2", 64) };
        let results = socket.batch(&[addr::add(&waiting), addr::add(&nodad)]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let waiting = find(socket, u0, "fd00::1").expect("found");
        assert!(waiting.flags.tentative(), "{waiting:?}");
        let nodad = find(socket, u0, "fd00::2").expect("found");
        assert!(!nodad.flags.tentative(), "{nodad:?}");
        assert!(nodad.flags.nodad() && nodad.flags.permanent());
        assert_eq!(nodad.scope, Scope::Universe);

        let delete = addr::delete(u0, ip("fd00::2"), 64);
        socket.request(&delete).expect("delete");
        let error = socket.request(&delete).expect_err("gone");
        assert!(error.is_not_found(), "{error}");
    });
}

#[test]
fn lists_are_limited_to_family_and_link() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let v4 = addr::list(socket, Some(Family::V4), None).expect("list");
        let v4 = v4.complete().expect("complete");
        let texts: Vec<_> = v4.iter().map(|a| a.ip.to_string()).collect();
        assert_eq!(texts, ["127.0.0.1", "10.9.0.1"]);
        assert_eq!(v4.first().map(|a| a.scope), Some(Scope::Host));
        let v6 = addr::list(socket, Some(Family::V6), Some(u0)).expect("list");
        let v6 = v6.complete().expect("complete");
        assert!(v6.iter().all(|a| a.index == u0));
        assert!(v6.iter().any(|a| a.ip == ip("fd09::1")));
        let lone = link::by_name(socket, "u1").expect("u1").index;
        let none = addr::list(socket, Some(Family::V4), Some(lone));
        assert_eq!(none.expect("list").items, []);
        let error = addr::list(socket, None, Some(4242)).expect_err("no link");
        assert!(error.is_not_found(), "{error}");
    });
}
