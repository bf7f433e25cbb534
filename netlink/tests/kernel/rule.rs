use ipam::Family;
use netlink::{Dump, rule};

use crate::ns::{fresh, net, sh};

#[test]
fn rules_by_source() {
    fresh(|socket| {
        for (family, src) in
            [(Family::V4, "10.1.0.2/32"), (Family::V6, "fd00::2/128")]
        {
            let src = net(src);
            socket.request(&rule::add(src, 1000)).expect("add");
            let all = rule::list(socket, family).and_then(Dump::complete);
            let all = all.expect("list");
            let ours: Vec<_> =
                all.iter().filter(|r| r.src == Some(src)).collect();
            assert_eq!(ours.len(), 1, "{all:?}");
            assert_eq!((ours[0].table, ours[0].priority), (1000, 32765));
            assert!(all.iter().any(|r| r.table == 254 && r.src.is_none()));
            let shown = match family {
                Family::V4 => sh("ip -4 rule"),
                Family::V6 => sh("ip -6 rule"),
            };
            let want = format!("from {} lookup 1000", src.base());
            assert!(shown.contains(&want), "{shown}");
            socket.request(&rule::delete(src, 1000)).expect("delete");
            let gone = socket.request(&rule::delete(src, 1000));
            assert!(gone.expect_err("gone").is_not_found());
        }
    });
}
