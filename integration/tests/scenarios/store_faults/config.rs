//! The network configuration changes while the daemons run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::kernel;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use serde_json::json;

use super::{Streams, two, wait_told, wait_well};

#[test]
fn what_can_change_under_traffic_does_and_the_rest_is_told() -> Result<()> {
    let conf = Stack::Dual.net_conf();
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, &conf)?;
    // Without it the CNI plugin masquerades pod by pod (FL-11): a connection
    // whose way changes is then dropped by the kernel.
    two(&mut cluster, &["--ip-masq"])?;
    let streams = Streams::start(&cluster)?;

    // Nothing of what needs a restart, and all of it is named.
    let mut other = conf.clone();
    other["Network"] = json!("10.200.0.0/16");
    other["Backend"]["VNI"] = json!(7);
    other["Backend"]["DirectRouting"] = json!(true);
    cluster.configure(&other)?;
    wait_told(&cluster, "Network (running pods have addresses")?;
    wait_told(&cluster, "Backend.VNI (the tunnel")?;
    streams.assert_untouched(&cluster)?;
    let node = cluster.node(0);
    let daemon = node.daemon.as_ref().context("daemon")?;
    let (_, events) = daemon.get(&node.host, "/events")?;
    ensure!(events.contains(r#""kind":"config","text":"the net"#), "{events}");
    cluster.ctl(&["put", "/coreos.com/network/config", "{"])?;
    wait_told(&cluster, "the one in use stays in use")?;
    cluster.ctl(&["del", "/coreos.com/network/config"])?;
    wait_told(&cluster, "does not exist")?;
    streams.assert_untouched(&cluster)?;
    cluster.configure(&conf)?;
    wait_well(&cluster)?;
    streams.assert_untouched(&cluster)?;

    // What pods do not notice.
    let mut live = conf.clone();
    live["Backend"]["DirectRouting"] = json!(true);
    live["Backend"]["MTU"] = json!(1400);
    cluster.configure(&live)?;
    for n in [0, 1] {
        let (node, peer) = (cluster.node(n), cluster.node(1 - n));
        let via = format!("via {}", peer.uplink.v4);
        poll_until("direct routes", Duration::from_secs(40), || {
            let routes = node.host.ip("route")?;
            ensure!(routes.contains(&via), "{routes}");
            let mtu: u32 = node.env("FLANNEL_MTU")?.parse()?;
            ensure!(mtu < 1400, "FLANNEL_MTU={mtu}");
            Ok(())
        })?;
    }
    cluster.assert_settled()?;

    // The way back: the kernel takes no IPv6 route through the tunnel while
    // the direct one leads its gateway elsewhere.
    cluster.configure(&conf)?;
    for (n, was) in streams.kernels.iter().enumerate() {
        let node = cluster.node(n);
        poll_until("the tunnel again", Duration::from_secs(40), || {
            let now = kernel::overlay(&node.host)?;
            ensure!(*was == now, "was:\n{was}\nis:\n{now}");
            Ok(())
        })
        .with_context(|| node.log())?;
    }
    wait_well(&cluster)?;
    cluster.assert_settled()?;
    streams.finish(&mut cluster)
}
