use proptest::prelude::*;

use super::uapi::{NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE};
use super::*;
use crate::wire::{HEADER, Message, Messages, RawMessage};

#[test]
fn a_batch_opens_as_the_kernel_wants_it() {
    let table = TableId::new(Family::Ip6, "t");
    let mut batch = Batch::new();
    batch.add_table(&Table::new(table)).expecting(0x0102_0304);
    assert_eq!((batch.len(), batch.is_empty()), (1, false));
    let begin = batch.begin();
    let bytes = begin.message();
    // Type 16; family 0, version 0, subsystem 10; attribute 1.
    let at = |range: std::ops::Range<usize>| bytes.get(range).expect("bytes");
    assert_eq!(at(4..6), 16_u16.to_ne_bytes());
    assert_eq!(at(16..20), [0, 0, 0, 10]);
    assert_eq!(at(22..28), [1_u16.to_ne_bytes(), [1, 2], [3, 4]].concat());
    assert_eq!(Batch::end().message().get(16..20), Some(&[0, 0, 0, 10][..]));
    // The table's own message has its family.
    let table = batch.requests.first().expect("request");
    assert_eq!(table.object(), "table ip6 t");
    assert_eq!(table.message().get(16..20), Some(&[10, 0, 0, 0][..]));
}

#[test]
fn objects_are_named_in_full() {
    let chain = TableId::new(Family::Inet, "filter").chain("input");
    let comment = Some("say \"no\"".to_owned());
    let rule = Rule { comment, ..Rule::new([Expr::Counter, Expr::ret()]) };
    let mut batch = Batch::new();
    batch.delete_rule(&chain, 9).append_rule(&chain, &rule);
    let names: Vec<_> = batch.requests.iter().map(|r| r.object()).collect();
    assert_eq!(
        names,
        [
            "rule with handle 9 in chain inet filter input",
            "rule \"counter return comment \"say \\\"no\\\"\"\" in chain inet \
             filter input",
        ]
    );
    assert_eq!(
        batch.begin().object(),
        "nf_tables batch of 2 from rule with handle 9 in chain inet filter \
         input"
    );
}

#[test]
fn comments_among_other_user_data() {
    let other = [2, 4, 1, 0, 0, 0];
    let comment = udata::of_comment("a comment");
    assert_eq!(comment.get(..2), Some(&[0, 10][..]));
    let both = [&other[..], &comment].concat();
    assert_eq!(udata::comment(&both).as_deref(), Some("a comment"));
    assert_eq!(udata::comment(&other), None);
    assert_eq!(udata::comment(&[]), None);
    assert_eq!(udata::comment(&[0, 9, b'x']), None);
}

#[test]
fn a_note_beside_the_comment() {
    let both = udata::of_rule(Some("c"), Some("net eth0")).expect("entries");
    assert_eq!(udata::comment(&both).as_deref(), Some("c"));
    assert_eq!(udata::note(&both).as_deref(), Some("net eth0"));
    let alone = udata::of_rule(Some("c"), None).expect("entries");
    assert_eq!((udata::note(&alone), alone), (None, udata::of_comment("c")));
    assert_eq!(udata::of_rule(None, None), None);
}

#[test]
fn every_number_has_one_meaning() {
    for number in 0..=255 {
        if let Some(family) = Family::from_number(number) {
            assert_eq!(family.number(), number);
        }
        let wide = u32::from(number);
        if let Some(hook) = Hook::from_number(wide) {
            assert_eq!(hook.number(), wide);
        }
        if let Some(policy) = Policy::from_number(wide) {
            assert_eq!(policy.number(), wide);
        }
    }
    assert_eq!(Family::from_number(2), Some(Family::Ip));
    assert_eq!(Hook::from_number(4), Some(Hook::Postrouting));
    assert_eq!(Hook::from_number(6), None);
}

/// What the kernel would report of a rule with those bytes as expressions.
fn rule_message(family: u8, exprs: &[u8]) -> Vec<u8> {
    let mut m = Message::new(uapi::NEWRULE, 0, &nfgenmsg(family, 0));
    m.str(1, "t");
    m.str(2, "c");
    m.u64_be(NFTA_RULE_HANDLE, 7);
    m.nest(NFTA_RULE_EXPRESSIONS, |m| m.raw(exprs));
    m.finish()
}

fn decode_all(message: &RawMessage<'_>) {
    let _ = read::table_of(message);
    let _ = read::table(message);
    let _ = read::chain(message);
    let _ = read::rule(message);
    let _ = read::generation(message);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(
        body in proptest::collection::vec(any::<u8>(), 0..60),
        attrs in proptest::collection::vec(
            (0..13_u16, proptest::collection::vec(any::<u8>(), 0..24)), 0..8,
        ),
        family in prop::sample::select(vec![0_u8, 1, 2, 5, 10, 99]),
        kind in prop::sample::select(vec![
            uapi::NEWTABLE, uapi::NEWCHAIN, uapi::NEWRULE, uapi::NEWGEN,
        ]),
    ) {
        decode_all(&RawMessage {
            kind, flags: 0, seq: 1, port: 0, payload: &body,
        });
        let mut m = Message::new(kind, 0, &nfgenmsg(family, 0));
        for (kind, value) in &attrs {
            m.bytes(*kind, value);
        }
        for message in Messages::new(&m.finish()).flatten() {
            decode_all(&message);
        }
    }

    #[test]
    fn no_expression_makes_a_decoder_panic(
        exprs in proptest::collection::vec(
            (
                prop::sample::select(vec![
                    "meta", "payload", "bitwise", "cmp", "immediate", "ct",
                    "fib", "counter", "masq", "nat", "lookup", "",
                ]),
                proptest::collection::vec(
                    (
                        0..8_u16,
                        prop_oneof![
                            (0..20_u32).prop_map(|n| n.to_be_bytes().to_vec()),
                            proptest::collection::vec(any::<u8>(), 0..20),
                            // A nest with one value.
                            proptest::collection::vec(any::<u8>(), 0..17)
                                .prop_map(|bytes| {
                                    let mut m = Message::new(0, 0, &[]);
                                    m.bytes(1, &bytes);
                                    m.finish().split_off(HEADER)
                                }),
                        ],
                    ),
                    0..6,
                ),
            ),
            0..6,
        ),
        family in prop::sample::select(vec![1_u8, 2, 10]),
    ) {
        let mut m = Message::new(0, 0, &[]);
        for (name, attrs) in &exprs {
            m.nest(1, |m| {
                m.str(1, name);
                m.nest(2, |m| {
                    for (kind, value) in attrs {
                        m.bytes(*kind, value);
                    }
                });
            });
        }
        let list = m.finish().split_off(HEADER);
        let bytes = rule_message(family, &list);
        let message = Messages::new(&bytes).next().expect("one");
        let read = read::rule(&message.expect("whole"));
        let rule = read.expect("readable").expect("a rule").rule;
        // What was not understood is kept to the byte.
        let mut again = Message::new(0, 0, &[]);
        expr::encode(&mut again, &rule.exprs);
        if rule.exprs.iter().all(|e| matches!(e, Expr::Raw(_))) {
            let again = again.finish().split_off(HEADER + 4);
            prop_assert_eq!(again, list);
        }
        let _ = rule.to_string();
    }

    #[test]
    fn comments_survive(text in "[^\\x00]{0,60}") {
        let bytes = udata::of_comment(&text);
        prop_assert_eq!(udata::comment(&bytes), Some(text));
    }

    #[test]
    fn any_user_data_is_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let _ = udata::comment(&bytes);
    }
}
