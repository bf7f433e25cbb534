//! Which addresses an attachment has rules for. The rules do not say whose
//! they are, and must not if upstream is to remove them; so it is kept in a
//! file for each attachment, which a reboot removes as it does the rules.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::files::{failed, remove};
use crate::owner::short;
use crate::protocol::{Call, CniError, ValidAttachments, log};

/// A folder for each network.
const ROOT: &str = "/run/flannel/firewall";

/// What the name of a file begins with that is not whole.
const BEING_WRITTEN: char = '.';

/// The longest part of a file's name that a container's id can be, in bytes:
/// with the mark above, the `@` and an interface's name (15) they are 255.
const CONTAINER_MAX: usize = 238;

/// The files of one network.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

/// One whose attachment is not valid any more.
#[derive(Debug)]
pub(super) struct Stale {
    path: PathBuf,
    /// The addresses that no other attachment has.
    pub(super) ips: BTreeSet<IpAddr>,
}

// === impl Records ===

impl Records {
    pub(super) fn of(network: &str) -> Self {
        Self { folder: Path::new(ROOT).join(network) }
    }

    /// Keeps the addresses of the attachment, with those that an ADD without
    /// a DEL has made rules for. Who else had one of them in this network
    /// before has lost it: a DEL that never came, or was the Go plugin's, must
    /// not keep the rules for ever.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn write(
        &self,
        call: &Call,
        ips: &BTreeSet<IpAddr>,
    ) -> Result<(), CniError> {
        let own = self.path(call);
        fs::create_dir_all(&self.folder)
            .map_err(|e| failed("write", &own, &e))?;
        let all: BTreeSet<IpAddr> = read(&own).union(ips).copied().collect();
        store(&own, &all)?;
        for path in entries(&self.folder) {
            let had = read(&path);
            if path == own || is_being_written(&path) || had.is_disjoint(ips) {
                continue;
            }
            let left: BTreeSet<IpAddr> = had.difference(ips).copied().collect();
            let done = match left.is_empty() {
                true => remove(&path),
                false => store(&path, &left),
            };
            // it is not this attachment's: rules may stay longer than needed
            if let Err(e) = done {
                log(format_args!("firewall: {e}"));
            }
        }
        Ok(())
    }

    /// What was written for the attachment; nothing when there is no file.
    pub(super) fn read(&self, call: &Call) -> BTreeSet<IpAddr> {
        read(&self.path(call))
    }

    /// # Errors
    /// Code 5.
    pub(super) fn remove(&self, call: &Call) -> Result<(), CniError> {
        let path = self.path(call);
        remove(&temporary(&path)).and_then(|()| remove(&path))
    }

    /// Whether an attachment other than the call's has that address.
    pub(super) fn has_another(&self, ip: IpAddr, call: &Call) -> bool {
        let own = self.path(call);
        let being_written = temporary(&own);
        let others = files()
            .into_iter()
            .filter(|path| *path != own && *path != being_written);
        others.into_iter().any(|path| read(&path).contains(&ip))
    }

    /// Those of this network whose attachment is not valid.
    pub(super) fn stale(&self, valid: &ValidAttachments) -> Vec<Stale> {
        let (mut stale, mut kept) = (Vec::new(), BTreeSet::new());
        let names: BTreeSet<String> =
            valid.iter().map(|(id, ifname)| file_name(id, ifname)).collect();
        for path in files() {
            let name = path.file_name().map(|n| n.to_string_lossy());
            let name = name.unwrap_or_default().into_owned();
            let is_valid = !name.contains('@')
                || names.contains(name.trim_start_matches(BEING_WRITTEN));
            let ips = match is_being_written(&path) {
                // may be cut; no rule is made before it is whole
                true => BTreeSet::new(),
                false => read(&path),
            };
            match path.parent() == Some(&self.folder) && !is_valid {
                true => stale.push(Stale { path, ips }),
                false => kept.extend(ips),
            }
        }
        for one in &mut stale {
            one.ips.retain(|ip| !kept.contains(ip));
        }
        stale
    }

    fn path(&self, call: &Call) -> PathBuf {
        let env = &call.env;
        self.folder.join(file_name(&env.container_id, &env.ifname))
    }
}

// === impl Stale ===

impl Stale {
    /// # Errors
    /// Code 5.
    pub(super) fn remove(&self) -> Result<(), CniError> {
        remove(&self.path)
    }
}

/// A container id has no `@` (S-9), an interface name no slash.
fn file_name(container_id: &str, ifname: &str) -> String {
    format!("{}@{ifname}", short(container_id, CONTAINER_MAX))
}

/// Where `path` is written until it is whole. No container id begins with a
/// dot (S-9).
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy());
    let name = name.unwrap_or_default();
    path.with_file_name(format!("{BEING_WRITTEN}{name}"))
}

fn is_being_written(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy());
    name.is_some_and(|name| name.starts_with(BEING_WRITTEN))
}

/// # Errors
/// Code 5.
fn store(path: &Path, ips: &BTreeSet<IpAddr>) -> Result<(), CniError> {
    let temporary = temporary(path);
    let text: String = ips.iter().map(|ip| format!("{ip}\n")).collect();
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| failed("write", path, &e))
}

/// All networks' files, also those that are being written.
fn files() -> Vec<PathBuf> {
    let networks = entries(Path::new(ROOT));
    networks.iter().flat_map(|folder| entries(folder)).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn read(path: &Path) -> BTreeSet<IpAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
