//! A cluster: an underlay, a store, nodes with daemons.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipam::daemon_state::DaemonState;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::etcd::{Etcd, Pki, Security};
use crate::host::Host;
use crate::members::Members;
use crate::poll::poll_until;
use crate::underlay::{Underlay, Uplink, Wiring};

/// Where the daemon leaves its file.
pub const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its daemon, once started. Dropped before the host.
    pub daemon: Option<Daemon>,
    /// Its namespaces.
    pub host: Host,
    /// Its place on the underlay.
    pub uplink: Uplink,
}

/// Nodes, their underlay, and a store.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The store. Dropped before the host it runs on.
    pub etcd: Etcd,
    /// The store in its place, if it has several members.
    pub members: Option<Members>,
    /// What joins them; the store runs in its middle.
    pub underlay: Underlay,
}

// === impl Cluster ===

impl Cluster {
    /// `count` nodes without daemons, and a store with `net_conf` as its
    /// configuration.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub fn new(wiring: Wiring, count: u8, net_conf: &Value) -> Result<Self> {
        let mut cluster = Self::empty(wiring, count, Security::default())?;
        cluster.configure(net_conf)?;
        Ok(cluster)
    }

    /// The same without a configuration in the store.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub fn empty(
        wiring: Wiring,
        count: u8,
        security: Security,
    ) -> Result<Self> {
        crate::etcd::sweep_temp()?;
        let underlay = Underlay::new(wiring)?;
        let etcd = Etcd::start(underlay.middle(), security)?;
        let mut cluster =
            Self { nodes: Vec::new(), etcd, members: None, underlay };
        for _ in 0..count {
            cluster.add_node()?;
        }
        Ok(cluster)
    }

    /// [`Self::empty`] on one segment with a store of three members.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub fn of_three_members(count: u8, security: Security) -> Result<Self> {
        let mut cluster =
            Self::empty(Wiring::OneSegment, count, Security::default())?;
        cluster.etcd.child().kill();
        let members = Members::start(&cluster.underlay, 3, security)?;
        cluster.members = Some(members);
        Ok(cluster)
    }

    /// The members of the store.
    ///
    /// # Errors
    /// When there is one server only.
    pub fn members(&mut self) -> Result<&mut Members> {
        self.members.as_mut().context("a store without members")
    }

    /// Puts the network configuration into the store.
    ///
    /// # Errors
    /// When etcdctl fails.
    pub fn configure(&mut self, net_conf: &Value) -> Result<()> {
        let text = net_conf.to_string();
        self.ctl(&["put", "/coreos.com/network/config", &text]).map(drop)
    }

    /// `etcdctl` beside the store.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        match &self.members {
            Some(members) => members.ctl_any(words),
            None => self.etcd.ctl(self.underlay.middle(), words),
        }
    }

    /// The lease keys and values in the store, as text.
    ///
    /// # Errors
    /// When etcdctl fails.
    pub fn leases(&self) -> Result<Vec<(String, String)>> {
        let text =
            self.ctl(&["get", "--prefix", "/coreos.com/network/subnets/"])?;
        let mut lines = text.lines();
        let mut out = Vec::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            out.push((key.to_owned(), value.to_owned()));
        }
        Ok(out)
    }

    /// One more node, without a daemon. Its index.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_node(&mut self) -> Result<usize> {
        let n = u8::try_from(self.nodes.len() + 1)?;
        let host = Host::new(&format!("node{n}"))?;
        let uplink = self.underlay.attach(&host, n)?;
        // Pods' packets are routed; nobody's reverse path filter decides.
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.nodes.push(Node { daemon: None, host, uplink });
        Ok(self.nodes.len() - 1)
    }

    /// Starts the daemon of every node with `flags` and waits until all are
    /// ready and know each other.
    ///
    /// # Errors
    /// When one does not get there.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        for n in 0..self.nodes.len() {
            self.start_one(n, flags)?;
        }
        for node in &mut self.nodes {
            node.wait_ready()?;
        }
        self.wait_joined()
    }

    /// Starts the daemon of node `n`, without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_one(&mut self, n: usize, flags: &[&str]) -> Result<()> {
        let (urls, pki) = self.access();
        let mut all = vec![format!("--etcd-endpoints={urls}")];
        // Who wants a certificate with a single server says so in `flags`.
        let own = self.members.is_some();
        all.extend(pki.iter().flat_map(|pki| pki.flags(own)));
        all.extend(flags.iter().map(|w| (*w).to_owned()));
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let node = self.nodes.get_mut(n).context("no such node")?;
        node.daemon = Some(Daemon::start(&node.host, &all, &[])?);
        Ok(())
    }

    /// Where the store is and by which certificates.
    fn access(&self) -> (String, Option<&Pki>) {
        match &self.members {
            Some(members) => (members.urls(), members.pki.as_ref()),
            None => (self.etcd.url(), self.etcd.pki.as_ref()),
        }
    }

    /// Waits until every running node has a route to every other's subnets.
    ///
    /// # Errors
    /// After 30 s, with what is missing.
    pub fn wait_joined(&self) -> Result<()> {
        let running: Vec<_> =
            self.nodes.iter().filter(|n| n.daemon.is_some()).collect();
        poll_until(
            "every node to reach every other",
            Duration::from_secs(60),
            || {
                for a in &running {
                    let routes =
                        a.host.ip("route")? + &a.host.ip("-6 route")?;
                    for b in running.iter().filter(|b| !std::ptr::eq(*a, **b)) {
                        for subnet in b.subnets()? {
                            ensure!(
                                routes
                                    .lines()
                                    .any(|l| l
                                        .starts_with(&format!("{subnet} "))),
                                "{} has no route to {subnet} of {}; its routes:\n{routes}its log:\n{}",
                                a.host.name(),
                                b.host.name(),
                                a.log()
                            );
                        }
                    }
                }
                Ok(())
            },
        )
    }

    /// Asserts on every running node that a second pass changes nothing.
    ///
    /// # Errors
    /// When one does.
    pub fn assert_settled(&self) -> Result<()> {
        for node in &self.nodes {
            if let Some(daemon) = &node.daemon {
                daemon
                    .assert_settled()
                    .with_context(|| node.host.name().to_owned())?;
            }
        }
        Ok(())
    }

    /// Node `n`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, n: usize) -> &Node {
        &self.nodes[n]
    }

    /// Node `n`, to start or stop its daemon.
    ///
    /// # Panics
    /// When there is none.
    pub fn node_mut(&mut self, n: usize) -> &mut Node {
        &mut self.nodes[n]
    }
}

