//! A start while etcd cannot be reached (design.md §3.10).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, SUBNET_ENV};
use integration::demo::Stack;
use integration::kernel;
use integration::pod::{Pod, cni, kube_flannel_conf};
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::Phase;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{net_conf, pulse, two, wait_well};

const SAVED: &str = "/var/lib/flannel/run-flannel-subnet.env.json";
const PEERS: &str = "/var/lib/flannel/run-flannel-subnet.env.peers.json";

/// Two nodes that have remembered each other; the first one's daemon is then
/// ended, and etcd too.
fn remembered() -> Result<Cluster> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, &net_conf())?;
    two(&mut cluster, &[])?;
    let other = cluster.node(1).uplink.v4.clone();
    poll_until("the peers on disk", Duration::from_secs(60), || {
        let text = cluster.node(0).host.read(PEERS)?;
        ensure!(text.contains(&other), "{text}");
        Ok(())
    })?;
    let node = cluster.node_mut(0);
    node.daemon.as_mut().context("daemon")?.stop(Signal::SIGTERM)?;
    cluster.etcd.child().kill();
    Ok(cluster)
}

/// What a reboot leaves of flannel: only what is under /var.
fn reboot(cluster: &Cluster) -> Result<()> {
    let host = &cluster.node(0).host;
    host.ip("link del flannel.1")?;
    host.ip("link del flannel-v6.1")?;
    host.cmd(&["rm", "-r", "/run/flannel"])?;
    Ok(())
}

fn again(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.node_mut(0);
    node.daemon.as_mut().context("daemon")?.start_again(&node.host)
}

fn wait_phase(cluster: &Cluster, phase: Phase) -> Result<String> {
    let node = cluster.node(0);
    poll_until(&format!("{phase}"), Duration::from_secs(90), || {
        let state = node.state()?;
        ensure!(state.phase == phase, "{state:?}");
        Ok(state.reason)
    })
    .with_context(|| node.log())
}

