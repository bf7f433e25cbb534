//! The archive that Linux unpacks before it starts its first process: `newc`
//! of cpio(5), not compressed.

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

// === impl Archive ===

impl Archive {
    /// A folder, with those above it.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        self.parent(path);
        self.entry(path, FOLDER | 0o755, &[]);
    }

    /// A file with these permissions.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let path = path.trim_start_matches('/');
        self.parent(path);
        self.entry(path, FILE | mode, bytes);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = path.trim_start_matches('/');
        self.parent(path);
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entries += 1;
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            length(bytes.len()),
            0, // device of the file system
            0,
            0, // device that it is
            0,
            length(path.len() + 1),
            0, // sum
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_cpio_writes_it() {
        let mut archive = Archive::default();
        archive.file("/a/b", 0o755, b"xyz");
        archive.link("/a/c", "b");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let entries: Vec<_> = text.split("070701").skip(1).collect();
        let names = ["a\0", "a/b\0", "a/c\0", "TRAILER!!!\0"];
        assert_eq!(entries.len(), names.len());
        for (entry, name) in entries.iter().zip(names) {
            assert!(entry[104..].starts_with(name), "{entry}");
            assert_eq!((6 + entry.len()) % 4, 0);
        }
        assert_eq!(&entries[1][8..16], "000081ed");
        assert!(entries[1].ends_with("a/b\0\0\0xyz\0"), "{}", entries[1]);
    }
}
