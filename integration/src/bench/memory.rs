//! What the daemons hold a minute after they started.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::{Quantity, Report};
use super::store::{Fake, Store};
use super::{FLAGS, net_conf};
use crate::cluster::Cluster;
use crate::peers::Peers;
use crate::underlay::Wiring;

/// The age at which they are looked at.
const AGE: Duration = Duration::from_secs(60);

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
            [("resident, 2 leases", 0), ("resident, 5,000 leases", 4_998)]
        {
            let mut cluster = Cluster::new(Wiring::OneSegment, 2, &net_conf())?;
            let mut store =
                Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
            store.put(&Fake::first(leases)?)?;
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
        Ok(())
    }
}

fn resident(cluster: &mut Cluster, n: usize) -> Result<Quantity> {
    let daemon = cluster.node_mut(n).daemon.as_mut().context("daemon")?;
    Ok(Quantity::Memory(daemon.child().resident()?.into()))
}
