//! One daemon per subnet file (D-80).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::atomic;

/// How often, and how far apart, the lock of an ended daemon is asked for: a
/// program that it was just starting has the lock until it is executed.
const TRIES: u32 = 25;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Held while the daemon lives; the kernel gives it back when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    subnet_file: PathBuf,
    path: PathBuf,
    file: File,
    /// That another daemon has it was said.
    said: bool,
}

/// The daemon may not run.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has the same subnet file.
    #[error(
        "another flanneld{holder} already serves {subnet_file}: stop it, or \
         give this one its own --subnet-file (and --etcd-prefix)",
        holder = pid.as_ref().map(|p| format!(" (pid {p})")).unwrap_or_default(),
        subnet_file = subnet_file.display()
    )]
    Held {
        /// The file both would write.
        subnet_file: PathBuf,
        /// The other's process id, in its own process namespace.
        pid: Option<String>,
    },
    /// The lock file cannot be used.
    #[error(
        "the lock file {path} cannot be used: {error}; it stands beside the \
         file that --subnet-file names, whose directory must be writable",
        path = path.display()
    )]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

// === impl InstanceLock ===

impl InstanceLock {
    /// Takes the lock that belongs to `subnet_file`: `flock` on a file beside
    /// it named after it, into which our process id is written. The file
    /// stays when the daemon ends. With `wait`, waits for as long as another
    /// process has it, and says whom for.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it, without `wait`.
    pub fn take(subnet_file: &Path, wait: bool) -> Result<Self, LockError> {
        let path = beside(subnet_file);
        if path == Path::new("") {
            return Err(LockError::File {
                path: subnet_file.to_owned(),
                error: io::ErrorKind::InvalidInput.into(),
            });
        }
        let failed = |error| LockError::File { path: path.clone(), error };
        let mut waited = false;
        let mut file = loop {
            let mut file = open(&path).map_err(failed)?;
            match try_lock(&file, || thread::sleep(BETWEEN_TRIES)) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let held = LockError::Held {
                        subnet_file: subnet_file.to_owned(),
                        pid: holder(&mut file),
                    };
                    if !wait {
                        return Err(held);
                    }
                    if !std::mem::replace(&mut waited, true) {
                        tracing::info!(
                            "waiting for the end of the other: {held}"
                        );
                    }
                    file.lock().map_err(failed)?;
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Somebody has removed it, and the other has the lock on one that
            // it has made anew.
            if is_at(&file, &path).unwrap_or(false) {
                break file;
            }
        };
        if waited {
            tracing::info!("the other flanneld has ended");
        }
        note(&mut file, &path);
        let subnet_file = subnet_file.to_owned();
        Ok(Self { subnet_file, path, file, said: false })
    }

