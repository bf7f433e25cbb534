//! How long a verb may take (P09): a runtime waits for its plugin, and all of
//! the node's pods may wait for the runtime.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{CniError, code};

/// How long a verb may take unless `timeoutSeconds` says otherwise.
const LIMIT: Duration = Duration::from_secs(20);
/// How much earlier than asked for a wait may end.
const ROUNDING: Duration = Duration::from_millis(50);
/// The longest that `timeoutSeconds` may say, in seconds.
const MAX_SECONDS: i64 = 3600;

/// What `timeoutSeconds` says.
///
/// # Errors
/// Code 7 when it is no useful time.
pub(super) fn limit(seconds: i64) -> Result<Duration, CniError> {
    match u64::try_from(seconds) {
        Ok(n @ 1..) if seconds <= MAX_SECONDS => Ok(Duration::from_secs(n)),
        _ => Err(CniError::config(format!(
            "timeoutSeconds is {seconds}, but must be from 1 to {MAX_SECONDS}"
        ))),
    }
}

/// Until when a verb may go on, and what it is doing.
///
/// Whatever waits takes no longer than [`Deadline::at`] allows, and each step
/// begins with [`Deadline::enter`]. A call into the kernel cannot be given
/// up: when one was slow, the verb ends after it.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    /// When the verb's time is up.
    end: Instant,
    /// When waiting ends: later, once something is being undone.
    at: Cell<Instant>,
    limit: Duration,
    phase: Cell<&'static str>,
}

// === impl Deadline ===

impl Deadline {
    /// Ends `limit` from now.
    pub(crate) fn after(limit: Duration) -> Self {
        let end = Instant::now() + limit;
        Self { end, at: Cell::new(end), limit, phase: Cell::new("starting") }
    }

    /// When it ends.
    pub(crate) const fn at(&self) -> Instant {
        self.at.get()
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.at().saturating_duration_since(Instant::now())
    }

    /// The same, but of `limit` since it began.
    pub(super) fn limited_to(&self, limit: Duration) -> Self {
        let end = self.end - self.limit + limit;
        Self { end, at: Cell::new(end), limit, ..self.clone() }
    }

    /// The step under way.
    pub(crate) const fn phase(&self) -> &'static str {
        self.phase.get()
    }

    /// Begins the step `phase` ("reserving an address").
    ///
    /// # Errors
    /// Code 11 when the time is up, with the step that was under way.
    pub(crate) fn enter(&self, phase: &'static str) -> Result<(), CniError> {
        let spent = self.check();
        // while something is undone, what failed remains what is named
        if spent.is_ok() && self.at() == self.end {
            self.phase.set(phase);
        }
        spent
    }

    /// Fails when the time is up: for loops that wait.
    ///
    /// # Errors
    /// As [`Deadline::enter`].
    pub(crate) fn check(&self) -> Result<(), CniError> {
        match Instant::now() < self.at() {
            true => Ok(()),
            false => Err(self.error()),
        }
    }

    /// The time is up.
    pub(crate) fn error(&self) -> CniError {
        CniError::new(
            code::TRY_AGAIN,
            format!(
                "gave up after {:?} while {}",
                self.limit,
                self.phase.get()
            ),
        )
        .details("\"timeoutSeconds\" in the configuration allows more")
    }

    /// `error`, with what was under way when it came after the time was up.
    pub(super) fn explain(&self, error: CniError) -> CniError {
        let own = self.error();
        // who waited until the deadline may have returned a moment before
        let over = Instant::now() + ROUNDING >= self.end;
        if !over || error.msg == own.msg {
            return error;
        }
        CniError { details: error.msg, ..own }
    }

    /// Allows `more` from now at least: what was made must be undone also
    /// when the time is up.
    pub(crate) fn grant(&self, more: Duration) {
        self.at.set(self.at().max(Instant::now() + more));
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::after(LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_under_way_is_named() {
        let over = Deadline::after(Duration::ZERO);
        let error = over.enter("waiting for the lock").unwrap_err();
        assert_eq!(error.code, 11);
        assert_eq!(error.msg, "gave up after 0ns while starting");
        over.grant(Duration::from_secs(100));
        over.enter("undoing").unwrap();
        assert_eq!(over.explain(CniError::config("x")).details, "x");
        let early = Deadline::default();
        assert_eq!(early.explain(CniError::config("x")).msg, "x");
        let other = Deadline::after(Duration::ZERO);
        let error = other.explain(CniError::internal("no answer"));
        assert_eq!((error.code, error.details.as_str()), (11, "no answer"));
    }
}
