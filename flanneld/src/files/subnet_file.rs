//! `subnet.env` on disk (section 7 of the spec).

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use ipam::subnet_env::{Previous, SubnetEnv};

use super::atomic::{self, Lasts, WriteError};

/// No file of ours is longer.
const LONGEST: u64 = 1 << 16;

/// The file that tells the CNI plugin this node's subnet.
#[derive(Clone, Debug)]
pub struct SubnetFile {
    path: PathBuf,
}

/// What a write found in place of what it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The same: nothing was written.
    Equal,
    /// Something else.
    Other,
    /// No file.
    Nothing,
}

// === impl SubnetFile ===

impl SubnetFile {
    /// The file at `path`; nothing is touched yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What an earlier run left (F-13). No file is no error; what cannot be
    /// understood is named in a warning.
    #[must_use]
    pub fn previous(&self) -> Previous {
        let path = self.path.display();
        match self.read() {
            Ok(bytes) => {
                let previous =
                    Previous::parse(&String::from_utf8_lossy(&bytes));
                for problem in &previous.problems {
                    tracing::warn!("{path}: {problem}");
                }
                previous
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Previous::default(),
            Err(e) => {
                tracing::warn!(
                    "{path} cannot be read, so this node may get another \
                     subnet than before: {e}"
                );
                Previous::default()
            }
        }
    }

    /// Writes the file, atomically (F-11, F-12); returns what was there. An
    /// equal file is left as it is.
    ///
    /// # Errors
    /// [`WriteError`]; what was there before still is.
    pub fn write(&self, env: &SubnetEnv) -> Result<Found, WriteError> {
        let text = env.render();
        let found = match self.read() {
            Ok(there) if there == text.as_bytes() => return Ok(Found::Equal),
            Err(e) if e.kind() == ErrorKind::NotFound => Found::Nothing,
            _ => Found::Other,
        };
        atomic::write(&self.path, text.as_bytes(), 0o644, Lasts::Always)?;
        Ok(found)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(&self.path)?.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use ipam::PerFamily;
    use ipam::subnet_env::Networks;

    use super::*;

    fn env() -> SubnetEnv {
        let networks = Networks {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.72.0/24".parse().unwrap(),
        };
        SubnetEnv {
            families: PerFamily { v4: Some(networks), v6: None },
            mtu: 1450,
            ip_masq: false,
        }
    }

    #[test]
    fn written_byte_for_byte_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("flannel/subnet.env");
        let file = SubnetFile::new(&path);
        assert_eq!(file.previous(), Previous::default());
        assert_eq!(file.write(&env()).unwrap(), Found::Nothing);
        // F-8
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        let subnets = file.previous().subnets;
        assert_eq!(subnets.v4, "10.5.72.0/24".parse().ok());
        assert_eq!(subnets.v6, None);
    }

    #[test]
    fn an_equal_file_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        let file = SubnetFile::new(&path);
        assert_eq!(file.write(&env()).unwrap(), Found::Nothing);
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(file.write(&env()).unwrap(), Found::Equal);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        fs::write(&path, "edited").unwrap();
        assert_eq!(file.write(&env()).unwrap(), Found::Other);
    }

    #[test]
    fn rubbish_is_nothing_previous() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        let file = SubnetFile::new(&path);
        fs::write(&path, b"\xff\xfe=\nFLANNEL_SUBNET=banana\n").unwrap();
        let previous = file.previous();
        assert!(previous.subnets.is_empty());
        assert_eq!(previous.problems.len(), 1);
        assert_eq!(
            SubnetFile::new(root.path()).previous(),
            Previous::default()
        );
    }
}
