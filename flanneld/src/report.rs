//! Says how far the daemon is, in all the places where somebody looks:
//! `/readyz`, `state.json`, systemd, the log.

use std::time::{Duration, SystemTime};

use ipam::daemon_state::Phase;

use crate::files::{Files, News, is_away};
use crate::health::Readiness;
use crate::notify;
use crate::recent::Recent;

/// The one voice of the daemon.
#[derive(Debug)]
pub struct Reporter {
    readiness: Readiness,
    files: Files,
    said: Option<(Phase, String)>,
    /// Since when the daemon is in that phase.
    since: SystemTime,
    lease_ends: Option<Option<Duration>>,
    /// What the state file says for sure.
    filed: Option<News>,
    told_ready: bool,
    recent: Recent,
}

// === impl Reporter ===

impl Reporter {
    /// The daemon starts.
    #[must_use]
    pub fn new(files: Files, readiness: Readiness, recent: Recent) -> Self {
        let mut out = Self {
            readiness,
            files,
            said: None,
            since: SystemTime::now(),
            lease_ends: None,
            filed: None,
            told_ready: false,
            recent,
        };
        out.say(Phase::Starting, "it has just started");
        out
    }

    /// The files, of which it writes one.
    #[must_use]
    pub const fn files(&self) -> &Files {
        &self.files
    }

    /// Until when the node has its subnet, on the clock of
    /// [`since_boot`](crate::clock::since_boot); written with what is said next.
    pub fn lease_ends(&mut self, ends: Option<Duration>) {
        self.lease_ends = Some(ends);
    }

    /// The daemon is in `phase`, for `reason`; what was said already is not
    /// said again, but for the file if it could not be written.
    pub fn say(&mut self, phase: Phase, reason: &str) {
        let said = (phase, reason.to_owned());
        let now = SystemTime::now();
        if self.phase() != Some(phase) {
            self.since = now;
        }
        self.file(phase, reason);
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

    /// Has the state file say it, unless it does.
    fn file(&mut self, phase: Phase, reason: &str) {
        // One that is not written yet is not to be forgotten over the end.
        if is_away(phase) && self.phase() == Some(Phase::LeaseLost) {
            return;
        }
        let news = News {
            phase,
            reason: reason.to_owned(),
            since: self.since,
            lease_ends: self.lease_ends,
        };
        if self.filed.as_ref() != Some(&news) {
            let told = self.files.tell(news.clone());
            self.filed = told.then_some(news);
        }
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
