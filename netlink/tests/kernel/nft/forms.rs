//! Every expression this crate knows, written by us and by `nft`: both read
//! back as the same value.

use std::net::IpAddr;

use netlink::nft::{
    CT_ESTABLISHED, CT_NEW, CT_RELATED, NatFlags, Op, PRIORITY_DSTNAT, Side,
    TableState, Verdict,
};

use super::*;
use crate::ns::ip;

const TCP: Expr = Expr::L4Proto(Op::Is, 6);

fn dport(port: u16) -> Expr {
    Expr::Port { side: Side::Destination, op: Op::Is, port }
}

fn dnat(to: IpAddr, port: Option<u16>) -> Expr {
    Expr::Dnat { to, port, flags: NatFlags::default() }
}

/// As `nft` writes it, and in this crate's terms.
fn forms(family: Family) -> Vec<(String, Vec<Expr>)> {
    let mut forms: Vec<(String, Vec<Expr>)> = vec![
        ("meta mark 0x4000".into(), vec![Expr::mark(0x4000, u32::MAX)]),
        (
            "meta mark & 0x4000 == 0x4000".into(),
            vec![Expr::mark(0x4000, 0x4000)],
        ),
        (
            "meta mark and 0xf0 != 0x10".into(),
            vec![Expr::Mark { mask: 0xf0, op: Op::IsNot, value: 0x10 }],
        ),
        ("iifname eth0".into(), vec![Expr::InInterface(Op::Is, "eth0".into())]),
        (
            "oifname != flannel.1".into(),
            vec![Expr::OutInterface(Op::IsNot, "flannel.1".into())],
        ),
        ("meta l4proto != udp".into(), vec![Expr::L4Proto(Op::IsNot, 17)]),
        ("tcp dport 80".into(), vec![TCP, dport(80)]),
        (
            "udp sport != 53".into(),
            vec![
                Expr::L4Proto(Op::Is, 17),
                Expr::Port { side: Side::Source, op: Op::IsNot, port: 53 },
            ],
        ),
        ("ct state new".into(), vec![Expr::CtState(CT_NEW)]),
        (
            "ct state established,related".into(),
            vec![Expr::CtState(CT_ESTABLISHED | CT_RELATED)],
        ),
        (
            "ct status dnat".into(),
            vec![Expr::CtStatus(netlink::nft::CT_STATUS_DNAT)],
        ),
        ("fib daddr type local".into(), vec![Expr::ToLocal(Op::Is)]),
        ("fib daddr type != local".into(), vec![Expr::ToLocal(Op::IsNot)]),
        ("counter".into(), vec![Expr::Counter]),
        ("drop".into(), vec![Expr::Verdict(Verdict::Drop)]),
        ("return".into(), vec![Expr::ret()]),
        (
            "jump other".into(),
            vec![Expr::Verdict(Verdict::Jump("other".into()))],
        ),
        (
            "goto other".into(),
            vec![Expr::Verdict(Verdict::Goto("other".into()))],
        ),
    ];
    let (name, full) = match family {
        Family::V4 => ("ip", "203.0.113.77"),
        Family::V6 => ("ip6", "2001:db8:1234:5678:9abc:def0:1357:9bdf"),
    };
    for len in 0..=family.bits() {
        let net = Subnet::new(ip(full), len).expect("subnet");
        let from = format!("{name} saddr {net}");
        forms.push((from, vec![Expr::from(net)]));
        // `nft` warns of what never holds.
        if len > 0 {
            let not_to = format!("{name} daddr != {net} accept");
            forms.push((not_to, vec![Expr::not_to(net), Expr::accept()]));
        }
    }
    forms
}

/// The rules of chain `c`.
fn written(state: &TableState) -> Vec<Vec<Expr>> {
    let chain = state.chain("c").expect("chain");
    chain.rules().map(|r| r.exprs.clone()).collect()
}

/// A chain by `nft`, one by us: both are as expected, and `nft` prints the
/// same for both.
fn compare(
    socket: &mut NftSocket,
    family: Family,
    base: &Chain,
    forms: &[(String, Vec<Expr>)],
) {
    let table = base.id.table.clone();
    let other = Chain::plain(table.chain("other"));
    let mut empty = Batch::new();
    empty.remove_table(&table).add_table(&Table::new(table.clone()));
    empty.add_chain(&other).add_chain(base);
    socket.commit(&empty).expect("chains");
    let script: String = forms
        .iter()
        .map(|(text, _)| format!("add rule {} {text}\n", base.id))
        .collect();
    nft(&script);
    let expected: Vec<_> = forms.iter().map(|(_, e)| e.clone()).collect();
    let state = socket.read(&table).expect("read").expect("table");
    assert_eq!(written(&state), expected, "by nft, {family:?}");
    let theirs = sh("nft list ruleset");

    for (_, exprs) in forms {
        empty.append_rule(&base.id, &Rule::new(exprs.clone()));
    }
    socket.commit(&empty).expect("ours");
    let state = socket.read(&table).expect("read").expect("table");
    assert_eq!(written(&state), expected, "by us, {family:?}");
    assert_eq!(sh("nft list ruleset"), theirs);
}

