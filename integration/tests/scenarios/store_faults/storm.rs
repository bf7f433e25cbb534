//! Many daemons at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::poll::poll_until;
use integration::underlay::Wiring;

/// Upstream started so loses three of them.
const NODES: u8 = 40;

/// What a daemon reads of the store at a start: the configuration when it
/// connects, when it waits for it and when it begins to follow it, and once
/// all leases. After that it is told of changes.
const READS: f64 = 4.0;

/// All start at the same moment: each gets a subnet of its own and knows all
/// the others, none ends, and the store is not asked again and again.
#[test]
fn forty_daemons_start_at_once() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, NODES, &Stack::Dual.net_conf())?;
    let count = usize::from(NODES);
    let answered = |cluster: &Cluster, method| {
        cluster.etcd.answered(cluster.underlay.middle(), method)
    };
    let before = answered(&cluster, "Range")?;
    for n in 0..count {
        cluster.start_one(n, &["--iface=eth0"])?;
    }
    for node in &mut cluster.nodes {
        node.wait_ready()?;
    }
    let reads = answered(&cluster, "Range")? - before;
    let writes = answered(&cluster, "Txn")?;
    // A machine that is too busy for a call in time has it made again.
    let mut starts = f64::from(NODES);
    for node in &cluster.nodes {
        let daemon = node.daemon.as_ref().context("daemon")?;
        starts += daemon.metric(&node.host, "flannel_store_errors_total")?;
    }
    // Who finds that another was faster may list the leases once more.
    let races = writes - f64::from(NODES);
    ensure!(
        races >= 0.0 && reads >= f64::from(NODES),
        "{reads} reads, {writes} writes"
    );
    ensure!(
        reads <= READS * starts + races,
        "{reads} reads in {starts} starts with {races} lost races"
    );
    let mut subnets = BTreeSet::new();
    for node in &cluster.nodes {
        for subnet in node.subnets()? {
            ensure!(subnets.insert(subnet.clone()), "{subnet} twice");
        }
    }
    assert_eq!(subnets.len(), 2 * count);
    assert_eq!(cluster.leases()?.len(), count, "a lease each, none in vain");
    for node in &cluster.nodes {
        poll_until("all peers' routes", Duration::from_secs(30), || {
            for family in ["-4", "-6"] {
                let routes = node.host.ip(&format!("{family} route"))?;
                let peers =
                    routes.lines().filter(|l| l.contains("onlink")).count();
                ensure!(peers == count - 1, "{peers} peers:\n{routes}");
            }
            Ok(())
        })
        .with_context(|| node.log())?;
    }
    for node in &mut cluster.nodes {
        let daemon = node.daemon.as_mut().context("daemon")?;
        ensure!(daemon.child().try_wait()?.is_none(), "it has ended");
    }
    Ok(())
}
