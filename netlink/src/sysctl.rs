//! Kernel settings under `/proc/sys`. Those under `net/` are the calling
//! thread's namespace's: use [`NetNs::enter`](crate::NetNs::enter) around
//! these functions for another one's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ipam::file;
use nix::fcntl::OFlag;

use crate::error::is_transient;

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

/// Whether a setting that reads as `is` has the value `wanted`: the kernel
/// takes numbers with spaces between them, and shows them with tabs.
#[must_use]
pub fn is_same(is: &str, wanted: &str) -> bool {
    is.split_whitespace().eq(wanted.split_whitespace())
}

/// What a small file under `/proc` or `/sys` holds, without the line end.
///
/// # Errors
/// What the system answered.
pub fn read_file(path: &Path) -> io::Result<String> {
    value_of(&mut file::open(path, OFlag::O_RDONLY, 0)?)
}

fn read_at(path: &Path) -> Result<String, SysctlError> {
    read_file(path)
        .map_err(|source| SysctlError::Read { path: path.to_owned(), source })
}

/// Reads and writes through one descriptor: to find a setting's file takes
/// longer than all the rest, the longer the more namespaces there are.
fn write_at(path: PathBuf, value: &str) -> Result<bool, SysctlError> {
    let opened = file::open(&path, OFlag::O_RDWR, 0);
    let (is, written) = match opened {
        Ok(mut file) => match value_of(&mut file) {
            Ok(is) if is_same(&is, value) => return Ok(false),
            Ok(is) => (is, file.write_all_at(value.as_bytes(), 0)),
            Err(source) => return Err(SysctlError::Read { path, source }),
        },
        Err(e) => match read_at(&path)? {
            is if is_same(&is, value) => return Ok(false),
            is => (is, Err(e)),
        },
    };
    written.map(|()| true).map_err(|source| {
        let should = value.to_owned();
        SysctlError::Write { path, is, should, source }
    })
}

fn value_of(file: &mut File) -> io::Result<String> {
    let bytes = file::rest_of(file)?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(text.trim_end().to_owned())
}

// === impl SysctlError ===

impl SysctlError {
    /// The kernel has no such setting (in this namespace, for this device).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source().kind() == io::ErrorKind::NotFound
    }

    /// It may well work when tried again, as
    /// [`Error::is_transient`](crate::Error::is_transient).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        is_transient(self.source())
    }

    const fn source(&self) -> &io::Error {
        let (Self::Read { source, .. } | Self::Write { source, .. }) = self;
        source
    }
}

#[cfg(test)]
mod tests;
