use proptest::prelude::*;

use super::uapi::{NLA_F_NESTED, NLM_F_REQUEST, RTM_NEWLINK};
use super::*;

#[test]
fn a_message_is_laid_out_as_the_kernel_wants_it() {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_REQUEST, &[1, 2, 3, 4]);
    message.str(3, "ab");
    message.nest(18, |m| {
        m.u8(1, 7);
        m.flag(2);
    });
    let bytes = message.finish();
    let expected = [
        // length 44, type 16, flags 1, sequence 0, port 0
        &[44, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 2, 3, 4],
        &[7, 0, 3, 0, b'a', b'b', 0, 0],
        &[16, 0, 18, 0x80, 5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 0],
    ]
    .concat();
    if cfg!(target_endian = "little") {
        assert_eq!(bytes, expected);
    }
    assert_eq!(u32_at(&bytes, 0), Some(44));
}

#[test]
fn attributes_read_back_without_flags_and_padding() {
    let mut message = Message::new(RTM_NEWLINK, 0, &[]);
    message.bytes(1 | NLA_F_NESTED, &[9]);
    message.u32(2, 0x0102_0304);
    let bytes = message.finish();
    let attrs: Result<Vec<_>, _> = Attrs::new(&bytes[HEADER..]).collect();
    let number = 0x0102_0304u32.to_ne_bytes();
    assert_eq!(attrs, Ok(vec![(1, &[9][..]), (2, &number[..])]));
}

#[test]
fn a_datagram_of_several_messages() {
    let one = Message::new(20, 5, &[1, 2, 3, 4]).finish();
    let two = Message::new(21, 6, &[]).finish();
    let datagram = [one, two].concat();
    let messages: Vec<_> =
        Messages::new(&datagram).map(|m| m.expect("message")).collect();
    let kinds: Vec<_> = messages.iter().map(|m| (m.kind, m.flags)).collect();
    assert_eq!(kinds, [(20, 5), (21, 6)]);
    assert_eq!(messages[0].payload, [1, 2, 3, 4]);
}

#[test]
fn malformed_bytes_end_the_reading_with_an_error() {
    let whole = Message::new(20, 0, &[0; 8]).finish();
    for len in 1..whole.len() {
        let mut messages = Messages::new(&whole[..len]);
        let first = messages.next().expect("something");
        assert!(first.is_err(), "{len} bytes");
        assert!(messages.next().is_none());
    }
    // A length below the header's own would never get on.
    for len in 0..16u32 {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        assert!(Messages::new(&bytes).next().expect("one").is_err());
    }
    for bad in [&[3, 0, 1, 0][..], &[9, 0, 1, 0, 1], &[4, 0], &[0; 4]] {
        let mut attrs = Attrs::new(bad);
        assert!(attrs.next().expect("one").is_err(), "{bad:?}");
        assert!(attrs.next().is_none());
    }
}

#[test]
fn a_last_attribute_may_lack_its_padding() {
    let attrs: Vec<_> = Attrs::new(&[5, 0, 1, 0, 7]).collect();
    assert_eq!(attrs, [Ok((1, &[7][..]))]);
}

#[test]
fn addresses_of_other_lengths_are_none() {
    assert_eq!(ip(&[10, 0, 0, 1]), Some("10.0.0.1".parse().expect("ip")));
    for len in [0, 3, 5, 15, 17] {
        assert_eq!(ip(&vec![0; len]), None, "{len}");
    }
    assert_eq!(mac(&[1, 2, 3, 4, 5, 6]), Some([1, 2, 3, 4, 5, 6]));
    assert_eq!(mac(&[1, 2, 3, 4]), None);
    assert_eq!(string(b"eth0\0junk"), "eth0");
    assert_eq!(string(b"eth0"), "eth0");
    assert_eq!(string(b"\xff\0"), "\u{fffd}");
}

#[test]
fn an_overlong_attribute_is_no_panic() {
    // The kernel refuses it: its length field cannot say how long it is.
    let mut message = Message::new(20, 0, &[]);
    message.bytes(1, &vec![0; 70_000]);
    assert!(message.finish().len() > 70_000);
}

/// Reads `payload` as a message of each kind this crate knows.
fn decode_all(payload: &[u8]) {
    for kind in [16, 17, 20, 21, 24, 25, 28, 29, 104, 105] {
        let message = RawMessage { kind, flags: 2, seq: 1, port: 0, payload };
        let _ = crate::link::decode(&message);
        let _ = crate::addr::decode(&message);
        let _ = crate::route::decode(&message);
        let _ = crate::neigh::decode(&message);
        let _ = crate::fdb::decode(&message);
        let _ = crate::nexthop::decode(&message);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(
        header in proptest::collection::vec(any::<u8>(), 0..20),
        attrs in proptest::collection::vec(
            (0..64u16, proptest::collection::vec(any::<u8>(), 0..40)), 0..8,
        ),
        af in prop::sample::select(vec![0u8, 2, 7, 10]),
    ) {
        let mut body = header;
        if let Some(first) = body.first_mut() {
            *first = af;
        }
        decode_all(&body);
        for len in [8, 12, 16] {
            body.resize(len, 0);
            let mut message = Message::new(16, 0, &body);
            for (kind, value) in &attrs {
                message.bytes(*kind, value);
            }
            let bytes = message.finish();
            decode_all(bytes.get(HEADER..).unwrap_or_default());
            for message in Messages::new(&bytes).flatten() {
                decode_all(message.payload);
            }
        }
    }

    #[test]
    fn nested_attributes_do_not_make_one_panic(
        outer in prop::sample::select(vec![8u16, 9, 18]),
        middle in 1..6u16,
        inner in proptest::collection::vec(
            (0..40u16, proptest::collection::vec(any::<u8>(), 0..20)), 0..6,
        ),
        kind in prop::sample::select(vec!["vxlan", "bridge", "veth"]),
    ) {
        let mut message = Message::new(16, 0, &[0; 16]);
        message.str(3, "eth0");
        message.nest(outer, |m| {
            m.str(1, kind);
            m.str(4, "bridge");
            m.nest(middle, |m| {
                for (kind, value) in &inner {
                    m.bytes(*kind, value);
                }
            });
        });
        let bytes = message.finish();
        decode_all(bytes.get(HEADER..).unwrap_or_default());
    }

    #[test]
    fn attributes_survive_writing_and_reading(
        attrs in proptest::collection::vec(
            (0..0x3fffu16, proptest::collection::vec(any::<u8>(), 0..40)), 0..8,
        ),
    ) {
        let mut message = Message::new(20, 0, &[]);
        for (kind, value) in &attrs {
            message.bytes(*kind, value);
        }
        let bytes = message.finish();
        let read: Result<Vec<_>, _> = Attrs::new(&bytes[HEADER..])
            .map(|a| a.map(|(kind, value)| (kind, value.to_vec())))
            .collect();
        prop_assert_eq!(read, Ok(attrs));
    }
}
