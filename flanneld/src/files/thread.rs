//! The thread `files`, for what stands beside `subnet.env`. Usually that is in
//! memory, but it can be on a disk that hangs, and nothing else is to hang
//! with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use ipam::daemon_state::Phase;
use ipam::subnet_env::SubnetEnv;

use super::{Found, InstanceLock, StateFile, SubnetFile, WriteError};
use crate::worker::{Newest, Worker};

/// So long a file is waited for. What is asked for while the thread is behind
/// is not waited for at all: a disk that hangs costs this once.
const LIMIT: Duration = Duration::from_secs(2);

/// The subnet file, the state file, and the lock. Each call ends within two
/// seconds. Usually the file then says what it was to say, so that who hears
/// of something elsewhere finds it there as well. Else the thread goes on
/// with it, and with the newest of what was asked for meanwhile.
#[derive(Debug)]
pub struct Files {
    thread: Worker<Owned>,
    state: Newest<News>,
    subnet: Newest<SubnetEnv>,
    look: Newest<()>,
    /// Has another owner for each job that is not done.
    under_way: Arc<()>,
    subnet_file: PathBuf,
    limit: Duration,
}

/// What the state file is to say; see [`StateFile::set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// How far the daemon is.
    pub phase: Phase,
    /// Why.
    pub reason: String,
    /// Since when it is in that phase.
    pub since: SystemTime,
    /// Until when the node has its subnet; see [`StateFile::set_lease_end`].
    /// `None` while that is as the last run knew it.
    pub lease_ends: Option<Option<Duration>>,
}

#[derive(Debug)]
struct Owned {
    /// Not read: the process has it while this is there.
    lock: InstanceLock,
    state: StateFile,
    subnet: SubnetFile,
}

// === impl Files ===

impl Files {
    /// Starts the thread for `subnet_file`, whose lock is taken.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(subnet_file: &Path, lock: InstanceLock) -> io::Result<Self> {
        let owned = Owned {
            lock,
            state: StateFile::new(subnet_file),
            subnet: SubnetFile::new(subnet_file),
        };
        Ok(Self {
            thread: Worker::spawn("files", owned)?,
            state: Newest::default(),
            subnet: Newest::default(),
            look: Newest::default(),
            under_way: Arc::default(),
            subnet_file: subnet_file.to_owned(),
            limit: LIMIT,
        })
    }

    /// Has the state file say `news`. Whether it does.
    ///
    /// The CNI plugin goes by a lost lease while the daemon is away, too: only
    /// one that runs and has a lease, or looks for one, knows better.
    #[must_use]
    pub fn tell(&self, news: News) -> bool {
        let told = self.ask(&self.state, news, |owned, news| {
            let News { phase, reason, since, lease_ends } = news;
            if let Some(ends) = lease_ends {
                owned.state.set_lease_end(ends);
            }
            let lost = is_away(phase) && owned.state.says_lost();
            lost || owned.state.set(phase, &reason, since)
        });
        told.unwrap_or(false)
    }

    /// Has the subnet file say `env`; see [`SubnetFile::write`].
    ///
    /// # Errors
    /// [`WriteError`], also when the thread is still at it.
    pub fn write(&self, env: SubnetEnv) -> Result<Found, WriteError> {
        let written =
            self.ask(&self.subnet, env, |owned, env| owned.subnet.write(&env));
        written.unwrap_or_else(|| {
            Err(WriteError {
                path: self.subnet_file.clone(),
                step: "waiting for its disk",
                error: io::ErrorKind::TimedOut.into(),
            })
        })
    }

    /// Puts back the lock and the state file if they are gone.
    pub fn look(&self) {
        // What it finds it says itself.
        let _ = self.ask(&self.look, (), |owned, ()| {
            owned.lock.keep();
            owned.state.restore();
        });
    }

    /// What `job` gives, or `None` when it is not done yet.
    fn ask<V: Send + 'static, R: Send + 'static>(
        &self,
        newest: &Newest<V>,
        value: V,
        job: impl FnOnce(&mut Owned, V) -> R + Send + 'static,
    ) -> Option<R> {
        let behind = Arc::strong_count(&self.under_way) > 1;
        let under_way = Arc::clone(&self.under_way);
        let (reply, answer) = channel();
        newest.post(&self.thread, value, move |owned, value| {
            let result = job(owned, value);
            drop(under_way);
            // Nobody waits any more, perhaps.
            let _ = reply.send(result);
        });
        let limit = if behind { Duration::ZERO } else { self.limit };
        answer.recv_timeout(limit).ok()
    }
}

/// Whether a daemon in that phase has no lease, and looks for none.
pub(crate) const fn is_away(phase: Phase) -> bool {
    matches!(phase, Phase::Starting | Phase::Stopping | Phase::Failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ipam::PerFamily;
    use ipam::daemon_state::DaemonState;
    use nix::sys::stat::Mode;

    use super::*;

    fn news(phase: Phase) -> News {
        let (reason, since) = (String::new(), SystemTime::now());
        News { phase, reason, since, lease_ends: None }
    }

    fn env(mtu: u32) -> SubnetEnv {
        SubnetEnv { families: PerFamily::default(), mtu, ip_masq: false }
    }

    fn files(dir: &Path, limit: Duration) -> (Files, PathBuf) {
        let path = dir.join("subnet.env");
        let lock = InstanceLock::take(&path, false).unwrap();
        let files = Files::spawn(&path, lock).unwrap();
        (Files { limit, ..files }, path)
    }

    fn phase(path: &Path) -> Phase {
        let text = fs::read_to_string(DaemonState::beside(path)).unwrap();
        DaemonState::parse(&text).unwrap().phase
    }

    #[test]
    fn what_was_asked_for_is_there_when_the_call_ends() {
        let root = tempfile::tempdir().unwrap();
        let (files, path) = files(root.path(), Duration::from_secs(60));
        assert_eq!(files.write(env(1450)).unwrap(), Found::Nothing);
        assert_eq!(files.write(env(1450)).unwrap(), Found::Equal);
        assert!(files.tell(news(Phase::Ready)));
        assert_eq!(phase(&path), Phase::Ready);
        fs::remove_file(DaemonState::beside(&path)).unwrap();
        files.look();
        assert_eq!(phase(&path), Phase::Ready);
        // nobody who is away knows better
        assert!(files.tell(news(Phase::LeaseLost)));
        assert!(files.tell(news(Phase::Stopping)));
        assert_eq!(phase(&path), Phase::LeaseLost);
    }

    /// A pipe stands for a file whose disk hangs: whoever opens it waits.
    #[test]
    fn a_disk_that_hangs_is_waited_for_once_and_gets_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(50);
        let (files, path) = files(root.path(), limit);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let start = std::time::Instant::now();
        let error = files.write(env(1)).unwrap_err().to_string();
        assert!(error.contains("(waiting for its disk): timed"), "{error}");
        assert!(start.elapsed() >= limit, "it waits for a slow disk");
        for mtu in 2..100 {
            files.write(env(mtu)).unwrap_err();
            assert!(!files.tell(news(Phase::Degraded)));
            files.look();
        }
        assert!(!files.tell(news(Phase::Ready)));
        // The disk answers: there is something else in the file.
        fs::write(&path, "").unwrap();
        let there = || {
            let text = fs::read_to_string(DaemonState::beside(&path));
            text.is_ok_and(|text| text.contains("ready"))
        };
        while !there() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("FLANNEL_MTU=99"), "{text}");
    }
}
