//! The loop's middle: what the store and the kernel say goes in, passes come
//! out. An event only marks something dirty; truth is the difference between
//! the plan and what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipam::PerFamily;
use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::NetConf;
use ipam::netconf::backend::VxlanOptions;
use overlay::{
    Caps, Desired, Facts, IfName, Key, Mac, Node, Plan, Scope, vxlan,
};

use crate::monitor::Interest;
use crate::pace::Pace;
use crate::store::StoreEvent;
use crate::worker::Worker;
use crate::world::{Kernel, KernelError};
use crate::{facts, pass};

#[cfg(test)]
mod tests;

/// What failed is tried again after this, and after twice as long each time …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … but not longer.
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// What stays the same while the daemon runs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The network configuration.
    pub conf: NetConf,
    /// Its backend's options.
    pub vxlan: VxlanOptions,
    /// The underlay interface.
    pub uplink: IfName,
    /// The addresses that are published.
    pub public: PerFamily<IpAddr>,
    /// The Ethernet addresses of the tunnel devices.
    pub macs: PerFamily<Mac>,
    /// Devices of ours from an earlier configuration.
    pub former: BTreeSet<IfName>,
}

/// Keeps the kernel as the leases want it.
#[derive(Debug)]
pub struct Reconciler {
    setup: Setup,
    kernel: Worker<Kernel>,
    interest: Interest,
    own: Option<Lease>,
    /// The other nodes' leases: what the store said, and nothing else.
    peers: BTreeMap<SubnetKey, LeaseAttrs>,
    synced: bool,
    /// What the last pass planned.
    planned: Desired,
    dirty: Dirty,
    pace: Pace,
    retry: Option<Duration>,
    /// What was said about peers and the plan: not said again.
    said: BTreeSet<String>,
}

/// What the next pass looks at besides what the plan changes.
#[derive(Debug, Default)]
struct Dirty {
    everything: bool,
    objects: BTreeSet<Key>,
}

/// A pass that was carried out.
#[derive(Debug)]
pub struct Passed {
    /// The lease it was for.
    pub lease: Lease,
    /// `FLANNEL_MTU`.
    pub mtu: u32,
    /// Other nodes' leases known.
    pub peers: usize,
    /// Changes made.
    pub changed: usize,
    /// What failed, in words: nothing when the kernel is as wanted.
    pub failed: Vec<String>,
}

// === impl Reconciler ===

impl Reconciler {
    /// Nothing is done before the store has told the own lease and all others.
    #[must_use]
    pub fn new(
        setup: Setup,
        kernel: Worker<Kernel>,
        interest: Interest,
    ) -> Self {
        Self {
            setup,
            kernel,
            interest,
            own: None,
            peers: BTreeMap::new(),
            synced: false,
            planned: Desired::default(),
            dirty: Dirty { everything: true, objects: BTreeSet::new() },
            pace: Pace::default(),
            retry: None,
            said: BTreeSet::new(),
        }
    }

    /// Takes in what the store says.
    pub fn heard(&mut self, event: StoreEvent, now: Instant) {
        let news = match event {
            StoreEvent::Synced { leases, .. } => {
                let first = !std::mem::replace(&mut self.synced, true);
                let other = self.peers != leases;
                self.peers = leases;
                first || other
            }
            StoreEvent::Upsert(Lease { key, attrs }) => {
                let old = self.peers.insert(key, attrs);
                old.as_ref() != self.peers.get(&key)
            }
            StoreEvent::Remove(key) => self.peers.remove(&key).is_some(),
            StoreEvent::Held(held) => {
                let lease = Some(held.lease);
                let other = self.own != lease;
                self.own = lease;
                other
            }
            // What is in the kernel stays until there is another lease.
            StoreEvent::Lost { .. } => false,
        };
        if news {
            self.mark(now);
        }
    }

    /// Whether the store has given this node a lease.
    #[must_use]
    pub const fn has_lease(&self) -> bool {
        self.own.is_some()
    }

    /// The kernel was changed by somebody else, or by this daemon in a way
    /// that notifications do not tell apart. While passes fail, such news
    /// does not hurry them: a change that fails may be its own cause.
    pub fn disturbed(&mut self, now: Instant) {
        self.dirty.everything = true;
        match self.retry {
            Some(_) => self.pace.mark_later(now + RETRY_FIRST),
            None => self.mark(now),
        }
    }

