//! Kernel settings under `/proc/sys`. Those under `net/` are the calling
//! thread's namespace's: use [`NetNs::enter`](crate::NetNs::enter) around
//! these functions for another one's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys";

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The setting cannot be read.
    #[error("{}: read: {source}", path.display())]
    Read {
        /// The setting's file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The setting has another value and cannot be written: `/proc/sys` is
    /// read-only in most containers.
    #[error(
        "{} is {is:?}, should be {should:?}, and cannot be written: \
         {source}; set it on the host or run privileged",
        path.display()
    )]
    Write {
        /// The setting's file.
        path: PathBuf,
        /// Its present value.
        is: String,
        /// The value it should have.
        should: String,
        /// What the system answered.
        source: io::Error,
    },
}

/// The value of a setting such as `net/ipv4/ip_forward`, without the line
/// end. Parts are separated by slashes, so that device names may have dots.
///
/// # Errors
/// [`SysctlError::Read`].
pub fn read(key: &str) -> Result<String, SysctlError> {
    read_at(&Path::new(ROOT).join(key))
}

/// Gives a setting that value unless it has it already; returns whether it
/// was written. A read-only `/proc/sys` is an error only if the value
/// differs.
///
/// # Errors
/// [`SysctlError`].
pub fn write_if_different(key: &str, value: &str) -> Result<bool, SysctlError> {
    write_at(Path::new(ROOT).join(key), value)
}

fn read_at(path: &Path) -> Result<String, SysctlError> {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| SysctlError::Read { path: path.to_owned(), source })
}

fn write_at(path: PathBuf, value: &str) -> Result<bool, SysctlError> {
    let is = read_at(&path)?;
    if is == value {
        return Ok(false);
    }
    match fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(source) => {
            let should = value.to_owned();
            Err(SysctlError::Write { path, is, should, source })
        }
    }
}

// === impl SysctlError ===

impl SysctlError {
    /// The kernel has no such setting (in this namespace, for this device).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self;
        source.kind() == io::ErrorKind::NotFound
    }
}

#[cfg(test)]
mod tests;
