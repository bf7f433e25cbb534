//! Numbers that look random and follow from a seed: splitmix64.

use std::time::Duration;

/// The state of one sequence.
#[derive(Clone, Debug)]
pub struct Rng(u64);

// === impl Rng ===

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.next() % end.max(1)).unwrap_or_default()
    }

    /// One of them; `None` of none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }

    /// A time of up to `most`.
    pub fn time(&mut self, most: Duration) -> Duration {
        let ms = usize::try_from(most.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(self.below(ms) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published values of splitmix64 for the seed 1234567.
    #[test]
    fn a_seed_always_means_the_same() {
        let mut rng = Rng::new(1_234_567);
        let got: Vec<_> = (0..3).map(|_| rng.next()).collect();
        assert_eq!(
            got,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
