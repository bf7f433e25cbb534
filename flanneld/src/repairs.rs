//! What was put right after somebody else had changed it: counted by kind and
//! cause, said once, kept among the recent events.
//!
//! A change is a repair when the plan did not ask for it: what is to be there
//! was there before, and is not any more. What stood on a device that had to
//! be repaired goes with the device, and is not counted by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use overlay::{Change, IfName, Key, LinkKind};

use crate::recent::Recent;

#[cfg(test)]
mod tests;

/// Of one kind and cause, so many are told one by one …
const ONE_BY_ONE: usize = 4;
/// … and so many lines are written in …
const LINES: u32 = 30;
/// … this long, so that two programs that fight do not fill the log.
const WINDOW: Duration = Duration::from_secs(60);

/// What was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A device.
    Link,
    /// An address on a device of ours.
    Address,
    /// A forwarding entry.
    ForwardingEntry,
    /// A neighbour entry.
    Neighbour,
    /// A nexthop object.
    Nexthop,
    /// A route.
    Route,
    /// A kernel setting of a device of ours.
    Sysctl,
    /// A chain of traffic rules in nftables.
    Nftables,
    /// The same in iptables.
    Iptables,
    /// `subnet.env`.
    SubnetFile,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It was not there.
    Missing,
    /// It was otherwise.
    Altered,
    /// It was there and should not be.
    Surplus,
    /// Something else had its name.
    Foreign,
}

/// One thing that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What.
    pub kind: Kind,
    /// Why.
    pub cause: Cause,
    /// What was found, in words.
    pub text: String,
}

/// Repairs so far. Clones share one count.
#[derive(Clone, Debug)]
pub struct Repairs {
    counts: Arc<Mutex<BTreeMap<(Kind, Cause), u64>>>,
    said: Arc<Mutex<Said>>,
    recent: Recent,
}

/// Lines written in the present window.
#[derive(Debug, Default)]
struct Said {
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

// === impl Kind ===

impl Kind {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::ForwardingEntry => "fdb",
            Self::Neighbour => "neighbour",
            Self::Nexthop => "nexthop",
            Self::Route => "route",
            Self::Sysctl => "sysctl",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::SubnetFile => "subnet_file",
        }
    }

    /// That of a change to the object.
    #[must_use]
    pub const fn of(key: &Key) -> Self {
        match key {
            Key::Link(_) => Self::Link,
            Key::Addr(..) => Self::Address,
            Key::Fdb(_) => Self::ForwardingEntry,
            Key::Neigh(_) => Self::Neighbour,
            Key::Nexthop(_) => Self::Nexthop,
            Key::Route(_) => Self::Route,
        }
    }
}

// === impl Cause ===

impl Cause {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Surplus => "surplus",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

// === impl Repair ===

impl Repair {
    /// What a change that nobody planned has repaired.
    #[must_use]
    pub fn of(change: &Change) -> Self {
        let key = change.key();
        let cause = cause(change);
        let text = change.warning().unwrap_or_else(|| match cause {
            Cause::Missing => format!("{key} was missing: {change}"),
            Cause::Altered => format!("{key} was altered: {change}"),
            Cause::Surplus | Cause::Foreign => {
                format!("{key} is not flannel's: {change}")
            }
        });
        Self { kind: Kind::of(&key), cause, text }
    }

    /// The repairs among the changes of a pass: those that are not `planned`,
    /// and do not merely follow from a device's.
    #[must_use]
    pub fn among(done: &[Change], planned: &BTreeSet<Key>) -> Vec<Self> {
        let links: BTreeSet<IfName> =
            done.iter().filter_map(own_link).collect();
        done.iter()
            .filter(|change| !planned.contains(&change.key()))
            .filter(|change| {
                own_link(change).is_some()
                    || !stands_on(change).is_some_and(|l| links.contains(&l))
            })
            .map(Self::of)
            .collect()
    }
}

// === impl Repairs ===

impl Repairs {
    /// None so far; those to come are among `recent` as well.
    #[must_use]
    pub fn new(recent: Recent) -> Self {
        Self { counts: Arc::default(), said: Arc::default(), recent }
    }

