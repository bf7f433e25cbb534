//! An etcd in memory (revisions, leases, guards, expiry) and nodes on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::NetConf;
use ipam::{Family, PerFamily};

use crate::own_lease::{
    Command, Granted, LEASE_TTL, Next, OwnLease, Params, Version,
};
use crate::store::{Change, Found, Held, Kv, Ledger, Outcome, StoreEvent};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// It does not arrive.
    Unsent,
    /// It does not arrive, and nobody knows.
    RequestLost,
    /// It is carried out, the answer does not arrive.
    AnswerLost,
}

#[derive(Default)]
pub(super) struct Etcd {
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<SubnetKey, Kv>,
    pub(super) leases: BTreeMap<i64, Duration>,
    pub(super) log: Vec<Change>,
    pub(super) writes: usize,
    pub(super) next_lease: i64,
}

pub(super) struct Node {
    pub(super) ledger: Ledger,
    pub(super) events: VecDeque<StoreEvent>,
    pub(super) params: Params,
    pub(super) held: Option<Held>,
    /// What the daemon has on disk: the lease last held.
    pub(super) saved: Option<(SubnetKey, i64)>,
    /// The peers as the events tell them.
    pub(super) peers: BTreeMap<SubnetKey, LeaseAttrs>,
    /// How much of the log was delivered.
    seen: usize,
}

/// xorshift64*, so that a test can be repeated.
pub(super) fn random(seed: u64) -> impl FnMut(u64) -> u64 + Send + 'static {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |limit| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit.max(1)
    }
}

pub(super) fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

pub(super) fn attrs(public: &str) -> LeaseAttrs {
    let ip: std::net::IpAddr = public.parse().unwrap();
    LeaseAttrs {
        public: PerFamily::one(Family::of(ip), ip),
        backend_type: "host-gw".into(),
        ..LeaseAttrs::default()
    }
}

/// `config` is a net-conf, `public` the node's address.
pub(super) fn params(config: &str, public: &str) -> Params {
    let (conf, _) = NetConf::parse(config).unwrap();
    Params {
        ranges: conf.ranges().unwrap(),
        attrs: attrs(public),
        previous: PerFamily::default(),
        recorded: None,
        margin: HOUR,
        ttl: LEASE_TTL,
    }
}

pub(super) const V4: &str = r#"{"Network": "10.5.0.0/16"}"#;

// === impl Etcd ===

impl Etcd {
    pub(super) fn grant(&mut self, now: Duration, ttl: Duration) -> i64 {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, now + ttl);
        self.next_lease
    }

    pub(super) fn put(&mut self, key: SubnetKey, value: &str, lease_id: i64) {
        self.revision += 1;
        let create_revision =
            self.keys.get(&key).map_or(self.revision, |kv| kv.create_revision);
        let kv = Kv {
            key: key.to_string(),
            value: value.as_bytes().to_vec(),
            create_revision,
            mod_revision: self.revision,
            lease_id,
        };
        self.keys.insert(key, kv.clone());
        self.log.push(Change::Put(kv));
    }

    pub(super) fn delete(&mut self, key: SubnetKey) {
        if self.keys.remove(&key).is_some() {
            self.revision += 1;
            self.log.push(Change::Deleted {
                key: key.to_string(),
                revision: self.revision,
            });
        }
    }

    pub(super) fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let gone: Vec<SubnetKey> = self
            .keys
            .iter()
            .filter(|(_, kv)| kv.lease_id == id)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.delete(key);
        }
    }

    pub(super) fn expire(&mut self, now: Duration) {
        let over: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.revoke(id);
        }
    }

    fn found(&self, key: SubnetKey) -> Found {
        let entry = self.keys.get(&key).cloned();
        Found { key, entry, revision: self.revision }
    }

    pub(super) fn execute(
        &mut self,
        now: Duration,
        command: &Command,
        fate: Fate,
    ) -> Outcome {
        let failed = |ambiguous, granted| Outcome::Failed {
            reason: "etcd is away".into(),
            ambiguous,
            granted,
        };
        if fate == Fate::Unsent {
            return failed(false, Granted::default());
        }
        let mut granted = Granted::default();
        if let Command::Write(write) = command
            && let Some(ttl) = write.ttl
        {
            granted = Granted { id: self.grant(now, ttl), ttl };
        }
        if fate == Fate::RequestLost {
            return failed(true, granted);
        }
        let outcome = self.carry_out(command, granted);
        match fate {
            Fate::AnswerLost => failed(true, granted),
            Fate::Answered | Fate::Unsent | Fate::RequestLost => outcome,
        }
    }

    fn carry_out(&mut self, command: &Command, granted: Granted) -> Outcome {
        let at = |etcd: &Self, key: &SubnetKey| {
            etcd.keys.get(key).map_or_else(Version::default, |kv| Version {
                mod_revision: kv.mod_revision,
                lease_id: kv.lease_id,
            })
        };
        match command {
            Command::Write(write) => {
                let key = write.lease.key;
                if at(self, &key) != write.expect {
                    let found = self.found(key);
                    return Outcome::Unexpected { found, granted: granted.id };
                }
                self.writes += 1;
                self.put(key, &write.lease.attrs.encode(), granted.id);
                Outcome::Written { revision: self.revision, granted }
            }
            Command::Read(key) => Outcome::Read(self.found(*key)),
            Command::Delete { key, expect } => {
                if at(self, key) != *expect {
                    let found = self.found(*key);
                    return Outcome::Unexpected { found, granted: 0 };
                }
                self.delete(*key);
                Outcome::Deleted { key: *key, revision: self.revision }
            }
        }
    }
}

