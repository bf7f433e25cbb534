//! The subnets of a range that nobody has, without walking the range: it may
//! have 2^64 and more.

use crate::Subnet;
use crate::netconf::SubnetRange;
use crate::subnet::addr_bits;

/// The free subnets of a range. Subnets are numbered from the range's first.
#[derive(Debug)]
pub(super) struct Free {
    first: Subnet,
    size: u128,
    overlapping: usize,
    /// Runs of free subnets as number of the first and length, in order.
    runs: Vec<(u128, u128)>,
}

// === impl Free ===

impl Free {
    /// What `taken`, subnets of any length, leave of the range.
    pub(super) fn new(
        range: &SubnetRange,
        taken: impl Iterator<Item = Subnet>,
    ) -> Self {
        let host_bits = u32::from(range.min.family().bits() - range.len);
        let (low, high) = (range.min.base_bits(), addr_bits(range.max.last()));
        let number =
            |bits: u128| (bits - low).checked_shr(host_bits).unwrap_or(0);
        let size = if low > high { 0 } else { number(high).saturating_add(1) };

        // first and last number that each touches
        let mut spans: Vec<(u128, u128)> = taken
            .map(|subnet| (subnet.base_bits(), addr_bits(subnet.last())))
            .filter(|(from, to)| size > 0 && *from <= high && *to >= low)
            .map(|(from, to)| (number(from.max(low)), number(to.min(high))))
            .collect();
        spans.sort_unstable();

        let mut runs = Vec::new();
        let mut next = 0;
        for (from, to) in &spans {
            if *from > next {
                runs.push((next, from - next));
            }
            next = next.max(to.saturating_add(1));
        }
        if next < size {
            runs.push((next, size - next));
        }
        Self { first: range.min, size, overlapping: spans.len(), runs }
    }

    /// How many subnets the range has.
    pub(super) const fn size(&self) -> u128 {
        self.size
    }

    /// How many of the taken subnets touch the range.
    pub(super) const fn overlapping(&self) -> usize {
        self.overlapping
    }

    /// How many subnets are free.
    pub(super) fn count(&self) -> u128 {
        self.runs.iter().map(|(_, length)| length).sum()
    }

    /// The free subnet with `n` free ones before it.
    pub(super) fn nth(&self, mut n: u128) -> Option<Subnet> {
        for (first, length) in &self.runs {
            if n < *length {
                return self.first.nth(first + n);
            }
            n -= length;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(len: u8, min: &str, max: &str) -> SubnetRange {
        let net =
            |text: &str| -> Subnet { format!("{text}/{len}").parse().unwrap() };
        let (min, max) = (net(min), net(max));
        SubnetRange { network: Subnet::host(min.base()), len, min, max }
    }

    #[test]
    fn huge_ranges_are_counted_and_reached_to_their_ends() {
        let taken = || ["fd00::/96", "fd00:0:ffff:ffff:ffff:ffff::/96"];
        let free = Free::new(
            &range(96, "fd00::", "fd00:0:ffff:ffff:ffff:ffff::"),
            taken().iter().map(|net| net.parse().unwrap()),
        );
        assert_eq!(free.count(), (1 << 64) - 2);
        let text = |n| free.nth(n).map(|net| net.to_string());
        assert_eq!(text(0).unwrap(), "fd00::1:0:0/96");
        let last = "fd00:0:ffff:ffff:ffff:fffe::/96";
        assert_eq!(text((1 << 64) - 3).unwrap(), last);
        assert_eq!(text((1 << 64) - 2), None);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let free = Free::new(
            &range(24, "10.3.9.0", "10.3.1.0"),
            ["10.3.0.0/16".parse().unwrap()].into_iter(),
        );
        assert_eq!((free.size(), free.count(), free.nth(0)), (0, 0, None));
    }

    #[test]
    fn the_whole_address_space_is_no_overflow() {
        for (min, max) in
            [("0.0.0.0", "255.255.255.252"), ("::", "ffff:ffff::")]
        {
            let free = Free::new(&range(30, min, max), std::iter::empty());
            assert_eq!(free.count(), 1 << 30);
            assert!(free.nth((1 << 30) - 1).is_some());
        }
    }

    proptest! {
        /// Against the plain walk: the same subnets, each once, in order.
        #[test]
        fn the_free_ones_are_those_that_overlap_nothing(
            (min, max) in (0u32..40, 0u32..40),
            taken in proptest::collection::vec((0u32..0x3000, 18u8..=30), 0..12),
        ) {
            let net = |bits: u32, len| {
                Subnet::new((0x0a03_0000 + bits).to_be_bytes().into(), len)
                    .unwrap()
            };
            let range = SubnetRange {
                network: net(0, 16),
                len: 24,
                min: net(min << 8, 24),
                max: net(max << 8, 24),
            };
            let taken: Vec<_> =
                taken.into_iter().map(|(bits, len)| net(bits, len)).collect();
            let walked: Vec<_> = (min..=max)
                .map(|n| net(n << 8, 24))
                .filter(|net| taken.iter().all(|t| !t.overlaps(net)))
                .collect();
            let free = Free::new(&range, taken.into_iter());
            let counted: Vec<_> =
                (0..free.count()).map(|n| free.nth(n).unwrap()).collect();
            prop_assert_eq!(counted, walked);
            prop_assert_eq!(free.nth(free.count()), None);
        }
    }
}
