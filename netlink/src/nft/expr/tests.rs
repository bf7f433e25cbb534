use proptest::prelude::*;

use super::super::Family;
use super::super::uapi::{
    NFT_PAYLOAD_NETWORK_HEADER, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG,
    NFTA_DATA_VALUE, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN,
    NFTA_PAYLOAD_OFFSET,
};
use super::*;
use crate::wire::{HEADER, Message};

/// `exprs` written, and read as a table's of that family.
fn there_and_back(exprs: &[Expr], family: Family) -> Vec<Expr> {
    let mut m = Message::new(0, 0, &[]);
    encode(&mut m, exprs);
    let bytes = m.finish().split_off(HEADER + 4);
    decode(&bytes, Context::of(family)).expect("readable").0
}

fn net(text: &str) -> Subnet {
    text.parse().expect("subnet")
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![Just(Op::Is), Just(Op::IsNot)]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Source), Just(Side::Destination)]
}

fn nat_flags() -> impl Strategy<Value = NatFlags> {
    any::<[bool; 3]>().prop_map(|[random, fully_random, persistent]| NatFlags {
        random,
        fully_random,
        persistent,
    })
}

/// An expression of a table of `family`.
fn any_expr(family: ipam::Family) -> impl Strategy<Value = Expr> {
    let name = "[a-z0-9.]{1,15}";
    let addr = any::<u128>().prop_map(move |bits| match family {
        ipam::Family::V4 => {
            IpAddr::V4(u32::try_from(bits >> 96).unwrap_or(0).into())
        }
        ipam::Family::V6 => IpAddr::V6(bits.into()),
    });
    let subnet = (addr.clone(), 0..=family.bits())
        .prop_map(|(addr, len)| Subnet::new(addr, len).expect("subnet"));
    prop_oneof![
        (side(), op(), subnet).prop_map(|(side, op, net)| Expr::Address {
            side,
            op,
            net
        }),
        (any::<u32>(), op(), any::<u32>())
            .prop_map(|(mask, op, value)| Expr::Mark { mask, op, value }),
        (1..=u32::MAX).prop_map(Expr::AddMark),
        (op(), name).prop_map(|(op, n)| Expr::InInterface(op, n)),
        (op(), name).prop_map(|(op, n)| Expr::OutInterface(op, n)),
        (op(), any::<u8>()).prop_map(|(op, n)| Expr::L4Proto(op, n)),
        (op(), any::<[u8; 6]>()).prop_map(|(op, m)| Expr::EtherSource(op, m)),
        (side(), op(), any::<u16>()).prop_map(|(side, op, port)| Expr::Port {
            side,
            op,
            port
        }),
        any::<u32>().prop_map(Expr::CtState),
        any::<u32>().prop_map(Expr::CtStatus),
        op().prop_map(Expr::ToLocal),
        Just(Expr::Counter),
        prop_oneof![
            Just(Verdict::Accept),
            Just(Verdict::Drop),
            Just(Verdict::Return),
            name.prop_map(Verdict::Jump),
            name.prop_map(Verdict::Goto),
        ]
        .prop_map(Expr::Verdict),
        nat_flags().prop_map(Expr::Masquerade),
        (addr, any::<Option<u16>>(), nat_flags())
            .prop_map(|(to, port, flags)| Expr::Dnat { to, port, flags }),
    ]
}

