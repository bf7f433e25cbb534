//! The other nodes' leases as the store last told them, for a start without
//! it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipam::lease::{LeaseAttrs, SubnetKey};
use serde::{Deserialize, Serialize};

use super::atomic::{self, Lasts, WriteError};
use super::kept;

/// The form this version writes, and the only one it reads.
const VERSION: u32 = 1;
/// A file beyond this size is not ours: 5,000 peers take about 1 MB.
const LONGEST: u64 = 64 << 20;

/// The file of peers that belongs to this daemon's subnet file.
#[derive(Clone, Debug)]
pub struct PeersFile(PathBuf);

/// Each value is what etcd has under that key: text in text.
#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    peers: BTreeMap<String, String>,
}

// === impl PeersFile ===

impl PeersFile {
    /// `path` names it; nothing is touched yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The leases in the file. A file that cannot be used is named in a
    /// warning, and holds none; a bad entry hides only itself (W-1).
    #[must_use]
    pub fn load(&self) -> BTreeMap<SubnetKey, LeaseAttrs> {
        match self.read() {
            Ok(peers) => peers,
            Err(reason) => {
                tracing::warn!("{} is ignored: {reason}", self.0.display());
                BTreeMap::new()
            }
        }
    }

    fn read(&self) -> Result<BTreeMap<SubnetKey, LeaseAttrs>, String> {
        match kept::bytes(&self.0, LONGEST)? {
            Some(bytes) => Self::parse(&bytes),
            None => Ok(BTreeMap::new()),
        }
    }

    /// The leases in a file's bytes.
    ///
    /// # Errors
    /// In words, why they are not this daemon's.
    pub fn parse(
        bytes: &[u8],
    ) -> Result<BTreeMap<SubnetKey, LeaseAttrs>, String> {
        let Content { peers, .. } = kept::parse(bytes, VERSION)?;
        let lease = |(key, value): (String, String)| {
            let attrs = LeaseAttrs::decode(value.as_bytes()).ok()?;
            Some((key.parse().ok()?, attrs))
        };
        Ok(peers.into_iter().filter_map(lease).collect())
    }

    /// The bytes of the file for `peers`.
    #[must_use]
    pub fn render(peers: &BTreeMap<SubnetKey, LeaseAttrs>) -> Vec<u8> {
        let peers = peers
            .iter()
            .map(|(key, attrs)| (key.to_string(), attrs.encode()))
            .collect();
        // text to text: there is nothing that could not be written
        serde_json::to_vec(&Content { version: VERSION, peers })
            .unwrap_or_default()
    }

    /// Replaces the file by `bytes`, whole or not at all.
    ///
    /// # Errors
    /// [`WriteError`] names the step that failed.
    pub fn write(&self, bytes: &[u8]) -> Result<(), WriteError> {
        atomic::write(&self.0, bytes, 0o600, Lasts::Always)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn peers() -> BTreeMap<SubnetKey, LeaseAttrs> {
        [
            ("10.5.1.0-24", r#"{"PublicIP":"192.168.1.1","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"BackendType":"vxlan"}"#),
            ("10.5.2.0-24&fd00::-64", r#"{"PublicIP":"192.168.1.2","PublicIPv6":"fd77::2"}"#),
        ]
        .into_iter()
        .map(|(key, value)| {
            let attrs = LeaseAttrs::decode(value.as_bytes()).unwrap();
            (key.parse().unwrap(), attrs)
        })
        .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let file = PeersFile::new(root.path().join("lib/x.peers.json"));
        assert_eq!(file.load(), BTreeMap::new());
        file.write(&PeersFile::render(&peers())).unwrap();
        assert_eq!(file.load(), peers());
        file.write(&PeersFile::render(&BTreeMap::new())).unwrap();
        assert_eq!(file.load(), BTreeMap::new());
    }

    #[test]
    fn bad_entries_hide_only_themselves() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.peers.json");
        let good = r#""10.5.1.0-24":"{\"PublicIP\":\"192.168.1.1\"}""#;
        let bad = r#""10.5.1.7-24":"{}","10.5.3.0-24":"[","x":"{}""#;
        let text = format!(r#"{{"version":1,"peers":{{{good},{bad}}}}}"#);
        fs::write(&path, text).unwrap();
        let keys: Vec<_> =
            PeersFile::new(path).load().keys().map(|k| k.to_string()).collect();
        assert_eq!(keys, ["10.5.1.0-24"]);
    }

    #[test]
    fn unusable_files_hold_none() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.peers.json");
        for bad in ["", "{", r#"{"version":2,"peers":{}}"#, "[]", "\u{0}"] {
            fs::write(&path, bad).unwrap();
            assert_eq!(PeersFile::new(path.clone()).load(), BTreeMap::new());
        }
    }
}
