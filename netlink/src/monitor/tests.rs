use super::*;
use crate::link;
use crate::neigh::{NeighSpec, set};
use crate::wire::{HEADER, Message};

fn events(datagram: &[u8]) -> Vec<Event> {
    let mut queue = VecDeque::new();
    read(datagram, &mut queue);
    queue.into()
}

/// What the kernel would tell of that change: the same message with a port.
fn notification(port: u32) -> Vec<u8> {
    let ip = "10.244.2.0".parse().expect("address");
    let request = set(&NeighSpec { index: 3, ip, mac: [2, 0, 0, 0, 2, 2] });
    let mut bytes = request.message().to_vec();
    bytes[12..16].copy_from_slice(&port.to_ne_bytes());
    bytes
}

#[test]
fn an_event_keeps_the_requesters_port() {
    let found = events(&notification(42));
    let [Event::Object { object: Object::Neigh(neigh), deleted, port }] =
        found.as_slice()
    else {
        panic!("{found:?}")
    };
    assert_eq!((neigh.index, *deleted, *port), (3, false, 42));
    assert!(neigh.permanent());
}

#[test]
fn what_cannot_be_read_is_an_overrun() {
    // A neighbour without its address.
    let header = notification(0)[HEADER..HEADER + 12].to_vec();
    let bad = Message::new(RTM_NEWNEIGH, 0, &header).finish();
    assert_eq!(events(&bad), [Event::Overrun]);
    let mut cut = notification(0);
    cut.truncate(cut.len() - 1);
    assert_eq!(events(&cut), [Event::Overrun]);
    let both = [bad, notification(1)].concat();
    assert_eq!(events(&both).len(), 2);
}

#[test]
fn what_nobody_here_reads_is_passed_over() {
    // A bridge tells of its port in its own family; RTM_NEWRULE is 32.
    let mut port = link::delete(3).message().to_vec();
    port[HEADER] = 7;
    assert_eq!(events(&port), []);
    let rule = Message::new(32, 0, &[0; 12]).finish();
    assert_eq!(events(&rule), []);
}
