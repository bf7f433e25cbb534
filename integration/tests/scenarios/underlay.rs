//! The interface under the tunnel changes, and whoever can write to the store
//! cannot take it away.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;

const LIMIT: Duration = Duration::from_secs(20);

/// Two nodes, a pod on each.
fn two_nodes() -> Result<(Cluster, Pod, Pod)> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let a = Pod::add(&cluster.node(0).host, "a")?;
    let b = Pod::add(&cluster.node(1).host, "b")?;
    Ok((cluster, a, b))
}

/// Waits until the pods reach each other again.
fn reach(cluster: &Cluster, a: &Pod, b: &Pod) -> Result<()> {
    poll_until("the pods to reach each other", LIMIT, || {
        for (from, n, to) in [(a, 0, b), (b, 1, a)] {
            for address in Stack::Dual.addresses(to)? {
                from.ping(&cluster.node(n).host, &address)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_new_address_is_published_and_used() -> Result<()> {
    let (mut cluster, a, b) = two_nodes()?;
    let host = &cluster.node(0).host;
    host.sysctl("net/ipv4/conf/eth0/promote_secondaries", "1")?;
    host.ip("addr add 192.168.77.101/24 dev eth0")?;
    host.ip("addr del 192.168.77.1/24 dev eth0")?;
    host.ip("route replace default via 192.168.77.254")?;
    poll_until("the new address to be published", LIMIT, || {
        let leases = cluster.leases()?;
        let found = leases.iter().any(|(_, v)| v.contains("192.168.77.101"));
        ensure!(found && leases.len() == 2, "{leases:?}");
        Ok(())
    })?;
    reach(&cluster, &a, &b)?;
    cluster.node_mut(0).wait_ready()?;
    cluster.assert_settled()
}

/// Until there is another address, what is in the kernel stays, and the
/// daemon does not say that all is well.
#[test]
fn an_address_that_is_gone_is_missed() -> Result<()> {
    let (mut cluster, a, b) = two_nodes()?;
    cluster.node(0).host.ip("-6 addr del fd77::1/64 dev eth0")?;
    cluster
        .node_mut(0)
        .wait_not_ready(&["fd77::1 is no longer on this host"])?;
    let routes = cluster.node(0).host.ip("-6 route show dev flannel-v6.1")?;
    ensure!(routes.contains(" via "), "{routes}");
    cluster.node(0).host.ip("-6 addr add fd77::1/64 dev eth0 nodad")?;
    cluster.node_mut(0).wait_ready()?;
    reach(&cluster, &a, &b)?;
    cluster.assert_settled()
}

/// With it goes the tunnel's device, and everything on that.
#[test]
fn the_interface_goes_and_comes_back_with_another_index() -> Result<()> {
    let (mut cluster, a, b) = two_nodes()?;
    cluster.node(0).host.ip("link del eth0")?;
    cluster.node_mut(0).wait_not_ready(&["interface eth0 is gone"])?;
    cluster.underlay.attach(&cluster.node(0).host, 1)?;
    cluster.node_mut(0).wait_ready()?;
    reach(&cluster, &a, &b)?;
    cluster.assert_settled()
}

/// Upstream's daemons replace the route to their own network by one into the
/// tunnel, and then cannot even hear that the lease is deleted.
#[test]
fn a_lease_over_the_underlay_cuts_nobody_off() -> Result<()> {
    let (cluster, a, b) = two_nodes()?;
    let prefix = "/coreos.com/network/subnets";
    let value = r#"{"PublicIP":"192.168.77.66","BackendType":"vxlan",
        "BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:66"}}"#;
    let keys = ["192.168.77.0-24", "192.168.77.0-31", "224.0.0.0-8"];
    for key in keys {
        cluster.ctl(&["put", &format!("{prefix}/{key}"), value])?;
    }
    for node in &cluster.nodes {
        let Some(daemon) = &node.daemon else { continue };
        for key in keys {
            daemon.wait_log(&format!("peer {key} is left out"), 0, LIMIT)?;
        }
        let (status, body) = daemon.get(&node.host, "/readyz")?;
        ensure!(status == 200, "{body}");
        node.host.ping("192.168.77.254", 1)?;
    }
    reach(&cluster, &a, &b)?;
    for key in keys {
        cluster.ctl(&["del", &format!("{prefix}/{key}")])?;
    }
    for node in &cluster.nodes {
        let Some(daemon) = &node.daemon else { continue };
        daemon.wait_log(&format!("{} is gone", keys[0]), 0, LIMIT)?;
    }
    cluster.assert_settled()
}
