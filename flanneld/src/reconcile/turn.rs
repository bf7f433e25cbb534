//! A pass, from what is dirty to what was done. The kernel's thread reads the
//! facts, makes the plan and carries it out: it may stand still for as long as
//! another program holds the kernel's network lock, and the loop goes on
//! hearing, and telling, meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use overlay::{Caps, Change, Desired, Facts, Key, Node, Plan, Scope, vxlan};

use super::{Dirty, Former, PATIENCE, Passed, Reconciler, Refused, Setup};
use crate::facts::{self, FollowError, InterfaceOptions, Uplink};
use crate::pass::{self, Extent, Report};
use crate::repairs::{Kind, Repair};
use crate::worker::Answer;
use crate::world::{Kernel, KernelError};

/// A pass takes milliseconds, and among thousands of peers a part of a second.
/// One that takes so long waits for the kernel.
pub const STUCK: Duration = Duration::from_secs(30);

/// That in words.
#[must_use]
pub fn stuck() -> String {
    format!(
        "the kernel has not answered for {} s: it hangs, or another program \
         holds its network lock",
        STUCK.as_secs()
    )
}

/// The pass that has begun.
#[derive(Debug)]
pub(super) struct UnderWay {
    begun: Instant,
    lease: Lease,
    everything: bool,
    told: bool,
    asked: bool,
    since: Option<Instant>,
    /// It only adds.
    remembered: bool,
    answer: Answer<anyhow::Result<Done>>,
}

/// A pass as the kernel's thread is given it.
struct Task {
    lease: Lease,
    setup: Setup,
    peers: Arc<BTreeMap<SubnetKey, LeaseAttrs>>,
    dirty: Dirty,
    planned: Arc<Desired>,
    same_lease: bool,
    /// For how long the underlay interface has not been as it was chosen.
    missed: Option<Duration>,
    extent: Extent,
}

/// What became of it, once the facts were read.
#[derive(Debug)]
struct Done {
    /// The choice of the underlay, which changes with the interfaces and
    /// addresses of the host, …
    chosen: Uplink,
    /// … and what it lacks. The plan was made as if that were there, so that
    /// the other family's peers are kept.
    lacks: Option<String>,
    /// What a person should know of the plan, if there is one.
    complaints: Option<BTreeSet<String>>,
    carried: anyhow::Result<Carried>,
}

/// A plan that was carried out.
#[derive(Debug)]
struct Carried {
    desired: Arc<Desired>,
    mtu: u32,
    /// What there was a reason to change in it: the rest is repair.
    news: BTreeSet<Key>,
    looked: Option<usize>,
    report: Report<KernelError>,
    /// What was put right besides, …
    besides: Vec<Repair>,
    /// … what was renamed, …
    renamed: Vec<Repair>,
    /// … and the blackhole routes.
    holes: Result<Vec<Repair>, KernelError>,
}

// === impl Reconciler ===

impl Reconciler {
    /// Waits until a pass is due, and runs it over what is dirty by then. A
    /// caller that drops this before its end finds the pass where it is with
    /// another call; what is heard meanwhile is for the next one.
    ///
    /// # Errors
    /// When nothing could be planned or looked at; what is in the kernel
    /// stays, and another pass is due later.
    pub async fn pass(&mut self) -> anyhow::Result<Passed> {
        loop {
            let Some(UnderWay { answer, .. }) = &mut self.under_way else {
                until(self.due()).await;
                self.begin()?;
                continue;
            };
            let done = answer.get().await.map_err(Into::into).flatten();
            if let Some(pass) = self.under_way.take() {
                return self.end(pass, done);
            }
        }
    }

