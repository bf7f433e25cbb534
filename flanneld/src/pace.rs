//! When to run a pass: the first event at once, a storm gathered.

use std::time::{Duration, Instant};

/// A storm is over after this much quiet …
const QUIET: Duration = Duration::from_millis(20);
/// … and is not waited out for longer than this.
const LONGEST: Duration = Duration::from_millis(200);
/// What others do to the kernel is mended at once this many times in a row …
const REPAIRS: u32 = 50;
/// … and then this often.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// Decides when what is dirty is worked on. Knows no clock: time is passed
/// in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    last_pass: Option<Instant>,
    waiting: Option<Waiting>,
    /// When what is not urgent is worked on, unless a pass comes before.
    later: Option<Instant>,
    /// When the repairs made so far are forgotten, one per pause.
    forgotten: Option<Instant>,
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
        self.later = Some(self.later.map_or(then, |at| at.min(then)));
    }

    /// Somebody changed the kernel.
    pub fn disturbed(&mut self, now: Instant) {
        match self.calm_again(now) {
            None => self.mark(now),
            Some(then) => self.mark_later(then),
        }
    }

    /// The pass that ends at `now` had something to mend, or failed to.
    pub fn repaired(&mut self, now: Instant) {
        let from = self.forgotten.map_or(now, |then| then.max(now));
        self.forgotten = Some(from + REPAIR_PAUSE);
    }

    /// Whether there have been so many repairs lately that somebody must be
    /// fighting for the same objects. True before repairs are slowed down.
    #[must_use]
    pub fn is_fight(&self, now: Instant) -> bool {
        let half = REPAIR_PAUSE * (REPAIRS / 2);
        self.forgotten.is_some_and(|then| then > now + half)
    }

    /// Until when repairs wait, because there were too many; `None` when
    /// there were not.
    fn calm_again(&self, now: Instant) -> Option<Instant> {
        let then = self.forgotten?.checked_sub(REPAIR_PAUSE * REPAIRS)?;
        (then > now).then_some(then)
    }

    /// When the next pass is due; `None` while nothing is dirty.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let soon = self.waiting.map(|waiting| waiting.due);
        soon.into_iter().chain(self.later).min()
    }

    /// A pass over all that is dirty begins at `now`. What becomes dirty while
    /// it runs is marked after this.
    pub fn begun(&mut self, now: Instant) {
        self.last_pass = Some(now);
        self.waiting = None;
        self.later = None;
    }

    /// It ended at `now`.
    pub fn passed(&mut self, now: Instant) {
        self.last_pass = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pass(pace: &mut Pace, now: Instant) {
        pace.begun(now);
        pace.passed(now);
    }

    #[test]
    fn the_first_event_is_worked_on_at_once() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.mark(now);
        assert_eq!(pace.due(), Some(now));
        pass(&mut pace, now);
        assert_eq!(pace.due(), None);
        let later = now + QUIET;
        pace.mark(later);
        assert_eq!(pace.due(), Some(later), "calm again");
    }

    #[test]
    fn events_right_after_a_pass_are_gathered() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pass(&mut pace, now);
        let soon = now + Duration::from_millis(1);
        pace.mark(soon);
        assert_eq!(pace.due(), Some(soon + QUIET));
        pace.mark(soon + Duration::from_millis(10));
        assert_eq!(pace.due(), Some(soon + Duration::from_millis(30)));
    }

    #[test]
    fn repairs_come_at_once_but_not_for_ever() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        let mut repair = || {
            pace.disturbed(now);
            now = pace.due().unwrap().max(now);
            pass(&mut pace, now);
            pace.repaired(now);
            now
        };
        let start = repair();
        let after = (1..REPAIRS).map(|_| repair()).last().unwrap();
        assert!(after - start < REPAIR_PAUSE * 2, "{:?}", after - start);
        let many = (0..20).map(|_| repair()).last().unwrap();
        assert!(many - after > REPAIR_PAUSE * 18, "{:?}", many - after);
        assert!(many - after < REPAIR_PAUSE * 21, "{:?}", many - after);
        assert!(pace.is_fight(now));
        // what the store says is not held up
        pace.mark(now);
        assert_eq!(pace.due(), Some(now + QUIET));
        pass(&mut pace, now);
        // and after a while all is forgotten
        let later = now + REPAIR_PAUSE * REPAIRS;
        pace.disturbed(later);
        assert_eq!(pace.due(), Some(later));
        assert!(!pace.is_fight(later));
    }

    #[test]
    fn an_event_does_not_wait_for_what_is_tried_again_later() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.mark_later(now + Duration::from_secs(60));
        pace.mark_later(now + Duration::from_secs(90));
        assert_eq!(pace.due(), Some(now + Duration::from_secs(60)));
        pace.mark(now);
        assert_eq!(pace.due(), Some(now), "the first comes at once");
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_the_cap(
            gaps in prop::collection::vec(0u64..25, 1..100),
            retry in prop::option::of(300u64..60_000),
        ) {
            let start = Instant::now();
            let mut pace = Pace::default();
            let pass = |pace: &mut Pace, now| {
                pass(pace, now);
                // something fails in each of them
                if let Some(pause) = retry {
                    pace.mark_later(now + Duration::from_millis(pause));
                }
            };
            pass(&mut pace, start);
            let (mut now, mut first) = (start, None);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if pace.due().is_some_and(|due| due <= now) {
                    pass(&mut pace, now);
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
