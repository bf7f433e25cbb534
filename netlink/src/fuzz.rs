//! The decoders on bytes that did not come from a kernel, for the fuzz
//! targets. Not part of the interface.

use std::collections::VecDeque;

use crate::monitor::{self, Event};
use crate::nft::{Batch, Chain, RuleInfo, Table, read};
use crate::request::Request;
use crate::socket::Dump;
use crate::wire::Messages;
use crate::{addr, fdb, link, neigh, netconf, nexthop, route, vlan};

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
        + Dump::read(datagram, vlan::decode)
        + Dump::read(datagram, netconf::decode)
        + Dump::read(datagram, read::table)
        + Dump::read(datagram, read::chain)
        + Dump::read(datagram, read::rule)
}

/// A datagram's nf_tables objects.
#[must_use]
pub fn nft(datagram: &[u8]) -> (Vec<Table>, Vec<Chain>, Vec<RuleInfo>) {
    let mut out = (Vec::new(), Vec::new(), Vec::new());
    for message in Messages::new(datagram).flatten() {
        out.0.extend(read::table(&message).ok().flatten());
        out.1.extend(read::chain(&message).ok().flatten());
        out.2.extend(read::rule(&message).ok().flatten());
    }
    out
}

/// A batch's messages.
#[must_use]
pub fn requests(batch: &Batch) -> &[Request] {
    &batch.requests
}
