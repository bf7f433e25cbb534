//! The store fails in all the ways it does. Pods' packets pass as if nothing
//! had happened, nothing of the kernel changes, no daemon ends, each says what
//! it waits for without filling its log, and hears again as soon as it can.

mod config;
mod fencing;
mod members;
mod offline;
mod one;
mod storm;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::kernel;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::probe::{At, Probe};
use serde_json::Value;

/// Longest time for all to be well again after a fault.
const RECOVERY: Duration = Duration::from_secs(40);
/// A log that grows by more lines over one fault is a storm.
const LINES: usize = 60;
/// Of which at most so many are warnings.
const WARNINGS: usize = 16;
/// A peer that is not there: its lease shows whether the watch lives.
const GHOST: &str =
    "/coreos.com/network/subnets/10.244.250.0-24&fd00:10:244:fa::-64";

/// Both families; no node may take the ghost's subnet.
fn net_conf() -> Value {
    let mut conf = Stack::Dual.net_conf();
    conf["SubnetMax"] = "10.244.199.0".into();
    conf
}

/// Two nodes with a pod each and streams of datagrams between them.
struct Streams {
    probes: Vec<Probe>,
    kernels: Vec<String>,
    subnets: Vec<String>,
    logs: Vec<usize>,
}

impl Streams {
    /// Starts on the first two nodes of `cluster`, whose daemons are well.
    fn start(cluster: &Cluster) -> Result<Self> {
        let ends = [cluster.node(0), cluster.node(1)];
        let mut pods = Vec::new();
        for node in ends {
            pods.push(Pod::add(&node.host, "streams")?);
        }
        let at = |n: usize| At { node: &ends[n].host, pod: &pods[n] };
        let mut probes = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            for address in Stack::Dual.addresses(&pods[to])? {
                // one stream a family and node: it has the port to itself
                probes.push(Probe::start(at(from), at(to), &address)?);
            }
        }
        let kernels = ends
            .iter()
            .map(|node| kernel::overlay(&node.host))
            .collect::<Result<_>>()?;
        let subnets =
            ends.iter().map(|n| n.subnets()).collect::<Result<Vec<_>>>()?;
        let logs = ends.iter().map(|node| node.log().len()).collect();
        Ok(Self { probes, kernels, subnets: subnets.concat(), logs })
    }

    /// The kernels are as they were, and no log has become long.
    fn assert_untouched(&self, cluster: &Cluster) -> Result<()> {
        for n in [0, 1] {
            let node = cluster.node(n);
            let now = kernel::overlay(&node.host)?;
            let was = &self.kernels[n];
            ensure!(*was == now, "was:\n{was}\nis:\n{now}\n{}", node.log());
        }
        Ok(())
    }

    /// Ends it: nothing was lost, nobody has another lease.
    fn finish(self, cluster: &mut Cluster) -> Result<()> {
        for probe in self.probes {
            probe.assert_whole(1001)?;
        }
        let mut subnets = Vec::new();
        for n in [0, 1] {
            let node = cluster.node_mut(n);
            node.wait_ready()?;
            subnets.extend(node.subnets()?);
            let log = node.log();
            let new = log.get(self.logs[n]..).unwrap_or_default();
            let warnings = new.lines().filter(|l| l.contains("WARN")).count();
            let lines = new.lines().count();
            ensure!(
                lines <= LINES && warnings <= WARNINGS,
                "{lines} lines, {warnings} warnings:\n{new}"
            );
        }
        assert_eq!(subnets, self.subnets);
        Ok(())
    }
}

/// A cluster of two whose daemons are well.
fn two(cluster: &mut Cluster, flags: &[&str]) -> Result<()> {
    let mut all = vec!["--iface=eth0"];
    all.extend(flags);
    cluster.start(&all)
}

/// Shows that both daemons hear what happens in the store: a peer comes, and
/// goes again.
fn pulse(cluster: &Cluster) -> Result<()> {
    let value = r#"{"PublicIP":"192.168.77.250","PublicIPv6":"fd77::fa","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:fa"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:fa"}}"#;
    for (value, wanted) in [(Some(value), true), (None, false)] {
        match value {
            Some(value) => cluster.ctl(&["put", GHOST, value])?,
            None => cluster.ctl(&["del", GHOST])?,
        };
        for n in [0, 1] {
            let node = cluster.node(n);
            let what = format!("the pulse ({wanted}) at {}", node.host.name());
            poll_until(&what, RECOVERY, || {
                let v4 = node.host.ip("route")?;
                let v6 = node.host.ip("-6 route")?;
                let there = v4.contains("10.244.250.0/24")
                    && v6.contains("fd00:10:244:fa::/64");
                let gone = !v4.contains("10.244.250.0/24")
                    && !v6.contains("fd00:10:244:fa::/64");
                ensure!(if wanted { there } else { gone }, "{v4}{v6}");
                Ok(())
            })
            .with_context(|| node.log())?;
        }
    }
    Ok(())
}

/// Waits until both daemons say why they do not hear the store: ready all the
/// same, in `/readyz` and `state.json`.
fn wait_told(cluster: &Cluster, text: &str) -> Result<()> {
    for n in [0, 1] {
        let node = cluster.node(n);
        let daemon = node.daemon.as_ref().context("daemon")?;
        poll_until("the store to be missed", RECOVERY, || {
            let (status, body) = daemon.get(&node.host, "/readyz")?;
            let state = node.state()?;
            ensure!(
                status == 200
                    && body.contains(text)
                    && state.reason.contains(text),
                "{status} {body}; {state:?}"
            );
            Ok(())
        })
        .with_context(|| node.log())?;
    }
    Ok(())
}

/// Waits until neither daemon misses anything.
fn wait_well(cluster: &Cluster) -> Result<()> {
    for n in 0..cluster.nodes.len() {
        let node = cluster.node(n);
        let daemon = node.daemon.as_ref().context("daemon")?;
        poll_until("the daemon to be well", RECOVERY, || {
            let answer = daemon.get(&node.host, "/readyz")?;
            ensure!(
                answer == (200, "flanneld is ready".to_owned()),
                "{answer:?}"
            );
            Ok(())
        })
        .with_context(|| node.log())?;
    }
    Ok(())
}
