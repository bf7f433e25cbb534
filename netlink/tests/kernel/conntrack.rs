use std::net::UdpSocket;

use ipam::Family;
use netlink::conntrack::{Conntrack, UDP};
use netlink::nft::{
    Batch, CT_NEW, Chain, ChainKind, Expr, Hook, NftSocket, PRIORITY_FILTER,
    Rule, Table, TableId,
};

use crate::ns::fresh;

/// Connections are tracked where a rule looks at them.
fn track() {
    let mut batch = Batch::new();
    for family in Family::ALL {
        let table = Table::new(TableId::new(family, "watch"));
        let (kind, hook) = (ChainKind::Filter, Hook::Output);
        let id = table.id.chain("output");
        let chain = Chain::base(id, kind, hook, PRIORITY_FILTER);
        let rule = Rule::new([Expr::CtState(CT_NEW), Expr::accept()]);
        batch.add_table(&table).add_chain(&chain).append_rule(&chain.id, &rule);
    }
    NftSocket::open().expect("socket").commit(&batch).expect("rules");
}

#[test]
fn entries_are_found_by_port_and_deleted() {
    fresh(|_| {
        track();
        let mut conntrack = Conntrack::open().expect("socket");
        for (family, host) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let from = UdpSocket::bind((host, 0)).expect("bind");
            for port in [7001, 7002] {
                from.send_to(b"x", (host, port)).expect("send");
            }
            let all = conntrack.list(family, None).expect("list");
            assert_eq!(all.complete().expect("complete").len(), 2, "{family}");
            let some = conntrack.list(family, Some((UDP, 7001)));
            let some = some.and_then(netlink::Dump::complete).expect("list");
            let [entry] = some.as_slice() else { panic!("{some:?}") };
            assert_eq!(entry.original.dst.to_string(), host);
            assert_eq!(entry.original.dst_port, Some(7001));
            assert_eq!(entry.reply.src_port, Some(7001));
            let port = from.local_addr().expect("address").port();
            assert_eq!(entry.original.src_port, Some(port));
            conntrack.delete(entry).expect("delete");
            conntrack.delete(entry).expect("again");
            let left = conntrack.list(family, None).expect("list").items;
            let ports: Vec<_> =
                left.iter().map(|e| e.original.dst_port).collect();
            assert_eq!(ports, [Some(7002)], "{family}");
        }
    });
}

/// Both directions: who began, and who was asked.
#[test]
fn entries_of_an_address() {
    fresh(|_| {
        track();
        let mut conntrack = Conntrack::open().expect("socket");
        let send = |from: &str, to: &str| {
            let socket = UdpSocket::bind((from, 0)).expect("bind");
            socket.send_to(b"x", (to, 7001)).expect("send");
        };
        send("127.0.0.1", "127.0.0.2");
        send("127.0.0.2", "127.0.0.3");
        send("127.0.0.3", "127.0.0.4");
        send("::1", "::1");
        for (ip, count) in [("127.0.0.2", 2), ("127.0.0.4", 1), ("::1", 1)] {
            let ip = ip.parse().expect("address");
            let entries = conntrack.of_address(ip).expect("list");
            assert_eq!(entries.len(), count, "{ip}: {entries:?}");
            for entry in &entries {
                conntrack.delete(entry).expect("delete");
            }
            assert!(conntrack.of_address(ip).expect("list").is_empty());
        }
        let left = conntrack.list(Family::V4, None).expect("list");
        assert!(left.complete().expect("complete").is_empty());
    });
}
