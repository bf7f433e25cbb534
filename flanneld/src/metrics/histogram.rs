//! How often something took how long.

use std::time::Duration;

use super::text::Text;

/// Upper ends of the buckets, with their labels in seconds.
const BUCKETS: [(Duration, &str); 13] = [
    (Duration::from_micros(500), "0.0005"),
    (Duration::from_millis(1), "0.001"),
    (Duration::from_micros(2500), "0.0025"),
    (Duration::from_millis(5), "0.005"),
    (Duration::from_millis(10), "0.01"),
    (Duration::from_millis(25), "0.025"),
    (Duration::from_millis(50), "0.05"),
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(250), "0.25"),
    (Duration::from_millis(500), "0.5"),
    (Duration::from_secs(1), "1"),
    (Duration::from_secs(5), "5"),
    (Duration::from_secs(30), "30"),
];

/// Durations, counted by bucket.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Those that fall into this bucket and not into the one before.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: Duration,
}

// === impl Histogram ===

impl Histogram {
    pub(super) fn observe(&mut self, took: Duration) {
        let mut all = self.buckets.iter_mut().zip(BUCKETS);
        if let Some((bucket, _)) = all.find(|(_, (end, _))| took <= *end) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub(super) fn render(
        &self,
        out: &mut Text,
        name: &'static str,
        help: &str,
    ) {
        out.family(name, "histogram", help);
        let mut sum = 0;
        for (bucket, (_, label)) in self.buckets.iter().zip(BUCKETS) {
            sum += bucket;
            out.part("_bucket", &[("le", label)], sum);
        }
        out.part("_bucket", &[("le", "+Inf")], self.count);
        out.part("_sum", &[], self.sum.as_secs_f64());
        out.part("_count", &[], self.count);
    }
}
