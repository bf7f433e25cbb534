//! Keeping a lease: renewal, and whether what the store has under its key is
//! still ours.

use std::net::IpAddr;
use std::time::Duration;

use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::{Family, PerFamily};

use super::{Event, Granted, Hold, OwnLease, RETRY, State, Version, Write};
use crate::store::{Entry, Held, LossReason};

/// Least time between writes that answer a foreign hand, so that two daemons
/// with one public address do not chase each other.
const REPAIR_PAUSE: Duration = Duration::from_secs(60);

/// How many former etcd leases are remembered.
const PAST_MAX: usize = 64;

/// Whose an entry is.
enum Whose {
    /// On an etcd lease of ours.
    Ours,
    /// With our public address, written by someone else; or unreadable; or
    /// what we wrote before.
    Alike,
    /// Another node's.
    Theirs(LeaseAttrs),
}

impl OwnLease {
    pub(super) fn written(
        &mut self,
        now: Duration,
        asked_at: Duration,
        write: Write,
        revision: i64,
        granted: Granted,
    ) {
        let expires = (granted.id != 0).then(|| asked_at + granted.ttl);
        let confirmed = self.confirmed_by(&write);
        self.retire(granted.id);
        if let Some(expires) = expires {
            self.grants.insert(granted.id, expires);
        }
        let current = write.lease.attrs == self.params.attrs;
        let next = self.renewal(asked_at, expires);
        let hold = Hold {
            key: write.lease.key,
            attrs: write.lease.attrs,
            lease_id: granted.id,
            mod_revision: revision,
            expires,
            next: if current { next } else { Some(now) },
            confirmed,
            doubt: false,
            written: now,
        };
        self.reason = None;
        self.settle(hold);
    }

    /// Whether what `write` has written is known to share no subnet: not what
    /// it has created, nor what it took over, which a run that was killed may
    /// have created before it knew. Of reservations the operator judges.
    const fn confirmed_by(&self, write: &Write) -> bool {
        match &self.state {
            State::Hold(hold) | State::Confirm { hold } => {
                hold.confirmed && !write.expect.is_absent()
            }
            State::Acquire(_) | State::Doubt { .. } => {
                write.ttl.is_none() && !write.expect.is_absent()
            }
        }
    }

    /// Holds the lease if it is confirmed, else waits for that.
    fn settle(&mut self, hold: Hold) {
        if hold.confirmed {
            self.hold(hold);
        } else {
            self.state = State::Confirm { hold };
        }
    }

    /// Enters or stays in `Hold`, and says so.
    pub(super) fn hold(&mut self, hold: Hold) {
        self.announced = Some(hold.key);
        self.params.previous = *hold.key.subnets();
        self.params.recorded = Some((hold.key, hold.lease_id));
        self.events.push_back(Event::Held(Held {
            lease: Lease { key: hold.key, attrs: hold.attrs.clone() },
            lease_id: hold.lease_id,
            mod_revision: hold.mod_revision,
            expires: hold.expires,
        }));
        self.state = State::Hold(hold);
    }

    /// When a lease that ends at `expires` is renewed: at the margin, or
    /// after a third of a lifetime shorter than the margin; somewhat earlier
    /// by chance, so that nodes that started together spread.
    pub(super) fn renewal(
        &mut self,
        from: Duration,
        expires: Option<Duration>,
    ) -> Option<Duration> {
        let life = expires?.saturating_sub(from);
        let wait = match life.checked_sub(self.params.margin) {
            Some(wait) if !wait.is_zero() => wait,
            _ => life / 3,
        };
        let wait = wait.max(Duration::from_secs(1));
        Some(from + wait - self.jitter(wait / 20))
    }

    /// The guard of a write did not hold.
    pub(super) fn unexpected(
        &mut self,
        now: Duration,
        write: &Write,
        current: Option<Entry>,
    ) {
        if let State::Hold(hold) = &mut self.state {
            // for a store that went back, and of which nothing else was heard
            hold.next = Some(now + RETRY);
            let hold = hold.clone();
            return self.compare(now, hold, current.as_ref());
        }
        match current {
            // an earlier attempt of ours, whose answer was lost
            Some(entry) if self.granted(&entry) => {
                self.take_over(now, write.lease.key, &entry);
            }
            _ => self.lost_race(now),
        }
    }

    pub(super) fn read(&mut self, now: Duration, current: Option<Entry>) {
        match &self.state {
            State::Hold(hold) => {
                let mut hold = hold.clone();
                hold.doubt = false;
                match current {
                    // not carried out: write again
                    Some(entry) if entry.mod_revision <= hold.mod_revision => {
                        hold.next = Some(now);
                        self.state = State::Hold(hold);
                    }
                    current => self.compare(now, hold, current.as_ref()),
                }
            }
            State::Doubt { key, .. } => {
                let key = *key;
                match current {
                    Some(entry) if self.granted(&entry) => {
                        self.take_over(now, key, &entry);
                    }
                    // Not there (yet): the same key is tried again, so that
                    // of two transactions under way one at most succeeds.
                    None => {
                        self.params.previous = *key.subnets();
                        self.acquire_at(now);
                    }
                    Some(_) => self.lost_race(now),
                }
            }
            State::Acquire(_) | State::Confirm { .. } => {}
        }
    }