#[test]
fn filters() {
    for family in Family::ALL {
        with_nft(move |socket| {
            let id = TableId::new(family, "t").chain("c");
            let (kind, hook) = (ChainKind::Filter, Hook::Prerouting);
            let chain = Chain::base(id, kind, hook, PRIORITY_FILTER);
            compare(socket, family, &chain, &forms(family));
        });
    }
}

#[test]
fn masquerading() {
    for family in Family::ALL {
        with_nft(move |socket| {
            let id = TableId::new(family, "t").chain("c");
            let (kind, hook) = (ChainKind::Nat, Hook::Postrouting);
            let chain = Chain::base(id, kind, hook, PRIORITY_SRCNAT);
            let flags = |random, fully_random, persistent| {
                vec![Expr::Masquerade(NatFlags {
                    random,
                    fully_random,
                    persistent,
                })]
            };
            let forms = [
                ("masquerade", flags(false, false, false)),
                ("masquerade random", flags(true, false, false)),
                ("masquerade fully-random", flags(false, true, false)),
                (
                    "masquerade fully-random,persistent",
                    flags(false, true, true),
                ),
            ]
            .map(|(text, exprs)| (text.to_owned(), exprs));
            compare(socket, family, &chain, &forms);
        });
    }
}

#[test]
fn destinations() {
    for family in Family::ALL {
        with_nft(move |socket| {
            let id = TableId::new(family, "t").chain("c");
            let (kind, hook) = (ChainKind::Nat, Hook::Prerouting);
            let chain = Chain::base(id, kind, hook, PRIORITY_DSTNAT);
            let to = ip(match family {
                Family::V4 => "10.244.1.5",
                Family::V6 => "fd00:10:0:1::5",
            });
            let with_port = std::net::SocketAddr::new(to, 80);
            let forms = [
                (format!("dnat to {to}"), vec![dnat(to, None)]),
                (
                    format!("tcp dport 8080 dnat to {with_port}"),
                    vec![TCP, dport(8080), dnat(to, Some(80))],
                ),
            ];
            compare(socket, family, &chain, &forms);
        });
    }
}

#[test]
fn both_families_in_one_table() {
    with_nft(|socket| {
        let id = TableId::new(netlink::nft::Family::Inet, "t").chain("c");
        let (kind, hook) = (ChainKind::Filter, Hook::Forward);
        let chain = Chain::base(id, kind, hook, PRIORITY_FILTER);
        let (v4, v6) = (net("10.244.0.0/16"), net("fd00:10::/56"));
        let forms = [
            (
                format!("ip saddr {v4} accept"),
                vec![Expr::NfProto(Family::V4), Expr::from(v4), Expr::accept()],
            ),
            (
                format!("ip6 daddr != {v6} accept"),
                vec![
                    Expr::NfProto(Family::V6),
                    Expr::not_to(v6),
                    Expr::accept(),
                ],
            ),
        ];
        compare(socket, Family::V4, &chain, &forms);
    });
}

/// What this crate does not know is kept, told as different, and can be
/// written back.
#[test]
fn other_expressions_are_kept() {
    with_nft(|socket| {
        nft("table ip t {\n set s { type ipv4_addr; }\n chain c {\n\
             ip saddr @s drop\n\
             ip saddr 10.0.0.1-10.0.0.9 accept\n\
             ip ttl 64 accept\n\
             iifname \"veth*\" accept\n\
             tcp flags syn / syn,rst accept\n\
             meta mark set 0x4000\n\
             limit rate 10/second accept\n\
             log prefix \"x\"\n }\n}\n");
        let id = TableId::new(Family::V4, "t");
        let state = socket.read(&id).expect("read").expect("table");
        let rules = written(&state);
        assert_eq!(rules.len(), 8);
        for rule in &rules {
            let raw = rule.iter().any(|e| matches!(e, Expr::Raw(_)));
            assert!(raw, "{rule:?}");
        }
        let before = sh("nft list ruleset");
        let chain = id.chain("c");
        let mut batch = Batch::new();
        batch.flush_chain(&chain);
        for exprs in rules {
            batch.append_rule(&chain, &Rule::new(exprs));
        }
        socket.commit(&batch).expect("written back");
        assert_eq!(sh("nft list ruleset"), before);
    });
}

#[test]
fn counters_are_told_beside_the_rule() {
    with_nft(|socket| {
        nft("table ip t {\n chain c {\n type filter hook output priority 0\n\
             ip daddr 127.0.0.9 counter\n }\n}\n");
        let id = TableId::new(Family::V4, "t");
        let before = socket.read(&id).expect("read").expect("table");
        sh("ping -c 2 -i 0.2 -W 1 127.0.0.9");
        let after = socket.read(&id).expect("read").expect("table");
        assert_eq!(written(&before), written(&after));
        let [counts, now] = [&before, &after]
            .map(|s| s.chains[0].rules[0].counts.expect("counts"));
        assert_eq!((counts.packets, now.packets), (0, 2));
        assert!(now.bytes > 0);
    });
}
