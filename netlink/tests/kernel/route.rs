//! Routes and look-ups.

use ipam::{Family, Subnet};
use netlink::route::{
    self, Filter, Hop, RouteInfo, RouteKind, RouteMatch, RouteSpec, Scope,
    TABLE_LOCAL, TABLE_MAIN,
};
use netlink::{Errno, Socket, link};

use crate::ns::{eventually, flannel, fresh, ip, net, sh, underlay};

/// Two tunnel routes (B-28, B-29).
const PEERS: [(&str, &str); 2] =
    [("10.244.2.0/24", "10.244.2.0"), ("fd42:2::/64", "fd42:2::")];

fn all(socket: &mut Socket, family: Family) -> Vec<RouteInfo> {
    let filter =
        Filter { family, table: Some(TABLE_MAIN), oif: None, protocol: None };
    let routes = route::list(socket, filter).expect("list");
    routes.complete().expect("complete")
}

fn find(socket: &mut Socket, dst: Subnet) -> Vec<RouteInfo> {
    let mut routes = all(socket, dst.family());
    routes.retain(|r| r.dst == dst);
    routes
}

fn onlink(dst: &str, gateway: &str, oif: u32) -> RouteSpec {
    RouteSpec {
        gateway: Some(ip(gateway)),
        oif: Some(oif),
        onlink: true,
        ..RouteSpec::to(net(dst))
    }
}

/// What the kernel should report for `spec`.
fn reported(spec: &RouteSpec) -> RouteInfo {
    let family = spec.dst.family();
    let default = if family == Family::V4 { 0 } else { 1024 };
    RouteInfo {
        dst: spec.dst,
        gateway: spec.gateway,
        oif: spec.oif,
        onlink: spec.onlink,
        nexthop: spec.nexthop,
        protocol: spec.protocol,
        metric: spec.metric.unwrap_or(default),
        kind: spec.kind,
        src: spec.src,
        scope: spec.scope,
        table: spec.table,
        mtu: spec.mtu,
        advmss: spec.advmss,
        multipath: Vec::new(),
        flags: if spec.onlink { 4 } else { 0 },
        tos: 0,
        src_len: 0,
    }
}

#[test]
fn onlink_routes_of_both_families() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        for (dst, gateway) in PEERS {
            let spec = onlink(dst, gateway, index);
            socket.request(&route::add(&spec)).expect("add");
            assert_eq!(find(socket, spec.dst), [reported(&spec)]);
            let again = socket.request(&route::add(&spec)).expect_err("there");
            assert!(again.is_exists(), "{again}");

            let ours = RouteSpec { protocol: 99, mtu: Some(1400), ..spec };
            socket.request(&route::replace(&ours)).expect("replace");
            assert_eq!(find(socket, spec.dst), [reported(&ours)]);
            let exact = route::exact(socket, spec.dst, TABLE_MAIN);
            assert_eq!(exact.expect("exact"), [reported(&ours)]);

            let delete = route::delete(&RouteMatch::to(spec.dst));
            socket.request(&delete).expect("delete");
            assert_eq!(find(socket, spec.dst), []);
            let exact = route::exact(socket, spec.dst, TABLE_MAIN);
            assert_eq!(exact.expect("exact"), []);
            let error = socket.request(&delete).expect_err("gone");
            assert!(error.is_not_found(), "{error}");
            assert_eq!(error.errno(), Some(Errno::ESRCH));
        }
    });
}

#[test]
fn every_attribute_reads_back() {
    fresh(|socket| {
        let u0 = underlay(socket);
        for (dst, gateway, src) in [
            ("10.50.0.0/16", "10.9.0.2", "10.9.0.1"),
            ("fd50::/48", "fd09::2", "fd09::1"),
        ] {
            let spec = RouteSpec {
                gateway: Some(ip(gateway)),
                oif: Some(u0),
                protocol: 42,
                metric: Some(77),
                src: Some(ip(src)),
                table: 1000,
                mtu: Some(1300),
                advmss: Some(1200),
                ..RouteSpec::to(net(dst))
            };
            socket.request(&route::replace(&spec)).expect("replace");
            let filter = Filter {
                family: spec.dst.family(),
                table: Some(1000),
                oif: Some(u0),
                protocol: Some(42),
            };
            let routes = route::list(socket, filter).expect("list");
            let routes = routes.complete().expect("complete");
            assert_eq!(routes, [reported(&spec)]);
            assert_eq!(find(socket, spec.dst), [], "another table");
            let elsewhere = Filter { protocol: Some(43), ..filter };
            let none = route::list(socket, elsewhere).expect("list");
            assert_eq!(none.items, []);

            let [found] = routes.as_slice() else { panic!("one") };
            let delete = route::delete(&RouteMatch::of(found));
            socket.request(&delete).expect("delete what was read");
            let left = route::list(socket, filter).expect("list");
            assert_eq!(left.items, []);
        }
    });
}

