//! A cgroup of a name of its own in every hierarchy, removed in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "flannel-it-";
const ROOT: &str = "/sys/fs/cgroup";

/// A name that nobody else uses. Runtimes make what they need below it.
#[derive(Debug)]
pub(super) struct Cgroup {
    name: String,
}

// === impl Cgroup ===

impl Cgroup {
    /// A new name; what killed tests left is removed.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("{PREFIX}{}-{next}", std::process::id()) }
    }

    /// As a runtime is told it.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for root in hierarchies() {
            remove(&root.join(&self.name));
        }
    }
}

/// The unified hierarchy, and each of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let below = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let below = below.map(|entry| entry.path()).filter(|p| p.is_dir());
    std::iter::once(PathBuf::from(ROOT)).chain(below).collect()
}

/// Removes cgroups of tests that are no more.
fn sweep() {
    for root in hierarchies() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let pid = rest.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(pid).exists() {
                remove(&entry.path());
            }
        }
    }
}

/// A cgroup with all below it: its files cannot be removed, nor need to be.
fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
