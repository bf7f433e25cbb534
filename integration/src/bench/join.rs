//! Many daemons that start at the same moment: how many get a lease, and when
//! each of those knows all the others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipam::Family;

use super::hand::Counts;
use super::report::{Quantity, Report};
use super::{FLAGS, Who, net_conf};
use crate::cluster::Cluster;
use crate::demo::Stack;
use crate::peers::Peers;
use crate::poll::poll_until;
use crate::underlay::Wiring;

const NODES: u8 = 40;
const LIMIT: Duration = Duration::from_secs(60);

/// What became of them.
struct Outcome {
    /// Those that run and know each other.
    joined: usize,
    took: Duration,
}

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let ours = storm(Who::Ours, peers)?;
    let what = format!("{NODES} daemons at once");
    let (counted, timed) =
        (format!("{what}, how many join"), format!("{what}, until all have"));
    if peers.is_some() {
        let upstream = storm(Who::Upstream, peers)?;
        let [a, b] = [&ours, &upstream].map(Outcome::joined);
        report.row(&counted, a, b, "upstream; the others exit");
        report.row(&timed, ours.took, upstream.took, "upstream, those it has");
    } else {
        report.alone(&counted, ours.joined());
        report.alone(&timed, ours.took);
    }
    Ok(())
}

fn storm(who: Who, peers: Option<&Peers>) -> Result<Outcome> {
    let conf = net_conf(Stack::V4);
    let mut cluster = Cluster::new(Wiring::OneSegment, NODES, &conf)?;
    let start = Instant::now();
    for n in 0..usize::from(NODES) {
        match (who, peers) {
            (Who::Upstream, Some(peers)) => peers.start(&mut cluster, n)?,
            _ => cluster.start_one(n, &FLAGS)?,
        }
    }
    let joined = poll_until("all to join", LIMIT, || joined(&mut cluster))?;
    let took = start.elapsed();
    let leases = cluster.leases()?.len();
    ensure!(leases == joined, "{leases} leases of {joined} daemons");
    Ok(Outcome { joined, took })
}

/// How many daemons run, once each of them has all the others' objects.
fn joined(cluster: &mut Cluster) -> Result<usize> {
    let mut running = Vec::new();
    for node in &mut cluster.nodes {
        let daemon = node.daemon.as_mut().context("daemon")?;
        if daemon.child().try_wait()?.is_none() {
            running.push(&node.host);
        }
    }
    let others = running.len().saturating_sub(1);
    for host in &running {
        let counts = host.run(|| Counts::read(Family::V4))?;
        counts.context("no device")?.ensure(others)?;
    }
    Ok(running.len())
}

// === impl Outcome ===

impl Outcome {
    fn joined(&self) -> Quantity {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^52")]
        Quantity::Count(self.joined as f64)
    }
}
