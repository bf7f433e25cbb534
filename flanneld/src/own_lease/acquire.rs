//! Looking for a lease: which one, and whether it is ours alone.

use std::time::Duration;

use ipam::choose::{Choice, How, Wishes, choose, earlier};
use ipam::lease::{Lease, SubnetKey};

use super::{Acquire, Command, Next, OwnLease, State, Version, Write};
use crate::store::{Entries, LossReason};

/// Longest pause after another node was faster.
const RACE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Pause before looking again whether a subnet has become free.
const EXHAUSTED_RETRY: Duration = Duration::from_secs(10);
/// Lost races in a row after which a person is told.
const RACES_TOLD: u32 = 10;

impl OwnLease {
    pub(super) fn acquire(&mut self, now: Duration, entries: &Entries) -> Next {
        let wishes = Wishes {
            public: self.params.attrs.public,
            previous: self.params.previous,
            recorded: self.params.recorded,
        };
        let chosen = choose(
            &self.params.ranges,
            &entries.listed(),
            &entries.occupied(),
            &wishes,
            &mut self.random,
        );
        let choice = match chosen {
            Ok(choice) => choice,
            Err(error) => {
                self.reason = Some(error.to_string());
                let retry = now + EXHAUSTED_RETRY;
                if let State::Acquire(acquire) = &mut self.state {
                    acquire.at = retry;
                    acquire.exhausted = true;
                }
                return Next::Wait(Some(retry));
            }
        };
        self.tell(&choice);
        // what a store that went back lacks is created anew
        let version = |key| Version::of(entries.get(key));
        if let Some((key, _)) = choice.release.first() {
            return Next::Do(Command::Delete {
                key: *key,
                expect: version(key),
            });
        }
        Next::Do(Command::Write(match choice.how {
            How::Create { .. } => {
                self.write(choice.key, Version::default(), false)
            }
            How::Reuse { reservation } => {
                self.write(choice.key, version(&choice.key), reservation)
            }
        }))
    }

    pub(super) fn write(
        &self,
        key: SubnetKey,
        expect: Version,
        reservation: bool,
    ) -> Write {
        Write {
            lease: Lease { key, attrs: self.params.attrs.clone() },
            expect,
            ttl: (!reservation).then_some(self.params.ttl),
        }
    }

    /// Says why wishes were not granted, each once.
    fn tell(&mut self, choice: &Choice) {
        let released = choice
            .release
            .iter()
            .map(|(key, why)| format!("own lease {key} is deleted: {why}"));
        let unfit = choice.unfit_reservations.iter().map(|(key, why)| {
            format!("reservation {key} for this node is not used: {why}")
        });
        let refused = choice.refused.iter().map(|(subnet, why)| {
            format!("the previous subnet {subnet} is not kept: {why}")
        });
        for text in released.chain(unfit).chain(refused) {
            self.notice(text);
        }
    }

    /// Somebody else was faster: again, a little later.
    pub(super) fn lost_race(&mut self, now: Duration) {
        let (races, failures) = match &self.state {
            State::Acquire(a) => (a.races + 1, a.failures),
            State::Doubt { .. } | State::Confirm { .. } | State::Hold(_) => {
                (1, 0)
            }
        };
        if races >= RACES_TOLD {
            self.reason = Some(format!(
                "other nodes were faster {RACES_TOLD} times in a row and \
                 more; going on"
            ));
        }
        let spread = Duration::from_millis(20)
            .saturating_mul(1 << races.min(8))
            .min(RACE_PAUSE_MAX);
        let at = now + self.jitter(spread);
        let acquire = Acquire { at, failures, races, ..Acquire::default() };
        self.state = State::Acquire(acquire);
    }

    pub(super) fn acquire_at(&mut self, at: Duration) {
        self.state = State::Acquire(Acquire { at, ..Acquire::default() });
    }

    /// Whether a lease that was created is ours alone, as soon as the watch
    /// has come so far.
    pub(super) fn confirm(&mut self, now: Duration, entries: &Entries) {
        let State::Confirm { hold } = &self.state else {
            return;
        };
        let seen = entries.get(&hold.key).filter(|entry| {
            entry.missing_until.is_none()
                && entry.mod_revision >= hold.mod_revision
        });
        let Some(entry) = seen else {
            return;
        };
        let mut hold = hold.clone();
        let list = entries.present();
        if let Some(first) = earlier(&hold.key, entry.create_revision, &list) {
            let why = LossReason::Shared { first: first.key };
            self.lost(now, hold.key, why);
            self.lost_race(now);
            if let State::Acquire(acquire) = &mut self.state {
                acquire.give_up = Some((hold.key, Version::of(Some(entry))));
            }
            return;
        }
        hold.confirmed = true;
        if entry.mod_revision > hold.mod_revision {
            self.compare(now, hold, Some(entry));
        } else {
            if hold.attrs != self.params.attrs {
                hold.next = Some(now);
            }
            self.hold(hold);
        }
    }
}