    /// Makes the file anew if it is not there any more, or another one: nobody
    /// who starts would meet the lock. When another daemon was faster with
    /// that, this one says so, and goes on.
    pub fn keep(&mut self) {
        if is_at(&self.file, &self.path).unwrap_or(false) {
            self.said = false;
            return;
        }
        let taken =
            open(&self.path).and_then(|mut file| match file.try_lock() {
                Ok(()) => {
                    note(&mut file, &self.path);
                    self.file = file;
                    Ok(None)
                }
                Err(TryLockError::WouldBlock) => Ok(Some(LockError::Held {
                    subnet_file: self.subnet_file.clone(),
                    pid: holder(&mut file),
                })),
                Err(TryLockError::Error(error)) => Err(error),
            });
        let said = std::mem::replace(&mut self.said, true);
        match taken {
            Ok(None) => {
                self.said = false;
                tracing::warn!(
                    "the lock file {} was removed while this flanneld runs: \
                     made anew",
                    self.path.display()
                );
            }
            Ok(Some(held)) if !said => tracing::error!(
                "two daemons work on this node, as the lock file was removed \
                 in between: {held}"
            ),
            Err(error) if !said => tracing::warn!(
                "the lock file {} is gone and cannot be made anew: {error}",
                self.path.display()
            ),
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Whether `path` leads to `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

fn try_lock(file: &File, mut pause: impl FnMut()) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => pause(),
            other => return other,
        }
    }
    file.try_lock()
}

/// Where the lock of the daemon that writes `subnet_file` is.
pub(super) fn beside(subnet_file: &Path) -> PathBuf {
    atomic::beside(subnet_file, "", ".lock").unwrap_or_default()
}

fn open(path: &Path) -> io::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(atomic::directory(path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Writes our process id into the file. The lock is what counts: on a full
/// disk it goes without.
fn note(file: &mut File, path: &Path) {
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::warn!("{} does not say whose it is: {error}", path.display());
    }
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim();
    let is_pid = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    is_pid.then(|| pid.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn lock_file(subnet_file: &Path) -> PathBuf {
        atomic::beside(subnet_file, "", ".lock").unwrap()
    }

    #[test]
    fn the_second_is_told_who_was_first() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("flannel/subnet.env");
        let first = InstanceLock::take(&subnet_file, false).unwrap();
        let text = fs::read_to_string(lock_file(&subnet_file)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));

        let error =
            InstanceLock::take(&subnet_file, false).unwrap_err().to_string();
        assert!(
            error.contains(&format!("(pid {})", std::process::id())),
            "{error}"
        );
        assert!(error.contains("flannel/subnet.env"), "{error}");

        drop(first);
        InstanceLock::take(&subnet_file, false).unwrap();
    }

    #[test]
    fn a_child_of_an_ended_daemon_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("flannel/subnet.env");
        let first = InstanceLock::take(&subnet_file, false).unwrap();
        // what a child has between fork and exec
        let mut copy = Some(first.file.try_clone().unwrap());
        drop(first);
        let file = open(&lock_file(&subnet_file)).unwrap();
        let mut pauses = 0;
        let executed = || {
            pauses += 1;
            if pauses == 3 {
                copy = None;
            }
        };
        try_lock(&file, executed).unwrap();
        assert_eq!(pauses, 3);
        // not for ever
        let other = open(&lock_file(&subnet_file)).unwrap();
        let mut pauses = 0;
        assert!(try_lock(&other, || pauses += 1).is_err());
        assert_eq!(pauses, TRIES - 1);
    }

    #[test]
    fn a_lock_file_that_was_removed_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("flannel/a.env");
        let path = lock_file(&subnet_file);
        let mut first = InstanceLock::take(&subnet_file, false).unwrap();
        let held = || InstanceLock::take(&subnet_file, false).is_err();
        first.keep();
        assert!(held());

        for directory_too in [false, true] {
            fs::remove_file(&path).unwrap();
            if directory_too {
                fs::remove_dir(path.parent().unwrap()).unwrap();
            }
            first.keep();
            assert!(held());
        }

        // Somebody was faster: that one's is not touched.
        fs::remove_file(&path).unwrap();
        let second = InstanceLock::take(&subnet_file, false).unwrap();
        first.keep();
        assert!(first.said);
        drop(second);
        first.keep();
        assert!(!first.said);
        assert!(held());
    }

    #[test]
    fn whoever_waits_gets_it_in_the_end() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("a.env");
        let path = beside(&subnet_file);
        let mut first = InstanceLock::take(&subnet_file, false).unwrap();
        let inode = || fs::metadata(&path).unwrap().ino();
        let before = inode();
        let second = std::thread::spawn(move || {
            InstanceLock::take(&subnet_file, true).map(drop)
        });
        let wait_for = |inode: u64| {
            // 7: -> FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF
            let waits = |line: &str| {
                line.contains(": -> FLOCK")
                    && line.contains(&format!(":{inode} "))
            };
            let limit = Instant::now() + Duration::from_secs(20);
            while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits)
            {
                assert!(Instant::now() < limit && !second.is_finished());
                std::thread::yield_now();
            }
        };
        wait_for(before);
        // It waits on for the file that is made anew, not for the one that
        // was removed, and is free then.
        fs::remove_file(&path).unwrap();
        first.keep();
        assert_ne!(inode(), before);
        wait_for(inode());
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn daemons_with_their_own_subnet_files_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let _a = InstanceLock::take(&root.path().join("a.env"), false).unwrap();
        InstanceLock::take(&root.path().join("b.env"), false).unwrap();
    }

    #[test]
    fn a_longer_pid_of_an_earlier_daemon_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("a.env");
        fs::write(lock_file(&subnet_file), "12345678901234567890\n").unwrap();
        let _lock = InstanceLock::take(&subnet_file, false).unwrap();
        let text = fs::read_to_string(lock_file(&subnet_file)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn rubbish_in_the_file_is_not_shown() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("a.env");
        let _lock = InstanceLock::take(&subnet_file, false).unwrap();
        fs::write(lock_file(&subnet_file), "evil\nlines").unwrap();
        let error =
            InstanceLock::take(&subnet_file, false).unwrap_err().to_string();
        assert!(!error.contains("evil"), "{error}");
        assert!(error.contains("another flanneld already"), "{error}");
    }
}