    pub(super) fn granted(&self, entry: &Entry) -> bool {
        entry.lease_id != 0 && self.grants.contains_key(&entry.lease_id)
    }

    /// A create is found to have succeeded.
    pub(super) fn take_over(
        &mut self,
        now: Duration,
        key: SubnetKey,
        entry: &Entry,
    ) {
        let expires = self.grants.get(&entry.lease_id).copied();
        self.retire(entry.lease_id);
        let attrs =
            entry.attrs.clone().unwrap_or_else(|| self.params.attrs.clone());
        let next = self.renewal(now, expires);
        self.reason = None;
        self.state = State::Confirm {
            hold: Hold {
                key,
                attrs,
                lease_id: entry.lease_id,
                mod_revision: entry.mod_revision,
                expires,
                next,
                confirmed: false,
                doubt: false,
                written: now,
            },
        };
    }

    /// Compares the lease with what the store has under its key.
    pub(super) fn compare(
        &mut self,
        now: Duration,
        mut hold: Hold,
        current: Option<&Entry>,
    ) {
        let Some(entry) = current else {
            let expired = hold.expires.is_some_and(|at| at <= now);
            let why =
                if expired { LossReason::Expired } else { LossReason::Deleted };
            return self.lost(now, hold.key, why);
        };
        if Version::of(current) == hold.version() {
            return;
        }
        let whose = self.whose(entry, &hold);
        if let Whose::Theirs(by) = whose {
            let why = LossReason::Taken { by: Box::new(by) };
            return self.lost(now, hold.key, why);
        }
        hold.doubt = false;
        hold.mod_revision = entry.mod_revision;
        hold.lease_id = entry.lease_id;
        if let Some(attrs) = &entry.attrs {
            hold.attrs = attrs.clone();
        }
        let repair = Some(now.max(hold.written + REPAIR_PAUSE));
        if matches!(whose, Whose::Ours) {
            hold.expires = self.grants.get(&entry.lease_id).copied();
            hold.next = self.renewal(now, hold.expires);
            self.reason = None;
        } else if entry.lease_id == 0 {
            // somebody made it a reservation
            hold.expires = None;
            hold.next = None;
        } else {
            // when that etcd lease ends is not known
            hold.expires = Some(now);
            hold.next = repair;
            if !self.past.contains(&entry.lease_id) {
                self.notice(format!(
                    "lease {} was renewed by somebody else: only one daemon \
                     may run with this node's public address",
                    hold.key
                ));
            }
        }
        if !entry.readable || hold.attrs != self.params.attrs {
            hold.next = repair;
        }
        self.settle(hold);
    }

    fn whose(&self, entry: &Entry, hold: &Hold) -> Whose {
        if self.granted(entry) {
            return Whose::Ours;
        }
        if self.past.contains(&entry.lease_id) {
            return Whose::Alike;
        }
        let attrs = match &entry.attrs {
            Some(attrs) if entry.readable => attrs,
            _ => return Whose::Alike,
        };
        let alike = [&self.params.attrs, &hold.attrs]
            .iter()
            .any(|own| same_node(&own.public, &attrs.public));
        if alike { Whose::Alike } else { Whose::Theirs(attrs.clone()) }
    }

    pub(super) fn lost(
        &mut self,
        now: Duration,
        key: SubnetKey,
        why: LossReason,
    ) {
        self.reason = Some(format!("lease {key} is lost: {why}"));
        if self.announced.take().is_some() {
            self.events.push_back(Event::Lost { key, why });
        }
        self.revoke_all();
        let at = now + self.jitter(Duration::from_millis(200));
        self.acquire_at(at);
    }

    /// Nothing of ours hangs on any etcd lease granted so far, or is to.
    pub(super) fn revoke_all(&mut self) {
        self.retire(0);
        self.params.recorded = None;
    }

    /// No key of ours hangs on any etcd lease but `keep`. The others are
    /// remembered: a store that goes back in time may show them again.
    fn retire(&mut self, keep: i64) {
        for id in self.grants.keys().filter(|id| **id != keep) {
            self.revoke.push(*id);
            self.past.push_back(*id);
        }
        self.grants.retain(|id, _| *id == keep);
        while self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
    }
}

/// Whether two published addresses are of one node: decided by the first
/// family that both have.
fn same_node(a: &PerFamily<IpAddr>, b: &PerFamily<IpAddr>) -> bool {
    Family::ALL
        .into_iter()
        .find_map(|family| Some(a.get(family)? == b.get(family)?))
        .unwrap_or(false)
}
