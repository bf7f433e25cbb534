//! Notifications.

use std::time::{Duration, Instant};

use netlink::addr::{self, AddrSpec};
use netlink::fdb::{self, FdbSpec};
use netlink::monitor::{Event, Group, Monitor, Object};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::route::{self, RouteMatch, RouteSpec};
use netlink::{Request, Socket, link};

use crate::ns::{another, flannel, fresh, ip, net, underlay};

const LIMIT: Duration = Duration::from_secs(5);
const MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

/// The next event that `pick` takes.
fn until<T>(
    monitor: &mut Monitor,
    what: &str,
    mut pick: impl FnMut(&Object, bool, u32) -> Option<T>,
) -> T {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        match monitor.next(Some(LIMIT)).expect("next") {
            Some(Event::Object { object, deleted, port }) => {
                if let Some(found) = pick(&object, deleted, port) {
                    return found;
                }
            }
            Some(Event::Overrun) => panic!("overrun while waiting for {what}"),
            None => break,
        }
    }
    panic!("no event: {what}");
}

/// The kernel names the requester for some kinds of objects only.
fn expected_port(name: &str, socket: &Socket) -> u32 {
    if ["neigh", "nexthop", "route"].contains(&name) {
        socket.port()
    } else {
        0
    }
}

#[test]
fn every_kind_of_object_set_and_deleted() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let index = flannel(socket, u0);
        let mut monitor = Monitor::open(&Group::ALL).expect("monitor");
        let (gateway, dst) = (ip("10.244.2.0"), net("10.244.2.0/24"));
        let nh = NexthopSpec {
            id: 0x8000_0001,
            oif: index,
            gateway,
            onlink: true,
            protocol: 99,
        };
        let addr = AddrSpec {
            index,
            ip: ip("fd42::"),
            len: 128,
            nodad: true,
            broadcast: None,
        };
        let by_nexthop =
            RouteSpec { nexthop: Some(nh.id), ..RouteSpec::to(dst) };
        let (far, mac) = (ip("10.9.0.2"), MAC);
        let steps: [(&str, Request, Request); 6] = [
            (
                "neigh",
                neigh::set(&NeighSpec { index, ip: gateway, mac }),
                neigh::delete(index, gateway),
            ),
            (
                "fdb",
                fdb::set(&FdbSpec { index, mac, dst: far }),
                fdb::delete(index, mac),
            ),
            ("nexthop", nexthop::replace(&nh), nexthop::delete(nh.id)),
            (
                "route",
                route::replace(&by_nexthop),
                route::delete(&RouteMatch::to(dst)),
            ),
            ("addr", addr::add(&addr), addr::delete(index, addr.ip, 128)),
            ("link", link::set(index).mtu(1400).build(), link::delete(index)),
        ];
        let of_kind = |name: &'static str, object: &Object| match object {
            Object::Neigh(n) => name == "neigh" && n.ip == gateway,
            Object::Fdb(f) => name == "fdb" && f.dst == Some(far),
            Object::Nexthop(n) => name == "nexthop" && n.id == nh.id,
            Object::Route(r) => {
                name == "route" && r.dst == dst && r.nexthop == Some(nh.id)
            }
            Object::Addr(a) => name == "addr" && a.ip == addr.ip,
            Object::Link(l) => name == "link" && l.index == index,
        };
        for (name, set, _) in &steps {
            socket.request(set).expect(name);
            until(&mut monitor, name, |object, deleted, port| {
                let ours = port == expected_port(name, socket);
                (ours && !deleted && of_kind(name, object)).then_some(())
            });
        }
        // In the order of design.md §3.5, backwards.
        for name in ["route", "nexthop", "fdb", "neigh", "addr", "link"] {
            let (name, _, delete) =
                steps.iter().find(|(n, ..)| *n == name).expect("step");
            socket.request(delete).expect(name);
            until(&mut monitor, name, |object, deleted, _| {
                (deleted && of_kind(name, object)).then_some(())
            });
        }
    });
}

