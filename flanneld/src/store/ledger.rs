//! What the store said, and what follows from it for the own lease and for
//! the daemon. No I/O: whoever talks to the store feeds it and does what it
//! says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ipam::PerFamily;
use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::SubnetRange;

use super::{Entries, Entry, Kv, StoreEvent};
use crate::own_lease::{Answer, Event, Granted, LEASE_TTL, Next, OwnLease};

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(Kv),
    /// Deleted or expired.
    Deleted {
        /// The key after the prefix of leases.
        key: String,
        /// The revision of the deletion.
        revision: i64,
    },
}

/// The outcome of a command, with the entry of its key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Written {
        /// At this revision.
        revision: i64,
        /// The etcd lease the key hangs on now.
        granted: Granted,
    },
    /// The guard did not hold.
    Unexpected {
        /// What is there.
        found: Found,
        /// The etcd lease granted in vain; 0 for none.
        granted: i64,
    },
    /// Read.
    Read(Found),
    /// Deleted.
    Deleted {
        /// The key.
        key: SubnetKey,
        /// At this revision.
        revision: i64,
    },
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

/// What a key held at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key.
    pub key: SubnetKey,
    /// Its entry, if there was one.
    pub entry: Option<Kv>,
    /// The revision.
    pub revision: i64,
}

/// The store as one node sees it.
pub struct Ledger {
    entries: Entries,
    own: OwnLease,
    /// The peers as they were told, shared with who was told until a change.
    told: Arc<BTreeMap<SubnetKey, LeaseAttrs>>,
    /// Leases that may be others than they were told.
    changed: BTreeSet<SubnetKey>,
    /// The own key when the peers were last told: it is no peer's.
    hidden: Option<SubnetKey>,
    /// The revision of a list that is to be told.
    listed: Option<i64>,
    events: VecDeque<StoreEvent>,
}

// === impl Change ===

impl Change {
    /// The revision it was made at.
    #[must_use]
    pub const fn revision(&self) -> i64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Nothing was heard yet; `own` holds nothing yet.
    #[must_use]
    pub fn new(own: OwnLease) -> Self {
        Self {
            entries: Entries::default(),
            own,
            told: Arc::default(),
            changed: BTreeSet::new(),
            hidden: None,
            listed: None,
            events: VecDeque::new(),
        }
    }

