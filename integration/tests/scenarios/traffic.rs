//! What pods can do: reach each other on the same node and others, in packets
//! of the full MTU, and themselves through a service address.

use anyhow::{Context, Result};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::pod::Pod;
use integration::probe::{At, transfer};
use integration::underlay::Wiring;

/// Across a router as well as on one segment, a packet of exactly the pods'
/// MTU arrives unfragmented and a larger one does not leave the pod.
#[test]
fn the_announced_mtu_is_what_fits() -> Result<()> {
    for (stack, mtu) in
        [(Stack::V4, 1450u32), (Stack::V6, 1430), (Stack::Dual, 1430)]
    {
        let mut cluster = Cluster::new(Wiring::Routed, 2, &stack.net_conf())?;
        cluster.start(&["--iface=eth0"])?;
        let [a, b] = [cluster.node(0), cluster.node(1)];
        assert_eq!(a.env("FLANNEL_MTU")?, mtu.to_string(), "{stack:?}");
        let (from, to) = (Pod::add(&a.host, "a")?, Pod::add(&b.host, "b")?);
        for address in stack.addresses(&to)? {
            let header = if address.contains(':') { 48 } else { 28 };
            let ping = |payload: u32| {
                let size = payload.to_string();
                let words = [
                    "ping", "-n", "-q", "-M", "do", "-c", "2", "-i", "0.1",
                    "-W", "2", "-s", &size, &address,
                ];
                from.cmd(&a.host, &words)
            };
            ping(mtu - header).with_context(|| {
                format!("{stack:?}: {mtu} bytes to {address}")
            })?;
            assert!(
                ping(mtu - header + 1).is_err(),
                "{stack:?}: one byte more must not leave"
            );
        }
        cluster.assert_settled()?;
    }
    Ok(())
}

#[test]
fn pods_on_one_node_reach_each_other() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let node = &cluster.node(0).host;
    let (a, b) = (Pod::add(node, "a")?, Pod::add(node, "b")?);
    for to in Stack::Dual.addresses(&b)? {
        a.ping(node, &to)?;
        transfer(At { node, pod: &a }, At { node, pod: &b }, &to, 8 << 20)?;
    }
    Ok(())
}

/// A pod that connects to a service whose only endpoint is itself.
#[test]
fn a_pod_reaches_itself_through_a_service_address() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let node = &cluster.node(0).host;
    let pod = Pod::add(node, "a")?;
    let ports =
        node.cmd(&["bridge", "-d", "link", "show", "master", "cni0"])?;
    assert!(ports.contains("hairpin on"), "{ports}");
    // What kube-proxy does for 10.96.0.80.
    let own = pod.v4()?;
    let script = format!(
        "table ip svc {{
           chain pre {{ type nat hook prerouting priority dstnat;
             ip daddr 10.96.0.80 dnat to {own}; }}
           chain post {{ type nat hook postrouting priority srcnat;
             ip saddr {own} ip daddr {own} masquerade; }}
         }}"
    );
    node.write("/run/svc.nft", &script)?;
    node.cmd(&["nft", "-f", "/run/svc.nft"])?;
    pod.ping(node, "10.96.0.80")
}
