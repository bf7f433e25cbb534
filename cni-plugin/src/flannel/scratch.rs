//! The delegate's configuration, kept from ADD to DEL (FL-6, FL-7, P-26,
//! P-30).
//!
//! Upstream's DEL needs this file and nothing else; ours can do without it.
//! It is written so that either can undo the other's ADD. Its name lacks the
//! interface, so two attachments of one container share it (W-41): it counts
//! only while it names the network in question.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipam::file;
use ipam::gojson::Object;
use nix::fcntl::OFlag;

use crate::files::failed;
use crate::owner::short;
use crate::protocol::{Call, CniError, Env, ValidAttachments, log};

/// One container's file.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    path: PathBuf,
    /// What it is written as first. A killed ADD leaves it; there is one for
    /// each attachment, so that its DEL or its next ADD finds it.
    temporary: PathBuf,
}

/// What the file holds for a network.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There is no file.
    Nothing,
    /// The configuration that the network's delegate was called with.
    Ours(String),
    /// The configuration of another network's attachment (W-41).
    Others,
    /// A file that is cut off or no configuration.
    Unusable,
}

// === impl Scratch ===

impl Scratch {
    /// The file of the call's container in `folder`.
    pub(super) fn new(folder: &Path, call: &Call) -> Self {
        let Env { container_id, ifname, .. } = &call.env;
        let temporary = temporary(&call.name, container_id, ifname);
        Self {
            folder: folder.to_owned(),
            path: folder.join(container_id),
            temporary: folder.join(temporary),
        }
    }

    /// What is there, byte for byte.
    ///
    /// # Errors
    /// Code 5 for anything but its absence.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>, CniError> {
        match file::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.failed("read", &e)),
        }
    }

    /// What is kept for `network`.
    ///
    /// # Errors
    /// As [`Scratch::bytes`].
    pub(super) fn kept(&self, network: &str) -> Result<Kept, CniError> {
        let Some(bytes) = self.bytes()? else { return Ok(Kept::Nothing) };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let names = Object::parse(&text)
            .and_then(|c| Ok(c.string("name")?.zip(c.string("type")?)));
        Ok(match names {
            Ok(Some((name, _))) if name == network => Kept::Ours(text),
            Ok(Some(_)) => Kept::Others,
            Ok(None) | Err(_) => {
                log(format_args!(
                    "flannel: {} holds no configuration and is not used",
                    self.path.display()
                ));
                Kept::Unusable
            }
        })
    }

    /// Writes `bytes`: complete or not at all, wherever the process is killed.
    /// After a power loss there is no pod that they would be about.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), CniError> {
        let written = self.try_write(bytes);
        if written.is_err() {
            self.remove_temporary();
        }
        written.map_err(|e| self.failed("write", &e))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<()> {
        let open = || {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
            file::open(&self.temporary, flags, 0o600)
        };
        let mut file = match open() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let mut folder = DirBuilder::new();
                folder.recursive(true).mode(0o700).create(&self.folder)?;
                open()?
            }
            other => other?,
        };
        file.write_all(bytes)?;
        fs::rename(&self.temporary, &self.path)
    }

    /// Puts back what was there before a failed ADD.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn restore(
        &self,
        before: Option<&[u8]>,
    ) -> Result<(), CniError> {
        match before {
            Some(bytes) => self.write(bytes),
            None => self.remove(),
        }
    }

    /// Removes it, if it is there.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn remove(&self) -> Result<(), CniError> {
        match fs::remove_file(&self.path) {
            Err(e) if !is_absent(&e) => Err(self.failed("remove", &e)),
            _ => Ok(()),
        }
    }

    /// Removes what a killed ADD may have left.
    pub(super) fn remove_temporary(&self) {
        // rubbish that hurts nobody
        let _ = fs::remove_file(&self.temporary);
    }

    fn failed(&self, doing: &str, e: &io::Error) -> CniError {
        failed(doing, &self.path, e)
    }
}

/// The name of an attachment's temporary file. No container id starts with a
/// dot, and one of 255 bytes is a file name.
fn temporary(network: &str, container_id: &str, ifname: &str) -> String {
    let container = short(container_id, 120);
    format!("{}{container}@{ifname}", temporary_prefix(network))
}

fn temporary_prefix(network: &str) -> String {
    // an @ is in no network's name (S-9)
    format!(".{}@", short(network, 100))
}

/// Removes what ADD left in `folder` for attachments of `network` that are
/// not in `valid`.
///
/// # Errors
/// Code 5: what could not be removed; everything else has been.
pub(super) fn sweep(
    folder: &Path,
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if is_absent(&e) => return Ok(()),
        other => other.map_err(|e| failed("read", folder, &e))?,
    };
    let prefix = temporary_prefix(network);
    let kept: BTreeSet<String> =
        valid.iter().map(|(id, name)| temporary(network, id, name)).collect();
    let mut result = Ok(());
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let stale = match name.starts_with('.') {
            true => name.starts_with(&prefix) && !kept.contains(&name),
            false => !valid.has_container(&name) && names(&path, network),
        };
        if !stale {
            continue;
        }
        match fs::remove_file(&path) {
            Err(e) if !is_absent(&e) => {
                result = result.and(Err(failed("remove", &path, &e)));
            }
            _ => {}
        }
    }
    result
}

/// Whether the file at `path` is a configuration of `network`.
fn names(path: &Path, network: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let name = Object::parse(&text).and_then(|conf| conf.string("name"));
    name.is_ok_and(|name| name.as_deref() == Some(network))
}

/// Nothing is there; nor can anything be whose name is too long, or whose
/// folder is none.
fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::NotFound
            | ErrorKind::InvalidFilename
            | ErrorKind::NotADirectory
    )
}
