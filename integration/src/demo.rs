//! The demo: a real etcd, three nodes, a `flanneld` on each, pods plugged in
//! through the CNI binary, and their traffic across nodes.

use anyhow::{Result, ensure};
use ipam::Family;
use serde_json::{Value, json};

use crate::cluster::{Cluster, SUBNET_ENV};
use crate::pod::Pod;
use crate::probe::{At, transfer};
use crate::underlay::Wiring;

/// Which families the cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

// === impl Stack ===

impl Stack {
    /// A net-conf with the vxlan backend and these families.
    #[must_use]
    pub fn net_conf(self) -> Value {
        let backend = json!({ "Type": "vxlan" });
        match self {
            Self::V4 => {
                json!({ "Network": "10.244.0.0/16", "Backend": backend })
            }
            Self::V6 => json!({
                "EnableIPv4": false,
                "EnableIPv6": true,
                "IPv6Network": "fd00:244::/48",
                "Backend": backend,
            }),
            Self::Dual => json!({
                "Network": "10.244.0.0/16",
                "EnableIPv6": true,
                "IPv6Network": "fd00:244::/48",
                "Backend": backend,
            }),
        }
    }

    /// Its families.
    #[must_use]
    pub const fn families(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &Family::ALL,
        }
    }

    /// The addresses of `pod` in these families.
    ///
    /// # Errors
    /// When one is missing.
    pub fn addresses(self, pod: &Pod) -> Result<Vec<String>> {
        self.families().iter().map(|family| pod.address(*family)).collect()
    }
}

/// Runs it; every step's outcome goes to `say`, one line at a time.
///
/// # Errors
/// When a step does not work.
pub fn run(stack: Stack, say: &mut dyn FnMut(&str)) -> Result<()> {
    let conf = stack.net_conf();
    say(&format!("etcd: started; /coreos.com/network/config = {conf}"));
    let mut cluster = Cluster::new(Wiring::OneSegment, 3, &conf)?;

    cluster.start(&["--iface=eth0"])?;
    for node in &cluster.nodes {
        let env = node.host.read(SUBNET_ENV)?.replace('\n', " ");
        say(&format!(
            "{}: flanneld is ready; {SUBNET_ENV}: {env}",
            node.host.name()
        ));
    }
    for (key, value) in cluster.leases()? {
        say(&format!("etcd: {key} = {value}"));
    }

    let mut pods = Vec::new();
    for (n, node) in cluster.nodes.iter().enumerate() {
        for id in [format!("pod-{}a", n + 1), format!("pod-{}b", n + 1)] {
            let pod = Pod::add(&node.host, &id)?;
            say(&format!(
                "{}: {id} has {}",
                node.host.name(),
                stack.addresses(&pod)?.join(", ")
            ));
            pods.push((node, pod));
        }
    }

    let mut pings = 0;
    for (node, pod) in &pods {
        for (_, other) in pods.iter().filter(|(_, other)| other.id != pod.id) {
            for to in stack.addresses(other)? {
                pod.ping(&node.host, &to)?;
                pings += 1;
            }
        }
    }
    say(&format!(
        "{pings} pings from every pod to every other: each answer came"
    ));

    let ends: Vec<_> =
        pods.iter().map(|(node, pod)| At { node: &node.host, pod }).collect();
    if let [from, .., to] = ends.as_slice() {
        for address in stack.addresses(to.pod)? {
            let bytes = 64 << 20;
            transfer(*from, *to, &address, bytes)?;
            say(&format!(
                "{} → {} at {address}: {} MiB over TCP arrived",
                from.pod.id,
                to.pod.id,
                bytes >> 20
            ));
        }
    }

    cluster.assert_settled()?;
    say("a second pass on every node changes nothing");
    for (node, pod) in &pods {
        pod.del(&node.host)?;
    }
    let left = cluster.node(0).host.cmd(&[
        "sh",
        "-c",
        "ls /var/lib/cni/networks/cbr0",
    ])?;
    ensure!(
        left.lines()
            .all(|name| name.starts_with("last_reserved_ip") || name == "lock"),
        "addresses are still reserved: {left}"
    );
    say("all pods unplugged, their addresses are free again");
    Ok(())
}
