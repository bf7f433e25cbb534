//! Network namespaces: opening, comparing, entering.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipam::file;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::is_transient;

/// The calling thread's own namespace. `/proc/self` would be the main
/// thread's.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It exists at least as long as this value and
/// its clones do.
#[derive(Clone, Debug)]
pub struct NetNs {
    file: Arc<File>,
    path: Arc<Path>,
    /// Where threads that enter it are otherwise, if that is known.
    home: Option<Arc<File>>,
}

/// Why a path is not an open network namespace, or why one could not be
/// entered.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// Nothing is at the path: the pod's sandbox is gone.
    #[error("network namespace {0} does not exist")]
    Missing(PathBuf),
    /// Something else is at the path, such as the empty file that a reboot
    /// leaves of a bind mount (BR-45).
    #[error("{path} is not a network namespace but {what}")]
    NotANamespace {
        /// The path that was opened.
        path: PathBuf,
        /// What is there.
        what: String,
    },
    /// No permission to open or enter it.
    #[error("network namespace {path}: {operation} not permitted; needs root")]
    Denied {
        /// The path that was opened.
        path: PathBuf,
        /// `open` or `setns`.
        operation: &'static str,
    },
    /// Anything else.
    #[error("network namespace {path}: {operation}: {source}")]
    Io {
        /// The path that was opened.
        path: PathBuf,
        /// The system call.
        operation: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

/// Takes the thread back when dropped, also by a panic.
struct Return {
    home: Arc<File>,
}

// === impl NetNs ===

impl NetNs {
    /// The namespace bound or linked at `path`, such as `/run/netns/x` or
    /// `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// [`NetNsError`] says what is there instead.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetNsError> {
        let path = path.as_ref();
        // Not to wait for a writer, should a pipe be there.
        let file = file::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)
            .map_err(|source| NetNsError::new(path, "open", source))?;
        let fs = fstatfs(&file)
            .map_err(|e| NetNsError::new(path, "statfs", e.into()))?;
        if fs.filesystem_type() != NSFS_MAGIC {
            let kind = file.metadata().ok().map(|m| m.file_type());
            let what = match kind {
                Some(k) if k.is_dir() => "a directory",
                Some(k) if k.is_file() => {
                    "a regular file; a reboot leaves such a file, which can \
                     be removed"
                }
                _ => "something else",
            };
            return Err(NetNsError::NotANamespace {
                path: path.to_owned(),
                what: what.to_owned(),
            });
        }
        // Namespaces of all kinds are on that filesystem. Under /proc the
        // link's text (`net:[inode]`) tells them apart; that of a bind mount
        // is its path, and setns will tell.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        if path.starts_with("/proc")
            && let Ok(text) = std::fs::read_link(link)
        {
            let text = text.to_string_lossy();
            let kind = text.split_once(":[").map(|(kind, _)| kind);
            if kind.is_some_and(|kind| kind != "net") {
                return Err(NetNsError::NotANamespace {
                    path: path.to_owned(),
                    what: format!("the namespace {text}"),
                });
            }
        }
        Ok(Self { file: Arc::new(file), path: path.into(), home: None })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn current() -> Result<Self, NetNsError> {
        let path = Path::new(OWN);
        let file = file::open(path, OFlag::O_RDONLY, 0)
            .map_err(|source| NetNsError::new(path, "open", source))?;
        Ok(Self { file: Arc::new(file), path: path.into(), home: None })
    }

    /// The same, for threads that are in `home` whenever they enter it: they
    /// need not look in /proc each time where to return to.
    #[must_use]
    pub fn entered_from(self, home: &Self) -> Self {
        Self { home: Some(Arc::clone(&home.file)), ..self }
    }

    /// Whether both are the same namespace, whatever their paths.
    ///
    /// # Errors
    /// When one of them cannot be looked at.
    pub fn same_as(&self, other: &Self) -> Result<bool, NetNsError> {
        Ok(self.identity()? == other.identity()?)
    }

    /// Device and inode number: equal only for the same namespace.
    fn identity(&self) -> Result<(u64, u64), NetNsError> {
        let meta = self
            .file
            .metadata()
            .map_err(|source| NetNsError::new(&self.path, "stat", source))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// The path it was opened by, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor as netlink attributes carry it.
    pub(crate) fn fd_number(&self) -> u32 {
        self.file.as_raw_fd().cast_unsigned()
    }

    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Runs `f` with the calling thread inside the namespace and returns to
    /// where the thread was (or to where [`NetNs::entered_from`] says), also
    /// when `f` panics. Other threads stay where
    /// they are; threads `f` starts are inside, and remain there.
    ///
    /// # Errors
    /// When the namespace cannot be entered; `f` has not run then.
    ///
    /// # Aborts
    /// The process, when the thread cannot return: going on would change the
    /// wrong namespace.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetNsError> {
        let home = match &self.home {
            Some(home) => Arc::clone(home),
            None => Self::current()?.file,
        };
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| NetNsError::new(&self.path, "setns", e.into()))?;
        let _return = Return { home };
        Ok(f())
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it.
    /// For callers whose own thread must never be elsewhere.
    ///
    /// # Errors
    /// When the namespace cannot be entered or no thread can be started.
    pub fn run<T: Send>(
        &self,
        f: impl FnOnce() -> T + Send,
    ) -> Result<T, NetNsError> {
        let body = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetNsError::new(&self.path, "setns", e.into()))?;
            Ok(f())
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .spawn_scoped(scope, body)
                .map_err(|source| {
                    NetNsError::new(&self.path, "thread", source)
                })?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

// === impl NetNsError ===

impl NetNsError {
    fn new(path: &Path, operation: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        let path = path.to_owned();
        let kind = source.kind();
        if matches!(kind, NotFound | NotADirectory) {
            Self::Missing(path)
        } else if kind == PermissionDenied {
            Self::Denied { path, operation }
        } else if operation == "setns" && kind == io::ErrorKind::InvalidInput {
            let what = "a namespace of another kind".to_owned();
            Self::NotANamespace { path, what }
        } else {
            Self::Io { path, operation, source }
        }
    }

    /// Whether it may work when tried again: as
    /// [`Error::is_transient`](crate::Error::is_transient).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_transient(source))
    }

    /// Nothing is at the path.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// The path holds something that is no network namespace.
    #[must_use]
    pub const fn is_not_a_namespace(&self) -> bool {
        matches!(self, Self::NotANamespace { .. })
    }
}

// === impl Return ===

impl Drop for Return {
    fn drop(&mut self) {
        if setns(&self.home, CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}
