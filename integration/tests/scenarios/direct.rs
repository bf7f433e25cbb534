//! `DirectRouting`: no tunnel between nodes on one segment, the tunnel across
//! a router.

use anyhow::{Result, ensure};
use integration::cluster::{Cluster, Node};
use integration::demo::Stack;
use integration::pod::Pod;
use integration::underlay::Wiring;
use serde_json::{Value, json};

fn conf() -> Value {
    let mut conf = Stack::Dual.net_conf();
    conf["Backend"]["DirectRouting"] = json!(true);
    conf
}

/// Starts two nodes and pings between their pods; gives the second node's
/// subnets and the first one's routes and forwarding entries.
fn joined(wiring: Wiring) -> Result<(Cluster, Vec<String>)> {
    let mut cluster = Cluster::new(wiring, 2, &conf())?;
    cluster.start(&["--iface=eth0"])?;
    let [a, b] = [cluster.node(0), cluster.node(1)];
    let (from, to) = (Pod::add(&a.host, "a")?, Pod::add(&b.host, "b")?);
    for address in Stack::Dual.addresses(&to)? {
        from.ping(&a.host, &address)?;
    }
    let subnets = b.subnets()?;
    cluster.assert_settled()?;
    Ok((cluster, subnets))
}

fn route_to(node: &Node, subnet: &str) -> Result<String> {
    let text = node.host.ip("route")? + &node.host.ip("-6 route")?;
    let lines: Vec<_> =
        text.lines().filter(|l| l.starts_with(subnet)).collect();
    ensure!(lines.len() == 1, "routes to {subnet}: {lines:?}");
    Ok(lines.concat())
}

#[test]
fn on_one_segment_routes_lead_to_the_peer_itself() -> Result<()> {
    let (cluster, subnets) = joined(Wiring::OneSegment)?;
    let [a, b] = [cluster.node(0), cluster.node(1)];
    for (subnet, via) in subnets.iter().zip([&b.uplink.v4, &b.uplink.v6]) {
        let route = route_to(a, subnet)?;
        assert!(route.contains(&format!("via {via} dev eth0")), "{route}");
    }
    for dev in ["flannel.1", "flannel-v6.1"] {
        let fdb = a.host.cmd(&["bridge", "fdb", "show", "dev", dev])?;
        assert!(!fdb.contains("dst"), "{fdb}");
        assert_eq!(
            a.host.ip(&format!("neigh show dev {dev} nud permanent"))?,
            ""
        );
    }
    Ok(())
}

#[test]
fn across_a_router_routes_lead_into_the_tunnel() -> Result<()> {
    let (cluster, subnets) = joined(Wiring::Routed)?;
    for (subnet, dev) in subnets.iter().zip(["flannel.1", "flannel-v6.1"]) {
        let route = route_to(cluster.node(0), subnet)?;
        assert!(route.contains(&format!("dev {dev}")), "{route}");
    }
    Ok(())
}
