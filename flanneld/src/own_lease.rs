//! The node's own lease as a state machine without I/O (design.md §3.7).
//!
//! ```text
//!            created, or taken over            checked against
//!  Acquire ─────────────────────────> Confirm ──────────────────> Hold <─┐
//!    ^  ^         an earlier lease       │    the watch            │ │   │
//!    │  └────────────────────────────────┘                         │ └───┘
//!    └─────────────────────────────────────────────────────────────┘ renewed,
//!            expired, deleted, taken by another node                 published
//! ```
//!
//! It is fed with the entries of the store, answers to its commands, and the
//! time; [`OwnLease::next`] says what to do. It never gives up: each failure
//! is a reason in [`OwnLease::reason`] and another attempt.
//!
//! - Each write is a transaction guarded by what was last seen of the key, so
//!   nothing of another node is ever overwritten (W-5, fencing of design.md
//!   §4), and one whose answer was lost can be repeated.
//! - Each write grants an etcd lease of its own, a reservation excepted
//!   (W-6). A key on an etcd lease granted here is ours whatever its value;
//!   leases granted in vain, or left by a renewal, are revoked once it is
//!   known that the key does not hang on them.
//! - A create is confirmed when the watch shows it: by then every earlier
//!   lease is known, and one that shares a subnet (which the key alone cannot
//!   tell in dual stack) is given way to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::SubnetRange;
use ipam::{PerFamily, Subnet};

use crate::store::{Entries, Entry, Held, LossReason};

mod acquire;
mod hold;
#[cfg(test)]
mod tests;

/// Lifetime asked of etcd for a lease (E-25).
pub const LEASE_TTL: Duration = Duration::from_secs(86_400);
/// Pause after a failed renewal (E-32).
const RETRY: Duration = Duration::from_secs(60);
/// Longest pause while acquiring.
const ACQUIRE_RETRY_MAX: Duration = Duration::from_secs(30);

/// What the lease is to be.
#[derive(Clone, Debug)]
pub struct Params {
    /// Where subnets of each enabled family come from.
    pub ranges: PerFamily<SubnetRange>,
    /// What is published.
    pub attrs: LeaseAttrs,
    /// The subnets of the previous run, from subnet.env (E-23).
    pub previous: PerFamily<Subnet>,
    /// Key and etcd lease of the previous run, from the state directory:
    /// recognises the own lease although the public address changed.
    pub recorded: Option<(SubnetKey, i64)>,
    /// How long before its expiry the lease is renewed (C-14).
    pub margin: Duration,
    /// Lifetime asked of etcd: [`LEASE_TTL`] but in tests.
    pub ttl: Duration,
}

/// What is to be done with the store. One at a time; each is answered by an
/// [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write the lease if the key is as expected.
    Write(Write),
    /// Read one key.
    Read(SubnetKey),
    /// Delete a key if it is as expected.
    Delete {
        /// The key.
        key: SubnetKey,
        /// What it must be.
        expect: Version,
    },
}

/// A guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key and value.
    pub lease: Lease,
    /// What the key must be.
    pub expect: Version,
    /// Lifetime of the etcd lease to grant and hang it on; `None` = none.
    pub ttl: Option<Duration>,
}

/// A key's state as a guard: nothing is written over, or deleted, that is
/// another. The etcd lease tells apart what has one revision in two stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The mod revision; 0 = there is no such key.
    pub mod_revision: i64,
    /// The etcd lease it hangs on; 0 = none.
    pub lease_id: i64,
}

/// The outcome of a [`Command`]. Entries of keys it tells of have been taken
/// into [`Entries`] before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write is done.
    Written {
        /// The revision it was done at.
        revision: i64,
        /// The etcd lease it hangs on and its lifetime; 0 without one.
        granted: Granted,
    },
    /// The guard of a write or deletion did not hold.
    Unexpected {
        /// What is there instead.
        current: Option<Entry>,
        /// The etcd lease granted in vain; 0 for none.
        granted: i64,
    },
    /// The key was read.
    Read {
        /// What is there.
        current: Option<Entry>,
    },
    /// The key was deleted.
    Deleted,
    /// It failed.
    Failed {
        /// Why, and what to do.
        reason: String,
        /// It may have been carried out all the same.
        ambiguous: bool,
        /// The etcd lease granted for it.
        granted: Granted,
    },
}

