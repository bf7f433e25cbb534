//! The decoders on bytes that did not come from a kernel, for the fuzz
//! targets. Not part of the interface.

use std::collections::VecDeque;

use crate::monitor::{self, Event};
use crate::socket::Dump;
use crate::{addr, fdb, link, neigh, nexthop, route};

/// What a [`Monitor`](crate::monitor::Monitor) makes of a datagram.
#[must_use]
pub fn events(datagram: &[u8]) -> Vec<Event> {
    let mut queue = VecDeque::new();
    monitor::read(datagram, &mut queue);
    queue.into()
}

/// Reads a datagram as the answer to each kind of dump. How many objects
/// there were in all.
pub fn dumps(datagram: &[u8]) -> usize {
    Dump::read(datagram, link::decode)
        + Dump::read(datagram, addr::decode)
        + Dump::read(datagram, route::decode)
        + Dump::read(datagram, neigh::decode)
        + Dump::read(datagram, fdb::decode)
        + Dump::read(datagram, nexthop::decode)
}
