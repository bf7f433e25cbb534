//! Nodes come and go.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::kernel;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;

#[test]
fn a_node_joins_a_running_cluster() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let n = cluster.add_node()?;
    cluster.start_one(n, &["--iface=eth0"])?;
    cluster.node_mut(n).wait_ready()?;
    cluster.wait_joined()?;
    let (old, new) = (cluster.node(0), cluster.node(n));
    let (a, b) = (Pod::add(&old.host, "a")?, Pod::add(&new.host, "b")?);
    for (from, at, to) in [(&a, &old.host, &b), (&b, &new.host, &a)] {
        for address in Stack::Dual.addresses(to)? {
            from.ping(at, &address)?;
        }
    }
    cluster.assert_settled()
}

/// The lease of a node that is gone runs out: its objects go, and nobody
/// else's. What the kernel holds then is what it held before the node came.
#[test]
fn a_node_that_left_leaves_nothing_behind() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let before = kernel::overlay(&cluster.node(0).host)?;
    let keys: Vec<_> =
        cluster.leases()?.into_iter().map(|(key, _)| key).collect();

    let n = cluster.add_node()?;
    cluster.start_one(n, &["--iface=eth0"])?;
    cluster.node_mut(n).wait_ready()?;
    cluster.wait_joined()?;
    let with = kernel::overlay(&cluster.node(0).host)?;
    ensure!(with != before, "the third node left no mark on the first");

    cluster.node_mut(n).daemon = None;
    for (key, _) in cluster.leases()? {
        if !keys.contains(&key) {
            cluster.ctl(&["del", &key])?;
        }
    }
    poll_until("the node's objects to go", Duration::from_secs(40), || {
        let now = kernel::overlay(&cluster.node(0).host)?;
        ensure!(now == before, "before:\n{before}\nnow:\n{now}");
        Ok(())
    })?;
    cluster.assert_settled()
}