/// An etcd lease granted for a write. Its id is 0 if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The id.
    pub id: i64,
    /// The lifetime that etcd granted.
    pub ttl: Duration,
}

/// What there is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Carry this out.
    Do(Command),
    /// Nothing before that time; `None` = until something happens.
    Wait(Option<Duration>),
}

/// What happened to the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is held, or was renewed or changed.
    Held(Held),
    /// It is not ours any more.
    Lost {
        /// The subnets.
        key: SubnetKey,
        /// What happened.
        why: LossReason,
    },
    /// Something a person may want to know.
    Notice(String),
}

/// What was heard of the own key.
struct Heard {
    entry: Option<Entry>,
    revision: i64,
    reset: bool,
}

/// The state machine.
pub struct OwnLease {
    params: Params,
    random: Box<dyn FnMut(u64) -> u64 + Send>,
    state: State,
    /// The command under way and when it was given.
    asked: Option<(Command, Duration)>,
    /// What was heard of the own key while a command was under way.
    heard: Option<Heard>,
    /// etcd leases that are ours, with the time they end.
    grants: BTreeMap<i64, Duration>,
    /// Those that were.
    past: VecDeque<i64>,
    revoke: Vec<i64>,
    events: VecDeque<Event>,
    reason: Option<String>,
    told: BTreeSet<String>,
    /// The key last said to be held.
    announced: Option<SubnetKey>,
}

#[derive(Debug)]
enum State {
    /// A lease is looked for.
    Acquire(Acquire),
    /// A write of a new key got no answer: is it there?
    Doubt { key: SubnetKey, at: Duration, failures: u32 },
    /// Created, and not yet confirmed by the watch.
    Confirm { hold: Hold },
    /// Held.
    Hold(Hold),
}

#[derive(Clone, Debug, Default)]
struct Acquire {
    /// Not before.
    at: Duration,
    /// Failed attempts in a row.
    failures: u32,
    /// Attempts in a row in which another node was faster.
    races: u32,
    /// Nothing was free.
    exhausted: bool,
    /// An own key to be deleted first.
    give_up: Option<(SubnetKey, Version)>,
    /// A key of this node's own that could not be written yet.
    own: Option<SubnetKey>,
}

#[derive(Clone, Debug)]
struct Hold {
    key: SubnetKey,
    /// What is in the store.
    attrs: LeaseAttrs,
    lease_id: i64,
    mod_revision: i64,
    expires: Option<Duration>,
    /// When to write again.
    next: Option<Duration>,
    /// Known to share no subnet with an earlier lease.
    confirmed: bool,
    /// The last write got no answer: read before writing.
    doubt: bool,
    /// The last own write.
    written: Duration,
}

// === impl Version ===

impl Version {
    /// Whether there must be no such key.
    #[must_use]
    pub const fn is_absent(self) -> bool {
        self.mod_revision == 0
    }

    /// What `entry` is in the store now.
    fn of(entry: Option<&Entry>) -> Self {
        entry.filter(|e| e.missing_until.is_none()).map_or_else(
            Self::default,
            |e| Self { mod_revision: e.mod_revision, lease_id: e.lease_id },
        )
    }
}

// === impl Hold ===

impl Hold {
    const fn version(&self) -> Version {
        match self.mod_revision {
            0 => Version { mod_revision: 0, lease_id: 0 },
            mod_revision => Version { mod_revision, lease_id: self.lease_id },
        }
    }
}

// === impl OwnLease ===

impl OwnLease {
    /// A machine that holds nothing yet. `random` returns a number below its
    /// argument, each as likely as the others.
    pub fn new(
        params: Params,
        random: impl FnMut(u64) -> u64 + Send + 'static,
    ) -> Self {
        // when it ends is not recorded: it is replaced at once
        let grants = params
            .recorded
            .filter(|(_, id)| *id != 0)
            .map(|(_, id)| (id, Duration::ZERO));
        Self {
            params,
            random: Box::new(random),
            state: State::Acquire(Acquire::default()),
            asked: None,
            heard: None,
            grants: grants.into_iter().collect(),
            past: VecDeque::new(),
            revoke: Vec::new(),
            events: VecDeque::new(),
            reason: None,
            told: BTreeSet::new(),
            announced: None,
        }
    }

