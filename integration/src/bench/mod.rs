//! `make bench`: what we take, beside what a peer and the kernel's floor take
//! in the same run. Ratios lead: absolute times move with the machine and its
//! neighbours. docs/benchmarks.md says what each row is.

mod check;
mod cni;
mod cold;
mod drift;
mod event;
mod gate;
mod hand;
mod join;
mod memory;
mod path;
mod report;
mod start;
mod store;
mod watch;

use std::path::Path;

use anyhow::{Result, bail};

use crate::demo::Stack;
use crate::peers::Peers;
use report::Report;

/// The rows' names, in their order.
pub const ROWS: [&str; 8] =
    ["start", "cold", "event", "drift", "join", "cni", "path", "memory"];

/// Takes the measurements whose names are in `rows` (all, when empty) and
/// gives each finished row to `say`.
///
/// # Errors
/// When a name is unknown or a part does not work.
pub fn run(rows: &[String], say: &mut dyn FnMut(&str)) -> Result<()> {
    if let Some(bad) = rows.iter().find(|r| !ROWS.contains(&r.as_str())) {
        bail!("no row is called {bad:?}; there are {}", ROWS.join(", "));
    }
    let wanted = |name: &str| rows.is_empty() || rows.iter().any(|r| r == name);
    let peers = Peers::or_skip("the rows beside upstream");
    let peers = peers.as_ref();
    let mut report = Report::new(say);
    if wanted("start") {
        start::run(peers, &mut report)?;
    }
    if wanted("cold") {
        cold::run(peers, &mut report)?;
    }
    if wanted("event") {
        event::run(peers, &mut report)?;
    }
    if wanted("drift") {
        drift::run(&mut report)?;
    }
    if wanted("join") {
        join::run(peers, &mut report)?;
    }
    // These daemons must be a minute old before they are looked at.
    let memory = if wanted("memory") {
        Some(memory::Memory::start(peers)?)
    } else {
        None
    };
    if wanted("cni") {
        cni::run(peers, &mut report)?;
    }
    if wanted("path") {
        path::run(&mut report)?;
    }
    if let Some(memory) = memory {
        memory.finish(&mut report)?;
    }
    Ok(())
}

/// The net-conf of all rows: IPv4, so that every peer can take part, or both
/// families; with room for thousands of nodes.
fn net_conf(stack: Stack) -> serde_json::Value {
    let mut conf = stack.net_conf();
    conf["Network"] = "10.0.0.0/8".into();
    if stack == Stack::Dual {
        conf["IPv6Network"] = "fd10::/48".into();
    }
    conf
}

/// Who runs a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Ours,
    Upstream,
}

/// The flags of a daemon, whoever's it is: no traffic rules.
const FLAGS: [&str; 3] =
    ["--iface=eth0", "--ip-masq=false", "--iptables-forward-rules=false"];

/// The command line of the daemon `program` for this store.
fn command(program: &Path, url: &str) -> Vec<String> {
    let mut words =
        vec![program.display().to_string(), format!("--etcd-endpoints={url}")];
    words.extend(FLAGS.map(str::to_owned));
    words
}
