//! What the daemons hold a minute after they started.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipam::Family;

use super::check;
use super::hand::Counts;
use super::report::{Quantity, Report};
use super::store::{Fake, Store};
use super::{FLAGS, net_conf};
use crate::cluster::Cluster;
use crate::demo::Stack;
use crate::peers::Peers;
use crate::poll::poll_until;
use crate::underlay::Wiring;

/// The age at which they are looked at.
const AGE: Duration = Duration::from_secs(60);

/// Leases beside the two daemons'.
const MANY: u32 = 4_998;

/// How many of them go and come back at a time.
const CHURN: u32 = 500;

const LIMIT: Duration = Duration::from_secs(60);

/// Daemons that grow old, with few and with many leases.
pub(super) struct Memory {
    started: Instant,
    upstream: bool,
    clusters: Vec<(&'static str, Cluster)>,
}

// === impl Memory ===

impl Memory {
    /// Starts ours and upstream's in one cluster without and one with 5,000
    /// further leases.
    pub(super) fn start(peers: Option<&Peers>) -> Result<Self> {
        let mut clusters = Vec::new();
        for (what, leases) in
            [("resident, 2 leases", 0), ("resident, 5,000 leases", MANY)]
        {
            let mut cluster =
                Cluster::new(Wiring::OneSegment, 2, &net_conf(Stack::V4))?;
            let mut store =
                Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
            store.put(&Fake::first(Stack::V4, leases)?)?;
            cluster.start_one(0, &FLAGS)?;
            match peers {
                Some(peers) => peers.start(&mut cluster, 1)?,
                None => cluster.start_one(1, &FLAGS)?,
            }
            for n in [0, 1] {
                cluster.node_mut(n).wait_ready()?;
            }
            clusters.push((what, cluster));
        }
        let upstream = peers.is_some();
        Ok(Self { started: Instant::now(), upstream, clusters })
    }

    /// Waits until they are old enough and reads.
    pub(super) fn finish(mut self, report: &mut Report<'_>) -> Result<()> {
        std::thread::sleep(AGE.saturating_sub(self.started.elapsed()));
        for (what, cluster) in &mut self.clusters {
            let (ours, other) = (resident(cluster, 0)?, resident(cluster, 1)?);
            if self.upstream {
                report.row(what, ours, other, "upstream");
            } else {
                report.alone(what, ours);
            }
        }
        let (_, cluster) = self.clusters.last_mut().context("no cluster")?;
        check::run(cluster.node(0), MANY + 1, report)?;
        let mut store =
            Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
        churn(cluster, &mut store, 5)?;
        let before = resident(cluster, 0)?;
        churn(cluster, &mut store, 15)?;
        let after = resident(cluster, 0)?;
        let what =
            format!("resident, after {} leases came and went", 20 * CHURN);
        let note = format!("the same after {} of them", 5 * CHURN);
        report.row(&what, after, before, &note);
        Ok(())
    }
}

fn resident(cluster: &mut Cluster, n: usize) -> Result<Quantity> {
    let daemon = cluster.node_mut(n).daemon.as_mut().context("daemon")?;
    Ok(Quantity::Memory(daemon.child().resident()?.all.into()))
}

/// Has leases go and come back, so many times [`CHURN`] of them, each time
/// until our daemon is done with it.
fn churn(cluster: &Cluster, store: &mut Store, times: u32) -> Result<()> {
    let host = &cluster.node(0).host;
    let settled = |count: u32| {
        poll_until("peers to be followed", LIMIT, || {
            let counts = host.run(|| Counts::read(Family::V4))?;
            counts.context("no device")?.ensure(count as usize)
        })
    };
    let fakes = Fake::first(Stack::V4, CHURN)?;
    // The other daemon's lease is one of them.
    let all = MANY + 1;
    for _ in 0..times {
        store.remove(&fakes)?;
        settled(all - CHURN)?;
        store.put(&fakes)?;
        settled(all)?;
    }
    Ok(())
}