#[test]
fn kinds_and_scopes() {
    fresh(|socket| {
        let u0 = underlay(socket);
        for (text, kind) in [
            ("10.244.0.0/16", RouteKind::Blackhole),
            ("10.245.0.0/16", RouteKind::Unreachable),
            ("10.246.0.0/16", RouteKind::Prohibit),
            ("fd42::/32", RouteKind::Blackhole),
        ] {
            let spec = RouteSpec { kind, ..RouteSpec::to(net(text)) };
            socket.request(&route::replace(&spec)).expect("replace");
            let found = find(socket, spec.dst);
            let [found] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((found.kind, found.gateway), (kind, None));
            let one =
                RouteMatch { kind: Some(kind), ..RouteMatch::to(spec.dst) };
            let answer = route::lookup(socket, spec.dst.base());
            let answer = answer.expect_err("no way");
            assert!(answer.errno().is_some(), "{answer}");
            socket.request(&route::delete(&one)).expect("delete");
        }
        let link = RouteSpec {
            oif: Some(u0),
            scope: Scope::Link,
            ..RouteSpec::to(net("10.77.0.0/24"))
        };
        socket.request(&route::replace(&link)).expect("replace");
        assert_eq!(find(socket, link.dst), [reported(&link)]);
    });
}

#[test]
fn a_table_that_does_not_exist_is_empty() {
    fresh(|socket| {
        for family in Family::ALL {
            for table in [TABLE_MAIN, 12345] {
                let filter = Filter {
                    family,
                    table: Some(table),
                    oif: None,
                    protocol: None,
                };
                let routes = route::list(socket, filter).expect("list");
                assert_eq!(routes.complete().expect("complete"), []);
            }
        }
    });
}

#[test]
fn lookups() {
    fresh(|socket| {
        let u0 = underlay(socket);
        for (peer, beyond, gateway, default) in [
            ("10.9.0.2", "192.0.2.1", "10.9.0.254", "0.0.0.0/0"),
            ("fd09::2", "2001:db8::1", "fd09::254", "::/0"),
        ] {
            // B-4: a peer on the same link is reached without a gateway.
            let near = route::lookup(socket, ip(peer)).expect("near");
            assert_eq!((near.oif, near.gateway), (Some(u0), None));
            assert_eq!(near.dst, Subnet::host(ip(peer)));

            let no_way = route::lookup(socket, ip(beyond)).expect_err("none");
            assert_eq!(no_way.errno(), Some(Errno::ENETUNREACH));
            let spec = RouteSpec {
                gateway: Some(ip(gateway)),
                oif: Some(u0),
                ..RouteSpec::to(net(default))
            };
            socket.request(&route::add(&spec)).expect("default");
            let far = route::lookup(socket, ip(beyond)).expect("far");
            assert_eq!((far.oif, far.gateway), (Some(u0), spec.gateway));
            let entry = route::lookup_entry(socket, ip(beyond));
            assert_eq!(entry.expect("entry"), reported(&spec));
            assert_eq!(find(socket, spec.dst), [reported(&spec)]);
        }
        let own = route::lookup(socket, ip("10.9.0.1")).expect("own");
        assert_eq!(own.kind, RouteKind::Local);
        assert_eq!(own.src, Some(ip("10.9.0.1")));
    });
}

#[test]
fn multipath_default_routes() {
    // C-110: the uplink is found through them, too.
    fresh(|socket| {
        let u0 = underlay(socket);
        let lone = link::by_name(socket, "u1").expect("u1").index;
        sh("ip route add default nexthop via 10.9.0.2 dev u0 weight 2 \
            nexthop via 10.9.0.3 dev u1 onlink");
        sh("ip -6 route add default nexthop via fd09::2 dev u0 nexthop via \
            fe80::3 dev u1 weight 3");
        for (dst, first, second, weights) in [
            ("0.0.0.0/0", "10.9.0.2", "10.9.0.3", (2, 1)),
            ("::/0", "fd09::2", "fe80::3", (1, 3)),
        ] {
            let found = find(socket, net(dst));
            let [found] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((found.gateway, found.oif), (None, None));
            let [a, b] = found.multipath.as_slice() else {
                panic!("{found:?}")
            };
            assert_eq!((a.gateway, a.oif), (Some(ip(first)), u0));
            assert_eq!((b.gateway, b.oif), (Some(ip(second)), lone));
            assert_eq!((a.weight, b.weight), weights);
            assert!(found.uses(u0) && found.uses(lone) && !found.uses(1));
        }
    });
}

