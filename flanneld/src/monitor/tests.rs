//! What real notifications of the kernel mean, each test in a network
//! namespace of its own.

use std::cell::Cell;

use overlay::Addr;

use super::*;
use crate::testing::{in_namespace, sh};

/// A host with an `eth0` and a `flannel.1` on it.
fn on_a_host(test: impl FnOnce() + Send + 'static) {
    in_namespace(|| {
        // No address is there only after a while.
        sh("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1");
        sh("ip link add eth0 type bridge");
        sh("ip link add veth0 type veth peer name veth1");
        for link in ["eth0", "veth0", "veth1"] {
            sh(&format!("ip link set {link} up"));
        }
        sh("ip addr add 192.168.7.2/24 dev eth0");
        sh("ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472");
        sh("ip link set flannel.1 up");
        test();
    });
}

/// No device's index: the underlay's name is to be enough.
const UPLINK: u32 = 4711;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn interest(ways: bool) -> Interest {
    Interest {
        devices: [name("flannel.1")].into(),
        underlay: Underlay::new(UPLINK, name("eth0")),
        networks: vec!["10.5.0.0/16".parse().unwrap()],
        ways: Arc::new(AtomicBool::new(ways)),
        own_port: u32::MAX,
        overruns: Arc::default(),
    }
}

/// What is heard within a moment.
fn heard(watch: &mut Watch) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let until = Instant::now() + Duration::from_millis(100);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let Some(event) = watch.monitor.next(Some(left)).unwrap() else {
            break;
        };
        let Event::Object { object, deleted, port } = event else { panic!() };
        let news = watch.names.judge(&watch.interest, &object, deleted, port);
        if let Some(Disturbance::Object(key)) = news {
            all.insert(key.to_string());
        } else if let Some(Disturbance::Alone(key)) = news {
            all.insert(format!("{key} alone"));
        } else if let Some(other) = news {
            all.insert(format!("{other:?}"));
        }
    }
    all
}

/// A process that may not open another socket for a while.
#[test]
fn listening_that_is_refused_is_tried_again() {
    let attempts = Cell::new(0);
    let open = || {
        attempts.set(attempts.get() + 1);
        match attempts.get() {
            3 => Ok("listening"),
            _ => Err(Error::Unknown {
                object: "socket".into(),
                reason: "too many open files",
            }),
        }
    };
    let opened = begin(open, Duration::ZERO, || false);
    assert_eq!((opened, attempts.get()), (Some("listening"), 3));
    let opened = begin(open, Duration::ZERO, || attempts.get() == 5);
    assert_eq!((opened, attempts.get()), (None, 5));
}

#[test]
fn each_object_of_ours_is_told_by_its_key() {
    on_a_host(|| {
        let mut watch = Watch::open(interest(false)).unwrap();
        heard(&mut watch);
        for (line, expected) in [
            ("ip link set flannel.1 mtu 1300", "link flannel.1 alone"),
            (
                "ip addr add 10.5.1.0/32 dev flannel.1",
                "address 10.5.1.0/32 on flannel.1 alone",
            ),
            (
                "ip addr del 10.5.1.0/32 dev flannel.1",
                "address 10.5.1.0/32 on flannel.1",
            ),
            ("ip link set flannel.1 down", "link flannel.1"),
            ("ip link set flannel.1 up", "link flannel.1 alone"),
            (
                "ip neigh add 10.5.2.0 lladdr 02:00:00:00:00:02 dev flannel.1",
                "neighbour 10.5.2.0 on flannel.1",
            ),
            (
                "bridge fdb add 02:00:00:00:00:02 dev flannel.1 dst 192.168.7.3",
                "forwarding entry 02:00:00:00:00:02 on flannel.1",
            ),
            ("ip route add 10.9.2.0/24 dev flannel.1", "route 10.9.2.0/24"),
            ("ip route add 10.5.3.0/24 dev veth0", "route 10.5.3.0/24"),
            ("ip nexthop add id 4000000000 dev eth0", "nexthop 4000000000"),
            (
                "ip addr add 192.168.7.9/32 dev eth0",
                "address 192.168.7.9/32 on eth0 alone",
            ),
            ("ip link set eth0 mtu 1400", "link eth0"),
            ("ip link del flannel.1", "link flannel.1"),
        ] {
            sh(line);
            let all = heard(&mut watch);
            assert!(all.contains(expected), "{line}: {all:?}");
        }
    });
}