#[test]
fn the_changes_of_others_have_their_port() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let mut monitor = Monitor::open(&Group::ALL).expect("monitor");
        let mut other = Socket::open().expect("socket");
        assert_ne!(other.port(), socket.port());
        let neigh = NeighSpec { index: u0, ip: ip("10.9.0.9"), mac: MAC };
        other.request(&neigh::set(&neigh)).expect("neigh");
        let port = until(&mut monitor, "neigh", |object, _, port| {
            let Object::Neigh(n) = object else { return None };
            (n.ip == neigh.ip).then_some(port)
        });
        assert_eq!(port, other.port());
    });
}

#[test]
fn only_the_groups_asked_for() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let mut monitor = Monitor::open(&[Group::Neighs]).expect("monitor");
        socket.request(&link::set(u0).mtu(1400).build()).expect("mtu");
        let neigh = NeighSpec { index: u0, ip: ip("10.9.0.9"), mac: MAC };
        socket.request(&neigh::set(&neigh)).expect("neigh");
        until(&mut monitor, "neigh", |object, _, _| {
            let Object::Neigh(n) = object else {
                panic!("not asked for: {object:?}")
            };
            (n.ip == neigh.ip).then_some(())
        });
    });
}

#[test]
fn an_overrun_is_told_and_listening_goes_on() {
    fresh(|socket| {
        let u0 = underlay(socket);
        let mut monitor =
            Monitor::with_buffer(&[Group::Neighs], 1).expect("monitor");
        let set = |n: u8| {
            let ip = std::net::Ipv4Addr::new(10, 9, 1, n).into();
            neigh::set(&NeighSpec { index: u0, ip, mac: MAC })
        };
        let requests: Vec<_> = (1..=200).map(set).collect();
        let results = socket.batch(&requests);
        assert!(results.iter().all(Result::is_ok));
        let (mut overruns, mut objects) = (0, 0);
        while let Some(event) =
            monitor.next(Some(Duration::ZERO)).expect("next")
        {
            match event {
                Event::Overrun => overruns += 1,
                Event::Object { .. } => objects += 1,
            }
        }
        assert_eq!(overruns, 1);
        assert!(objects < 200, "{objects}");
        socket.request(&set(201)).expect("neigh");
        until(&mut monitor, "after the overrun", |object, _, _| {
            let Object::Neigh(n) = object else { return None };
            (n.ip == ip("10.9.1.201")).then_some(())
        });
    });
}

#[test]
fn it_ends_by_time_and_by_waking() {
    fresh(|_| {
        let mut monitor = Monitor::open(&Group::ALL).expect("monitor");
        let start = Instant::now();
        let pause = Duration::from_millis(30);
        assert_eq!(monitor.next(Some(pause)).expect("next"), None);
        assert!(start.elapsed() >= pause);

        let waker = monitor.waker();
        let thread = std::thread::spawn(move || monitor.next(None));
        waker.wake();
        let woken = thread.join().expect("thread").expect("next");
        assert_eq!(woken, None);
    });
}

#[test]
fn a_wake_before_the_wait_is_not_lost() {
    fresh(|_| {
        let mut monitor = Monitor::open(&Group::ALL).expect("monitor");
        monitor.waker().wake();
        monitor.waker().wake();
        assert_eq!(monitor.next(None).expect("next"), None);
        // Twice woken is woken once.
        let start = Instant::now();
        let pause = Duration::from_millis(20);
        assert_eq!(monitor.next(Some(pause)).expect("next"), None);
        assert!(start.elapsed() >= pause);
    });
}

#[test]
fn it_listens_to_another_namespace() {
    fresh(|_| {
        let pod = another();
        let mut monitor =
            Monitor::open_in(&pod, &[Group::Links]).expect("monitor");
        let mut inside = Socket::open_in(&pod).expect("socket");
        let lo = link::by_name(&mut inside, "lo").expect("lo").index;
        inside.request(&link::set(lo).mtu(9000).build()).expect("mtu");
        until(&mut monitor, "mtu in the pod", |object, _, _| {
            let Object::Link(link) = object else { return None };
            (link.mtu == 9000).then_some(())
        });
    });
}
