//! Connections of the pod that had an address before (P17): a packet to it
//! must not go where that pod's connections went.

use std::net::IpAddr;

use netlink::conntrack::Conntrack;
use netlink::sysctl;

use crate::protocol::log;

/// How many connections are tracked. Absent where none are.
const COUNT: &str = "net/netfilter/nf_conntrack_count";

/// Forgets the tracked connections of `ips`. Asking costs time, also without
/// any, so it is done for addresses only that were another pod's a moment ago.
/// A failure has no consequence but what it was to prevent, and is logged.
pub(super) fn connections(ips: impl Iterator<Item = IpAddr>) {
    let mut ips = ips.peekable();
    if ips.peek().is_none() {
        return;
    }
    match sysctl::read(COUNT) {
        Ok(count) if count.trim() != "0" => {}
        _ => return,
    }
    let flushed = Conntrack::open().and_then(|mut conntrack| {
        for ip in ips {
            for entry in conntrack.of_address(ip)? {
                conntrack.delete(&entry)?;
            }
        }
        Ok(())
    });
    if let Err(e) = flushed {
        log(format_args!(
            "connections of the pod that had the address before may go on: {e}"
        ));
    }
}