fn both() -> impl Strategy<Value = (ipam::Family, Vec<Expr>)> {
    prop_oneof![Just(ipam::Family::V4), Just(ipam::Family::V6)].prop_flat_map(
        |f| (Just(f), proptest::collection::vec(any_expr(f), 0..8)),
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read((family, exprs) in both()) {
        prop_assert_eq!(&there_and_back(&exprs, family.into()), &exprs);
        // In a table of both families once the packet's is known.
        let mut known = vec![Expr::NfProto(family)];
        known.extend(exprs);
        prop_assert_eq!(there_and_back(&known, Family::Inet), known);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let _ = decode(&bytes, Context::of(Family::Ip));
        let _ = decode(&bytes, Context::of(Family::Inet));
    }
}

#[test]
fn an_address_is_none_in_a_table_of_another_family() {
    let v4 = [Expr::from(net("10.0.0.0/8"))];
    for family in [Family::Ip6, Family::Inet, Family::Bridge] {
        let read = there_and_back(&v4, family);
        assert_eq!(read.len(), 2, "{family}");
        assert!(read.iter().all(|e| matches!(e, Expr::Raw(_))), "{family}");
    }
}

/// The first bytes of the source address compared with others.
fn compare(register: u32, len: u32, op: u32, with: &[u8]) -> Vec<u8> {
    let mut m = Message::new(0, 0, &[]);
    m.nest(1, |m| {
        m.str(1, "payload");
        m.nest(2, |m| {
            m.u32_be(NFTA_PAYLOAD_DREG, 1);
            m.u32_be(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
            m.u32_be(NFTA_PAYLOAD_OFFSET, 12);
            m.u32_be(NFTA_PAYLOAD_LEN, len);
        });
    });
    m.nest(1, |m| {
        m.str(1, "cmp");
        m.nest(2, |m| {
            m.u32_be(NFTA_CMP_SREG, register);
            m.u32_be(NFTA_CMP_OP, op);
            m.nest(NFTA_CMP_DATA, |m| m.bytes(NFTA_DATA_VALUE, with));
        });
    });
    m.finish().split_off(HEADER)
}

#[test]
fn what_only_looks_like_a_condition_is_none() {
    let read = |bytes: &[u8]| {
        decode(bytes, Context::of(Family::Ip)).expect("readable").0
    };
    let good = compare(1, 2, 0, &[10, 1]);
    assert_eq!(read(&good), [Expr::from(net("10.1.0.0/16"))]);
    for (what, bad) in [
        ("another register", compare(2, 2, 0, &[10, 1])),
        ("less than", compare(1, 2, 2, &[10, 1])),
        ("longer than loaded", compare(1, 2, 0, &[10, 1, 2])),
        ("longer than an address", compare(1, 6, 0, &[1, 2, 3, 4, 5, 6])),
    ] {
        let read = read(&bad);
        assert_eq!(read.len(), 2, "{what}");
        assert!(read.iter().all(|e| matches!(e, Expr::Raw(_))), "{what}");
    }
}

#[test]
fn masks() {
    assert_eq!(encode::mask(0, 4), [0; 4]);
    assert_eq!(encode::mask(12, 4), [255, 0xf0, 0, 0]);
    assert_eq!(encode::mask(32, 4), [255; 4]);
    assert_eq!(encode::mask(64, 16), [[255; 8], [0; 8]].concat());
}

#[test]
fn rules_are_shown_nearly_as_nft_would() {
    for (exprs, text) in [
        (
            vec![
                Expr::from(net("10.1.0.0/16")),
                Expr::not_to(net("224.0.0.0/4")),
                Expr::masquerade(true),
            ],
            "ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade \
             fully-random",
        ),
        (
            vec![Expr::mark(0x4000, 0x4000), Expr::ret()],
            "meta mark & 0x00004000 == 0x00004000 return",
        ),
        (vec![Expr::AddMark(0x2000)], "meta mark set meta mark | 0x00002000"),
        (
            vec![
                Expr::InInterface(Op::IsNot, "eth0".into()),
                Expr::L4Proto(Op::Is, 6),
                Expr::Dnat {
                    to: "fd00::1".parse().expect("address"),
                    port: Some(80),
                    flags: NatFlags::default(),
                },
            ],
            "iifname != \"eth0\" meta l4proto 6 dnat to [fd00::1]:80",
        ),
    ] {
        assert_eq!(super::super::Rule::new(exprs).to_string(), text);
    }
}
