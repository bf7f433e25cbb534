//! Memory of what could not be read.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The entries of a store that could not be read and have been reported.
/// Each is reported once, and once more only after it has changed (W-1).
///
/// Holds the keys and a number for each value; what leaves the store leaves
/// here by [`forget`](Self::forget) or [`retain`](Self::retain).
#[derive(Clone, Debug, Default)]
pub struct Undecodable {
    seen: BTreeMap<String, u64>,
}

// === impl Undecodable ===

impl Undecodable {
    /// Nothing was reported yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an unreadable entry. Whether it has to be reported: its key is
    /// new, or its value is another than the last time.
    pub fn note(&mut self, key: &str, value: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let hash = hasher.finish();
        match self.seen.get_mut(key) {
            Some(seen) => std::mem::replace(seen, hash) != hash,
            None => self.seen.insert(key.to_owned(), hash).is_none(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The entry is readable now, or gone.
    pub fn forget(&mut self, key: &str) {
        self.seen.remove(key);
    }

    /// After a complete list: forgets every entry whose key is not in it.
    pub fn retain(&mut self, mut listed: impl FnMut(&str) -> bool) {
        self.seen.retain(|key, _| listed(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_reported_once_and_again_only_when_it_changes() {
        let mut seen = Undecodable::new();
        assert!(seen.note("subnets/foreign", b"x"));
        assert!(!seen.note("subnets/foreign", b"x"), "listed again");
        assert!(seen.note("subnets/foreign", b"y"), "value changed");
        assert!(!seen.note("subnets/foreign", b"y"));
        assert!(seen.note("subnets/other", b"y"), "another key");
    }

    #[test]
    fn what_went_and_came_back_is_news() {
        let mut seen = Undecodable::new();
        seen.note("a", b"1");
        seen.note("b", b"1");
        seen.forget("a");
        assert!(seen.note("a", b"1"));
        seen.retain(|key| key == "b");
        assert!(!seen.note("b", b"1"), "listed");
        assert!(seen.note("a", b"1"));
    }
}
