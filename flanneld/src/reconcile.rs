//! The loop's middle: what the store and the kernel say goes in, passes come
//! out. An event only marks something dirty; truth is the difference between
//! the plan and what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::NetConf;
use ipam::netconf::backend::VxlanOptions;
use ipam::{PerFamily, Subnet};
use overlay::{
    Caps, Change, Desired, Facts, IfName, Key, Mac, Node, Plan, Scope, vxlan,
};

use crate::facts::{self, FollowError, InterfaceOptions, Uplink};
use crate::monitor::{Disturbance, Underlay};
use crate::pace::Pace;
use crate::pass::{self, Extent, Report};
use crate::recent::Recent;
use crate::repairs::{Kind, Repair};
use crate::store::StoreEvent;
use crate::worker::Worker;
use crate::world::{Kernel, KernelError};

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

    /// Runs a pass over what is dirty.
    ///
    /// # Errors
    /// When nothing could be planned or looked at; what is in the kernel
    /// stays, and another pass is due later.
    pub async fn pass(&mut self) -> anyhow::Result<Passed> {
        let dirty = std::mem::take(&mut self.dirty);
        let Dirty { everything, told, since, .. } = dirty;
        let mut result = self.pass_over(dirty).await;
        let now = Instant::now();
        self.pace.passed(now);
        let (complete, mended) = match &result {
            Ok(passed) => {
                let own = passed.failed.is_empty();
                let complete = own && passed.refused.words.is_empty();
                (complete, !passed.mended.is_empty())
            }
            Err(_) => (false, false),
        };
        if complete {
            if let Ok(passed) = &mut result
                && passed.changed > 0
            {
                passed.since_event = since.map(|at| now - at);
            }
            self.retry = None;
            // What only adds has removed nothing yet.
            if !self.remembered {
                self.setup.former = Former::default();
            }
        } else {
            // What failed is known by its keys, but for what is left of
            // earlier configurations.
            self.dirty.everything |=
                result.is_err() || (everything && !self.is_clean());
            self.dirty.since = since;
            self.try_again(now);
        }
        // What fails may cause the notification that leads to it.
        if mended || told && !complete {
            self.pace.repaired(now);
        }
        if mended {
            self.warn_of_fight(now);
        }
        result
    }

    async fn pass_over(&mut self, dirty: Dirty) -> anyhow::Result<Passed> {
        let lease = self.own.clone().context("this node has no lease")?;
        let missed = self.missed.is_some();
        let (facts, lacks) = self.facts().await?;
        // All the time it was away anything may have become of the rest.
        let back = missed && lacks.is_none();
        let plan = self.plan(&lease, &facts)?;
        self.complain(&plan);

        let Plan { mut desired, mtu, .. } = plan;
        let Former { devices, networks } = &self.setup.former;
        desired.networks.extend(networks);
        let first = *self.planned == Desired::default();
        // What there is a reason to change in the plan: the rest is repair.
        let news = if first {
            BTreeSet::new()
        } else {
            let mut keys = self.planned.changed_keys(&desired);
            keys.extend(dirty.failed);
            desired.closure(&keys)
        };
        let same_lease = self.planned_for == Some(lease.key);
        let scope = if dirty.everything || back || !same_lease {
            Scope::full(&desired, devices.iter().copied())
        } else {
            let mut keys = desired.closure(&dirty.disturbed);
            keys.extend(dirty.alone);
            keys.extend(&news);
            // The devices of others are not looked at, let alone changed.
            let ours = |link| desired.links.contains_key(&link);
            keys.retain(|key| key.link().is_none_or(ours));
            Scope::Keys(keys)
        };
        let looked = match &scope {
            Scope::Full(_) => None,
            Scope::Keys(keys) => Some(keys.len()),
        };
        let desired = Arc::new(desired);
        let goal = Arc::clone(&desired);
        let extent =
            if self.remembered { Extent::AddOnly } else { Extent::Whole };
        let Setup { blackhole, .. } = self.setup;
        let subnets = lease.key.subnets().iter().map(|(_, subnet)| *subnet);
        let subnets: BTreeSet<_> = subnets.filter(|_| blackhole).collect();
        let whole = !self.remembered;
        let run = move |kernel: &mut Kernel| {
            let besides = Kernel::settle_settings(&goal, &scope);
            let mut report = pass::run(kernel, &goal, &scope, extent)?;
            // The kernel tells of a device's entries before it tells that the
            // device is deleted: it is made anew with them at once.
            let gone = gone(&report, &goal);
            if !gone.is_empty() {
                let keys = goal.closure(&gone);
                let scope = Scope::Keys(keys.clone());
                let next = pass::run(kernel, &goal, &scope, extent)?;
                report.follow(next, &keys);
            }
            let holes = if whole {
                kernel.settle_blackholes(&subnets, &scope)
            } else {
                Ok(Vec::new())
            };
            let renamed = kernel.take_renamed();
            Ok::<_, KernelError>((report, besides, renamed, holes))
        };
        let (report, mut besides, renamed, holes) =
            self.kernel.run(run).await?.context("looking at the kernel")?;
        // What is a repair is said with the repairs.
        let planned = |change: &&Change| first || news.contains(&change.key());
        let replaced = report.changed.iter().filter(planned);
        let unsaid = renamed.iter().filter(|_| first || !same_lease);
        let unsaid = unsaid.map(|repair| repair.text.clone());
        for text in replaced.filter_map(Change::warning).chain(unsaid) {
            tracing::warn!("{text}");
        }
        besides.extend(renamed);
        let trouble = holes.map(|repairs| besides.extend(repairs)).err();
        // these are known by no key
        self.dirty.everything |= trouble.is_some();
        self.planned = desired;
        self.planned_for = Some(lease.key);
        // It is looked at again, and said in words.
        let failed = report.failed.iter().map(|(change, _)| change.key());
        self.dirty.failed.extend(failed);
        let (own, of_peers): (Vec<_>, Vec<_>) =
            report.failed.iter().partition(|(change, _)| {
                matches!(change.key(), Key::Link(_) | Key::Addr(..))
            });
        let words = |(c, e): &(Change, KernelError)| format!("{c}: {e}");
        let refused = Refused {
            peers: self.without(of_peers.iter().map(|(change, _)| change)),
            words: of_peers.into_iter().map(words).collect(),
        };
        Ok(Passed {
            lease,
            mtu,
            peers: self.peers.len(),
            refused,
            changed: report.changed.len() + besides.len(),
            kinds: kinds(&report.changed, &besides),
            since_event: None,
            looked,
            failed: own
                .into_iter()
                .map(words)
                .chain(trouble.map(|e| e.to_string()))
                .chain(lacks)
                .collect(),
            mended: if first {
                Vec::new()
            } else {
                besides.retain(|_| same_lease);
                let mut mended = Repair::among(&report.changed, &news);
                mended.append(&mut besides);
                mended
            },
        })
    }

    /// Reads what the plan depends on besides leases. With it, what is not
    /// there of the interface's addresses: the plan is made as if it were, so
    /// that the other family's peers are kept.
    async fn facts(&mut self) -> anyhow::Result<(Facts, Option<String>)> {
        let peers: Vec<IpAddr> = if self.setup.vxlan.direct_routing {
            let leases = self.peers.values();
            leases.flat_map(|l| l.public.iter().map(|(_, ip)| *ip)).collect()
        } else {
            Vec::new()
        };
        let Setup { uplink, interface, macs, .. } = self.setup.clone();
        let name = uplink.name;
        let now = Instant::now();
        let missed = self.missed.map(|since| now - since);
        let patience = missed.is_none_or(|missed| missed < PATIENCE);
        let look = move |kernel: &mut Kernel| {
            let (uplink, chosen, lacks) =
                look(kernel, uplink, &interface, patience)?;
            let socket = kernel.socket();
            let direct =
                facts::direct(peers, |peer| facts::path_if_any(socket, peer))?;
            let caps = Caps { nexthop_objects: kernel.nexthop_objects() };
            let facts = Facts { uplink, macs, direct, caps };
            anyhow::Ok((facts, chosen, lacks))
        };
        let looked = self.kernel.run(look).await?;
        let Setup { ways, vxlan, underlay, .. } = &self.setup;
        let whole = matches!(looked, Ok((_, _, None)));
        if !whole {
            self.missed.get_or_insert(now);
            // Any interface or address may be the one that is waited for.
            ways.store(true, Ordering::Relaxed);
        }
        let at = || format!("looking at the interface {name}");
        let (facts, chosen, lacks) = looked.with_context(at)?;
        underlay.set(chosen.index, chosen.name);
        if whole {
            ways.store(vxlan.direct_routing, Ordering::Relaxed);
            self.missed = None;
        }
        if (chosen.index, chosen.name, chosen.public)
            != (self.setup.uplink.index, name, self.setup.uplink.public)
        {
            let text = format!("the underlay is another one: {chosen}");
            if chosen.index != self.setup.uplink.index && chosen.name != name {
                tracing::warn!("{text}");
            } else {
                tracing::info!("{text}");
            }
            self.setup.recent.add(SystemTime::now(), "underlay", &text);
        }
        self.setup.uplink = chosen;
        Ok((facts, lacks.map(|why| format!("{}: {why}", at()))))
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

    fn plan(&self, lease: &Lease, facts: &Facts) -> anyhow::Result<Plan> {
        let node = Node { key: lease.key, public: self.setup.uplink.public };
        let Setup { conf, vxlan: options, .. } = &self.setup;
        Ok(vxlan::plan(&node, facts, conf, options, &self.peers)?)
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

// === impl Refused ===

impl Refused {
    /// Whether more of the `peers` cannot be reached than can, of several.
    #[must_use]
    pub const fn is_most(&self, peers: usize) -> bool {
        self.peers > 1 && self.peers * 2 > peers
    }
}

/// Our devices that went away before something could be set on them.
fn gone(report: &Report<KernelError>, desired: &Desired) -> BTreeSet<Key> {
    let without_device = |(change, error): &(Change, KernelError)| {
        let link = change.key().link().filter(|_| !change.is_removal())?;
        let gone = match error {
            KernelError::NoDevice(_) => true,
            KernelError::Netlink(error) => error.is_not_found(),
            KernelError::RouteTaken(_)
            | KernelError::VniTaken { .. }
            | KernelError::Kind(_) => false,
        };
        let ours = desired.links.contains_key(&link);
        (gone && ours).then_some(Key::Link(link))
    };
    report.failed.iter().filter_map(without_device).collect()
}

fn kinds(changed: &[Change], besides: &[Repair]) -> BTreeMap<Kind, u64> {
    let changed = changed.iter().map(|change| Kind::of(&change.key()));
    let mut kinds = BTreeMap::new();
    for kind in changed.chain(besides.iter().map(|repair| repair.kind)) {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// The chosen interface as it is now, for the plan; the choice, which changes
/// with the interfaces and addresses of the host; and what it lacks, while
/// the interface is there and nothing else in its place.
fn look(
    kernel: &mut Kernel,
    chosen: Uplink,
    options: &InterfaceOptions,
    patience: bool,
) -> anyhow::Result<(overlay::Uplink, Uplink, Option<FollowError>)> {
    if let Some((uplink, own)) = kernel.uplink(chosen.index)?
        && uplink.name == chosen.name
        && chosen.is_whole(&own)
    {
        return Ok((uplink, chosen, None));
    }
    let socket = kernel.socket();
    let view = facts::read(socket)?;
    let lookup = |to| facts::path_to(socket, to);
    let (chosen, lacks) = match chosen.follow(&view, options, patience, lookup)
    {
        Ok(chosen) => (chosen, None),
        Err(error) if error.has_interface() => (chosen, Some(error)),
        Err(error) => return Err(error.into()),
    };
    match kernel.uplink(chosen.index)? {
        Some((uplink, _)) => Ok((uplink, chosen, lacks)),
        None => Err(KernelError::NoDevice(chosen.name).into()),
    }
}
