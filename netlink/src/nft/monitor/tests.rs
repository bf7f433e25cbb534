use proptest::prelude::*;

use super::super::uapi::{
    DELTABLE, NEWRULE, NFTA_GEN_ID, NFTA_GEN_PROC_NAME, NFTA_GEN_PROC_PID,
    NFTA_OBJ_TABLE,
};
use super::super::{Family, nfgenmsg};
use super::*;
use crate::wire::Message;

fn about(kind: u16, family: u8, table: &str) -> Vec<u8> {
    let mut m = Message::new(kind, 0, &nfgenmsg(family, 0));
    m.str(NFTA_OBJ_TABLE, table);
    m.finish()
}

fn end(generation: u32, port: u32) -> Vec<u8> {
    let mut m = Message::new(NEWGEN, 0, &nfgenmsg(0, 0));
    m.u32_be(NFTA_GEN_ID, generation);
    m.u32_be(NFTA_GEN_PROC_PID, 77);
    m.str(NFTA_GEN_PROC_NAME, "firewalld");
    let mut bytes = m.finish();
    bytes[12..16].copy_from_slice(&port.to_ne_bytes());
    bytes
}

fn heard(datagrams: &[Vec<u8>]) -> Vec<Event> {
    let mut reader = Reader::default();
    for datagram in datagrams {
        reader.datagram(datagram);
    }
    reader.queue.into()
}

#[test]
fn a_batch_told_in_several_datagrams_is_one_change() {
    let events = heard(&[
        [about(NEWRULE, 2, "a"), about(NEWRULE, 2, "a")].concat(),
        about(DELTABLE, 10, "b"),
        [end(5, 42), end(6, 0)].concat(),
    ]);
    let [Event::Changed(first), Event::Changed(second)] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    let tables = [(Family::Ip, "a"), (Family::Ip6, "b")]
        .map(|(family, name)| TableId::new(family, name));
    assert_eq!(first.tables, tables.into());
    assert_eq!((first.port, first.generation), (42, 5));
    let process = Process { pid: 77, name: "firewalld".into() };
    assert_eq!(first.process, Some(process));
    assert_eq!((second.tables.len(), second.generation), (0, 6));
}

#[test]
fn what_cannot_be_read_is_an_overrun() {
    let mut cut = about(NEWRULE, 2, "a");
    cut.truncate(cut.len() - 1);
    assert_eq!(heard(&[cut]), [Event::Overrun]);
    let no_generation = Message::new(NEWGEN, 0, &nfgenmsg(0, 0)).finish();
    assert_eq!(heard(&[no_generation]), [Event::Overrun]);
}

#[test]
fn messages_of_other_subsystems_are_passed_over() {
    // Connection tracking is subsystem 1.
    assert_eq!(heard(&[about(0x0100, 2, "a")]), []);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        kind in 0xa00_u16..0xa20,
    ) {
        heard(std::slice::from_ref(&bytes));
        heard(&[Message::new(kind, 0, &bytes).finish()]);
    }
}
