//! A lease that another node takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::pod::{Pod, cni, kube_flannel_conf};
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::Phase;
use serde_json::{Value, json};

use super::wait_well;

fn conf(max: &str) -> Value {
    json!({
        "Network": "10.244.0.0/16",
        "SubnetMin": "10.244.2.0",
        "SubnetMax": max,
        "Backend": { "Type": "vxlan" },
    })
}

/// The loser writes nothing over the winner, hands out no more addresses, and
/// once more subnets are allowed (which is heard while it runs) it takes
/// another: the subnet file and the tunnel's address follow, and the winner
/// is its peer.
#[test]
fn a_taken_lease_is_given_up_and_another_one_followed() -> Result<()> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf("10.244.2.0"))?;
    cluster.start(&["--iface=eth0"])?;
    let before = cluster.node(0).subnets()?;
    assert_eq!(before, ["10.244.2.0/24"]);
    let pod = Pod::add(&cluster.node(0).host, "before")?;
    let key = "/coreos.com/network/subnets/10.244.2.0-24";
    let theirs = json!({
        "PublicIP": "192.168.77.99",
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": { "VNI": 1, "VtepMAC": "02:00:00:00:99:01" },
    })
    .to_string();
    cluster.ctl(&["put", key, &theirs])?;
    let why = "the node at 192.168.77.99 has taken it";
    cluster.node_mut(0).wait_not_ready(&["without its subnet", why])?;
    assert_eq!(cluster.node(0).state()?.phase, Phase::LeaseLost);

    let host = &cluster.node(0).host;
    let netns = host.add_netns("during")?;
    let kube = kube_flannel_conf();
    let answer = cni(host, "flannel", "ADD", &kube, "during", &netns)?;
    ensure!(!answer.ok && answer.json["code"] == 11, "{answer:?}");
    ensure!(answer.json["msg"].to_string().contains(why), "{answer:?}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.leases()?, [(key.to_owned(), theirs.clone())]);
    // The bridge, and all that runs on it, is as it was.
    let gateway = cluster.node(0).host.ip("-o -4 addr show dev cni0")?;
    ensure!(gateway.contains("10.244.2.1/24"), "{gateway}");

    cluster.configure(&conf("10.244.3.0"))?;
    let node = cluster.node(0);
    poll_until("another subnet", Duration::from_secs(40), || {
        let subnets = node.subnets()?;
        ensure!(subnets == ["10.244.3.0/24"], "{subnets:?}");
        Ok(())
    })
    .with_context(|| node.log())?;
    // The pods' bridge has the winner's subnet, as long as there are such
    // pods: said, and not torn down.
    cluster.node_mut(0).wait_ready()?;
    poll_until("the reason", Duration::from_secs(40), || {
        let reason = cluster.node(0).state()?.reason;
        let said = "another route to 10.244.2.0";
        ensure!(reason.contains(said), "{reason}");
        Ok(())
    })?;
    pod.del(&cluster.node(0).host)?;
    // BR-22: the bridge's address is the plugin's, and changed if allowed.
    let mut force = kube_flannel_conf();
    force["delegate"]["forceAddress"] = json!(true);
    Pod::add_with(&cluster.node(0).host, "after", force)?;
    cluster.node_mut(0).wait_ready()?;
    wait_well(&cluster)?;
    let host = &cluster.node(0).host;
    let shown = host.ip("-o -4 addr show dev flannel.1")?;
    ensure!(shown.contains("inet 10.244.3.0/32"), "{shown}");
    ensure!(!shown.contains("10.244.2.0/32"), "{shown}");
    let leases = cluster.leases()?;
    ensure!(leases.contains(&(key.to_owned(), theirs)), "{leases:?}");
    assert_eq!(leases.len(), 2);
    poll_until("the winner as a peer", Duration::from_secs(40), || {
        let neighbours =
            host.cmd(&["ip", "neigh", "show", "nud", "permanent"])?;
        ensure!(neighbours.contains("02:00:00:00:99:01"), "{neighbours}");
        Ok(())
    })?;
    cluster.assert_settled()
}