    /// Everything is to be looked at.
    pub fn mark_everything(&mut self, now: Instant) {
        self.dirty.everything = true;
        self.mark(now);
    }

    /// What comes before there is anything to do a pass by is no storm: the
    /// first pass does not wait for it to be over.
    fn mark(&mut self, now: Instant) {
        if self.own.is_some() && self.synced {
            self.pace.mark(now);
        }
    }

    /// When the next pass is due; `None` while there is nothing to do, or
    /// nothing known to do it by.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Runs a pass over what is dirty.
    ///
    /// # Errors
    /// When nothing could be planned or looked at; what is in the kernel
    /// stays, and another pass is due later.
    pub async fn pass(&mut self) -> anyhow::Result<Passed> {
        let dirty = std::mem::take(&mut self.dirty);
        let everything = dirty.everything;
        let result = self.pass_over(dirty).await;
        let now = Instant::now();
        self.pace.passed(now);
        let settled =
            result.as_ref().is_ok_and(|passed| passed.failed.is_empty());
        if settled {
            self.retry = None;
        } else {
            self.dirty.everything |= everything || result.is_err();
            let pause =
                self.retry.map_or(RETRY_FIRST, |p| (p * 2).min(RETRY_LONGEST));
            self.retry = Some(pause);
            self.pace.mark_later(now + pause);
        }
        result
    }

    async fn pass_over(&mut self, dirty: Dirty) -> anyhow::Result<Passed> {
        let lease = self.own.clone().context("this node has no lease")?;
        let facts = self.facts().await?;
        let plan = self.plan(&lease, &facts)?;
        self.complain(&plan);

        let Plan { desired, mtu, .. } = plan;
        let scope = if dirty.everything {
            Scope::full(&desired, self.setup.former.iter().copied())
        } else {
            let mut keys = self.planned.changed_keys(&desired);
            keys.extend(dirty.objects);
            Scope::Keys(desired.closure(&keys))
        };
        let (goal, links) = (desired.clone(), desired.links.clone());
        let (report, indexes) = self
            .kernel
            .run(move |kernel| {
                let report = pass::run(kernel, &goal, &scope);
                (report, kernel.indexes_of(links.keys()))
            })
            .await?;
        let report = report.context("looking at the kernel")?;
        self.interest
            .set_indexes(indexes.into_iter().chain([facts.uplink.index]));
        self.planned = desired;
        // Only what failed is looked at again, and it is said in words.
        self.dirty
            .objects
            .extend(report.failed.iter().map(|(change, _)| change.key()));
        Ok(Passed {
            lease,
            mtu,
            peers: self.peers.len(),
            changed: report.changed,
            failed: report
                .failed
                .iter()
                .map(|(c, e)| format!("{c}: {e}"))
                .collect(),
        })
    }

    /// Reads what the plan depends on besides leases.
    async fn facts(&self) -> anyhow::Result<Facts> {
        let uplink = self.setup.uplink;
        let peers: Vec<IpAddr> = if self.setup.vxlan.direct_routing {
            let leases = self.peers.values();
            leases.flat_map(|l| l.public.iter().map(|(_, ip)| *ip)).collect()
        } else {
            Vec::new()
        };
        let macs = self.setup.macs;
        let facts = self
            .kernel
            .run(move |kernel| {
                let uplink = kernel.uplink(uplink)?;
                let socket = kernel.socket();
                let direct = facts::direct(peers, |peer| {
                    facts::path_if_any(socket, peer)
                })?;
                let caps = Caps { nexthop_objects: kernel.nexthop_objects() };
                Ok::<_, KernelError>(Facts { uplink, macs, direct, caps })
            })
            .await?;
        facts.with_context(|| format!("looking at the interface {uplink}"))
    }

    fn plan(&self, lease: &Lease, facts: &Facts) -> anyhow::Result<Plan> {
        let node = Node { key: lease.key, public: self.setup.public };
        let Setup { conf, vxlan: options, .. } = &self.setup;
        Ok(vxlan::plan(&node, facts, conf, options, &self.peers)?)
    }

    /// Logs what a person should know, once while it lasts.
    fn complain(&mut self, plan: &Plan) {
        let skipped = plan.skipped.iter().map(ToString::to_string);
        let now: BTreeSet<_> =
            skipped.chain(plan.warnings.iter().cloned()).collect();
        for text in now.difference(&self.said) {
            tracing::warn!("{text}");
        }
        self.said = now;
    }
}
