//! Locks between processes: that of one network is shared with Go's
//! host-local (HL-27).

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use nix::fcntl::OFlag;

use crate::file;

/// The lock file's name in the network's folder.
pub(super) const NAME: &str = "lock";

/// Takes the whole-file `flock` on `path` and returns the file that holds it,
/// or `None` when `deadline` came first. Missing folders are not made.
///
/// # Errors
/// When the file can be neither opened nor made, or not locked at all.
pub fn take(path: &Path, deadline: Instant) -> io::Result<Option<File>> {
    loop {
        let file = file::open(path, OFlag::O_RDONLY | OFlag::O_CREAT, 0o750)?;
        let Some(file) = hold(file, deadline)? else { return Ok(None) };
        // Whoever removed the file while we waited has left us with a lock
        // that the next process does not see.
        if file.metadata()?.nlink() > 0 {
            return Ok(Some(file));
        }
    }
}

/// Takes the lock on an open file and returns it, or `None` when `deadline`
/// came first.
///
/// # Errors
/// When it cannot be locked at all.
pub fn hold(file: File, deadline: Instant) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => wait(file, deadline),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Waits in the kernel's queue, so that nobody overtakes us, on a thread,
/// so that the wait can be given up: the kernel knows no time limit here.
/// A lock that arrives too late is dropped with its file.
fn wait(file: File, deadline: Instant) -> io::Result<Option<File>> {
    let (tx, rx) = mpsc::channel();
    std::thread::Builder::new()
        .name("pool-lock".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            let locked = loop {
                match file.lock() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            // The receiver may be gone: then nobody waits any more.
            let _ = tx.send(locked.map(|()| file));
        })?;
    match rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(locked) => locked.map(Some),
        Err(_) => Ok(None),
    }
}
