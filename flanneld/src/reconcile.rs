//! The loop's middle: what the store and the kernel say goes in, passes come
//! out. An event only marks something dirty; truth is the difference between
//! the plan and what is there.

mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::NetConf;
use ipam::netconf::backend::VxlanOptions;
use ipam::{PerFamily, Subnet};
use overlay::{Change, Desired, IfName, Key, Mac, vxlan};

use self::turn::UnderWay;
pub use self::turn::{STUCK, stuck, until};
use crate::facts::{InterfaceOptions, Uplink};
use crate::monitor::{Disturbance, Underlay};
use crate::pace::Pace;
use crate::recent::Recent;
use crate::repairs::{Kind, Repair};
use crate::store::StoreEvent;
use crate::worker::Worker;
use crate::world::Kernel;

#[cfg(test)]
mod tests;

/// What failed is tried again after this, and after twice as long each time …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … but not longer.
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// So long an interface that has lost its address may get it back, before
/// another interface is taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What this node is. But for the underlay interface and what can be changed
/// of the configuration it stays the same while the daemon runs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The network configuration.
    pub conf: NetConf,
    /// Its backend's options.
    pub vxlan: VxlanOptions,
    /// The underlay interface, and the addresses that are published.
    pub uplink: Uplink,
    /// Shared with the monitor, see [`crate::monitor::Interest::ways`].
    pub ways: Arc<AtomicBool>,
    /// The same of the interface.
    pub underlay: Underlay,
    /// Where it is told when that is another one.
    pub recent: Recent,
    /// How it was chosen.
    pub interface: InterfaceOptions,
    /// The Ethernet addresses of the tunnel devices.
    pub macs: PerFamily<Mac>,
    /// What earlier configurations had, to be removed.
    pub former: Former,
    /// Whether the own subnets get a blackhole route (C-130).
    pub blackhole: bool,
}

/// What may be left of earlier configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    /// Devices.
    pub devices: BTreeSet<IfName>,
    /// Networks: routes of ours into them, and addresses on our devices.
    pub networks: BTreeSet<Subnet>,
}

/// Keeps the kernel as the leases want it.
#[derive(Debug)]
pub struct Reconciler {
    setup: Setup,
    kernel: Worker<Kernel>,
    own: Option<Lease>,
    /// The other nodes' leases: what the store said, and nothing else.
    peers: Arc<BTreeMap<SubnetKey, LeaseAttrs>>,
    synced: bool,
    /// The lease is remembered from the last run, not told by the store.
    remembered: bool,
    /// What the last pass planned; nothing before the first.
    planned: Arc<Desired>,
    /// The own lease it was planned for.
    planned_for: Option<SubnetKey>,
    dirty: Dirty,
    under_way: Option<UnderWay>,
    pace: Pace,
    retry: Option<Duration>,
    /// Since when the underlay interface is not as it was chosen, and there
    /// is no other.
    missed: Option<Instant>,
    /// Somebody else changes the same objects again and again.
    fought: bool,
    /// What was said about peers and the plan: not said again.
    said: BTreeSet<String>,
}

/// What the next pass looks at besides what the plan changes.
#[derive(Debug, Default)]
struct Dirty {
    everything: bool,
    /// What others have changed, or may have.
    disturbed: BTreeSet<Key>,
    /// The same, with nothing that stands on it.
    alone: BTreeSet<Key>,
    /// What could not be changed in the last pass.
    failed: BTreeSet<Key>,
    /// The kernel has told of something.
    told: bool,
    /// A person has asked for the pass.
    asked: bool,
    /// When the store or the kernel first told of what is not in the kernel
    /// yet.
    since: Option<Instant>,
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
    /// A person has asked for it.
    pub asked: bool,
    /// Changes made.
    pub changed: usize,
    /// The same by kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// From the first event that the pass was for to its end. Only of a
    /// complete pass that changed something: an event that one leaves undone
    /// waits for the next, and one that there is nothing to do for, such as
    /// the echo of an own change, waits for quiet.
    pub since_event: Option<Duration>,
    /// Objects looked at; `None` for all there are.
    pub looked: Option<usize>,
    /// What nothing but a foreign hand made necessary.
    pub mended: Vec<Repair>,
    /// What failed of the node's own: nothing when pods have their network.
    pub failed: Vec<String>,
    /// What failed of single peers'.
    pub refused: Refused,
}

