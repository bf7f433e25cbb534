//! What the daemon remembers over a restart and a reboot.

use std::io;
use std::path::{Path, PathBuf};

use ipam::PerFamily;
use ipam::lease::SubnetKey;
use overlay::Mac;
use serde::{Deserialize, Serialize};

use super::atomic::{self, Lasts};
use super::{Machine, PeersFile, kept};

/// The form of [`Saved`] this version writes, and the only one it reads.
const VERSION: u32 = 1;
/// A file beyond this size is not ours.
const LONGEST: u64 = 1 << 20;

/// The file in `--state-dir` that belongs to this daemon's subnet file.
#[derive(Debug)]
pub struct StateDir {
    file: PathBuf,
    machine: Machine,
    written: Option<Vec<u8>>,
    complained: bool,
    peers_complained: bool,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The text of the network configuration last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Configurations before it, of which something may be left: no pass was
    /// complete since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    /// The lease this node holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<SavedLease>,
    /// How that lease was lost, until another is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// The Ethernet address of each family's tunnel device.
    #[serde(default, with = "macs")]
    pub macs: PerFamily<Mac>,
    /// The machine that all this is of. What [`StateDir::load`] gives is
    /// always of this one.
    #[serde(default)]
    pub machine: Machine,
}

/// The own lease as the store last confirmed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLease {
    /// Its subnets.
    pub key: SubnetKey,
    /// The id of the etcd lease the key is bound to: tells a changed address
    /// of our own from a stranger (design.md §4). 0: none.
    pub lease_id: i64,
    /// The revision of the key's last change by us.
    pub mod_revision: i64,
    /// When it ends by wall clock, in seconds since 1970; not used after
    /// that. `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The same by the clock that nobody sets, which counts while the machine
    /// is not started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_since_boot: Option<SinceBoot>,
}

/// A time on the clock of one start of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinceBoot {
    /// Which start: the kernel's boot id.
    pub boot_id: String,
    /// Seconds since then, suspended time included.
    pub seconds: u64,
}

#[derive(Serialize)]
struct FileRef<'a> {
    version: u32,
    #[serde(flatten)]
    saved: &'a Saved,
}

// === impl Saved ===

impl Saved {
    /// The value of a file's bytes.
    ///
    /// # Errors
    /// In words, why they are not this daemon's.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        kept::parse(bytes, VERSION)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// None is known; what `serde_json` says.
    pub fn render(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(&FileRef { version: VERSION, saved: self })
    }

    /// From now on the configuration is `text`.
    pub fn set_config(&mut self, text: &str) {
        let before = self.config.replace(text.to_owned());
        self.former.extend(before);
        self.former.retain(|former| former != text);
    }
}

// === impl StateDir ===

impl StateDir {
    /// The state under `dir` of the daemon that serves `subnet_file`. Nothing
    /// is touched yet.
    ///
    /// # Errors
    /// The kernel's, when `subnet_file` is relative and the current directory
    /// is gone.
    pub fn new(dir: &Path, subnet_file: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(subnet_file)?;
        let file = dir.join(format!("{}.json", slug(&absolute)));
        Ok(Self {
            file,
            machine: Machine::this(),
            written: None,
            complained: false,
            peers_complained: false,
        })
    }

    /// Saves the other nodes' leases, as [`PeersFile::render`] gives them. A
    /// failure is said once, not again until a write has worked.
    pub fn save_peers(&mut self, bytes: &[u8]) {
        let result = self.peers().write(bytes);
        if let Err(error) = &result
            && !self.peers_complained
        {
            tracing::warn!(
                "a start without the store will not know the other nodes: \
                 {error} (see --state-dir)"
            );
        }
        self.peers_complained = result.is_err();
    }

    /// The other nodes' leases have a file of their own: they change more
    /// often and take more room.
    #[must_use]
    pub fn peers(&self) -> PeersFile {
        PeersFile::new(self.file.with_extension("peers.json"))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What was saved; nothing if there is nothing. A file that cannot be
    /// used, or is another machine's, is named in a warning and otherwise
    /// ignored: everything in it can be had again.
    pub fn load(&mut self) -> Saved {
        let ours = |found: Option<(Vec<u8>, Saved)>| {
            match found {
            Some((_, saved)) if saved.machine.differs(&self.machine) => {
                Err("it is another machine's, as in a copied disk image, or \
                     this machine's id (/etc/machine-id, or the firmware's) has \
                     changed: this node gets a lease and Ethernet addresses of \
                     its own"
                    .to_owned())
            }
            found => Ok(found),
        }
        };
        let saved = match read(&self.file).and_then(ours) {
            Ok(None) => Saved::default(),
            Ok(Some((bytes, saved))) => {
                self.written = Some(bytes);
                saved
            }
            Err(reason) => {
                tracing::warn!("{} is ignored: {reason}", self.file.display());
                Saved::default()
            }
        };
        Saved { machine: self.machine.clone(), ..saved }
    }

    /// Saves, unless the file says so already. A failure is said once, not
    /// again until a write has worked, and has no other consequence.
    pub fn save(&mut self, saved: &Saved) {
        let Ok(bytes) = saved.render() else { return };
        if self.written.as_ref() == Some(&bytes) {
            return;
        }
        match atomic::write(&self.file, &bytes, 0o600, Lasts::Always) {
            Ok(()) => {
                self.written = Some(bytes);
                self.complained = false;
            }
            Err(error) if !self.complained => {
                self.complained = true;
                self.written = None;
                tracing::warn!(
                    "after a restart this node may get another subnet: \
                     {error} (see --state-dir)"
                );
            }
            Err(_) => {}
        }
    }
}

fn read(file: &Path) -> Result<Option<(Vec<u8>, Saved)>, String> {
    let Some(bytes) = kept::bytes(file, LONGEST)? else { return Ok(None) };
    let saved = Saved::parse(&bytes)?;
    Ok(Some((bytes, saved)))
}

/// A file name for a path, another one for each path: slashes become `-`;
/// what is neither letter, digit nor `.` becomes `_` and its code.
fn slug(path: &Path) -> String {
    let mut slug = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' if slug.is_empty() => {}
            b'/' => slug.push('-'),
            b if b.is_ascii_alphanumeric() || *b == b'.' => {
                slug.push(char::from(*b));
            }
            b => slug.push_str(&format!("_{b:02x}")),
        }
    }
    slug
}

/// Ethernet addresses as text.
mod macs {
    use ipam::PerFamily;
    use overlay::Mac;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        macs: &PerFamily<Mac>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        macs.map(|_, mac| mac.to_string()).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<PerFamily<Mac>, D::Error> {
        PerFamily::<String>::deserialize(from)?
            .iter()
            .map(|(family, text)| {
                let mac = Mac::parse(text).ok_or_else(|| {
                    D::Error::custom(format!("{text:?} is no MAC address"))
                })?;
                Ok((family, mac))
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "state_dir_tests.rs"]
mod tests;