#[test]
fn what_stands_on_other_devices_is_no_news() {
    on_a_host(|| {
        let mut watch = Watch::open(interest(false)).unwrap();
        heard(&mut watch);
        for line in [
            // the underlay's neighbours come and go all the time
            "ip neigh add 192.168.7.3 lladdr 02:00:00:00:00:03 dev eth0",
            "ip route add 172.16.0.0/16 dev eth0",
            "ip route add 172.17.0.0/16 dev veth0",
            "ip addr add 10.5.1.1/32 dev veth0",
            "ip link set veth0 mtu 1400",
            "bridge fdb add 02:00:00:00:00:02 dev veth0 self permanent",
            "ip nexthop add id 7 dev eth0",
        ] {
            sh(line);
        }
        assert_eq!(heard(&mut watch), BTreeSet::new());
        // … unless they decide which peers are reached directly
        watch.interest.ways.store(true, Ordering::Relaxed);
        for (line, what) in [
            ("ip route add 172.18.0.0/16 dev veth0", "Ways"),
            ("ip addr add 172.19.0.1/32 dev veth0", "Ways"),
            ("ip addr del 172.19.0.1/32 dev veth0", "Direct"),
            ("ip link set veth0 mtu 1300", "Direct"),
        ] {
            sh(line);
            let heard = heard(&mut watch);
            assert!(heard.contains(what), "{line}: {heard:?}");
            // an address takes its routes with it
            let others = heard.iter().filter(|news| *news != "Ways");
            assert!(others.eq([what].iter().filter(|w| **w != "Ways")));
        }
    });
}

#[test]
fn a_device_is_followed_from_its_making_through_its_renaming() {
    on_a_host(|| {
        sh("ip link del flannel.1");
        let mut watch = Watch::open(interest(false)).unwrap();
        sh("ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472");
        sh("ip addr add 10.5.1.0/32 dev flannel.1");
        let all = heard(&mut watch);
        assert!(
            all.contains("address 10.5.1.0/32 on flannel.1 alone"),
            "{all:?}"
        );
        sh("ip link set flannel.1 name other");
        assert!(heard(&mut watch).contains("link flannel.1"));
        sh("ip addr add 10.5.1.1/32 dev other");
        assert_eq!(heard(&mut watch), BTreeSet::new());
        sh("ip link set other name flannel.1");
        assert!(heard(&mut watch).contains("link flannel.1"));
    });
}

/// Whatever its name is, and as soon as it is another one.
#[test]
fn the_underlay_is_followed_by_its_index() {
    on_a_host(|| {
        let interest = interest(false);
        let underlay = interest.underlay.clone();
        let mut watch = Watch::open(interest).unwrap();
        let mut socket = Socket::open().unwrap();
        let mut set = |link: &str| {
            let found = link::by_name(&mut socket, link).unwrap();
            underlay.set(found.index, name(link));
        };
        set("eth0");
        sh("ip link set eth0 down");
        heard(&mut watch);
        sh("ip link set eth0 name lan0");
        assert!(heard(&mut watch).contains("link eth0"));
        sh("ip addr add 192.168.8.2/24 dev lan0");
        let all = heard(&mut watch);
        let said = "address 192.168.8.2/24 on lan0 alone";
        assert!(all.contains(said), "{all:?}");

        sh("ip addr add 192.168.9.2/24 dev veth0");
        assert_eq!(heard(&mut watch), BTreeSet::new());
        set("veth0");
        sh("ip addr del 192.168.9.2/24 dev veth0");
        let all = heard(&mut watch);
        assert!(all.contains("address 192.168.9.2/24 on veth0"), "{all:?}");
    });
}

#[test]
fn own_requests_are_no_news_but_own_devices_are_known() {
    on_a_host(|| {
        let mut watch = Watch::open(interest(false)).unwrap();
        heard(&mut watch);
        let mut socket = Socket::open().unwrap();
        watch.interest.own_port = socket.port();
        let index = link::by_name(&mut socket, "flannel.1").unwrap().index;
        let spec = |ip: [u8; 4]| netlink::addr::AddrSpec {
            index,
            ip: ip.into(),
            len: 32,
            nodad: true,
            broadcast: None,
        };
        let add = netlink::addr::add(&spec([10, 5, 1, 0]));
        socket.request(&add).unwrap();
        assert_eq!(heard(&mut watch), BTreeSet::new());
        let addr = Addr::new([10, 5, 1, 0].into(), 32);
        sh("ip addr del 10.5.1.0/32 dev flannel.1");
        let key = Key::Addr(name("flannel.1"), addr).to_string();
        assert!(heard(&mut watch).contains(&key));
    });
}

#[test]
fn a_trouble_that_comes_again_at_once_is_not_said_again() {
    let mut spell = Spell::default();
    let start = Instant::now();
    assert!(spell.begins(start));
    assert!(!spell.begins(start + QUIET / 2));
    assert!(!spell.begins(start + QUIET), "the newest time counts");
    assert!(spell.begins(start + QUIET * 2));
}