// === impl Node ===

impl Node {
    /// Waits until the daemon says that it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_ready(&mut self) -> Result<()> {
        let daemon = self.daemon.as_mut().context("no daemon")?;
        daemon.wait_ready(&self.host)
    }

    /// A value of `subnet.env`.
    ///
    /// # Errors
    /// When the file or the line is not there.
    pub fn env(&self, name: &str) -> Result<String> {
        let text = self.host.read(SUBNET_ENV)?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
            .with_context(|| format!("no {name} in {text:?}"))
    }

    /// What the daemon says about itself in `state.json`.
    ///
    /// # Errors
    /// When the file is not there.
    pub fn state(&self) -> Result<DaemonState> {
        let text = self.host.read("/run/flannel/state.json")?;
        DaemonState::parse(&text).with_context(|| text)
    }

    /// Waits until the daemon says that it is not ready, for a reason that
    /// holds every one of `texts`, and gives that reason.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_not_ready(&mut self, texts: &[&str]) -> Result<String> {
        let daemon = self.daemon.as_mut().context("no daemon")?;
        daemon.wait_not_ready(&self.host, texts)
    }

    /// What the daemon has logged so far; empty without one.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, Daemon::log)
    }

    /// The node's subnets in network form, as routes show them.
    ///
    /// # Errors
    /// When `subnet.env` is not there.
    pub fn subnets(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for name in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"] {
            if let Ok(value) = self.env(name) {
                let subnet: ipam::Subnet = value.parse()?;
                out.push(subnet.to_string());
            }
        }
        ensure!(!out.is_empty(), "{} has no subnet", self.host.name());
        Ok(out)
    }
}
