//! Leases: which node holds which subnets, and how it is reached.
//!
//! In etcd a lease is one key ([`SubnetKey`], E-2) with one value
//! ([`LeaseAttrs`], E-10). Whoever wrote it may be an upstream daemon, an
//! operator's `etcdctl`, or something that has no business there; therefore
//! reading never fails for more than the entry itself (W-1):
//! [`Lease::decode`] says what an unreadable entry still occupies, and
//! [`Undecodable`] keeps it from being reported twice.

mod attrs;
mod key;
mod undecodable;

pub use attrs::{BackendData, LeaseAttrs};
pub use key::{KeyError, SubnetKey};
pub use undecodable::Undecodable;

use crate::gojson;

/// One node's subnets and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The subnets: the lease's identity.
    pub key: SubnetKey,
    /// What peers need to know.
    pub attrs: LeaseAttrs,
}

/// Why an entry of the store is not a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is a subnet's, the value says nothing usable.
    #[error(
        "the value of subnet key {key} is not usable: {source}; \
         correct the value or delete the key"
    )]
    Attrs {
        /// The key.
        key: SubnetKey,
        /// What is wrong with the value.
        source: gojson::Error,
    },
}

// === impl Lease ===

impl Lease {
    /// Reads an entry of the store: its key (all of it, or the part after the
    /// last slash) and its value.
    ///
    /// # Errors
    /// [`LeaseError`], which knows the subnets that the entry occupies all
    /// the same.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, LeaseError> {
        Self::read(SubnetKey::parse(key)?, value)
    }

    /// The same with the key read before.
    ///
    /// # Errors
    /// [`LeaseError::Attrs`]
    pub fn read(key: SubnetKey, value: &[u8]) -> Result<Self, LeaseError> {
        match LeaseAttrs::decode(value) {
            Ok(attrs) => Ok(Self { key, attrs }),
            Err(source) => Err(LeaseError::Attrs { key, source }),
        }
    }
}

// === impl LeaseError ===

impl LeaseError {
    /// The subnets that nobody else may take while the entry is there, if it
    /// names any. Upstream's nodes do take them for leased.
    #[must_use]
    pub const fn occupies(&self) -> Option<SubnetKey> {
        match self {
            Self::Attrs { key, .. }
            | Self::Key(KeyError::Spelling { key, .. }) => Some(*key),
            Self::Key(
                KeyError::NotASubnet(_)
                | KeyError::Empty
                | KeyError::Unusable(_),
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W-1: an unreadable entry is one entry's error, and what it occupies
    /// is known where it can be.
    #[test]
    fn an_unreadable_entry_says_what_it_occupies() {
        let prefix = "/coreos.com/network/subnets/";
        let good = br#"{"PublicIP":"1.2.3.4"}"#;
        let key = SubnetKey::parse("10.5.1.0-24").unwrap();
        let read =
            |key: &str, value| Lease::decode(&format!("{prefix}{key}"), value);

        assert_eq!(read("10.5.1.0-24", good).unwrap().key, key);
        let error = read("10.5.1.0-24", b"{}x").unwrap_err();
        assert_eq!(error.occupies(), Some(key));
        assert!(error.to_string().contains("subnet key 10.5.1.0-24"));
        let error = read("10.5.1.9-24", good).unwrap_err();
        assert_eq!(error.occupies(), Some(key));
        let error = read("hello", good).unwrap_err();
        assert_eq!(error.occupies(), None);
    }
}