/// What the kernel refuses of what leads to the other nodes, or of what is
/// left of one that is gone: the others are not touched by that (W-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Nodes that cannot be reached for that.
    pub peers: usize,
    /// What failed, in words.
    pub words: Vec<String>,
}

// === impl Reconciler ===

impl Reconciler {
    /// Nothing is done before the store has told the own lease and all others.
    #[must_use]
    pub fn new(setup: Setup, kernel: Worker<Kernel>) -> Self {
        Self {
            setup,
            kernel,
            own: None,
            peers: Arc::default(),
            synced: false,
            remembered: false,
            planned: Arc::default(),
            planned_for: None,
            dirty: Dirty { everything: true, ..Dirty::default() },
            under_way: None,
            pace: Pace::default(),
            retry: None,
            missed: None,
            fought: false,
            said: BTreeSet::new(),
        }
    }

    /// What was known at the last run, to go on with until the store answers.
    /// Until it has confirmed the lease, passes only add what is missing.
    pub fn remember(
        &mut self,
        lease: Lease,
        peers: BTreeMap<SubnetKey, LeaseAttrs>,
        now: Instant,
    ) {
        self.own = Some(lease);
        self.peers = Arc::new(peers);
        self.synced = true;
        self.remembered = true;
        self.mark(now);
    }

    /// The other nodes' leases, as the store told them; `None` while it has
    /// not.
    #[must_use]
    pub fn peers(&self) -> Option<&BTreeMap<SubnetKey, LeaseAttrs>> {
        (self.synced && !self.remembered).then_some(&self.peers)
    }

