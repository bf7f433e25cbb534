//! `state.json`: what the daemon says about itself (design.md §3.10).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipam::daemon_state::{DaemonState, Phase};

use super::atomic::{self, Lasts, WriteError};

/// Where the kernel tells one start of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The state file beside one subnet file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    subnet_file: String,
    boot_id: String,
    /// What was said last, and whether the file says so.
    last: Option<DaemonState>,
    lease_ends: Option<u64>,
    written: bool,
    complained: bool,
}

/// What tells this start of the machine from another; empty where the kernel
/// does not say.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

// === impl StateFile ===

impl StateFile {
    /// The file that belongs to `subnet_file`; nothing is touched yet.
    #[must_use]
    pub fn new(subnet_file: &Path) -> Self {
        let mut out = Self {
            path: DaemonState::beside(subnet_file),
            subnet_file: subnet_file.display().to_string(),
            boot_id: boot_id(),
            last: None,
            lease_ends: None,
            written: false,
            complained: false,
        };
        // until the store says otherwise, what the last run knew
        out.lease_ends = out.read().and_then(|state| state.lease_ends_uptime);
        out
    }

    /// What the file says of this boot.
    fn read(&self) -> Option<DaemonState> {
        let text = fs::read_to_string(&self.path).ok()?;
        let state = DaemonState::parse(&text).ok()?;
        (state.boot_id == self.boot_id).then_some(state)
    }

    /// Whether the file says, of this boot, that the lease is lost.
    #[must_use]
    pub fn says_lost(&self) -> bool {
        self.read().is_some_and(|state| state.phase == Phase::LeaseLost)
    }

    /// Writes what was written last again, if the file is gone. Best effort:
    /// the next news are written anyway.
    pub fn restore(&self) {
        let Some(Ok(text)) = self.last.as_ref().map(DaemonState::render) else {
            return;
        };
        if !self.path.exists()
            && let Err(error) = self.write(&text)
        {
            tracing::debug!("{error}");
        }
    }

    /// No other start of the machine believes it: it has the boot id in it.
    fn write(&self, text: &str) -> Result<(), WriteError> {
        atomic::write(&self.path, text.as_bytes(), 0o644, Lasts::ThisBoot)
    }

    /// Until when the node has its subnet; see
    /// [`DaemonState::lease_ends_uptime`]. Written with what is [set](Self::set)
    /// next.
    pub fn set_lease_end(&mut self, at: Option<Duration>) {
        self.lease_ends = at.map(|at| at.as_secs());
    }

    /// Says that the daemon is in `phase`, for `reason` (see
    /// [`DaemonState::reason`]). Does nothing when the file says so already.
    /// A failure is said once, not again until a write has worked, and has
    /// no other consequence. Whether the file says so now.
    pub fn set(&mut self, phase: Phase, reason: &str, now: SystemTime) -> bool {
        let began = match &self.last {
            Some(last)
                if self.written
                    && last.phase == phase
                    && last.reason == reason
                    && last.lease_ends_uptime == self.lease_ends =>
            {
                return true;
            }
            Some(last) if last.phase == phase => last.since,
            _ => now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        };
        let mut state = DaemonState::new(
            phase,
            reason,
            began,
            self.boot_id.as_str(),
            self.subnet_file.as_str(),
        );
        state.lease_ends_uptime = self.lease_ends;
        let Ok(text) = state.render() else { return false };
        self.last = Some(state);
        let result = self.write(&text);
        self.written = result.is_ok();
        match result {
            Ok(()) => self.complained = false,
            Err(error) => {
                if !self.complained {
                    tracing::warn!(
                        "others cannot be told what the daemon does: {error}"
                    );
                }
                self.complained = true;
            }
        }
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn read(path: &Path) -> DaemonState {
        DaemonState::parse(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The CNI plugin goes by it while the daemon is away, and while it does
    /// not know better yet.
    #[test]
    fn until_when_the_node_has_its_subnet() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("subnet.env");
        let path = root.path().join("state.json");
        let mut file = StateFile::new(&subnet_file);
        file.set(Phase::Ready, "", at(10));
        assert_eq!(read(&path).lease_ends_uptime, None);
        file.set_lease_end(Some(Duration::from_secs(1000)));
        file.set(Phase::Ready, "", at(11));
        assert_eq!(read(&path).lease_ends_uptime, Some(1000));
        // whatever the wall clock is set to
        file.set(Phase::Degraded, "", at(1_000_000));
        assert_eq!(read(&path).lease_ends_uptime, Some(1000));
        let mut next = StateFile::new(&subnet_file);
        next.set(Phase::Starting, "", at(20));
        assert_eq!(read(&path).lease_ends_uptime, Some(1000));
        next.set_lease_end(None);
        next.set(Phase::LeaseLost, "", at(21));
        assert_eq!(read(&path).lease_ends_uptime, None);
    }

    #[test]
    fn a_phase_keeps_its_beginning() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("flannel/subnet.env");
        let path = root.path().join("flannel/state.json");
        let mut file = StateFile::new(&subnet_file);

        file.set(Phase::WaitingForStore, "no answer", at(10));
        let state = read(&path);
        assert_eq!((state.phase, state.since), (Phase::WaitingForStore, 10));
        assert_eq!(state.subnet_file, subnet_file.display().to_string());
        assert!(!state.boot_id.is_empty());

        file.set(Phase::WaitingForStore, "refused", at(20));
        let state = read(&path);
        assert_eq!((state.reason.as_str(), state.since), ("refused", 10));

        file.set(Phase::Ready, "", at(30));
        assert_eq!(read(&path).since, 30);
    }

    #[test]
    fn an_equal_state_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(&root.path().join("b.env"));
        let path = root.path().join("b.env.state.json");
        file.set(Phase::Ready, "", at(1));
        fs::remove_file(&path).unwrap();
        file.set(Phase::Ready, "", at(2));
        assert!(!path.exists());
        file.restore();
        assert_eq!(read(&path).phase, Phase::Ready);
        file.set(Phase::Stopping, "", at(3));
        assert!(path.exists());
    }

    #[test]
    fn a_lost_lease_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(&root.path().join("subnet.env"));
        assert!(!file.says_lost());
        file.set(Phase::LeaseLost, "it was deleted", at(1));
        assert!(file.says_lost());
        let again = StateFile::new(&root.path().join("subnet.env"));
        assert!(again.says_lost());
        file.set(Phase::Ready, "", at(2));
        assert!(!file.says_lost());
    }

    #[test]
    fn failure_is_retried() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("dir");
        fs::write(&dir, "in the way").unwrap();
        let mut file = StateFile::new(&dir.join("subnet.env"));
        file.set(Phase::Ready, "", at(1));
        assert!(file.complained);
        fs::remove_file(&dir).unwrap();
        file.set(Phase::Ready, "", at(9));
        let state = read(&dir.join("state.json"));
        assert_eq!((state.phase, state.since), (Phase::Ready, 1));
    }
}
