//! One daemon per subnet file (D-80).

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::atomic;

/// Held while the daemon lives; the kernel gives it back when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
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
        let path =
            atomic::beside(subnet_file, "", ".lock").ok_or_else(|| {
                LockError::File {
                    path: subnet_file.to_owned(),
                    error: io::ErrorKind::InvalidInput.into(),
                }
            })?;
        let failed = |error| LockError::File { path: path.clone(), error };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(atomic::directory(&path))
            .map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let held = LockError::Held {
                    subnet_file: subnet_file.to_owned(),
                    pid: holder(&mut file),
                };
                if !wait {
                    return Err(held);
                }
                tracing::info!("waiting for the end of the other: {held}");
                file.lock().map_err(failed)?;
                tracing::info!("the other flanneld has ended");
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The lock is what counts: on a full disk it goes without the number.
        let noted = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(
                "{} does not say whose it is: {error}",
                path.display()
            );
        }
        Ok(Self { _file: file })
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
    use std::fs;

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
    fn whoever_waits_gets_it_in_the_end() {
        let root = tempfile::tempdir().unwrap();
        let subnet_file = root.path().join("a.env");
        let first = InstanceLock::take(&subnet_file, false).unwrap();
        let second = std::thread::spawn(move || {
            InstanceLock::take(&subnet_file, true).map(drop)
        });
        assert!(!second.is_finished());
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
