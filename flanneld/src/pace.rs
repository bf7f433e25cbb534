//! When to run a pass: the first event at once, a storm gathered.

use std::time::{Duration, Instant};

/// A storm is over after this much quiet …
const QUIET: Duration = Duration::from_millis(20);
/// … and is not waited out for longer than this.
const LONGEST: Duration = Duration::from_millis(200);

/// Decides when what is dirty is worked on. Knows no clock: time is passed
/// in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    last_pass: Option<Instant>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Instant,
    latest: Instant,
}

// === impl Pace ===

impl Pace {
    /// Something became dirty at `now`.
    pub fn mark(&mut self, now: Instant) {
        self.waiting = Some(match self.waiting {
            Some(Waiting { latest, .. }) => {
                Waiting { due: latest.min(now + QUIET), latest }
            }
            None => {
                let calm =
                    self.last_pass.is_none_or(|last| now >= last + QUIET);
                let due = if calm { now } else { now + QUIET };
                Waiting { due, latest: now + LONGEST }
            }
        });
    }

    /// Something is to be tried again at `then`, unless a pass is due before.
    pub fn mark_later(&mut self, then: Instant) {
        let due = self.waiting.map_or(then, |waiting| waiting.due.min(then));
        self.waiting = Some(Waiting { due, latest: due + LONGEST });
    }

    /// When the next pass is due; `None` while nothing is dirty.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.waiting.map(|waiting| waiting.due)
    }

    /// A pass over all that was dirty ended at `now`. What became dirty while
    /// it ran is marked after this.
    pub fn passed(&mut self, now: Instant) {
        self.last_pass = Some(now);
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_event_is_worked_on_at_once() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.mark(now);
        assert_eq!(pace.due(), Some(now));
        pace.passed(now);
        assert_eq!(pace.due(), None);
        let later = now + QUIET;
        pace.mark(later);
        assert_eq!(pace.due(), Some(later), "calm again");
    }

    #[test]
    fn events_right_after_a_pass_are_gathered() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.passed(now);
        let soon = now + Duration::from_millis(1);
        pace.mark(soon);
        assert_eq!(pace.due(), Some(soon + QUIET));
        pace.mark(soon + Duration::from_millis(10));
        assert_eq!(pace.due(), Some(soon + Duration::from_millis(30)));
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_the_cap(gaps in prop::collection::vec(0u64..25, 1..100)) {
            let start = Instant::now();
            let mut pace = Pace::default();
            pace.passed(start);
            let (mut now, mut first) = (start, None);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if pace.due().is_some_and(|due| due <= now) {
                    pace.passed(now);
                    first = None;
                }
                pace.mark(now);
                let first = *first.get_or_insert(now);
                let due = pace.due().expect("something is dirty");
                prop_assert!(due >= now.min(first + LONGEST));
                prop_assert!(due <= first + LONGEST);
                prop_assert!(due <= now + QUIET);
            }
        }
    }
}
