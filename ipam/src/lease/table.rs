//! What is known of the other nodes' leases.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lease, LeaseAttrs, SubnetKey};

#[cfg(test)]
mod tests;

/// The leases of all nodes but this one, as last heard from the store.
///
/// Whatever the store tells, incremental or as a snapshot, the events that
/// come out are the exact difference of whole values: a changed attribute is
/// never missed (W-3), an unchanged one never reported (E-62), and the own
/// lease neither appears nor disappears (W-2).
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    own: Option<SubnetKey>,
    leases: BTreeMap<SubnetKey, LeaseAttrs>,
}

/// A difference that the table has taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A lease that was not there before.
    Added(Lease),
    /// A lease with other attributes.
    Changed {
        /// As it is now.
        lease: Lease,
        /// What it was.
        old: LeaseAttrs,
    },
    /// A lease that is gone, with the attributes it last had.
    Removed(Lease),
}

// === impl LeaseTable ===

impl LeaseTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The leases of the peers.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<SubnetKey, LeaseAttrs> {
        &self.leases
    }

    /// This node's own lease, which is kept out.
    #[must_use]
    pub const fn own(&self) -> Option<SubnetKey> {
        self.own
    }

    /// Says which lease is this node's. If a peer's was known under that key,
    /// it is the peer's no more. The lease that was this node's before is
    /// a peer's as soon as the store tells of it again.
    pub fn set_own(&mut self, key: Option<SubnetKey>) -> Option<LeaseEvent> {
        self.own = key;
        self.remove(&key?)
    }

    /// Takes in a lease that was written.
    pub fn upsert(&mut self, lease: Lease) -> Option<LeaseEvent> {
        if self.own == Some(lease.key) {
            return None;
        }
        let old = self.leases.insert(lease.key, lease.attrs.clone());
        match old {
            None => Some(LeaseEvent::Added(lease)),
            Some(old) if old == lease.attrs => None,
            Some(old) => Some(LeaseEvent::Changed { lease, old }),
        }
    }

    /// Takes in that a lease was deleted.
    pub fn remove(&mut self, key: &SubnetKey) -> Option<LeaseEvent> {
        let attrs = self.leases.remove(key)?;
        Some(LeaseEvent::Removed(Lease { key: *key, attrs }))
    }

    /// Takes in a complete list. `unreadable` are the keys that are there
    /// with a value nobody can read: what was known of them stays (W-1).
    ///
    /// Removals come first, so that a subnet that changed its shape is given
    /// up before its successor is set up.
    pub fn replace(
        &mut self,
        leases: BTreeMap<SubnetKey, LeaseAttrs>,
        unreadable: &BTreeSet<SubnetKey>,
    ) -> Vec<LeaseEvent> {
        let gone: Vec<_> = self
            .leases
            .keys()
            .filter(|k| !leases.contains_key(k) && !unreadable.contains(k))
            .copied()
            .collect();
        let mut events: Vec<_> =
            gone.iter().filter_map(|key| self.remove(key)).collect();
        for (key, attrs) in leases {
            events.extend(self.upsert(Lease { key, attrs }));
        }
        events
    }
}
