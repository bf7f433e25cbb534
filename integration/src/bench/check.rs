//! A look at everything, which finds nothing to do: from SIGHUP to the line in
//! the log that says so. Beside it the kernel's lists, read and thrown away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink::link;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::signal::Signal;

use super::hand;
use super::report::{Report, median};
use crate::cluster::Node;

const ROUNDS: usize = 15;
const QUIET: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(10);

/// Of `struct nlmsghdr`: a request for a list.
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_DONE: u16 = 3;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
/// What is listed: the type of the request, the family in its header, the
/// header's length, and whether the header names the device.
const LISTS: [(u16, u8, usize, bool); 6] = [
    (18, 0, 16, false),        // RTM_GETLINK
    (22, AF_INET, 8, false),   // RTM_GETADDR
    (30, AF_INET, 12, false),  // RTM_GETNEIGH
    (30, AF_BRIDGE, 12, true), // RTM_GETNEIGH: forwarding entries
    (26, AF_INET, 12, false),  // RTM_GETROUTE
    (106, 0, 8, false),        // RTM_GETNEXTHOP
];

/// Compares the two on a node whose daemon has `peers` peers and no traffic
/// rules.
pub(super) fn run(
    node: &Node,
    peers: u32,
    report: &mut Report<'_>,
) -> Result<()> {
    let index =
        link::by_name(&mut hand::socket(&node.host)?, "flannel.1")?.index;
    let mut socket = node.host.run(|| Socket::new(NETLINK_ROUTE))?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        std::thread::sleep(QUIET);
        let (a, b) = (pass(node)?, lists(&mut socket, index)?);
        // The first round warms up.
        if round > 0 {
            ours.push(a);
            floors.push(b);
        }
    }
    let what = format!("everything looked at, {peers} peers");
    let note = "floor: the kernel's lists, not decoded";
    report.row(&what, median(&ours), median(&floors), note);
    Ok(())
}

/// Asks the daemon for a full pass and waits until it says that it is done.
fn pass(node: &Node) -> Result<Duration> {
    let daemon = node.daemon.as_ref().context("daemon")?;
    let from = daemon.log().len();
    let start = Instant::now();
    daemon.signal(Signal::SIGHUP)?;
    loop {
        let log = daemon.log();
        let took = start.elapsed();
        let new = log.get(from..).unwrap_or_default();
        if new.contains("pass on request: changes=0 failed=0") {
            return Ok(took);
        }
        if took > LIMIT || new.contains("pass on request") {
            bail!("no full pass without changes:\n{log}");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Reads the lists that a full pass is about.
fn lists(socket: &mut Socket, index: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut buffer = Vec::with_capacity(64 << 10);
    for (kind, family, header, of_device) in LISTS {
        let mut message = Vec::new();
        message.extend(u32::try_from(16 + header)?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
        message.resize(16, 0);
        message.extend([family, 0, 0, 0]);
        if of_device {
            message.extend(index.to_ne_bytes());
        }
        message.resize(16 + header, 0);
        socket.send(&message, 0)?;
        loop {
            buffer.clear();
            socket.recv(&mut buffer, 0)?;
            // The end is a datagram's only or last message.
            let end = |at: usize| buffer.get(at..at + 2);
            let done = Some(&NLMSG_DONE.to_ne_bytes()[..]);
            if end(4) == done || end(buffer.len().saturating_sub(16)) == done {
                break;
            }
        }
    }
    Ok(start.elapsed())
}
