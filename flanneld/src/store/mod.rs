//! Where leases come from: this node's own and everyone else's.
//!
//! A store hands out [`StoreEvent`]s. They only ever say what the store said:
//! while it cannot be reached there are none, so the data plane stays as it
//! is; what is wrong meanwhile is in its [`StoreStatus`].

mod entries;
pub mod etcd;
mod ledger;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipam::lease::{Lease, LeaseAttrs, SubnetKey};

pub use entries::{Entries, Entry, Kv};
pub use ledger::{Change, Found, Ledger, Outcome};
pub use status::{StatusSender, StoreStatus};

/// News from the store. The own lease is never among the peers' (Q-57).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// All leases of other nodes, complete as of `revision`. Comes first, and
    /// again whenever changes may have been missed: what is known otherwise
    /// is to be replaced by it.
    Synced {
        /// The peers' leases.
        leases: Arc<BTreeMap<SubnetKey, LeaseAttrs>>,
        /// The store's revision.
        revision: i64,
    },
    /// A lease is new or has other attributes.
    Upsert(Lease),
    /// A lease is gone.
    Remove(SubnetKey),
    /// The own lease is held; again after each renewal and change.
    Held(Held),
    /// The own lease is no longer ours. Another one is being acquired; until
    /// then what is in the kernel stays.
    Lost {
        /// The subnets it was for.
        key: SubnetKey,
        /// What happened to it.
        why: LossReason,
    },
}

/// The own lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its subnets and what is published.
    pub lease: Lease,
    /// The id of the etcd lease it hangs on; 0 = a reservation without one,
    /// which never expires (W-6).
    pub lease_id: i64,
    /// The revision it was last written at.
    pub mod_revision: i64,
    /// When it expires unless renewed, on the clock of [`crate::clock::since_boot`];
    /// `None` = never.
    pub expires: Option<Duration>,
}

/// What happened to an own lease that was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// Its time ran out before it could be renewed.
    Expired,
    /// Somebody deleted it.
    Deleted,
    /// Another node has written its own lease there.
    Taken {
        /// That node's lease.
        by: Box<LeaseAttrs>,
    },
    /// It shares a subnet with a lease that was there before.
    Shared {
        /// That lease.
        first: SubnetKey,
    },
}

// === impl LossReason ===

impl std::fmt::Display for LossReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired => f.write_str("it expired"),
            Self::Deleted => f.write_str("it was deleted from the store"),
            Self::Shared { first } => {
                write!(f, "lease {first} was first with one of its subnets")
            }
            Self::Taken { by } => {
                let addrs: Vec<String> =
                    by.public.iter().map(|(_, ip)| ip.to_string()).collect();
                match addrs.as_slice() {
                    [] => f.write_str("a node without address has taken it"),
                    addrs => {
                        let addrs = addrs.join(", ");
                        write!(f, "the node at {addrs} has taken it")
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_names_its_cause() {
        let taken = |value: &[u8]| {
            let by = Box::new(LeaseAttrs::decode(value).unwrap());
            LossReason::Taken { by }.to_string()
        };
        assert_eq!(
            taken(br#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1"}"#),
            "the node at 1.2.3.4, fd00::1 has taken it"
        );
        assert_eq!(taken(b"{}"), "a node without address has taken it");
    }
}