    /// When the pass under way, if there is one, has taken too long.
    #[must_use]
    pub fn stuck_at(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|pass| pass.begun + STUCK)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.pace.begun(begun);
        let lease = self.own.clone().context("this node has no lease")?;
        let dirty = std::mem::take(&mut self.dirty);
        let Dirty { everything, told, asked, since, .. } = dirty;
        let remembered = self.remembered;
        let task = Task {
            lease: lease.clone(),
            setup: self.setup.clone(),
            peers: Arc::clone(&self.peers),
            dirty,
            planned: Arc::clone(&self.planned),
            same_lease: self.planned_for == Some(lease.key),
            missed: self.missed.map(|since| begun - since),
            extent: if remembered { Extent::AddOnly } else { Extent::Whole },
        };
        self.under_way = Some(UnderWay {
            begun,
            lease,
            everything,
            told,
            asked,
            since,
            remembered,
            answer: self.kernel.ask(|kernel| task.run(kernel)),
        });
        Ok(())
    }

    fn end(
        &mut self,
        pass: UnderWay,
        done: anyhow::Result<Done>,
    ) -> anyhow::Result<Passed> {
        self.found(&done);
        let mut result = done.and_then(|done| self.carried(&pass, done));
        let now = Instant::now();
        self.pace.passed(now);
        let UnderWay { everything, told, since, remembered, .. } = pass;
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
            if !remembered {
                self.setup.former = Former::default();
            }
        } else {
            // What failed is known by its keys, but for what is left of
            // earlier configurations.
            self.dirty.everything |=
                result.is_err() || (everything && !self.is_clean());
            self.dirty.since = since.or(self.dirty.since);
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

    /// Takes in what was read of the underlay.
    fn found(&mut self, done: &anyhow::Result<Done>) {
        let Setup { ways, vxlan, underlay, uplink, recent, .. } = &self.setup;
        let whole = done.as_ref().is_ok_and(|done| done.lacks.is_none());
        if whole {
            ways.store(vxlan.direct_routing, Ordering::Relaxed);
            self.missed = None;
        } else {
            self.missed.get_or_insert_with(Instant::now);
            // Any interface or address may be the one that is waited for.
            ways.store(true, Ordering::Relaxed);
        }
        let Ok(Done { chosen, .. }) = done else { return };
        underlay.set(chosen.index, chosen.name);
        let Uplink { index, name, public, .. } = uplink;
        if (&chosen.index, &chosen.name, &chosen.public)
            != (index, name, public)
        {
            let text = format!("the underlay is another one: {chosen}");
            if chosen.index != *index && chosen.name != *name {
                tracing::warn!("{text}");
            } else {
                tracing::info!("{text}");
            }
            recent.add(SystemTime::now(), "underlay", &text);
        }
        self.setup.uplink = chosen.clone();
    }

    /// Says what was done, and keeps what is to be looked at again.
    fn carried(
        &mut self,
        pass: &UnderWay,
        done: Done,
    ) -> anyhow::Result<Passed> {
        let Done { lacks, complaints, carried, .. } = done;
        if let Some(complaints) = complaints {
            self.complain(complaints);
        }
        let Carried {
            desired,
            mtu,
            news,
            looked,
            report,
            mut besides,
            renamed,
            holes,
        } = carried?;
        let UnderWay { lease, asked, .. } = pass;
        let first = *self.planned == Desired::default();
        let same_lease = self.planned_for == Some(lease.key);
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
            lease: lease.clone(),
            asked: *asked,
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

    /// Logs what a person should know, once while it lasts.
    fn complain(&mut self, now: BTreeSet<String>) {
        for text in now.difference(&self.said) {
            tracing::warn!("{text}");
        }
        self.said = now;
    }
}

// === impl Task ===

impl Task {
    fn run(self, kernel: &mut Kernel) -> anyhow::Result<Done> {
        let name = self.setup.uplink.name;
        let at = || format!("looking at the interface {name}");
        let (facts, chosen, lacks) = self.look(kernel).with_context(at)?;
        let lacks = lacks.map(|why| format!("{}: {why}", at()));
        let mut complaints = None;
        let carried = self.plan(&facts, &chosen).and_then(|plan| {
            let skipped = plan.skipped.iter().map(ToString::to_string);
            let warnings = plan.warnings.iter().cloned();
            complaints = Some(skipped.chain(warnings).collect());
            self.carry_out(kernel, plan, lacks.is_none())
                .context("looking at the kernel")
        });
        Ok(Done { chosen, lacks, complaints, carried })
    }

    /// Reads what the plan depends on besides leases.
    fn look(
        &self,
        kernel: &mut Kernel,
    ) -> anyhow::Result<(Facts, Uplink, Option<FollowError>)> {
        let Setup { uplink, interface, macs, vxlan, .. } = &self.setup;
        let patience = self.missed.is_none_or(|missed| missed < PATIENCE);
        let (uplink, chosen, lacks) =
            look(kernel, uplink.clone(), interface, patience)?;
        let peers: Vec<IpAddr> = if vxlan.direct_routing {
            let leases = self.peers.values();
            leases.flat_map(|l| l.public.iter().map(|(_, ip)| *ip)).collect()
        } else {
            Vec::new()
        };
        let socket = kernel.socket();
        let direct =
            facts::direct(peers, |peer| facts::path_if_any(socket, peer))?;
        let caps = Caps { nexthop_objects: kernel.nexthop_objects() };
        let facts = Facts { uplink, macs: *macs, direct, caps };
        Ok((facts, chosen, lacks))
    }

    fn plan(&self, facts: &Facts, chosen: &Uplink) -> anyhow::Result<Plan> {
        let node = Node { key: self.lease.key, public: chosen.public };
        let Setup { conf, vxlan: options, .. } = &self.setup;
        Ok(vxlan::plan(&node, facts, conf, options, &self.peers)?)
    }

    /// `whole` tells that the underlay lacks nothing.
    fn carry_out(
        self,
        kernel: &mut Kernel,
        plan: Plan,
        whole: bool,
    ) -> Result<Carried, KernelError> {
        let Plan { mut desired, mtu, .. } = plan;
        let Former { devices, networks } = &self.setup.former;
        desired.networks.extend(networks);
        let news = if *self.planned == Desired::default() {
            BTreeSet::new()
        } else {
            let mut keys = self.planned.changed_keys(&desired);
            keys.extend(self.dirty.failed);
            desired.closure(&keys)
        };
        // Mostly it is the same again, and megabytes among thousands of peers.
        let desired = match *self.planned == desired {
            true => Arc::clone(&self.planned),
            false => Arc::new(desired),
        };
        // All the time it was away anything may have become of the rest.
        let back = self.missed.is_some() && whole;
        let scope = if self.dirty.everything || back || !self.same_lease {
            Scope::full(&desired, devices.iter().copied())
        } else {
            let mut keys = desired.closure(&self.dirty.disturbed);
            keys.extend(self.dirty.alone);
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
        let extent = self.extent;
        let besides = Kernel::settle_settings(&desired, &scope);
        let mut report = pass::run(kernel, &desired, &scope, extent)?;
        // The kernel tells of a device's entries before it tells that the
        // device is deleted: it is made anew with them at once.
        let gone = gone(&report, &desired);
        if !gone.is_empty() {
            let keys = desired.closure(&gone);
            let scope = Scope::Keys(keys.clone());
            let next = pass::run(kernel, &desired, &scope, extent)?;
            report.follow(next, &keys);
        }
        let holes = if extent == Extent::Whole {
            let subnets = self.lease.key.subnets();
            let subnets = subnets.iter().map(|(_, subnet)| *subnet);
            let blackhole = self.setup.blackhole;
            let subnets = subnets.filter(|_| blackhole).collect();
            kernel.settle_blackholes(&subnets, &scope)
        } else {
            Ok(Vec::new())
        };
        let renamed = kernel.take_renamed();
        Ok(Carried {
            desired,
            mtu,
            news,
            looked,
            report,
            besides,
            renamed,
            holes,
        })
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

/// Ends when `due` is there; never when it is not known. A timer's own
/// resolution of a millisecond would be most of the time from a peer's lease
/// to its route: what is due already does not wait for one.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(due) if due > Instant::now() => {
            tokio::time::sleep_until(due.into()).await;
        }
        Some(_) => {}
        None => std::future::pending().await,
    }
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
