//! What the store holds below the prefix of leases, as last heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam::choose::Listed;
use ipam::lease::{
    KeyError, Lease, LeaseAttrs, LeaseError, SubnetKey, Undecodable,
};
use ipam::{Family, PerFamily};

/// One entry of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// The key after the prefix of leases.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its creation.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The etcd lease it hangs on; 0 = none, it never expires.
    pub lease_id: i64,
}

/// A lease in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it last said that could be read.
    pub attrs: Option<LeaseAttrs>,
    /// Whether what it says now can be read.
    pub readable: bool,
    /// The revision of its creation.
    pub create_revision: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
    /// The etcd lease it hangs on; 0 = none, it is a reservation (W-6).
    pub lease_id: i64,
    /// It is missing in a store that has gone back in time. It counts until
    /// then, as nobody deleted it.
    pub missing_until: Option<Duration>,
}

/// All entries. One that cannot be read hides only itself, and is reported
/// once (W-1).
#[derive(Clone, Debug, Default)]
pub struct Entries {
    synced: bool,
    leases: BTreeMap<SubnetKey, Entry>,
    /// Whether a lease may be among them that is missing in the store: only
    /// then they are worth going through.
    some_missing: bool,
    /// Unreadable keys that name subnets all the same.
    occupied: BTreeMap<String, SubnetKey>,
    unreadable: Undecodable,
}

// === impl Entries ===

impl Entries {
    /// Whether the store has been listed.
    #[must_use]
    pub const fn synced(&self) -> bool {
        self.synced
    }

    /// The lease of that key.
    #[must_use]
    pub fn get(&self, key: &SubnetKey) -> Option<&Entry> {
        self.leases.get(key)
    }

    /// The leases but `own`, with attributes.
    #[must_use]
    pub fn peers(
        &self,
        own: Option<&SubnetKey>,
    ) -> BTreeMap<SubnetKey, LeaseAttrs> {
        self.leases
            .iter()
            .filter(|(key, _)| Some(*key) != own)
            .filter_map(|(key, e)| Some((*key, e.attrs.clone()?)))
            .collect()
    }

    /// The leases as [`choose`](ipam::choose) wants them.
    #[must_use]
    pub fn listed(&self) -> Vec<Listed> {
        self.list(|_| true)
    }

    /// The same without those that a store that went back lacks.
    #[must_use]
    pub fn present(&self) -> Vec<Listed> {
        self.list(|entry| entry.missing_until.is_none())
    }

    fn list(&self, which: impl Fn(&Entry) -> bool) -> Vec<Listed> {
        self.leases
            .iter()
            .filter(|(_, entry)| which(entry))
            .map(|(key, entry)| Listed {
                key: *key,
                public: entry
                    .attrs
                    .as_ref()
                    .map_or_else(PerFamily::default, |a| a.public),
                lease_id: entry.lease_id,
                created: entry.create_revision,
            })
            .collect()
    }

    /// Subnets that are taken by something that is no lease.
    #[must_use]
    pub fn occupied(&self) -> BTreeSet<SubnetKey> {
        self.occupied.values().copied().collect()
    }

    /// Whether `list` tells of the time before the revision `heard`, from
    /// which every change was taken in, what was not so. An answer of the own
    /// key may be known that is newer than the list.
    #[must_use]
    pub fn contradicted(&self, list: &[Kv], heard: i64) -> bool {
        list.iter().any(|kv| {
            if kv.create_revision >= heard {
                return false;
            }
            let Ok(key) = parse(&kv.key) else { return false };
            let known = self.leases.get(&key);
            let Some(known) = known.filter(|e| e.missing_until.is_none())
            else {
                return true;
            };
            if known.create_revision >= heard {
                return false;
            }
            let both = kv.mod_revision < heard && known.mod_revision < heard;
            known.create_revision != kv.create_revision
                || (both
                    && (known.mod_revision, known.lease_id)
                        != (kv.mod_revision, kv.lease_id))
        })
    }

    /// Takes in a complete list. After a `reset` of the store what is missing
    /// in it is kept until `keep_until`, unless another lease is in its place.
    pub fn replace(
        &mut self,
        list: Vec<Kv>,
        reset: bool,
        keep_until: Duration,
    ) {
        self.synced = true;
        if !(self.unreadable.is_empty() && self.occupied.is_empty()) {
            let names: BTreeSet<&str> =
                list.iter().map(|kv| kv.key.as_str()).collect();
            self.unreadable.retain(|key| names.contains(key));
            self.occupied.retain(|key, _| names.contains(key.as_str()));
        }

        let old = std::mem::take(&mut self.leases);
        let mut new = Vec::with_capacity(list.len());
        for kv in list {
            let key = parse(&kv.key);
            let before = key.as_ref().ok().and_then(|key| old.get(key));
            let before = before.and_then(|entry| entry.attrs.as_ref());
            new.extend(self.read(key, kv, before));
        }
        // All at once: a map that is filled in the order of its keys keeps
        // nearly half of its room free.
        self.leases = new.into_iter().collect();
        for (key, mut entry) in old {
            if self.leases.contains_key(&key) {
                continue;
            }
            if reset && entry.missing_until.is_none() {
                entry.missing_until = Some(keep_until);
            }
            if entry.missing_until.is_some()
                && !self.leases.keys().any(|k| k.overlaps(&key))
            {
                self.leases.insert(key, entry);
                self.some_missing = true;
            }
        }
    }

