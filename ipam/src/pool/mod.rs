//! The pod address pool of one network, in host-local's disk format byte for
//! byte (HL-24 to HL-30), so that Go's host-local and this one can work on
//! the same folder, in turn or at the same time.
//!
//! What differs from host-local:
//!
//! * A reservation is complete or absent, wherever a process is killed
//!   (HL-42): the file is written elsewhere and linked to its name.
//! * Nothing waits for the disk, as it does not there: what a power loss takes
//!   or leaves empty, its pods have not survived either. Such a reservation is
//!   nobody's, and whoever looks for those (`Reservation::attachment`) gives
//!   its address back.
//! * The lock is held across all range sets of one allocation, waits no
//!   longer than the caller allows, and a failure takes back what this call
//!   reserved and nothing else (HL-31, HL-36).
//! * Look-ups cost the same at any number of reservations (HL-45): see
//!   `index`.
//! * Releasing needs no range configuration (HL-38).
//! * An address that was given back rests for 30 s while others are free
//!   (P17), unless it is asked for.
//! * Of several requested addresses in one set the first is taken (HL-35).
//! * Only files directly in the folder that are named by an address are
//!   reservations; host-local also releases others by content (HL-29).
//!
//! All calls block.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use disk::{Folder, Opened};
use store::Store;

mod cooling;
mod disk;
mod index;
mod lock;
mod range;
mod store;
#[cfg(test)]
mod tests;

pub use disk::DiskError;
pub use lock::{hold as hold_lock, take as lock_file};
pub use range::{
    Range, RangeConf, RangeError, RangeSet, SetProblem, parse_cidr,
    parse_requested,
};

/// Where host-local keeps its networks unless told otherwise (HL-5).
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The pool of one network, locked for as long as the value lives.
#[derive(Debug)]
pub struct Pool {
    store: Store<Folder>,
}

/// The owner of reservations: one interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

/// An address reserved for an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// The address.
    pub ip: IpAddr,
    /// The prefix length of its subnet, in bits.
    pub prefix_len: u8,
    /// The gateway of its range.
    pub gateway: IpAddr,
    /// The range set it is from, counted from 0.
    pub set: usize,
    /// Another attachment had it within the last three minutes: connection
    /// tracking may still remember that one (P17).
    pub recent: bool,
}

/// How full a range set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Addresses that can be handed out, taken ones included; capped at
    /// `u128::MAX`.
    pub total: u128,
    /// How many of them are taken, by whomever.
    pub taken: u128,
}

/// One address that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is; `None` when the file is empty or no text, as a power loss
    /// or a crash of Go's host-local leaves it (HL-42).
    pub attachment: Option<Attachment>,
    /// Since when, by the wall clock and whichever way that was set: good for
    /// telling what was taken a moment ago, and for nothing else.
    pub age: Duration,
}

/// Why the pool did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The network's name is no plain file name.
    #[error(
        "network name {0:?} cannot name a folder: it must begin with a \
         letter or digit and hold no '/'"
    )]
    Network(String),
    /// The lock was not to be had in time. Trying again later may help.
    #[error(
        "the address pool is in use: {path:?} is still locked by another \
         process after {waited:?}"
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// No address from one of the sets. Nothing is reserved.
    #[error("failed to allocate for range {set}: {source}")]
    Allocate {
        /// Which set, from 0.
        set: usize,
        /// Why.
        source: AllocateError,
    },
    /// Requested addresses that no set took (HL-35). Nothing is reserved.
    #[error("failed to allocate all requested IPs:{}", spaced(.0))]
    Requested(Vec<IpAddr>),
    /// A file operation failed. What an allocation had reserved is taken
    /// back, unless that failed too: then a release still finds it. A release
    /// may be repeated.
    #[error("address pool: {0}")]
    Disk(#[from] DiskError),
}

/// Why a set gives no address. The texts are host-local's (HL-32 to HL-34).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// All addresses are taken.
    #[error("no IP addresses available in range set: {0}")]
    Exhausted(RangeSet),
    /// The requested address is the gateway of its range.
    #[error("requested ip {0} is subnet's gateway")]
    Gateway(IpAddr),
    /// The requested address is taken.
    #[error("requested IP address {ip} is not available in range set {set}")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// The set it belongs to.
        set: RangeSet,
    },
    /// The attachment already has an address of this set.
    #[error(
        "{ip} has been allocated to {container_id}, duplicate allocation is \
         not allowed"
    )]
    Duplicate {
        /// The address it has.
        ip: IpAddr,
        /// The attachment's container.
        container_id: String,
    },
}

/// The addresses an attachment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Of its container id and interface name.
    exact: Vec<IpAddr>,
    /// Of its container id alone, as old versions wrote it (HL-28).
    legacy: Vec<IpAddr>,
}

// === impl Pool ===

