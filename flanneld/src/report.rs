//! Says how far the daemon is, in all the places where somebody looks:
//! `/readyz`, `state.json`, systemd, the log.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ipam::daemon_state::Phase;

use crate::files::StateFile;
use crate::health::Readiness;
use crate::notify;
use crate::recent::Recent;

/// The one voice of the daemon.
#[derive(Debug)]
pub struct Reporter {
    readiness: Readiness,
    file: StateFile,
    said: Option<(Phase, String)>,
    told_ready: bool,
    recent: Recent,
}

// === impl Reporter ===

impl Reporter {
    /// The daemon starts.
    #[must_use]
    pub fn new(
        subnet_file: &Path,
        readiness: Readiness,
        recent: Recent,
    ) -> Self {
        let file = StateFile::new(subnet_file);
        let (said, told_ready) = (None, false);
        let mut out = Self { readiness, file, said, told_ready, recent };
        out.say(Phase::Starting, "it has just started");
        out
    }

    /// Until when the node has its subnet, on the clock of
    /// [`since_boot`](crate::clock::since_boot); written with what is said next.
    pub fn lease_ends(&mut self, ends: Option<Duration>) {
        self.file.set_lease_end(ends);
    }

    /// The daemon is in `phase`, for `reason`; what was said already is not
    /// said again, but for the file if it could not be written.
    pub fn say(&mut self, phase: Phase, reason: &str) {
        let said = (phase, reason.to_owned());
        let now = SystemTime::now();
        // The CNI plugin goes by that while the daemon is away, too: only one
        // that runs and has a lease, or looks for one, knows better.
        let away =
            matches!(phase, Phase::Starting | Phase::Stopping | Phase::Failed);
        let lost = away && self.file.says_lost();
        if !lost {
            self.file.set(phase, reason, now);
        }
        if self.said.as_ref() == Some(&said) {
            return;
        }
        if self.phase() != Some(phase) {
            tracing::info!("{phase}");
        }
        let text = match reason {
            "" => phase.to_string(),
            reason => format!("{phase}: {reason}"),
        };
        self.recent.add(now, "phase", &text);
        if phase == Phase::Ready {
            self.readiness.set_ready(reason);
            if !std::mem::replace(&mut self.told_ready, true) {
                notify::ready("ready");
            }
        } else {
            self.readiness.set_not_ready(&text);
        }
        if phase == Phase::Stopping {
            notify::stopping();
        } else {
            notify::status(&text);
        }
        self.said = Some(said);
    }

    /// Writes `state.json` again when it is gone.
    pub fn restore(&mut self) {
        self.file.restore();
    }

    /// The last things that happened.
    #[must_use]
    pub const fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The phase that was said last.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.said.as_ref().map(|(phase, _)| *phase)
    }
}
