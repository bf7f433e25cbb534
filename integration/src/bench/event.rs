//! One more node in a quiet cluster: from the put of its lease to its route,
//! the last of its objects, in the kernel.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipam::Subnet;
use netlink::NetNs;
use netlink::monitor::{Event, Group, Monitor, Object};

use super::report::{Report, median};
use super::store::{Fake, Store};
use super::{FLAGS, Who, net_conf};
use crate::cluster::Cluster;
use crate::peers::Peers;
use crate::underlay::Wiring;

const ROUNDS: u32 = 21;

/// Between two peers: the daemons have come to rest.
const QUIET: Duration = Duration::from_millis(300);

/// A cluster of one real and one invented node.
struct Quiet {
    who: Who,
    cluster: Cluster,
    store: Store,
    routes: Receiver<(Instant, Subnet)>,
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
    for round in 0..=ROUNDS {
        for quiet in &mut all {
            let (put, took) = quiet.time(&Fake::number(100 + round)?)?;
            if round == 0 {
                continue;
            }
            puts.push(put);
            match quiet.who {
                Who::Ours => ours.push(took),
                Who::Upstream => upstream.push(took),
            }
        }
    }
    let what = "a new peer: its put to its route";
    if peers.is_some() {
        report.row(what, median(&ours), median(&upstream), "upstream");
    }
    report.row(what, median(&ours), median(&puts), "the put until answered");
    Ok(())
}

// === impl Quiet ===

impl Quiet {
    fn start(who: Who, peers: Option<&Peers>) -> Result<Self> {
        let mut cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf())?;
        let mut store =
            Store::connect(cluster.underlay.middle(), &cluster.etcd.url())?;
        store.put(&Fake::first(1)?)?;
        match (who, peers) {
            (Who::Upstream, Some(peers)) => peers.start(&mut cluster, 0)?,
            _ => cluster.start_one(0, &FLAGS)?,
        }
        cluster.node_mut(0).wait_ready()?;
        let namespace = NetNs::open(cluster.node(0).host.netns())?;
        let mut monitor = Monitor::open_in(&namespace, &[Group::Routes])?;
        let (seen, routes) = channel();
        std::thread::spawn(move || {
            while let Ok(Some(event)) =
                monitor.next(Some(Duration::from_secs(60)))
            {
                let now = Instant::now();
                if let Event::Object {
                    object: Object::Route(route),
                    deleted: false,
                    ..
                } = event
                    && seen.send((now, route.dst)).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { who, cluster, store, routes })
    }

    /// How long its put took, and the time from its sending to the route.
    fn time(&mut self, fake: &Fake) -> Result<(Duration, Duration)> {
        std::thread::sleep(QUIET);
        let (start, put) = self.store.put_one(fake)?;
        let limit = Duration::from_secs(5);
        loop {
            let Ok((at, dst)) = self.routes.recv_timeout(limit) else {
                let daemon = self.cluster.node(0).daemon.as_ref();
                let log = daemon.context("daemon")?.log();
                bail!("no route to {} came; the log:\n{log}", fake.subnet);
            };
            if dst == fake.subnet {
                return Ok((put, at.duration_since(start)));
            }
        }
    }
}
