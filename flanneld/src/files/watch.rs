//! News of a file that others touch, from inotify(7).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ipam::daemon_state::DaemonState;
use nix::errno::Errno;
use nix::sys::inotify::{
    AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor,
};
use tokio::sync::mpsc::{self, Sender, error::TrySendError};

use super::{atomic, lock};

/// While the directory is not there, it is looked for this often.
const PAUSE: Duration = Duration::from_millis(200);

/// The directory is watched, since a file can be replaced.
struct Watch {
    inotify: Inotify,
    directory: PathBuf,
    /// The file, the state file, and the lock.
    names: [OsString; 3],
    news: Sender<()>,
}

/// Nobody listens any more.
struct Gone;

/// Starts a thread that tells whenever the subnet file at `path`, the state
/// file or the lock beside it may be other than it was, or their directory was
/// made anew.
/// Own writes are told, too.
///
/// # Errors
/// When the system refuses the watch or the thread.
pub fn watch(path: &Path) -> anyhow::Result<mpsc::Receiver<()>> {
    let (news, receiver) = mpsc::channel(1);
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)
        .context("inotify, for the subnet file")?;
    let watch = Watch {
        inotify,
        directory: atomic::directory(path),
        names: [path, &DaemonState::beside(path), &lock::beside(path)]
            .map(|path| path.file_name().unwrap_or_default().to_owned()),
        news,
    };
    if let Some(parent) = watch.directory.parent() {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_ONLYDIR;
        // Without it only the removal of a directory that somebody holds
        // stays unseen.
        let _ = watch.inotify.add_watch(parent, flags);
    }
    // Before the first write: nothing falls in between then.
    let first = watch.add();
    std::thread::Builder::new()
        .name("subnet-file".to_owned())
        .spawn(move || {
            let Err(Gone) = watch.run(first);
        })
        .context("a thread for the subnet file")?;
    Ok(receiver)
}

// === impl Watch ===

impl Watch {
    fn add(&self) -> Result<WatchDescriptor, Errno> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(&self.directory, flags)
    }

    fn run(
        self,
        mut present: Result<WatchDescriptor, Errno>,
    ) -> Result<std::convert::Infallible, Gone> {
        loop {
            match present {
                Ok(watched) => {
                    self.until_gone(watched)?;
                    // The writer makes the directory anew.
                    self.tell()?;
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
            present = self.add();
            if present.is_ok() {
                // What happened before is not known.
                self.tell()?;
            }
        }
    }

    /// Tells of each event until the directory is not the one at that path
    /// any more.
    fn until_gone(&self, watched: WatchDescriptor) -> Result<(), Gone> {
        loop {
            // A blocking read; it fails only when interrupted.
            let events = self.inotify.read_events().unwrap_or_default();
            if events.iter().any(|event| self.concerns(event)) {
                self.tell()?;
            }
            let has = |flag| {
                events.iter().any(|e| e.wd == watched && e.mask.contains(flag))
            };
            // A directory that somebody holds, as by an open file that was in
            // it, goes without a word of its own: its parent tells.
            let replaced = events.iter().any(|e| {
                e.wd != watched
                    && e.name.as_deref() == self.directory.file_name()
            });
            if has(AddWatchFlags::IN_IGNORED) || replaced {
                return Ok(());
            }
            if has(AddWatchFlags::IN_MOVE_SELF) {
                let _ = self.inotify.rm_watch(watched);
                return Ok(());
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
