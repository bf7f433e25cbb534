//! What the daemon keeps on disk.
//!
//! | file | for whom | module |
//! |---|---|---|
//! | `/run/flannel/subnet.env` | the CNI plugin, Docker, scripts | [`SubnetFile`] |
//! | `/run/flannel/state.json` | the CNI plugin's and flannelctl's messages | [`StateFile`] |
//! | `/run/flannel/subnet.env.lock` | a second daemon | [`InstanceLock`] |
//! | `/var/lib/flannel/*.json` | the daemon itself after a restart | [`StateDir`] |
//! | `/var/lib/flannel/*.peers.json` | the same: the other nodes' leases | [`PeersFile`] |
//!
//! Several daemons on one host have different subnet files (D-80); all other
//! names follow from that one.

mod atomic;
mod kept;
mod lock;
mod machine;
mod peers_file;
mod state_dir;
mod state_file;
mod subnet_file;
mod thread;
mod watch;

pub use atomic::WriteError;
pub use lock::{InstanceLock, LockError};
pub use machine::Machine;
pub use peers_file::PeersFile;
pub use state_dir::{Saved, SavedLease, SinceBoot, StateDir};
pub use state_file::{StateFile, boot_id};
pub use subnet_file::{Found, SubnetFile};
pub(crate) use thread::is_away;
pub use thread::{Files, News};
pub use watch::watch;