    /// Plans by another configuration from now on: one that differs in nothing
    /// that stands for the life of the daemon.
    pub fn reconfigure(
        &mut self,
        conf: NetConf,
        vxlan: VxlanOptions,
        now: Instant,
    ) {
        let any = vxlan.direct_routing || self.missed.is_some();
        self.setup.ways.store(any, Ordering::Relaxed);
        self.setup.conf = conf;
        self.setup.vxlan = vxlan;
        self.mark_everything(now);
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
                let peers = Arc::make_mut(&mut self.peers);
                let old = peers.insert(key, attrs);
                old.as_ref() != peers.get(&key)
            }
            StoreEvent::Remove(key) => {
                Arc::make_mut(&mut self.peers).remove(&key).is_some()
            }
            StoreEvent::Held(held) => {
                let lease = Some(held.lease);
                let other = self.own != lease;
                self.own = lease;
                // what only added is followed by what also removes
                let confirmed = std::mem::take(&mut self.remembered);
                self.dirty.everything |= confirmed;
                other || confirmed
            }
            // What is in the kernel stays until there is another lease.
            StoreEvent::Lost { .. } => false,
        };
        if news {
            self.mark(now);
            self.event(now);
        }
    }

    /// Whether nothing is left of earlier configurations.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.setup.former == Former::default()
    }

    /// How many other nodes are known.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// The lease that the store has given this node.
    #[must_use]
    pub fn lease(&self) -> Option<SubnetKey> {
        self.own.as_ref().map(|lease| lease.key)
    }

    /// What this node publishes.
    ///
    /// # Errors
    /// None in practice, see [`vxlan::lease_attrs`].
    pub fn attrs(&self) -> serde_json::Result<LeaseAttrs> {
        let Setup { uplink, macs, vxlan: options, .. } = &self.setup;
        vxlan::lease_attrs(&uplink.public, macs, options.vni)
    }

    /// The kernel was changed by somebody else, or by this daemon in a way
    /// that notifications do not tell apart.
    pub fn disturbed(&mut self, what: Disturbance, now: Instant) {
        match what {
            Disturbance::Everything => self.dirty.everything = true,
            // then it is looked at anyway
            Disturbance::Object(_) | Disturbance::Alone(_)
                if self.dirty.everything => {}
            Disturbance::Object(key) => {
                self.dirty.disturbed.insert(key);
            }
            Disturbance::Alone(key) => {
                self.dirty.alone.insert(key);
            }
            // each pass asks for the ways to all peers
            Disturbance::Ways => {}
            // what goes with the underlay's may go with any other device
            Disturbance::Direct => {
                let uplink = self.setup.uplink.name;
                self.dirty.disturbed.insert(Key::Link(uplink));
            }
        }
        self.dirty.told = true;
        if self.can_pass() {
            self.pace.disturbed(now);
        }
        self.event(now);
    }

    /// Everything is to be looked at.
    pub fn mark_everything(&mut self, now: Instant) {
        self.dirty.everything = true;
        self.mark(now);
    }

    /// The same, and a person has asked for it.
    pub fn asked(&mut self, now: Instant) {
        self.dirty.asked = true;
        self.mark_everything(now);
    }

    /// What comes before there is anything to do a pass by is no storm: the
    /// first pass does not wait for it to be over.
    fn mark(&mut self, now: Instant) {
        if self.can_pass() {
            self.pace.mark(now);
        }
    }

    /// What came before there was anything to do a pass by is not measured.
    fn event(&mut self, now: Instant) {
        if self.can_pass() {
            self.dirty.since.get_or_insert(now);
        }
    }

    const fn can_pass(&self) -> bool {
        self.own.is_some() && self.synced
    }

    /// When the next pass is due; `None` while there is nothing to do, or
    /// nothing known to do it by.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Another pass is due after a while, and after longer each time.
    pub fn try_again(&mut self, now: Instant) {
        let pause =
            self.retry.map_or(RETRY_FIRST, |p| (p * 2).min(RETRY_LONGEST));
        self.retry = Some(pause);
        self.pace.mark_later(now + pause);
        // The end of patience is not slept through.
        let end = self.missed.map(|since| since + PATIENCE);
        if let Some(end) = end.filter(|end| *end > now) {
            self.pace.mark_later(end);
        }
    }

    /// How many peers are without something that could not be changed.
    fn without<'a>(&self, failed: impl Iterator<Item = &'a Change>) -> usize {
        let keys: BTreeSet<Key> =
            failed.filter(|c| !c.is_removal()).map(Change::key).collect();
        if keys.is_empty() {
            return 0;
        }
        let mut bases = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for key in keys {
            match key {
                Key::Route(key) => {
                    bases.insert(key.dst.base());
                }
                Key::Neigh(key) => {
                    bases.insert(key.ip);
                }
                Key::Fdb(key) => {
                    macs.insert(key.mac);
                }
                // a route that needs it fails as well
                Key::Nexthop(_) | Key::Link(_) | Key::Addr(..) => {}
            }
        }
        let lacks = |(key, attrs): &(&SubnetKey, &LeaseAttrs)| {
            let mut subnets = key.subnets().iter();
            let mut data = attrs.data.iter();
            subnets.any(|(_, subnet)| bases.contains(&subnet.base()))
                || data.any(|(_, data)| {
                    vxlan::mac_of(data).is_ok_and(|mac| macs.contains(&mac))
                })
        };
        self.peers.iter().filter(lacks).count()
    }

    /// Says when somebody breaks without end what is mended.
    fn warn_of_fight(&mut self, now: Instant) {
        let fought = self.pace.is_fight(now);
        if fought && !self.fought {
            tracing::warn!(
                "something on this node changes again and again what \
                 flanneld sets, which mends it once a second at most: look \
                 for another flanneld with the same VNI, or a network manager \
                 that takes flannel's devices for its own"
            );
        }
        self.fought = fought;
    }
}

// === impl Refused ===

impl Refused {
    /// Whether more of the `peers` cannot be reached than can, of several.
    #[must_use]
    pub const fn is_most(&self, peers: usize) -> bool {
        self.peers > 1 && self.peers * 2 > peers
    }
}
