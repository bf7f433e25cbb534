use super::*;
use crate::wire::Message;
use crate::wire::u32_at;
use crate::wire::uapi::{NLM_F_ACK_TLVS, NLM_F_CAPPED, RTM_NEWROUTE};

const SEQ: u32 = 7;

/// A dump's object for these tests: the first four bytes, which must not be 0.
fn decode(message: &RawMessage<'_>) -> Result<Option<u32>, Malformed> {
    match u32_at(message.payload, 0) {
        Some(0) | None => Err(Malformed("test object")),
        Some(1) => Ok(None),
        Some(number) => Ok(Some(number)),
    }
}

fn message(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Message::new(kind, flags, body).finish();
    bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
    bytes
}

fn item(number: u32) -> Vec<u8> {
    message(RTM_NEWROUTE, 2, SEQ, &number.to_ne_bytes())
}

fn done(flags: u16, code: i32) -> Vec<u8> {
    message(NLMSG_DONE, flags, SEQ, &code.to_ne_bytes())
}

fn run(datagrams: &[Vec<u8>]) -> Result<Option<Attempt<u32>>, Error> {
    let mut reader = DumpReader::new("test dump", SEQ, decode);
    for datagram in datagrams {
        if let Some(attempt) = reader.datagram(datagram)? {
            return Ok(Some(attempt));
        }
    }
    Ok(None)
}

fn complete(datagrams: &[Vec<u8>]) -> Dump<u32> {
    match run(datagrams) {
        Ok(Some(Attempt::Complete(dump))) => dump,
        Ok(Some(Attempt::Interrupted)) => panic!("interrupted"),
        Ok(None) => panic!("no end"),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn over_several_datagrams_up_to_the_end() {
    let first = [item(5), item(6)].concat();
    let second = [item(1), item(7)].concat();
    let dump = complete(&[first.clone(), second, done(0, 0)]);
    assert_eq!((dump.items.as_slice(), dump.undecodable), (&[5, 6, 7][..], 0));
    assert_eq!(dump.complete().expect("complete"), [5, 6, 7]);
    assert!(matches!(run(&[first]), Ok(None)), "without an end");
}

#[test]
fn messages_of_an_older_request_are_not_taken() {
    let stale = message(RTM_NEWROUTE, 2, SEQ - 1, &9u32.to_ne_bytes());
    let stale_end = message(NLMSG_DONE, 0, SEQ - 1, &[0; 4]);
    let stale = [stale, stale_end].concat();
    let dump = complete(&[stale, item(5), done(0, 0)]);
    assert_eq!(dump.items, [5]);
}

#[test]
fn an_interruption_on_any_message_counts() {
    let interrupted =
        message(RTM_NEWROUTE, NLM_F_DUMP_INTR, SEQ, &5u32.to_ne_bytes());
    for datagrams in [
        [interrupted, item(6), done(0, 0)],
        [item(5), item(6), done(NLM_F_DUMP_INTR, 0)],
    ] {
        let attempt = run(&datagrams).expect("no error");
        assert!(matches!(attempt, Some(Attempt::Interrupted)));
    }
}

#[test]
fn what_cannot_be_decoded_is_counted_and_blocks_completeness() {
    let dump = complete(&[item(5), item(0), item(6), item(0), done(0, 0)]);
    assert_eq!((dump.items.as_slice(), dump.undecodable), (&[5, 6][..], 2));
    let error = dump.complete().expect_err("short");
    assert_eq!(
        error.to_string(),
        "test dump: 2 of the kernel's answers not understood: malformed test \
         object"
    );
    let Error::Undecodable { count: 2, .. } = error else { panic!("{error}") };
}

#[test]
fn a_datagram_that_ends_inside_a_message_counts_too() {
    let mut cut = [item(5), item(6)].concat();
    cut.truncate(cut.len() - 2);
    let dump = complete(&[cut, done(0, 0)]);
    assert_eq!((dump.items.as_slice(), dump.undecodable), (&[5][..], 1));
    assert!(dump.complete().is_err());
}

#[test]
fn a_failure_at_the_end_is_one_of_the_whole() {
    let ended = run(&[item(5), done(0, -(Errno::ENODEV as i32))]);
    let Err(Error::Refused { errno: Errno::ENODEV, .. }) = ended else {
        panic!("no error")
    };
}

#[test]
fn a_refusal_with_the_kernels_words() {
    let mut body = (-(Errno::EINVAL as i32)).to_ne_bytes().to_vec();
    body.extend([0; 16]);
    body.extend([9, 0, 1, 0]);
    body.extend(b"why\0\0\0\0\0");
    let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let refusal = message(NLMSG_ERROR, flags, SEQ, &body);
    let Err(error) = run(&[refusal]) else { panic!("no error") };
    assert_eq!(error.to_string(), "test dump: why (EINVAL)");

    // Without the cap the whole request comes back before the text.
    let mut body = (-(Errno::EINVAL as i32)).to_ne_bytes().to_vec();
    body.extend(24u32.to_ne_bytes());
    body.extend([0xff; 20]);
    body.extend([9, 0, 1, 0]);
    body.extend(b"why\0\0\0\0\0");
    let refusal = message(NLMSG_ERROR, NLM_F_ACK_TLVS, SEQ, &body);
    let Err(error) = run(&[refusal]) else { panic!("no error") };
    assert_eq!(error.kernel_text(), Some("why"));

    // And without attributes there is none.
    let refusal = message(NLMSG_ERROR, NLM_F_CAPPED, SEQ, &body);
    let Err(error) = run(&[refusal]) else { panic!("no error") };
    assert_eq!(error.to_string(), "test dump: Invalid argument (EINVAL)");
}

#[test]
fn filters_keep_the_doubt() {
    let dump = complete(&[item(5), item(0), item(6), done(0, 0)]);
    let dump = dump.filtered(|n| *n == 5);
    assert_eq!((dump.items.as_slice(), dump.undecodable), (&[5][..], 1));
    assert!(dump.complete().is_err());
}