/// The first node's overlay without the devices' indexes.
fn unnumbered(cluster: &Cluster) -> Result<String> {
    let text = kernel::overlay(&cluster.node(0).host)?;
    let lines = text.lines().map(|line| match line.split_once(": ") {
        Some((number, rest)) if number.parse::<u32>().is_ok() => rest,
        _ => line,
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The node comes up as it was, from disk alone; pods reach the others, new
/// ones too. Then etcd is back, and nothing changes but that it hears again.
#[test]
fn a_reboot_without_etcd() -> Result<()> {
    let mut cluster = remembered()?;
    let before = unnumbered(&cluster)?;
    let env = cluster.node(0).host.read(SUBNET_ENV)?;
    reboot(&cluster)?;
    again(&mut cluster)?;
    cluster.node_mut(0).wait_ready()?;
    let reason = wait_phase(&cluster, Phase::Ready)?;
    ensure!(reason.contains("as etcd has not answered yet"), "{reason}");
    assert_eq!(cluster.node(0).host.read(SUBNET_ENV)?, env);
    assert_eq!(unnumbered(&cluster)?, before);
    let (a, b) = (&cluster.node(0).host, &cluster.node(1).host);
    let (from, to) = (Pod::add(a, "a")?, Pod::add(b, "b")?);
    for address in Stack::Dual.addresses(&to)? {
        from.ping(a, &address)?;
    }

    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    pulse(&cluster)?;
    assert_eq!(cluster.node(0).host.read(SUBNET_ENV)?, env);
    assert_eq!(cluster.leases()?.len(), 2, "no other lease was taken");
    cluster.assert_settled()
}

/// What is in the kernel and not on disk stays until etcd has been asked.
#[test]
fn what_nobody_remembers_is_not_deleted() -> Result<()> {
    let mut cluster = remembered()?;
    let before = kernel::overlay(&cluster.node(0).host)?;
    let empty = r#"{"version":1,"peers":{}}"#;
    cluster.node(0).host.write(PEERS, empty)?;
    again(&mut cluster)?;
    cluster.node_mut(0).wait_ready()?;
    wait_phase(&cluster, Phase::Ready)?;
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);
    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);
    cluster.assert_settled()
}

/// Past the lease's own end: running pods keep what they have, new ones are
/// told to try again, until there is a lease.
#[test]
fn a_remembered_lease_ends() -> Result<()> {
    let mut cluster = remembered()?;
    let host = &cluster.node(0).host;
    let mut saved: Value = serde_json::from_str(&host.read(SAVED)?)?;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
    // By both clocks that it is remembered by.
    let lease = &mut saved["lease"];
    let end = lease["expires"].as_u64().context("an end")?;
    let early = end.checked_sub(now + 40).context("a day")?;
    let boot = &mut lease["expires_since_boot"]["seconds"];
    *boot = boot.as_u64().context("an end")?.saturating_sub(early).into();
    lease["expires"] = (now + 40).into();
    host.write(SAVED, &saved.to_string())?;
    again(&mut cluster)?;
    cluster.node_mut(0).wait_ready()?;
    let pod = Pod::add(&cluster.node(0).host, "early")?;
    let peer = Pod::add(&cluster.node(1).host, "peer")?;
    let before = kernel::overlay(&cluster.node(0).host)?;

    let refused = |cluster: &Cluster, id: &str| -> Result<()> {
        let host = &cluster.node(0).host;
        let netns = host.add_netns(id)?;
        let conf = kube_flannel_conf();
        let answer = cni(host, "flannel", "ADD", &conf, id, &netns)?;
        ensure!(!answer.ok && answer.json["code"] == 11, "{answer:?}");
        let said = answer.json["msg"].to_string();
        ensure!(said.contains("without its subnet"), "{said}");
        ensure!(said.contains("could not be renewed"), "{said}");
        Ok(())
    };
    let reason = wait_phase(&cluster, Phase::LeaseLost)?;
    ensure!(reason.contains("could not be renewed"), "{reason}");
    cluster.node_mut(0).wait_not_ready(&["without its subnet"])?;
    refused(&cluster, "late")?;
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);
    // Other CNI plugins go by the file alone: it is not put back.
    let node = cluster.node(0);
    let env = node.host.read(SUBNET_ENV)?;
    node.host.cmd(&["rm", SUBNET_ENV])?;
    node.daemon.as_ref().context("daemon")?.assert_settled()?;
    ensure!(node.host.read(SUBNET_ENV).is_err(), "{env}");
    node.host.write(SUBNET_ENV, &env)?;
    for address in Stack::Dual.addresses(&peer)? {
        pod.ping(&cluster.node(0).host, &address)?;
    }

    // A restart does not forget that.
    let node = cluster.node_mut(0);
    node.daemon.as_mut().context("daemon")?.stop(Signal::SIGTERM)?;
    refused(&cluster, "later")?;
    again(&mut cluster)?;
    wait_phase(&cluster, Phase::LeaseLost)?;
    refused(&cluster, "latest")?;
    assert_eq!(kernel::overlay(&cluster.node(0).host)?, before);

    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    Pod::add(&cluster.node(0).host, "after")?;
    cluster.assert_settled()
}

/// The interface is down when the daemon starts again, and etcd behind it:
/// both are waited for, as they are while it runs. A first start would end.
#[test]
fn a_start_without_etcd_and_interface() -> Result<()> {
    let mut cluster = remembered()?;
    let before = kernel::overlay(&cluster.node(0).host)?;
    cluster.node(0).host.ip("link set eth0 down")?;
    again(&mut cluster)?;
    let texts = ["waiting for the interface", "no usable IPv6 address"];
    cluster.node_mut(0).wait_not_ready(&texts)?;
    let node = cluster.node(0);
    cluster.underlay.lift(&node.host, &node.uplink)?;
    cluster.node_mut(0).wait_ready()?;
    let after = kernel::overlay(&cluster.node(0).host)?;
    assert_eq!(after, before);
    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    pulse(&cluster)?;
    cluster.assert_settled()
}
