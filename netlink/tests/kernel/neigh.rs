//! Neighbour and forwarding entries (B-28, B-29, B-37).

use ipam::Family;
use netlink::fdb::{self, FdbSpec};
use netlink::link::vxlan;
use netlink::neigh::{self, NeighSpec};
use netlink::{Errno, link};

use crate::ns::{flannel, flannel_spec, fresh, ip, sh, underlay};

const MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 3];

#[test]
fn neighbours_of_both_families() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        for (family, text) in
            [(Family::V4, "10.244.2.0"), (Family::V6, "fd42:2::")]
        {
            let ip = ip(text);
            let missing = neigh::get(socket, index, ip).expect_err("none");
            assert!(missing.is_not_found(), "{missing}");

            for mac in [MAC, OTHER_MAC] {
                let set = neigh::set(&NeighSpec { index, ip, mac });
                socket.request(&set).expect("set");
                let found = neigh::get(socket, index, ip).expect("get");
                assert_eq!((found.index, found.ip), (index, ip));
                assert_eq!(found.mac, Some(mac));
                assert!(found.permanent());
                let all = neigh::list(socket, family, Some(index));
                let all = all.expect("list").complete().expect("complete");
                assert_eq!(all, [found]);
            }
            let elsewhere = neigh::list(socket, family, Some(parent));
            assert_eq!(elsewhere.expect("list").items, []);

            let delete = neigh::delete(index, ip);
            socket.request(&delete).expect("delete");
            let error = socket.request(&delete).expect_err("gone");
            assert!(error.is_not_found(), "{error}");
            let all = neigh::list(socket, family, Some(index));
            assert_eq!(all.expect("list").items, []);
        }
    });
}

#[test]
fn forwarding_entries_of_both_families() {
    fresh(|socket| {
        let parent = underlay(socket);
        let v4 = flannel(socket, parent);
        let spec6 = vxlan::VxlanSpec {
            name: "flannel-v6.1".into(),
            local: Some(ip("fd09::1")),
            mtu: Some(1430),
            ..flannel_spec(parent)
        };
        socket.request(&vxlan::add(&spec6)).expect("vxlan");
        let v6 = link::by_name(socket, "flannel-v6.1").expect("link").index;
        for (index, first, second) in [
            (v4, ip("10.9.0.2"), ip("10.9.0.3")),
            (v6, ip("fd09::2"), ip("fd09::3")),
        ] {
            let missing = fdb::get(socket, index, MAC).expect_err("none");
            assert!(missing.is_not_found(), "{missing}");
            // A set for a known address replaces the destination (B-37).
            for dst in [first, second] {
                let set = fdb::set(&FdbSpec { index, mac: MAC, dst });
                socket.request(&set).expect("set");
                let all = fdb::list(socket, index).expect("list");
                let all = all.complete().expect("complete");
                let [entry] = all.as_slice() else { panic!("{all:?}") };
                assert_eq!((entry.mac, entry.dst), (MAC, Some(dst)));
                assert_eq!((entry.port, entry.vni), (None, None));
                assert_eq!((entry.via, entry.index), (None, index));
                assert!(entry.permanent());
                let one = fdb::get(socket, index, MAC).expect("get");
                assert_eq!((one.mac, one.dst), (MAC, Some(dst)));
            }
            let delete = fdb::delete(index, MAC);
            socket.request(&delete).expect("delete");
            let error = socket.request(&delete).expect_err("gone");
            assert!(error.is_not_found(), "{error}");
            assert_eq!(fdb::list(socket, index).expect("list").items, []);
        }
    });
}

#[test]
fn the_kernels_tools_show_what_upstreams_entries_show() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        let ip2 = ip("10.244.2.0");
        let dst = ip("10.9.0.2");
        let results = socket.batch(&[
            neigh::set(&NeighSpec { index, ip: ip2, mac: MAC }),
            fdb::set(&FdbSpec { index, mac: MAC, dst }),
        ]);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let neigh = sh("ip neigh show dev flannel.1");
        assert_eq!(
            neigh.trim(),
            "10.244.2.0 lladdr 02:00:00:00:02:02 PERMANENT"
        );
        let fdb = sh("bridge fdb show dev flannel.1");
        assert_eq!(fdb.trim(), "02:00:00:00:02:02 dst 10.9.0.2 self permanent");
    });
}

#[test]
fn refusals_are_told_apart() {
    fresh(|socket| {
        let parent = underlay(socket);
        let index = flannel(socket, parent);
        let dst = ip("10.9.0.2");
        let no_link = FdbSpec { index: 4242, mac: MAC, dst };
        let no_link = socket.request(&fdb::set(&no_link)).expect_err("none");
        assert_eq!(no_link.errno(), Some(Errno::ENODEV));
        assert!(no_link.is_not_found() && !no_link.is_unsupported());
        let family = FdbSpec { index, mac: MAC, dst: ip("fd09::2") };
        let family = socket.request(&fdb::set(&family)).expect_err("family");
        assert_eq!(
            family.object(),
            format!("set forwarding entry 02:00:00:00:02:02 on link {index}")
        );
        assert!(family.is_unsupported(), "{family}");
    });
}
