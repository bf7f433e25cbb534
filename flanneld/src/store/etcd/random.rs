//! Chance for choices and pauses. Nothing secret depends on it.

use std::hash::{BuildHasher, RandomState};

/// Random numbers from the standard library's hash function, keyed by the
/// system's random source.
#[derive(Debug, Default)]
pub(super) struct Random {
    key: RandomState,
    count: u64,
}

// === impl Random ===

impl Random {
    /// A number below `limit` (0 for 0), each as likely as the others but for
    /// one part in 2^64/`limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.count = self.count.wrapping_add(1);
        let wide = u128::from(self.key.hash_one(self.count));
        // the upper half of a 64 by 64 bit product
        ((wide * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_come_up_and_none_beyond() {
        let mut random = Random::default();
        let mut seen = [0u32; 5];
        for _ in 0..500 {
            let n = usize::try_from(random.below(5)).unwrap();
            seen[n] += 1;
        }
        assert!(seen.iter().all(|&count| count > 20), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