    /// Why the own lease is not held, or could not be renewed.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.own.reason()
    }

    /// The next news for the daemon.
    pub fn event(&mut self) -> Option<StoreEvent> {
        self.events.pop_front()
    }

    /// See [`OwnLease::revocations`].
    pub fn revocations(&mut self) -> Vec<i64> {
        self.own.revocations()
    }

    /// See [`OwnLease::publish`].
    pub fn publish(&mut self, now: Duration, attrs: LeaseAttrs) {
        self.own.publish(now, attrs);
    }

    /// See [`OwnLease::choose_from`].
    pub fn choose_from(
        &mut self,
        now: Duration,
        ranges: PerFamily<SubnetRange>,
    ) {
        self.own.choose_from(now, ranges);
    }

    /// See [`OwnLease::reachable`].
    pub fn reachable(&mut self, now: Duration) {
        self.own.reachable(now);
    }

    /// What is due at `now`: a command to carry out and to answer with
    /// [`Self::answered`], or a time to call again at the latest.
    pub fn step(&mut self, now: Duration) -> Next {
        self.changed.extend(self.entries.expire_missing(now));
        let next = self.own.next(now, &self.entries);
        self.tell();
        match next {
            Next::Wait(at) => {
                let expiry = self.entries.next_expiry();
                Next::Wait(at.into_iter().chain(expiry).min())
            }
            next @ Next::Do(_) => next,
        }
    }

    /// Whether a complete list of `entries` is another store's, or an older
    /// state's, than that of which every change before `heard` was taken in.
    #[must_use]
    pub fn contradicted(
        &self,
        now: Duration,
        entries: &[Kv],
        heard: i64,
    ) -> bool {
        // Were the own lease deleted by hand, it would be taken again under
        // its key all the same.
        let own = self.own.unexpired(now).filter(|key| {
            let known = self.entries.get(key);
            known.is_some_and(|entry| {
                entry.missing_until.is_none() && entry.mod_revision < heard
            })
        });
        let gone = own.is_some_and(|key| {
            let name = key.to_string();
            entries.iter().all(|kv| kv.key != name)
        });
        gone || self.entries.contradicted(entries, heard)
    }

    /// Takes in a complete list, as of `revision`. After a `reset` of the
    /// store, what is missing was not deleted by anyone: it counts for the
    /// time that a lease lives.
    pub fn listed(
        &mut self,
        now: Duration,
        entries: Vec<Kv>,
        revision: i64,
        reset: bool,
    ) {
        self.entries.replace(entries, reset, now + LEASE_TTL);
        self.listed = Some(revision);
        let own = self.own.key();
        self.entries.give_way(None, own.as_ref());
        let entry = own.and_then(|key| self.entries.get(&key));
        self.own.observe(now, entry, revision, reset);
        self.own.freed(now);
    }

    /// Takes in a change.
    pub fn changed(&mut self, now: Duration, change: Change) {
        let revision = change.revision();
        let name = match change {
            Change::Put(kv) => {
                let name = kv.key.clone();
                self.put(kv);
                name
            }
            Change::Deleted { key, revision } => {
                self.changed.extend(self.entries.delete(&key, revision));
                self.own.freed(now);
                key
            }
        };
        if let Some(own) = self.own.key()
            && own.to_string() == name
        {
            let entry = self.entries.get(&own);
            self.own.observe(now, entry, revision, false);
        }
    }

    /// Takes in the outcome of the command that [`Self::step`] gave.
    pub fn answered(&mut self, now: Duration, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Written { revision, granted } => {
                Answer::Written { revision, granted }
            }
            Outcome::Unexpected { found, granted } => {
                Answer::Unexpected { current: self.found(found), granted }
            }
            Outcome::Read(found) => Answer::Read { current: self.found(found) },
            Outcome::Deleted { key, revision } => {
                let gone = self.entries.delete(&key.to_string(), revision);
                self.changed.extend(gone);
                Answer::Deleted
            }
            Outcome::Failed { reason, ambiguous, granted } => {
                Answer::Failed { reason, ambiguous, granted }
            }
        };
        self.own.answer(now, answer);
    }

    fn put(&mut self, kv: Kv) {
        let own = self.own.key();
        for key in self.entries.put(kv) {
            let gone = self.entries.give_way(Some(&key), own.as_ref());
            self.changed.extend(gone);
            self.changed.insert(key);
        }
    }

    fn found(&mut self, found: Found) -> Option<Entry> {
        let Found { key, entry, revision } = found;
        let present = entry.is_some();
        match entry {
            Some(kv) => self.put(kv),
            None => {
                let gone = self.entries.delete(&key.to_string(), revision);
                self.changed.extend(gone);
            }
        }
        self.entries.get(&key).filter(|_| present).cloned()
    }

    /// Tells all that is new: that the own lease is lost before its key is
    /// told as a peer's, and that it is held after that key is no peer's.
    fn tell(&mut self) {
        let mut events: Vec<Event> =
            std::iter::from_fn(|| self.own.event()).collect();
        let last_loss =
            events.iter().rposition(|e| !matches!(e, Event::Held(_)));
        let held = events.split_off(last_loss.map_or(0, |at| at + 1));
        for event in events {
            self.tell_event(event);
        }
        let own = self.own.key();
        let before = std::mem::replace(&mut self.hidden, own);
        if before != own {
            self.changed.extend(before.into_iter().chain(own));
        }
        self.tell_peers(own);
        for event in held {
            self.tell_event(event);
        }
    }

    /// Tells the difference to what was told of the peers.
    fn tell_peers(&mut self, own: Option<SubnetKey>) {
        if !self.entries.synced() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        if let Some(revision) = self.listed.take() {
            let leases = Arc::new(self.entries.peers(own.as_ref()));
            self.told = Arc::clone(&leases);
            self.events.push_back(StoreEvent::Synced { leases, revision });
            return;
        }
        // what is gone comes first: its subnets may be another's now
        let mut upserts = Vec::new();
        for key in changed {
            let entry = self.entries.get(&key).filter(|_| Some(key) != own);
            match entry.and_then(|entry| entry.attrs.as_ref()) {
                Some(attrs) if self.told.get(&key) == Some(attrs) => {}
                Some(attrs) => {
                    upserts.push(Lease { key, attrs: attrs.clone() });
                }
                None => {
                    if self.told.contains_key(&key) {
                        Arc::make_mut(&mut self.told).remove(&key);
                        self.events.push_back(StoreEvent::Remove(key));
                    }
                }
            }
        }
        for lease in upserts {
            let told = Arc::make_mut(&mut self.told);
            told.insert(lease.key, lease.attrs.clone());
            self.events.push_back(StoreEvent::Upsert(lease));
        }
    }

    fn tell_event(&mut self, event: Event) {
        match event {
            Event::Held(held) => {
                let kind = match held.lease_id {
                    0 => "reservation",
                    _ => "lease",
                };
                tracing::info!("{kind} {} is held", held.lease.key);
                self.events.push_back(StoreEvent::Held(held));
            }
            Event::Lost { key, why } => {
                tracing::warn!("lease {key} is lost: {why}; acquiring another");
                self.events.push_back(StoreEvent::Lost { key, why });
            }
            Event::Notice(text) => tracing::warn!("{text}"),
        }
    }
}