impl Pool {
    /// Opens the pool of `network`, making its folder if need be, and waits
    /// for its lock until `deadline`.
    ///
    /// # Errors
    /// [`PoolError::Network`], [`PoolError::Busy`], [`PoolError::Disk`].
    pub fn open(
        data_dir: &Path,
        network: &str,
        deadline: Instant,
    ) -> Result<Self, PoolError> {
        match Self::open_or_absent(data_dir, network, true, deadline)? {
            Some(pool) => Ok(pool),
            None => Err(DiskError::absent(data_dir.join(network)).into()),
        }
    }

    /// Opens the pool of `network` only if its folder is there: for all that
    /// does not allocate. `None` means that nothing is reserved.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(
        data_dir: &Path,
        network: &str,
        deadline: Instant,
    ) -> Result<Option<Self>, PoolError> {
        Self::open_or_absent(data_dir, network, false, deadline)
    }

    fn open_or_absent(
        data_dir: &Path,
        network: &str,
        create: bool,
        deadline: Instant,
    ) -> Result<Option<Self>, PoolError> {
        let plain = network.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !plain || network.contains(['/', '\0']) {
            return Err(PoolError::Network(network.to_owned()));
        }
        let began = Instant::now();
        match Folder::open(data_dir, network, create, deadline)? {
            Opened::Locked(folder) => {
                Ok(Some(Self { store: Store::open(folder) }))
            }
            Opened::Absent => Ok(None),
            Opened::Busy => Err(PoolError::Busy {
                path: data_dir.join(network).join(lock::NAME),
                waited: began.elapsed(),
            }),
        }
    }

    /// Reserves one address from each of `sets` for `attachment`, all or
    /// none: of `requested` the first that lies in the set, otherwise the
    /// next free one in turn (HL-34).
    ///
    /// # Errors
    /// Any but [`PoolError::Network`] and [`PoolError::Busy`]. Nothing new is
    /// reserved then (but see [`PoolError::Disk`]), and nothing older
    /// released.
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        sets: &[RangeSet],
        requested: &[IpAddr],
    ) -> Result<Vec<Allocated>, PoolError> {
        self.store.allocate(attachment, sets, requested)
    }

    /// Gives back all addresses of `attachment` and returns them: those of
    /// its container id and interface, or if there are none, those of its id
    /// alone (HL-28). None is no error.
    ///
    /// # Errors
    /// [`PoolError::Disk`]; all other addresses have been released, and the
    /// call may be repeated.
    pub fn release(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Vec<IpAddr>, PoolError> {
        Ok(self.store.release(attachment)?)
    }

    /// The addresses of `attachment`: those of its container id and
    /// interface, or if there are none, those of its id alone (HL-39).
    ///
    /// # Errors
    /// [`PoolError::Disk`].
    pub fn find(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Vec<IpAddr>, PoolError> {
        Ok(self.store.find(attachment)?)
    }

    /// All addresses that are taken.
    ///
    /// # Errors
    /// [`PoolError::Disk`].
    pub fn reservations(&self) -> Result<Vec<Reservation>, PoolError> {
        Ok(self.store.reservations()?)
    }

    /// Gives back `ips`, whosoever they are: the caller knows that nobody
    /// uses them.
    ///
    /// # Errors
    /// [`PoolError::Disk`]; all other addresses have been given back.
    pub fn reclaim(&mut self, ips: &[IpAddr]) -> Result<(), PoolError> {
        Ok(self.store.reclaim(ips)?)
    }

    /// How full each of `sets` is.
    ///
    /// # Errors
    /// [`PoolError::Disk`].
    pub fn counts(&self, sets: &[RangeSet]) -> Result<Vec<Count>, PoolError> {
        Ok(self.store.counts(sets)?)
    }
}

// === impl Attachment ===

impl Attachment {
    /// `ifname` in the container `container_id`; white space around the id
    /// does not count (HL-25).
    #[must_use]
    pub fn new(container_id: &str, ifname: &str) -> Self {
        Self {
            container_id: container_id.trim().to_owned(),
            ifname: ifname.to_owned(),
        }
    }

    /// The container.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The interface; empty in reservations that old versions made (HL-28).
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// The owner that a reservation file's text names (HL-25, HL-28).
    fn read(content: &str) -> Self {
        let (id, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
        Self::new(id, ifname)
    }

    /// What its reservation files contain (HL-25).
    fn content(&self) -> String {
        format!("{}\r\n{}", self.container_id, self.ifname)
    }
}

// === impl Held ===

impl Held {
    /// What a release concerns: legacy reservations only if there is no
    /// other.
    fn releasable(self) -> Vec<IpAddr> {
        match self.exact.is_empty() {
            true => self.legacy,
            false => self.exact,
        }
    }
}

// === impl DiskError ===

impl DiskError {
    fn absent(path: PathBuf) -> Self {
        let source = io::ErrorKind::NotFound.into();
        Self { action: "open", path, source }
    }

    /// The system's own error, for its number.
    #[must_use]
    pub const fn io(&self) -> &io::Error {
        &self.source
    }
}

fn spaced(ips: &[IpAddr]) -> String {
    ips.iter().map(|ip| format!(" {ip}")).collect()
}
