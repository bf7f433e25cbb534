//! Where addresses come from: host-local in this process, anything else
//! executed.

use std::net::IpAddr;

use ipam::Subnet;
use ipam::gojson::Object;

use crate::exec;
use crate::hostlocal::{self, HostLocal};
use crate::protocol::{Call, CniError, ValidAttachments};
use crate::result::CniResult;

/// The address manager of a configuration.
#[derive(Debug)]
pub(crate) enum Ipam<'a> {
    /// From nowhere: the pod gets none.
    Nothing,
    /// In this process.
    HostLocal {
        /// The attachment's pool.
        pool: HostLocal,
        /// The whole configuration.
        conf: &'a Object<'a>,
    },
    /// A plugin of CNI_PATH.
    Plugin {
        /// Its name.
        kind: String,
        /// The whole configuration.
        text: &'a str,
    },
}

// === impl Ipam ===

impl<'a> Ipam<'a> {
    /// The address manager `kind` of the configuration `conf`, whose text is
    /// `text`.
    pub(crate) fn of(
        call: &Call,
        conf: &'a Object<'a>,
        text: &'a str,
        kind: &str,
    ) -> Self {
        if kind.is_empty() {
            return Self::Nothing;
        }
        if kind != hostlocal::TYPE {
            return Self::Plugin { kind: kind.to_owned(), text };
        }
        let pool = HostLocal::of(conf, &call.name, call);
        Self::HostLocal { pool, conf }
    }

    /// Whether there is something to ask; before anything is made.
    pub(crate) fn find(&self, call: &Call) -> Result<(), CniError> {
        match self {
            Self::Nothing | Self::HostLocal { .. } => Ok(()),
            Self::Plugin { kind, .. } => exec::find(call, kind).map(drop),
        }
    }

    /// Addresses for the attachment.
    pub(crate) fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        match self {
            Self::Nothing => Ok(CniResult::default()),
            Self::HostLocal { pool, conf } => pool.add(conf, call),
            Self::Plugin { kind, text } => exec::add(call, kind, text),
        }
    }

    /// Whether a failed [`Ipam::add`] may have left something to give back: a
    /// plugin must be asked to (S-61), the pool undoes by itself. What the
    /// pool holds for this attachment then is an earlier ADD's, and may be in
    /// use by a living pod.
    pub(crate) const fn keeps_after_failure(&self) -> bool {
        match self {
            Self::Nothing | Self::HostLocal { .. } => false,
            Self::Plugin { .. } => true,
        }
    }

    /// Gives them back; which these were, as far as that is known.
    pub(crate) fn del(&self, call: &Call) -> Result<Vec<IpAddr>, CniError> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::HostLocal { pool, .. } => pool.release(call),
            Self::Plugin { kind, text } => {
                exec::other(call, "DEL", kind, text).map(|()| Vec::new())
            }
        }
    }

    /// Gives back those of attachments that are not in `valid`.
    pub(crate) fn gc(
        &self,
        call: &Call,
        valid: &ValidAttachments,
    ) -> Result<(), CniError> {
        match self {
            Self::Nothing => Ok(()),
            Self::HostLocal { pool, .. } => pool.gc(call, valid),
            Self::Plugin { kind, text } => exec::other(call, "GC", kind, text),
        }
    }

    /// The containers that have addresses of `network`, as far as that is
    /// known.
    pub(crate) fn holders(&self, call: &Call, network: Subnet) -> Vec<String> {
        match self {
            Self::HostLocal { pool, .. } => pool.holders(call, network),
            Self::Nothing | Self::Plugin { .. } => Vec::new(),
        }
    }

    /// Whether they are still the attachment's.
    pub(crate) fn check(
        &self,
        call: &Call,
        previous: &CniResult,
    ) -> Result<(), CniError> {
        match self {
            Self::Nothing => Ok(()),
            Self::HostLocal { pool, .. } => pool.check(call, previous),
            Self::Plugin { kind, text } => {
                exec::other(call, "CHECK", kind, text)
            }
        }
    }

    /// Whether it can give addresses.
    pub(crate) fn status(&self, call: &Call) -> Result<(), CniError> {
        match self {
            Self::Nothing => Ok(()),
            Self::HostLocal { pool, conf } => pool.status(conf, call),
            Self::Plugin { kind, text } => {
                exec::other(call, "STATUS", kind, text)
            }
        }
    }
}
