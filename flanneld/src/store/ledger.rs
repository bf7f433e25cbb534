//! What the store said, and what follows from it for the own lease and for
//! the daemon. No I/O: whoever talks to the store feeds it and does what it
//! says.

use std::collections::VecDeque;
use std::time::Duration;

use ipam::lease::{Lease, LeaseAttrs, SubnetKey};

use super::{Delta, Entries, Entry, Kv, StoreEvent};
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
    /// The own key, kept from the peers' events.
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

    /// See [`OwnLease::reachable`].
    pub fn reachable(&mut self, now: Duration) {
        self.own.reachable(now);
    }

    /// What is due at `now`: a command to carry out and to answer with
    /// [`Self::answered`], or a time to call again at the latest.
    pub fn step(&mut self, now: Duration) -> Next {
        let gone = self.entries.expire_missing(now);
        self.tell(gone);
        let next = self.own.next(now, &self.entries);
        self.tell_own();
        match next {
            Next::Wait(at) => {
                let expiry = self.entries.next_expiry();
                Next::Wait(at.into_iter().chain(expiry).min())
            }
            next @ Next::Do(_) => next,
        }
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
        let entry = own.and_then(|key| self.entries.get(&key));
        self.own.observe(now, entry, revision, reset);
        self.own.freed(now);
    }

    /// Takes in a change.
    pub fn changed(&mut self, now: Duration, change: Change) {
        let revision = change.revision();
        let (name, deltas) = match change {
            Change::Put(kv) => (kv.key.clone(), self.entries.put(kv)),
            Change::Deleted { key, revision } => {
                let deltas = self.entries.delete(&key, revision);
                self.own.freed(now);
                (key, deltas)
            }
        };
        self.tell(deltas);
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
                let deltas = self.entries.delete(&key.to_string(), revision);
                self.tell(deltas);
                Answer::Deleted
            }
            Outcome::Failed { reason, ambiguous, granted } => {
                Answer::Failed { reason, ambiguous, granted }
            }
        };
        self.own.answer(now, answer);
    }

    fn found(&mut self, found: Found) -> Option<Entry> {
        let Found { key, entry, revision } = found;
        let present = entry.is_some();
        let deltas = match entry {
            Some(kv) => self.entries.put(kv),
            None => self.entries.delete(&key.to_string(), revision),
        };
        self.tell(deltas);
        self.entries.get(&key).filter(|_| present).cloned()
    }

    /// Tells the peers' changes. Before the first list is told, and while one
    /// waits to be, they are part of it.
    fn tell(&mut self, deltas: Vec<Delta>) {
        if self.listed.is_some() || !self.entries.synced() {
            return;
        }
        let own = self.own.key();
        for delta in deltas {
            match delta {
                Delta::Upsert(lease) if Some(lease.key) != own => {
                    self.events.push_back(StoreEvent::Upsert(lease));
                }
                Delta::Remove(key) if Some(key) != own => {
                    self.events.push_back(StoreEvent::Remove(key));
                }
                Delta::Upsert(_) | Delta::Remove(_) => {}
            }
        }
    }

    /// Tells what changed about the own lease, and about the peers that stand
    /// under a key that was or becomes the own.
    fn tell_own(&mut self) {
        let mut events: VecDeque<Event> =
            std::iter::from_fn(|| self.own.event()).collect();
        // a lease is lost before its key is told as a peer's, and held after
        while let Some(event) =
            events.pop_front_if(|event| !matches!(event, Event::Held(_)))
        {
            self.tell_event(event);
        }
        let own = self.own.key();
        let before = std::mem::replace(&mut self.hidden, own);
        let attrs = |key: SubnetKey| {
            self.entries.get(&key).and_then(|e| e.attrs.clone())
        };
        if let Some(revision) = self.listed.take() {
            let leases = self.entries.peers(own.as_ref());
            self.events.push_back(StoreEvent::Synced { leases, revision });
        } else if before != own && self.entries.synced() {
            if let Some(key) = before
                && let Some(attrs) = attrs(key)
            {
                let lease = Lease { key, attrs };
                self.events.push_back(StoreEvent::Upsert(lease));
            }
            if let Some(key) = own
                && attrs(key).is_some()
            {
                self.events.push_back(StoreEvent::Remove(key));
            }
        }
        for event in events {
            self.tell_event(event);
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
