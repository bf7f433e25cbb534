use netlink::link::veth::{VethEnd, VethSpec};
use netlink::tc::{self, Bucket};
use netlink::{Dump, Socket, link};

use crate::ns::{fresh, sh};

/// A veth pair, and an ifb; their indexes.
fn links(socket: &mut Socket) -> (u32, u32) {
    let end = |name: &str| VethEnd { name: name.into(), ..VethEnd::default() };
    let spec = VethSpec {
        end: end("v0"),
        master: None,
        up: true,
        peer: end("v1"),
        peer_namespace: None,
    };
    socket.request(&link::veth::add(&spec)).expect("veth");
    socket.request(&link::ifb::add(0, "ifb7", 1400)).expect("ifb");
    let v0 = link::by_name(socket, "v0").expect("v0");
    let ifb = link::by_name(socket, "ifb7").expect("ifb7");
    assert!(ifb.up && ifb.mtu == 1400 && ifb.kind.as_deref() == Some("ifb"));
    (v0.index, ifb.index)
}

/// As tc(8) shows them, and as they are read back.
#[test]
fn buckets() {
    fresh(|socket| {
        let (v0, _) = links(socket);
        for (rate, burst, limit, shown) in [
            // BW-7
            (1_000_000, 2_000_000, 2_025_000, "rate 8Mbit burst 2000000b"),
            // CW-15: the kernel has it whole, its answer 32 bits of it
            (125_000, 536_870_911, 536_874_036, "rate 1Mbit burst"),
            (125_000_000, 536_870_911, 539_995_911, "rate 1Gbit burst"),
            (5_000_000_000, 1_000_000, 2_000_000, "rate 40Gbit burst 1000000b"),
        ] {
            let bucket = Bucket { rate, burst, limit };
            socket.request(&tc::limit(v0, &bucket)).expect("limit");
            let there = tc::list(socket, v0).and_then(Dump::complete);
            let there = there.expect("list");
            assert_eq!(there.len(), 1, "{there:?}");
            let info = there[0].bucket.expect("bucket");
            assert!(bucket.is(&info), "{bucket:?} {info:?}");
            let other = Bucket { burst: burst / 2, ..bucket };
            assert!(!other.is(&info), "{info:?}");
            let text = sh("tc qdisc show dev v0");
            assert!(text.contains(shown), "{text}");
            assert!(text.contains("qdisc tbf 1: root"), "{text}");
        }
    });
}

#[test]
fn what_comes_in_is_led_over_an_ifb() {
    fresh(|socket| {
        let (v0, ifb) = links(socket);
        socket.request(&tc::add_ingress(v0)).expect("ingress");
        let again = socket.request(&tc::add_ingress(v0)).expect_err("again");
        assert!(again.is_exists(), "{again}");
        socket.request(&tc::redirect(v0, ifb)).expect("redirect");
        let text = sh("tc filter show dev v0 parent ffff:");
        assert!(text.contains("protocol all pref 1 u32"), "{text}");
        assert!(text.contains("match 00000000/00000000 at 0"), "{text}");
        let mirred = "mirred (Egress Redirect to device ifb7) stolen";
        assert_eq!(text.matches(mirred).count(), 1, "{text}");
        assert_eq!(tc::led_to(socket, ifb).expect("led to"), [v0]);
        assert_eq!(tc::led_to(socket, v0).expect("led to"), [0; 0]);
        // a filter without an action, an ingress without a filter
        for line in [
            "filter add dev v0 parent ffff: pref 2 u32 match u32 0 0 flowid 1:1",
            "qdisc add dev v1 ingress",
        ] {
            sh(&format!("tc {line}"));
        }
        assert_eq!(tc::led_to(socket, ifb).expect("led to"), [v0]);
        socket.request(&tc::delete_ingress(v0)).expect("delete");
        assert_eq!(sh("tc filter show dev v0 parent ffff:").trim(), "");
    });
}