    /// The key that is held, or may be: also while its first write is under
    /// way, and while the take-over of one is tried again.
    #[must_use]
    pub const fn key(&self) -> Option<SubnetKey> {
        match (&self.state, &self.asked) {
            (State::Acquire(_), Some((Command::Write(write), _))) => {
                Some(write.lease.key)
            }
            (State::Acquire(acquire), _) => acquire.own,
            (State::Doubt { key, .. }, _) => Some(*key),
            (State::Confirm { hold } | State::Hold(hold), _) => Some(hold.key),
        }
    }

    /// The key that is held, if it cannot have expired by `now`.
    #[must_use]
    pub fn unexpired(&self, now: Duration) -> Option<SubnetKey> {
        match &self.state {
            State::Confirm { hold } | State::Hold(hold) => {
                hold.expires.is_none_or(|at| at > now).then_some(hold.key)
            }
            State::Acquire(_) | State::Doubt { .. } => None,
        }
    }

    /// Why the lease is not held, or could not be renewed.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The next thing that happened to the lease.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// etcd leases to revoke, at leisure and without regard to the outcome:
    /// no key of ours hangs on them.
    pub fn revocations(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.revoke)
    }

    /// What is to be done at `now`.
    pub fn next(&mut self, now: Duration, entries: &Entries) -> Next {
        if self.asked.is_some() {
            return Next::Wait(None);
        }
        self.confirm(now, entries);
        let next = match &self.state {
            State::Acquire(_) if !entries.synced() => Next::Wait(None),
            State::Acquire(Acquire { at, .. }) | State::Doubt { at, .. }
                if *at > now =>
            {
                Next::Wait(Some(*at))
            }
            State::Acquire(acquire) => match acquire.give_up {
                Some((key, expect)) => {
                    Next::Do(Command::Delete { key, expect })
                }
                None => self.acquire(now, entries),
            },
            State::Doubt { key, .. } => Next::Do(Command::Read(*key)),
            State::Confirm { .. } => Next::Wait(None),
            State::Hold(hold) => match hold.next {
                Some(at) if at <= now => Next::Do(if hold.doubt {
                    Command::Read(hold.key)
                } else {
                    let reservation = hold.lease_id == 0;
                    Command::Write(self.write(
                        hold.key,
                        hold.version(),
                        reservation,
                    ))
                }),
                at => Next::Wait(at),
            },
        };
        if let Next::Do(command) = &next {
            self.asked = Some((command.clone(), now));
        }
        next
    }

    /// The answer to the command under way.
    pub fn answer(&mut self, now: Duration, answer: Answer) {
        let Some((command, asked_at)) = self.asked.take() else {
            return;
        };
        match answer {
            Answer::Written { revision, granted } => {
                if let Command::Write(write) = command {
                    self.written(now, asked_at, write, revision, granted);
                }
            }
            Answer::Unexpected { current, granted } => {
                if granted != 0 {
                    self.revoke.push(granted);
                }
                match command {
                    Command::Write(write) => {
                        self.unexpected(now, &write, current);
                    }
                    Command::Delete { .. } | Command::Read(_) => {
                        self.lost_race(now);
                    }
                }
            }
            Answer::Read { current } => self.read(now, current),
            Answer::Deleted => self.acquire_at(now),
            Answer::Failed { reason, ambiguous, granted } => {
                if granted.id != 0 {
                    if ambiguous {
                        let ends = asked_at + granted.ttl;
                        self.grants.insert(granted.id, ends);
                    } else {
                        self.revoke.push(granted.id);
                    }
                }
                self.failed(now, &command, reason, ambiguous);
            }
        }
        if let Some(Heard { entry, revision, reset }) = self.heard.take() {
            self.observe(now, entry.as_ref(), revision, reset);
        }
    }

    /// What the watch, or a list, says about the key of [`Self::key`] at
    /// `revision`. After a `reset` of the store its revisions begin anew.
    pub fn observe(
        &mut self,
        now: Duration,
        entry: Option<&Entry>,
        revision: i64,
        reset: bool,
    ) {
        if reset {
            match &mut self.state {
                State::Hold(hold) | State::Confirm { hold } => {
                    hold.mod_revision = 0;
                    hold.confirmed = false;
                }
                State::Acquire(acquire) => acquire.give_up = None,
                State::Doubt { .. } => {}
            }
        }
        if self.asked.is_some() {
            let before = self.heard.take();
            let newer = before.as_ref().is_none_or(|h| h.revision <= revision);
            let was_reset = before.as_ref().is_some_and(|h| h.reset);
            self.heard = if reset || newer {
                let reset = reset || was_reset;
                Some(Heard { entry: entry.cloned(), revision, reset })
            } else {
                before
            };
            return;
        }
        let missing = entry.is_some_and(|e| e.missing_until.is_some());
        if missing && matches!(self.state, State::Hold(_)) {
            // nobody has deleted it: it is written there again
            let soon = now + self.jitter(Duration::from_secs(1));
            if let State::Hold(hold) = &mut self.state
                && reset
            {
                hold.next = Some(soon);
            }
            return;
        }
        let (State::Hold(hold) | State::Confirm { hold }) = &self.state else {
            return;
        };
        let entry = entry.filter(|_| !missing);
        // an unconfirmed lease that is there waits for all entries
        let look = entry.is_none() || matches!(self.state, State::Hold(_));
        if hold.mod_revision < revision && look {
            let hold = hold.clone();
            self.compare(now, hold, entry);
        }
    }

    /// Other attributes are to be published from now on.
    pub fn publish(&mut self, now: Duration, attrs: LeaseAttrs) {
        self.params.attrs = attrs;
        if let State::Hold(hold) = &mut self.state
            && hold.attrs != self.params.attrs
        {
            hold.next = Some(now);
        }
    }

    /// Later leases are taken from `ranges`. One that is held is kept.
    pub fn choose_from(
        &mut self,
        now: Duration,
        ranges: PerFamily<SubnetRange>,
    ) {
        self.params.ranges = ranges;
        // there may be more of them
        self.freed(now);
    }

    /// The store can be reached again: what failed is tried soon.
    pub fn reachable(&mut self, now: Duration) {
        let soon = now + self.jitter(Duration::from_secs(1));
        let failing = self.reason.is_some();
        match &mut self.state {
            State::Acquire(acquire) if acquire.failures > 0 => {
                acquire.at = soon.min(acquire.at);
            }
            State::Doubt { at, .. } => *at = soon.min(*at),
            State::Hold(hold) if failing || hold.doubt => {
                hold.next = hold.next.map(|at| at.min(soon));
            }
            State::Acquire(_) | State::Confirm { .. } | State::Hold(_) => {}
        }
    }

    /// A lease has gone: its subnets may be free.
    pub fn freed(&mut self, now: Duration) {
        let soon = now + self.jitter(Duration::from_secs(1));
        if let State::Acquire(acquire) = &mut self.state
            && acquire.exhausted
        {
            acquire.at = soon.min(acquire.at);
        }
    }

    fn failed(
        &mut self,
        now: Duration,
        command: &Command,
        reason: String,
        ambiguous: bool,
    ) {
        let pause = match &self.state {
            State::Acquire(Acquire { failures, .. })
            | State::Doubt { failures, .. } => {
                Duration::from_secs(1 << (*failures).min(5))
                    .min(ACQUIRE_RETRY_MAX)
            }
            State::Confirm { .. } | State::Hold(_) => RETRY,
        };
        // half to one and a half of it
        let at = now + pause / 2 + self.jitter(pause);
        match &mut self.state {
            State::Acquire(acquire) => {
                self.reason = Some(format!("cannot get a lease: {reason}"));
                acquire.at = at;
                acquire.failures += 1;
                if let Command::Write(write) = command {
                    let key = write.lease.key;
                    if !write.expect.is_absent() {
                        acquire.own = Some(key);
                    } else if ambiguous {
                        let at = now + pause / 2;
                        self.state = State::Doubt { key, at, failures: 0 };
                    }
                }
            }
            State::Doubt { at: again, failures, .. } => {
                self.reason = Some(format!("cannot get a lease: {reason}"));
                *again = at;
                *failures += 1;
            }
            State::Hold(hold) => {
                let until = match hold.expires {
                    Some(at) if at <= now => "its time is over",
                    _ => "it is still valid",
                };
                self.reason = Some(format!(
                    "cannot renew lease {} ({until}): {reason}",
                    hold.key
                ));
                hold.next = Some(at);
                hold.doubt |= ambiguous;
            }
            State::Confirm { .. } => {}
        }
    }

    /// Says something a person may want to know, once.
    fn notice(&mut self, text: String) {
        if self.told.insert(text.clone()) {
            self.events.push_back(Event::Notice(text));
        }
    }

    /// A duration below `limit`.
    fn jitter(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        match micros {
            0 => Duration::ZERO,
            n => Duration::from_micros((self.random)(n)),
        }
    }
}
