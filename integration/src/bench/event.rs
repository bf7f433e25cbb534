//! One more node in a quiet cluster: from the put of its lease to its route,
//! the last of its objects, in the kernel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netlink::monitor::Group;

use super::report::{Quantity, Report, median};
use super::store::{Fake, Store};
use super::watch::{Mark, Watch};
use super::{FLAGS, Who, net_conf};
use crate::cluster::Cluster;
use crate::demo::Stack;
use crate::peers::Peers;
use crate::poll::poll_until;
use crate::underlay::Wiring;

const ROUNDS: u32 = 21;

/// Between two peers: the daemons have come to rest.
const QUIET: Duration = Duration::from_millis(300);

const LIMIT: Duration = Duration::from_secs(5);

/// A cluster of one real and one invented node.
struct Quiet {
    who: Who,
    cluster: Cluster,
    store: Store,
    routes: Watch,
    /// Of our daemon: how many events it has timed so far, and the sum.
    timed: (f64, f64),
}

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let mut all = vec![Quiet::start(Who::Ours, peers)?];
    if peers.is_some() {
        all.push(Quiet::start(Who::Upstream, peers)?);
    }
    let (mut ours, mut upstream, mut puts) =
        (Vec::new(), Vec::new(), Vec::new());
    let mut own = Vec::new();
    for round in 0..=ROUNDS {
        for quiet in &mut all {
            let (put, took) =
                quiet.time(&Fake::number(Stack::V4, 100 + round)?)?;
            if round == 0 {
                if quiet.who == Who::Ours {
                    quiet.own_time()?;
                }
                continue;
            }
            puts.push(put);
            match quiet.who {
                Who::Ours => {
                    ours.push(took);
                    own.push(quiet.own_time()?);
                }
                Who::Upstream => upstream.push(took),
            }
        }
    }
    let what = "a new peer: its put to its route";
    if peers.is_some() {
        report.row(what, median(&ours), median(&upstream), "upstream");
    }
    report.row(what, median(&ours), median(&puts), "the put until answered");
    let what = "  watch message to last answer";
    report.alone(what, Quantity::Time(median(&own)));
    Ok(())
}

// === impl Quiet ===

impl Quiet {
    fn start(who: Who, peers: Option<&Peers>) -> Result<Self> {
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 1, &net_conf(Stack::V4))?;
        let mut store =
            Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
        store.put(&Fake::first(Stack::V4, 1)?)?;
        match (who, peers) {
            (Who::Upstream, Some(peers)) => peers.start(&mut cluster, 0)?,
            _ => cluster.start_one(0, &FLAGS)?,
        }
        cluster.node_mut(0).wait_ready()?;
        let routes = Watch::start(&cluster.node(0).host, &[Group::Routes])?;
        Ok(Self { who, cluster, store, routes, timed: (0.0, 0.0) })
    }

    /// How long its put took, and the time from its sending to the route.
    fn time(&mut self, fake: &Fake) -> Result<(Duration, Duration)> {
        std::thread::sleep(QUIET);
        let (start, put) = self.store.put_one(fake)?;
        let subnet = fake.0.v4.context("no IPv4")?.subnet;
        let route = self.routes.all(vec![Mark::Route(subnet)]);
        let at = route.with_context(|| {
            format!("route to {subnet}:\n{}", self.cluster.node(0).log())
        })?;
        Ok((put, at.duration_since(start)))
    }

    /// The seconds that our daemon itself says the last peer took, from the
    /// watch message to the last acknowledgement.
    fn own_time(&mut self) -> Result<f64> {
        let (count, sum) = self.timed;
        self.timed = poll_until("the daemon's own clock", LIMIT, || {
            let timed = self.own_clock()?;
            ensure!(timed.0 > count, "{timed:?}");
            Ok(timed)
        })?;
        Ok((self.timed.1 - sum) / (self.timed.0 - count))
    }

    /// How many events the daemon itself has timed so far, and how many
    /// seconds they took in all.
    fn own_clock(&self) -> Result<(f64, f64)> {
        let node = self.cluster.node(0);
        let daemon = node.daemon.as_ref().context("daemon")?;
        let (_, text) = daemon.get(&node.host, "/metrics")?;
        let value = |what: &str| -> Result<f64> {
            let name = format!("flannel_event_to_kernel_seconds_{what} ");
            let line = text.lines().find_map(|l| l.strip_prefix(&name));
            Ok(line.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok((value("count")?, value("sum")?))
    }
}