    /// How many there were since the start, by kind and cause; only those
    /// that there were.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(Kind, Cause), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in what was repaired together.
    pub fn add(&self, repairs: &[Repair]) {
        let mut groups: BTreeMap<(Kind, Cause), Vec<&Repair>> = BTreeMap::new();
        for repair in repairs {
            let group = groups.entry((repair.kind, repair.cause));
            group.or_default().push(repair);
        }
        let mut counts =
            self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, members) in &groups {
            let n = u64::try_from(members.len()).unwrap_or(u64::MAX);
            let count = counts.entry(*group).or_default();
            *count = count.saturating_add(n);
        }
        drop(counts);
        for line in groups.iter().flat_map(|(g, members)| lines(*g, members)) {
            self.recent.add(SystemTime::now(), "repair", &line);
            self.say(&line, Instant::now());
        }
    }

    /// Says how many lines were left out, when that is over; to be called now
    /// and then.
    pub fn tick(&self, now: Instant) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unsaid) = said.new_window(now) {
            tracing::warn!(
                "{unsaid} more lines about repairs were left out: another \
                 program keeps changing what is flannel's; see /events on \
                 the health port"
            );
        }
    }

    fn say(&self, line: &str, now: Instant) {
        self.tick(now);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.take() {
            tracing::warn!("repaired: {line}");
        } else {
            tracing::debug!("repaired: {line}");
        }
    }
}

// === impl Said ===

impl Said {
    /// Begins a window when the last one is over. How many lines that one has
    /// left out, if any.
    fn new_window(&mut self, now: Instant) -> Option<u64> {
        let over = self.since.is_none_or(|since| now >= since + WINDOW);
        if !over {
            return None;
        }
        let unsaid = self.unsaid;
        *self = Self { since: Some(now), lines: 0, unsaid: 0 };
        (unsaid > 0).then_some(unsaid)
    }

    /// Whether there is room for a line.
    fn take(&mut self) -> bool {
        if self.lines < LINES {
            self.lines += 1;
            return true;
        }
        self.unsaid += 1;
        false
    }
}

/// A few are told one by one, many in one line.
fn lines((kind, cause): (Kind, Cause), members: &[&Repair]) -> Vec<String> {
    let (first, rest) = members.split_at(members.len().min(ONE_BY_ONE));
    if rest.is_empty() {
        return first.iter().map(|repair| repair.text.clone()).collect();
    }
    let first = first.first().map_or("", |repair| repair.text.as_str());
    let (all, kind) = (members.len(), kind.label());
    vec![format!("{all} objects ({kind}, {cause}), the first: {first}")]
}

fn cause(change: &Change) -> Cause {
    let altered = |before: bool| {
        if before { Cause::Altered } else { Cause::Missing }
    };
    match change {
        Change::CreateLink { .. } | Change::AddAddr { .. } => Cause::Missing,
        Change::ModifyLink { .. } => Cause::Altered,
        Change::ReplaceLink { before, .. } => match before.kind {
            LinkKind::Other(_) => Cause::Foreign,
            LinkKind::Vxlan(_) => Cause::Altered,
        },
        Change::SetFdb { before, .. } => altered(before.is_some()),
        Change::SetNeigh { before, .. } => altered(before.is_some()),
        Change::SetNexthop { before, .. } => altered(before.is_some()),
        Change::SetRoute { before, .. } => altered(before.is_some()),
        Change::DeleteLink { .. }
        | Change::DeleteAddr { .. }
        | Change::DeleteFdb { .. }
        | Change::DeleteNeigh { .. }
        | Change::DeleteNexthop { .. }
        | Change::DeleteRoute { .. } => Cause::Surplus,
    }
}

const fn own_link(change: &Change) -> Option<IfName> {
    match change.key() {
        Key::Link(name) => Some(name),
        Key::Addr(..)
        | Key::Fdb(_)
        | Key::Neigh(_)
        | Key::Nexthop(_)
        | Key::Route(_) => None,
    }
}

/// The device that the changed object stands on.
const fn stands_on(change: &Change) -> Option<IfName> {
    if let Change::SetNexthop { after, .. } = change {
        after.link
    } else if let Change::DeleteNexthop { before, .. } = change {
        before.link
    } else if let Change::SetRoute { after, .. } = change {
        after.link
    } else if let Change::DeleteRoute { before, .. } = change {
        before.link
    } else {
        change.key().link()
    }
}