// === impl Node ===

impl Node {
    pub(super) fn new(params: Params, seed: u64) -> Self {
        let own = OwnLease::new(params.clone(), random(seed));
        Self {
            ledger: Ledger::new(own),
            params,
            saved: None,
            events: VecDeque::new(),
            held: None,
            peers: BTreeMap::new(),
            seen: 0,
        }
    }

    /// The complete list, as at the start or after a compaction.
    pub(super) fn list(&mut self, etcd: &Etcd, now: Duration, reset: bool) {
        let entries = etcd.keys.values().cloned().collect();
        self.seen = etcd.log.len();
        self.ledger.listed(now, entries, etcd.revision, reset);
    }

    /// What happened since, `limit` changes at most.
    pub(super) fn watch(&mut self, etcd: &Etcd, now: Duration, limit: usize) {
        let news: Vec<Change> =
            etcd.log.iter().skip(self.seen).take(limit).cloned().collect();
        self.seen += news.len();
        for change in news {
            self.ledger.changed(now, change);
        }
    }

    /// One step; the command, if there is one.
    pub(super) fn step(&mut self, now: Duration) -> Next {
        let next = self.ledger.step(now);
        while let Some(event) = self.ledger.event() {
            match &event {
                StoreEvent::Held(held) => {
                    self.held = Some(held.clone());
                    self.saved = Some((held.lease.key, held.lease_id));
                }
                StoreEvent::Lost { .. } => self.held = None,
                StoreEvent::Synced { leases, .. } => {
                    self.peers.clone_from(leases);
                }
                StoreEvent::Upsert(lease) => {
                    let old = self.peers.insert(lease.key, lease.attrs.clone());
                    assert_ne!(old.as_ref(), Some(&lease.attrs), "no news");
                }
                StoreEvent::Remove(key) => {
                    assert!(self.peers.remove(key).is_some(), "{key} unknown");
                }
            }
            if let Some(key) = self.held_key() {
                assert!(!self.peers.contains_key(&key), "{key} is our own");
            }
            self.events.push_back(event);
        }
        next
    }

    /// Lives from `now` until `end` with a store that does what `fate` says,
    /// at most 10,000 steps. Returns the number of commands.
    pub(super) fn live(
        &mut self,
        etcd: &mut Etcd,
        now: &mut Duration,
        end: Duration,
        mut fate: impl FnMut() -> Fate,
    ) -> usize {
        let mut commands = 0;
        for _ in 0..10_000 {
            etcd.expire(*now);
            self.watch(etcd, *now, usize::MAX);
            match self.step(*now) {
                Next::Do(command) => {
                    commands += 1;
                    let outcome = etcd.execute(*now, &command, fate());
                    self.ledger.answered(*now, outcome);
                }
                Next::Wait(at) => {
                    let fresh = self.seen < etcd.log.len();
                    let expiry = etcd.leases.values().min().copied();
                    let wake = at
                        .into_iter()
                        .chain(expiry)
                        .map(|at| at.max(*now))
                        .chain([end])
                        .min()
                        .unwrap_or(end);
                    if !fresh && wake >= end {
                        *now = end;
                        return commands;
                    }
                    *now = wake;
                }
            }
            for id in self.ledger.revocations() {
                etcd.revoke(id);
            }
        }
        panic!("does not come to rest");
    }

    pub(super) fn held_key(&self) -> Option<SubnetKey> {
        self.held.as_ref().map(|held| held.lease.key)
    }

    pub(super) fn drain(&mut self) -> Vec<StoreEvent> {
        self.events.drain(..).collect()
    }
}
