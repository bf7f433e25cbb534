//! Many requests at a time.

use std::net::{IpAddr, Ipv4Addr};

use ipam::{Family, Subnet};
use netlink::fdb::{self, FdbSpec};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::route::{self, Filter, RouteSpec, TABLE_MAIN};
use netlink::{Error, Request, Socket};

use crate::ns::{flannel, fresh, underlay};

/// The four objects of peer `n` (B-28), its route by a nexthop object.
fn peer(n: u32, index: u32) -> [Request; 4] {
    let base = IpAddr::from(Ipv4Addr::from_bits(0x0a40_0000 + (n << 8)));
    let [_, a, b, c] = n.to_be_bytes();
    let mac = [2, 0, 1, a, b, c];
    let dst = IpAddr::from(Ipv4Addr::from_bits(0x0aff_0000 + n));
    let id = 0x8000_0000 | (n + 1);
    let subnet = Subnet::new(base, 24).expect("subnet");
    [
        neigh::set(&NeighSpec { index, ip: base, mac }),
        fdb::set(&FdbSpec { index, mac, dst }),
        nexthop::replace(&NexthopSpec {
            id,
            oif: index,
            gateway: base,
            onlink: true,
            protocol: 99,
        }),
        route::replace(&RouteSpec {
            nexthop: Some(id),
            protocol: 99,
            ..RouteSpec::to(subnet)
        }),
    ]
}

#[test]
fn errors_come_out_at_their_places() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        let mut requests: Vec<Request> =
            (0..1250).flat_map(|n| peer(n, index)).collect();
        assert_eq!(requests.len(), 5000);
        // Of these two kinds of mistakes one has a text and one has none. In
        // every window there is a bad one at another place; the first, the
        // last, and a whole window are bad, too.
        let mut bad = Vec::new();
        let places = (0..5000usize)
            .filter(|n| n % 131 == 0 || (2560..2688).contains(n))
            .chain([127, 128, 129, 4999]);
        for n in places {
            requests[n] = if n % 2 == 0 {
                nexthop::delete(7_000_000 + n as u32)
            } else {
                route::add(&RouteSpec {
                    nexthop: Some(7_000_000 + n as u32),
                    ..RouteSpec::to("10.1.0.0/16".parse().expect("subnet"))
                })
            };
            bad.push(n);
        }
        bad.sort_unstable();
        bad.dedup();

        let results = socket.batch(&requests);
        assert_eq!(results.len(), requests.len());
        for (n, (result, request)) in results.iter().zip(&requests).enumerate()
        {
            match result {
                Ok(()) => assert!(bad.binary_search(&n).is_err(), "{n}"),
                Err(error) => {
                    // A peer's route fails as well when its nexthop object
                    // was replaced by a bad request.
                    let follows =
                        n % 4 == 3 && bad.binary_search(&(n - 1)).is_ok();
                    let itself = bad.binary_search(&n).is_ok();
                    assert!(follows || itself, "{n}: {error}");
                    assert_eq!(error.object(), request.object());
                    if n % 2 == 0 {
                        assert!(error.is_not_found(), "{n}: {error}");
                    } else {
                        let text = Some("Nexthop id does not exist");
                        assert_eq!(error.kernel_text(), text, "{n}");
                    }
                }
            }
        }
        let failed = results.iter().filter(|r| r.is_err()).count();
        assert!(failed >= bad.len());

        // What is reported as done is there.
        let done = |kind: usize| {
            results.iter().skip(kind).step_by(4).filter(|r| r.is_ok()).count()
        };
        let neighs = neigh::list(socket, Family::V4, Some(index));
        let neighs = neighs.expect("list").complete().expect("complete");
        assert_eq!(neighs.len(), done(0));
        let fdb = fdb::list(socket, index).expect("list");
        assert_eq!(fdb.complete().expect("complete").len(), done(1));
        let nexthops = nexthop::list(socket, Some(index)).expect("list");
        assert_eq!(nexthops.complete().expect("complete").len(), done(2));
        assert_eq!(routes(socket, index), done(3));
    });
}

fn routes(socket: &mut Socket, index: u32) -> usize {
    let filter = Filter {
        family: Family::V4,
        table: Some(TABLE_MAIN),
        oif: Some(index),
        protocol: Some(99),
    };
    let routes = route::list(socket, filter).expect("list");
    routes.complete().expect("complete").len()
}

#[test]
fn nothing_and_one() {
    fresh(|socket| {
        assert!(socket.batch(&[]).is_empty());
        let results = socket.batch(&[nexthop::delete(1)]);
        let [Err(error)] = results.as_slice() else { panic!("{results:?}") };
        assert!(error.is_not_found());
    });
}

#[test]
fn lost_answers_are_told() {
    fresh(|socket| {
        // A buffer for a handful of answers; the kernel sets the least.
        let mut tiny = Socket::with_buffer(1).expect("socket");
        let requests: Vec<_> = (1..=100).map(nexthop::delete).collect();
        let results = tiny.batch(&requests);
        let (mut refused, mut unknown) = (0, 0);
        for (n, result) in results.iter().enumerate() {
            match result {
                Err(Error::Refused { .. }) => refused += 1,
                Err(e) if e.is_outcome_unknown() => {
                    assert!(e.to_string().contains("ENOBUFS"), "{e}");
                    unknown += 1;
                }
                other => panic!("{n}: {other:?}"),
            }
        }
        assert!(refused > 0 && unknown > 0, "{refused} {unknown}");
        // The socket is in step again.
        let error = tiny.request(&nexthop::delete(1)).expect_err("none");
        assert!(error.is_not_found(), "{error}");
        assert!(nexthop::supported(&mut tiny).expect("answer"));
        assert!(nexthop::supported(socket).expect("answer"));
    });
}
