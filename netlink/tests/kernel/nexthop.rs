//! Nexthop objects and the routes that use them.

use ipam::Family;
use netlink::link;
use netlink::nexthop::{self, NexthopInfo, NexthopSpec};
use netlink::route::{self, Filter, RouteMatch, RouteSpec, TABLE_MAIN};

use crate::ns::{flannel, fresh, ip, net, sh, underlay};

/// Ids of ours have the highest bit: nobody else counts up to there.
const ID: u32 = 0x8000_0001;
const PROTOCOL: u8 = 99;

fn spec(id: u32, gateway: &str, oif: u32) -> NexthopSpec {
    NexthopSpec {
        id,
        oif,
        gateway: ip(gateway),
        onlink: true,
        protocol: PROTOCOL,
    }
}

fn reported(spec: &NexthopSpec) -> NexthopInfo {
    NexthopInfo {
        id: spec.id,
        family: Some(Family::of(spec.gateway)),
        oif: Some(spec.oif),
        gateway: Some(spec.gateway),
        onlink: spec.onlink,
        protocol: spec.protocol,
        blackhole: false,
        group: false,
        flags: if spec.onlink { 4 } else { 0 },
    }
}

#[test]
fn objects_of_both_families_with_high_ids() {
    fresh(|socket| {
        assert!(nexthop::supported(socket).expect("answer"));
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        for (id, first, second) in [
            (ID, "10.244.2.0", "10.244.3.0"),
            (u32::MAX, "fd42:2::", "fd42:3::"),
        ] {
            let missing = nexthop::get(socket, id).expect_err("none");
            assert!(missing.is_not_found(), "{missing}");
            let first = spec(id, first, index);
            socket.request(&nexthop::add(&first)).expect("add");
            assert_eq!(
                nexthop::get(socket, id).expect("get"),
                reported(&first)
            );
            let again = socket.request(&nexthop::add(&first));
            assert!(again.expect_err("there").is_exists());

            let second = spec(id, second, index);
            socket.request(&nexthop::replace(&second)).expect("replace");
            let all = nexthop::list(socket, Some(index)).expect("list");
            let all = all.complete().expect("complete");
            assert_eq!(all, [reported(&second)]);
            let other = nexthop::list(socket, Some(u0)).expect("list");
            assert_eq!(other.items, []);

            socket.request(&nexthop::delete(id)).expect("delete");
            let error = socket.request(&nexthop::delete(id));
            assert!(error.expect_err("gone").is_not_found());
        }
        assert_eq!(nexthop::list(socket, None).expect("list").items, []);
    });
}

#[test]
fn a_route_by_nexthop_reads_back_with_gateway_and_device() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        for (id, dst, gateway) in [
            (ID, "10.244.2.0/24", "10.244.2.0"),
            (ID + 1, "fd42:2::/64", "fd42:2::"),
        ] {
            let route = RouteSpec {
                nexthop: Some(id),
                protocol: PROTOCOL,
                ..RouteSpec::to(net(dst))
            };
            let results = socket.batch(&[
                nexthop::replace(&spec(id, gateway, index)),
                route::replace(&route),
            ]);
            assert!(results.iter().all(Result::is_ok), "{results:?}");

            let filter = Filter {
                family: route.dst.family(),
                table: Some(TABLE_MAIN),
                oif: Some(index),
                protocol: Some(PROTOCOL),
            };
            let found = route::list(socket, filter).expect("list");
            let found = found.complete().expect("complete");
            let [found] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(found.nexthop, Some(id));
            assert_eq!(found.gateway, Some(ip(gateway)));
            assert_eq!(found.oif, Some(index));
            assert!(found.onlink);
            assert_eq!(found.protocol, PROTOCOL);
            let exact = route::exact(socket, route.dst, TABLE_MAIN);
            assert_eq!(exact.expect("exact"), std::slice::from_ref(found));
            let way = route::lookup(socket, ip(gateway)).expect("way");
            assert_eq!(way.oif, Some(index));

            socket
                .request(&route::delete(&RouteMatch::of(found)))
                .expect("delete what was read");
        }
    });
}

#[test]
fn a_replaced_object_moves_its_routes() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        let route = RouteSpec {
            nexthop: Some(ID),
            ..RouteSpec::to(net("10.1.0.0/16"))
        };
        let results = socket.batch(&[
            nexthop::add(&spec(ID, "10.1.0.0", index)),
            route::add(&route),
            nexthop::replace(&spec(ID, "10.1.0.99", index)),
        ]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let found = route::exact(socket, route.dst, TABLE_MAIN);
        let found = found.expect("exact");
        let [found] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(found.gateway, Some(ip("10.1.0.99")));

        // The object takes its routes with it.
        socket.request(&nexthop::delete(ID)).expect("delete");
        let found = route::exact(socket, route.dst, TABLE_MAIN);
        assert_eq!(found.expect("exact"), []);
    });
}

#[test]
fn a_link_set_down_takes_objects_and_routes() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        let route = RouteSpec {
            nexthop: Some(ID),
            ..RouteSpec::to(net("10.1.0.0/16"))
        };
        let results = socket.batch(&[
            nexthop::add(&spec(ID, "10.1.0.0", index)),
            route::add(&route),
            link::set(index).down().build(),
        ]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(nexthop::list(socket, None).expect("list").items, []);
        assert!(!sh("ip route").contains("10.1.0.0/16"));
    });
}

#[test]
fn a_route_to_an_unknown_object_is_refused() {
    fresh(|socket| {
        underlay(socket);
        let route = RouteSpec {
            nexthop: Some(ID),
            ..RouteSpec::to(net("10.1.0.0/16"))
        };
        let error = socket.request(&route::add(&route)).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "add route 10.1.0.0/16 by nexthop 2147483649: Nexthop id does not \
             exist (EINVAL)"
        );
    });
}

#[test]
fn groups_and_blackholes_of_others_are_told_apart() {
    fresh(|socket| {
        underlay(socket);
        sh("ip nexthop add id 1 via 10.9.0.2 dev u0");
        sh("ip nexthop add id 2 blackhole");
        sh("ip nexthop add id 3 via 10.9.0.3 dev u0 proto zebra");
        sh("ip nexthop add id 4 group 1/3");
        let all = nexthop::list(socket, None).expect("list");
        let all = all.complete().expect("complete");
        let [plain, hole, zebra, group] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert!(!plain.onlink && !plain.blackhole && !plain.group);
        assert!(hole.blackhole && hole.gateway.is_none());
        assert_eq!(zebra.protocol, 11);
        assert!(group.group && group.oif.is_none());
        assert_eq!(group.family, None);
    });
}
