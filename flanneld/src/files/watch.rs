//! News of a file that others touch, from inotify(7).

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipam::daemon_state::DaemonState;
use nix::errno::Errno;
use nix::sys::inotify::{
    AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor,
};
use tokio::sync::mpsc::{self, Sender, error::TrySendError};

use super::{atomic, lock};

/// While the directory is not there, it is looked for this often.
const PAUSE: Duration = Duration::from_millis(200);
/// A system that refuses inotify, as others have all there is, is asked again
/// this often. The loop looks at the files by itself each minute.
const REFUSED: Duration = Duration::from_secs(60);

/// The directory is watched, since a file can be replaced.
struct Watch {
    directory: PathBuf,
    /// The file, the state file, and the lock.
    names: [OsString; 3],
    news: Sender<()>,
    /// The pause after a refusal.
    pause: Duration,
    /// That the system refuses was said.
    said: bool,
}

/// The instance, and what in it stands for the directory.
type Open = (Inotify, WatchDescriptor);

/// Nobody listens any more.
struct Gone;

/// Starts a thread that tells whenever the subnet file at `path`, the state
/// file or the lock beside it may be other than it was, or their directory was
/// made anew.
/// Own writes are told, too. While the system has no inotify for it, nothing
/// is told.
///
/// # Errors
/// When the system refuses the thread.
pub fn watch(path: &Path) -> io::Result<mpsc::Receiver<()>> {
    start(path, REFUSED)
}

fn start(path: &Path, pause: Duration) -> io::Result<mpsc::Receiver<()>> {
    let (news, receiver) = mpsc::channel(1);
    let watch = Watch {
        directory: atomic::directory(path),
        names: [path, &DaemonState::beside(path), &lock::beside(path)]
            .map(|path| path.file_name().unwrap_or_default().to_owned()),
        news,
        pause,
        said: false,
    };
    // Before the first write: nothing falls in between then.
    let first = watch.open();
    std::thread::Builder::new().name("subnet-file".to_owned()).spawn(
        move || {
            let Err(Gone) = watch.run(first);
        },
    )?;
    Ok(receiver)
}

// === impl Watch ===

impl Watch {
    fn open(&self) -> Result<Open, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        if let Some(parent) = self.directory.parent() {
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_ONLYDIR;
            // Without it only the removal of a directory that somebody holds
            // stays unseen.
            let _ = inotify.add_watch(parent, flags);
        }
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let directory = inotify.add_watch(&self.directory, flags)?;
        Ok((inotify, directory))
    }

    fn run(
        mut self,
        mut opened: Result<Open, Errno>,
    ) -> Result<Infallible, Gone> {
        loop {
            let ended = opened.and_then(|open| {
                if std::mem::take(&mut self.said) {
                    tracing::info!("inotify tells of the subnet file again");
                }
                self.until_gone(&open)
            });
            match ended {
                Ok(gone) => gone?,
                // The writer makes the directory anew.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    self.refused(error);
                    std::thread::sleep(self.pause);
                }
            }
            if self.news.is_closed() {
                return Err(Gone);
            }
            opened = self.open();
            if opened.is_ok() {
                // What happened before is not known.
                self.tell()?;
            }
        }
    }

    fn refused(&mut self, error: Errno) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                "what others do to {} is found once a minute, as the system \
                 has no inotify for it: {error}",
                self.directory.display()
            );
        }
    }

    /// Tells of each event until the directory is not the one at that path
    /// any more, or nobody listens.
    ///
    /// # Errors
    /// The system's, when nothing more is heard.
    fn until_gone(
        &self,
        (inotify, watched): &Open,
    ) -> Result<Result<(), Gone>, Errno> {
        loop {
            let events = match inotify.read_events() {
                Err(Errno::EINTR) => continue,
                events => events?,
            };
            if events.iter().any(|event| self.concerns(event))
                && let Err(gone) = self.tell()
            {
                return Ok(Err(gone));
            }
            let has = |flag| {
                events.iter().any(|e| e.wd == *watched && e.mask.contains(flag))
            };
            // A directory that somebody holds, as by an open file that was in
            // it, goes without a word of its own: its parent tells.
            let replaced = events.iter().any(|e| {
                e.wd != *watched
                    && e.name.as_deref() == self.directory.file_name()
            });
            if has(AddWatchFlags::IN_IGNORED)
                || has(AddWatchFlags::IN_MOVE_SELF)
                || replaced
            {
                return Ok(self.tell());
            }
        }
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
            || event.name.as_ref().is_some_and(|n| self.names.contains(n))
    }

    /// One that is waiting to be heard stands for all.
    fn tell(&self) -> Result<(), Gone> {
        match self.news.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Closed(())) => Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn heard(news: &mut mpsc::Receiver<()>, what: &str) {
        tokio::time::timeout(Duration::from_secs(20), news.recv())
            .await
            .expect(what)
            .expect("the thread runs");
    }

    #[tokio::test]
    async fn whatever_happens_to_the_file_is_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("flannel");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("subnet.env");
        let mut news = watch(&path).unwrap();
        fs::write(&path, "written").unwrap();
        heard(&mut news, "written").await;
        fs::write(dir.join("new"), "replaced").unwrap();
        fs::rename(dir.join("new"), &path).unwrap();
        heard(&mut news, "replaced").await;
        fs::remove_file(&path).unwrap();
        heard(&mut news, "removed").await;

        fs::remove_dir_all(&dir).unwrap();
        heard(&mut news, "the directory is gone").await;
        fs::create_dir(&dir).unwrap();
        tokio::time::sleep(PAUSE * 3).await;
        while news.try_recv().is_ok() {}
        fs::write(&path, "written").unwrap();
        heard(&mut news, "written in the new directory").await;
    }

    /// Set for the next test's child, which has few files to open.
    const FEW: &str = "FLANNEL_TEST_FEW_FILES";

    #[tokio::test]
    async fn watches_in_a_child_of_the_next_test() {
        // Started by anybody else it has nothing to do.
        let Some(dir) = std::env::var_os(FEW) else { return };
        let path = Path::new(&dir).join("subnet.env");
        let null = || fs::File::open("/dev/null");
        let full: Vec<_> = std::iter::from_fn(|| null().ok()).collect();
        let mut news = start(&path, Duration::from_millis(10)).unwrap();
        assert!(Inotify::init(InitFlags::empty()).is_err());
        drop(full);
        heard(&mut news, "watched once that is possible").await;
        fs::write(&path, "written").unwrap();
        heard(&mut news, "written").await;
    }

    #[test]
    fn a_system_without_inotify_is_asked_again() {
        let root = tempfile::tempdir().unwrap();
        let child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg("files::watch::tests::watches_in_a_child_of_the_next_test")
            .env(FEW, root.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
    }

    /// It would be asked for ever, without a pause.
    #[test]
    fn an_instance_that_fails_is_given_up() {
        let root = tempfile::tempdir().unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        let watched =
            inotify.add_watch(root.path(), AddWatchFlags::IN_CREATE).unwrap();
        let watch = Watch {
            directory: root.path().to_owned(),
            names: Default::default(),
            news: mpsc::channel(1).0,
            pause: PAUSE,
            said: false,
        };
        let ended = watch.until_gone(&(inotify, watched));
        assert!(matches!(ended, Err(Errno::EAGAIN)));
    }

    #[tokio::test]
    async fn other_files_are_not_told() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        let mut news = watch(&path).unwrap();
        fs::write(root.path().join("other"), "x").unwrap();
        fs::write(&path, "x").unwrap();
        heard(&mut news, "the file itself").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(news.try_recv().is_err(), "one write, one piece of news");
    }
}
