use std::io;

use nix::errno::Errno;

/// Why a request to the kernel failed. Every variant names the object it was
/// about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel answered with an error.
    #[error("{object}: {}", refusal(*errno, kernel.as_deref()))]
    Refused {
        /// What was asked for, with the object's identity.
        object: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own explanation (extended acknowledgement), where it
        /// gave one.
        kernel: Option<String>,
    },
    /// The kernel's answer was lost: the request may or may not have been
    /// carried out. Look at the object again before deciding.
    #[error("{object}: outcome unknown ({reason}); it has to be read again")]
    Unknown {
        /// What was asked for, with the object's identity.
        object: String,
        /// How the answer got lost.
        reason: &'static str,
    },
    /// The tables changed during every one of several attempts to read them.
    #[error(
        "{object}: changed while being read, {attempts} times in a row; \
         something on this machine changes it without pause"
    )]
    Interrupted {
        /// What was being read.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An answer that this program cannot read.
    #[error(
        "{object}: {count} of the kernel's answers not understood: {reason}"
    )]
    Undecodable {
        /// What was being read.
        object: String,
        /// How many messages.
        count: usize,
        /// What was wrong with the first.
        reason: String,
    },
    /// The socket itself failed.
    #[error("{object}: {operation} failed: {source}")]
    Socket {
        /// What the socket was used for.
        object: String,
        /// The system call.
        operation: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

// === impl Error ===

impl Error {
    /// The object the failed request was about.
    #[must_use]
    pub fn object(&self) -> &str {
        match self {
            Self::Refused { object, .. }
            | Self::Unknown { object, .. }
            | Self::Interrupted { object, .. }
            | Self::Undecodable { object, .. }
            | Self::Socket { object, .. } => object,
        }
    }

    /// The kernel's error number, if the kernel answered with one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { source, .. } => {
                source.raw_os_error().map(Errno::from_raw)
            }
            Self::Unknown { .. }
            | Self::Interrupted { .. }
            | Self::Undecodable { .. } => None,
        }
    }

    /// The kernel's own explanation, if it gave one.
    #[must_use]
    pub fn kernel_text(&self) -> Option<&str> {
        match self {
            Self::Refused { kernel, .. } => kernel.as_deref(),
            Self::Unknown { .. }
            | Self::Interrupted { .. }
            | Self::Undecodable { .. }
            | Self::Socket { .. } => None,
        }
    }

    /// The object is there already (`EEXIST`).
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.refused_with(&[Errno::EEXIST])
    }

    /// The object, or the link it is on, is not there (`ENOENT`, `ESRCH`,
    /// `ENODEV`, `ENXIO`, `EADDRNOTAVAIL`).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.refused_with(&[
            Errno::ENOENT,
            Errno::ESRCH,
            Errno::ENODEV,
            Errno::ENXIO,
            Errno::EADDRNOTAVAIL,
        ])
    }

    /// The kernel has no such function (`EOPNOTSUPP`, `EPROTONOSUPPORT`,
    /// `EAFNOSUPPORT`).
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.refused_with(&[
            Errno::EOPNOTSUPP,
            Errno::EPROTONOSUPPORT,
            Errno::EAFNOSUPPORT,
        ])
    }

    /// Something changed between reading and writing (`ERESTART`): read
    /// again and start over. Only of batches that expect a generation
    /// ([`nft::Batch::expecting`](crate::nft::Batch::expecting)).
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.refused_with(&[Errno::ERESTART])
    }

    /// A privilege is missing: `CAP_NET_ADMIN` in the namespace (`EPERM`,
    /// `EACCES`).
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.refused_with(&[Errno::EPERM, Errno::EACCES])
    }

    /// Nobody knows whether the request was carried out.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// It may well work when tried again: an answer got lost, tables changed
    /// while they were read, memory or descriptors were short, something was
    /// busy (`EAGAIN`, `EBUSY`, `EINTR`, `ENOBUFS`, `ENOMEM`, `EMFILE`,
    /// `ENFILE`).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Interrupted { .. } => true,
            Self::Undecodable { .. } => false,
            Self::Refused { errno, .. } => is_passing(*errno),
            Self::Socket { source, .. } => is_transient(source),
        }
    }

    fn refused_with(&self, numbers: &[Errno]) -> bool {
        matches!(self, Self::Refused { errno, .. } if numbers.contains(errno))
    }
}

/// Whether what failed by `e` may work when tried again: the kernel was busy or
/// short of something, as in [`Error::is_transient`].
#[must_use]
pub fn is_transient(e: &io::Error) -> bool {
    let own = e.raw_os_error().map(Errno::from_raw);
    let inner = || {
        let source = e.get_ref().and_then(std::error::Error::source);
        source.and_then(|e| e.downcast_ref::<io::Error>())
    };
    own.is_some_and(is_passing) || inner().is_some_and(is_transient)
}

fn is_passing(errno: Errno) -> bool {
    const PASSING: [Errno; 7] = [
        Errno::EAGAIN,
        Errno::EBUSY,
        Errno::EINTR,
        Errno::ENOBUFS,
        Errno::ENOMEM,
        Errno::EMFILE,
        Errno::ENFILE,
    ];
    PASSING.contains(&errno)
}

fn refusal(errno: Errno, kernel: Option<&str>) -> String {
    let privilege = if matches!(errno, Errno::EPERM) {
        "; needs CAP_NET_ADMIN in this network namespace"
    } else {
        ""
    };
    match kernel {
        Some(text) => format!("{text} ({errno:?}){privilege}"),
        None => format!("{} ({errno:?}){privilege}", errno.desc()),
    }
}