#[test]
fn a_gateway_of_the_other_family() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let spec = RouteSpec {
            gateway: Some(ip("fe80::1")),
            oif: Some(u0),
            ..RouteSpec::to(net("10.60.0.0/16"))
        };
        socket.request(&route::add(&spec)).expect("add");
        assert_eq!(find(socket, spec.dst), [reported(&spec)]);
        let one =
            RouteMatch { gateway: spec.gateway, ..RouteMatch::to(spec.dst) };
        socket.request(&route::delete(&one)).expect("delete");
    });
}

#[test]
fn several_routes_to_one_destination() {
    fresh(|socket| {
        let u0 = underlay(socket);
        // IPv4 puts the new one in front (BR-35); IPv6 makes a multipath one.
        let first = onlink("10.80.0.0/16", "10.80.0.1", u0);
        let second = onlink("10.80.0.0/16", "10.80.0.2", u0);
        let third = onlink("10.80.0.0/16", "10.80.0.3", u0);
        let results = socket.batch(&[
            route::prepend(&first),
            route::prepend(&second),
            route::append(&third),
        ]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let found = find(socket, first.dst);
        assert_eq!(found, [second, first, third].map(|s| reported(&s)));
        let again = socket.request(&route::prepend(&first)).expect_err("same");
        assert!(again.is_exists(), "{again}");
        let one =
            RouteMatch { gateway: first.gateway, ..RouteMatch::to(first.dst) };
        socket.request(&route::delete(&one)).expect("delete");
        let found = find(socket, first.dst);
        assert_eq!(found, [second, third].map(|s| reported(&s)));

        let first = onlink("fd80::/64", "fd09::11", u0);
        let second = onlink("fd80::/64", "fd09::12", u0);
        let results =
            socket.batch(&[route::prepend(&first), route::prepend(&second)]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let found = find(socket, first.dst);
        let [found] = found.as_slice() else { panic!("{found:?}") };
        let hop = |spec: &RouteSpec| Hop {
            gateway: spec.gateway,
            oif: u0,
            weight: 1,
            flags: 4,
        };
        assert_eq!(found.multipath, [hop(&first), hop(&second)]);
    });
}

#[test]
fn exact_is_not_misled_by_other_metrics_or_longer_prefixes() {
    fresh(|socket| {
        let u0 = underlay(socket);
        for (dst, host, gateway) in [
            ("10.244.2.0/24", "10.244.2.0/32", "10.244.2.0"),
            ("fd42:2::/64", "fd42:2::/128", "fd42:2::"),
        ] {
            let wanted = onlink(dst, gateway, u0);
            let far = RouteSpec { metric: Some(5000), ..wanted };
            let longer = RouteSpec { dst: net(host), ..wanted };
            for spec in [far, longer] {
                socket.request(&route::add(&spec)).expect("add");
            }
            let exact = route::exact(socket, wanted.dst, TABLE_MAIN);
            assert_eq!(exact.expect("exact"), [reported(&far)]);
            socket.request(&route::add(&wanted)).expect("add");
            let exact = route::exact(socket, wanted.dst, TABLE_MAIN);
            assert_eq!(
                exact.expect("exact"),
                [reported(&wanted), reported(&far)]
            );
        }
        // The local table's route to an own address is not the main one's.
        for own in ["10.9.0.1/32", "fd09::1/128"] {
            let exact = route::exact(socket, net(own), TABLE_MAIN);
            assert_eq!(exact.expect("exact"), []);
            eventually("the local route", || {
                let exact = route::exact(socket, net(own), TABLE_LOCAL);
                exact.expect("exact").len() == 1
            });
        }
    });
}

#[test]
fn an_unreachable_gateway_is_refused_in_the_kernels_words() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let spec = RouteSpec {
            onlink: false,
            ..onlink("10.244.2.0/24", "10.244.2.0", u0)
        };
        let error = socket.request(&route::add(&spec)).expect_err("gateway");
        assert_eq!(
            error.to_string(),
            "add route 10.244.2.0/24 via 10.244.2.0 on link 3: Nexthop has \
             invalid gateway (ENETUNREACH)"
        );
    });
}