    /// Takes in that an entry was written. The leases that may be others
    /// now.
    pub fn put(&mut self, kv: Kv) -> Vec<SubnetKey> {
        let key = parse(&kv.key);
        let known = key.as_ref().ok().and_then(|key| self.leases.get(key));
        if known.is_some_and(|entry| {
            entry.missing_until.is_none()
                && entry.mod_revision >= kv.mod_revision
        }) {
            return Vec::new();
        }
        let before = known.and_then(|entry| entry.attrs.clone());
        let Some((key, entry)) = self.read(key, kv, before.as_ref()) else {
            return Vec::new();
        };
        self.leases.insert(key, entry);
        let mut changed =
            self.drop_missing(|k, _| *k != key && k.overlaps(&key));
        changed.push(key);
        changed
    }

    /// Takes in that an entry was deleted at `revision`. The lease that is
    /// gone.
    pub fn delete(&mut self, name: &str, revision: i64) -> Option<SubnetKey> {
        self.unreadable.forget(name);
        self.occupied.remove(name);
        let key = parse(name).ok()?;
        let entry = self.leases.get(&key)?;
        if entry.missing_until.is_none() && entry.mod_revision >= revision {
            return None;
        }
        self.leases.remove(&key);
        Some(key)
    }

    /// Drops what has been missing for long enough. The leases that are gone.
    pub fn expire_missing(&mut self, now: Duration) -> Vec<SubnetKey> {
        self.drop_missing(|_, until| until <= now)
    }

    /// When [`Self::expire_missing`] has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        if !self.some_missing {
            return None;
        }
        self.leases.values().filter_map(|e| e.missing_until).min()
    }

    /// Drops what is missing of a node that has another lease, that of `of`
    /// or, without it, any: one that the node took since it was gone. Not
    /// `own`, which is written there again. The leases that are gone.
    pub fn give_way(
        &mut self,
        of: Option<&SubnetKey>,
        own: Option<&SubnetKey>,
    ) -> Vec<SubnetKey> {
        if !self.some_missing {
            return Vec::new();
        }
        let there = |entry: &&Entry| entry.missing_until.is_none();
        let present: Vec<LeaseAttrs> = match of {
            Some(key) => self.leases.get(key).into_iter().collect(),
            None => self.leases.values().collect::<Vec<_>>(),
        }
        .into_iter()
        .filter(there)
        .filter_map(|entry| entry.attrs.clone())
        .collect();
        let left: BTreeSet<SubnetKey> = self
            .leases
            .iter()
            .filter(|(key, entry)| {
                entry.missing_until.is_some() && Some(*key) != own
            })
            .filter(|(_, entry)| {
                entry.attrs.as_ref().is_some_and(|attrs| {
                    present.iter().any(|other| same_node(attrs, other))
                })
            })
            .map(|(key, _)| *key)
            .collect();
        self.drop_missing(|key, _| left.contains(key))
    }

    fn drop_missing(
        &mut self,
        which: impl Fn(&SubnetKey, Duration) -> bool,
    ) -> Vec<SubnetKey> {
        if !self.some_missing {
            return Vec::new();
        }
        let gone: Vec<SubnetKey> = self
            .leases
            .iter()
            .filter(|(key, e)| e.missing_until.is_some_and(|t| which(key, t)))
            .map(|(key, _)| *key)
            .collect();
        for key in &gone {
            self.leases.remove(key);
        }
        self.some_missing =
            self.leases.values().any(|e| e.missing_until.is_some());
        gone
    }

    /// The entry of `key` if that is a lease's, with the attributes it had
    /// `before` if it cannot be read any more.
    fn read(
        &mut self,
        key: Result<SubnetKey, KeyError>,
        kv: Kv,
        before: Option<&LeaseAttrs>,
    ) -> Option<(SubnetKey, Entry)> {
        let (key, attrs) = match decode(key, &kv) {
            Ok(lease) => {
                self.unreadable.forget(&kv.key);
                (lease.key, Some(lease.attrs))
            }
            Err(error) => {
                // what is no lease may say what it likes, as often as it likes
                let value = match &error {
                    LeaseError::Attrs { .. } => kv.value.as_slice(),
                    LeaseError::Key(_) => &[],
                };
                if self.unreadable.note(&kv.key, value) {
                    tracing::warn!(
                        "entry {:?} below the leases is skipped: {error}",
                        kv.key
                    );
                }
                match error {
                    LeaseError::Attrs { key, .. } => (key, None),
                    LeaseError::Key(_) => {
                        if let Some(taken) = error.occupies() {
                            self.occupied.insert(kv.key, taken);
                        }
                        return None;
                    }
                }
            }
        };
        let readable = attrs.is_some();
        let entry = Entry {
            attrs: attrs.or_else(|| before.cloned()),
            readable,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            lease_id: kv.lease_id,
            missing_until: None,
        };
        Some((key, entry))
    }
}

/// Whether two leases are one node's: by a public address, or by what only
/// one node can publish for its backend (an Ethernet address, a key).
fn same_node(a: &LeaseAttrs, b: &LeaseAttrs) -> bool {
    Family::ALL.into_iter().any(|family| {
        let address = a.public.get(family);
        let data = a.data.get(family).filter(|d| d.as_str().starts_with('{'));
        (address.is_some() && address == b.public.get(family))
            || (data.is_some() && data == b.data.get(family))
    })
}

/// The entry of that key as a lease.
fn decode(
    key: Result<SubnetKey, KeyError>,
    kv: &Kv,
) -> Result<Lease, LeaseError> {
    Lease::read(key?, &kv.value)
}

/// A key in a sub-folder is none, though its last part may look like one.
fn parse(name: &str) -> Result<SubnetKey, KeyError> {
    let key = SubnetKey::parse(name)?;
    if name.contains('/') {
        return Err(KeyError::Spelling { text: name.to_owned(), key });
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
