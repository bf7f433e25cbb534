//! The few file operations the pool is made of, one system call each, so
//! that tests can stop after any of them; and their real implementation.
//!
//! Two folders are involved. The *network's folder* is host-local's own:
//! reservations, `last_reserved_ip.*`, `lock`. The *side folder*,
//! `<dataDir>/.flannel-<network>`, is ours: host-local reads every file below
//! the network's folder (HL-29), so nothing of ours should be in there, and
//! no network can have a name with a leading dot (S-9). It holds the
//! temporary file, the index's notes, its stamp and which addresses were
//! given back a moment ago.
//!
//! A file cannot have names on two file systems. Where the network's folder
//! is on another one than what it is in (a tmpfs, so that a restart of the
//! machine empties it), the side folder is `.flannel` in the network's after
//! all: host-local finds no reservation in there, it only reads more files.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::OFlag;

use super::lock;
use crate::file;

const TEMP: &str = "temp";
const STAMP: &str = "stamp";
/// What the side folder's name begins with.
const SIDE: &str = ".flannel-";
/// Longest file name of Linux's file systems, in bytes.
pub(super) const NAME_MAX: usize = 255;
// FNV-1a, 64 bits
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// A file operation that failed: what was tried, on which path, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path:?}: {source}")]
pub struct DiskError {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// One entry of the network's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// A regular file, hence a possible reservation.
    pub(super) regular: bool,
}

/// The identity of the network's folder and the time of its last change, as
/// its file system keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) mtime: SystemTime,
}

/// The operations. The lock is held for as long as the value lives.
///
/// "Not there" and "already there" are answers, everything else is an error.
pub(super) trait Disk {
    /// Everything in the network's folder.
    fn list(&self) -> Result<Vec<Entry>, DiskError>;
    /// A file's content.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;
    /// The same of one that will be written over.
    fn read_first(&mut self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;
    /// Writes over a file in place, making it if need be. Cut short, it
    /// leaves anything.
    fn rewrite(&mut self, name: &str, text: &str) -> Result<(), DiskError>;
    /// Removes a file; `false` when there was none.
    fn remove(&mut self, name: &str) -> Result<bool, DiskError>;
    /// The folder's identity and time.
    fn stat(&self) -> Result<Stat, DiskError>;
    /// Sets the folder's time of last change.
    fn set_mtime(&mut self, mtime: SystemTime) -> Result<(), DiskError>;

    /// Creates the temporary file, empty; `false` when there is one.
    fn temp_create(&mut self) -> Result<bool, DiskError>;
    /// Gives it its content.
    fn temp_write(&mut self, content: &[u8]) -> Result<(), DiskError>;
    /// Gives it a second name in the network's folder; `false` when that is
    /// taken.
    fn temp_link(&mut self, name: &str) -> Result<bool, DiskError>;
    /// Removes its temporary name, if there is one.
    fn temp_remove(&mut self) -> Result<(), DiskError>;

    /// A note's text. A note is a symbolic link: written and read by one
    /// call, complete or absent, without a data block of its own.
    fn note(&self, key: &str) -> Result<Option<String>, DiskError>;
    /// The keys of all notes.
    fn notes(&self) -> Result<Vec<String>, DiskError>;
    /// Writes a note that is not there yet.
    fn note_add(&mut self, key: &str, text: &str) -> Result<(), DiskError>;
    /// Removes a note, if there is one.
    fn note_remove(&mut self, key: &str) -> Result<(), DiskError>;

    /// The stamp's text, and what is behind it.
    fn stamp(&mut self) -> Result<Option<String>, DiskError>;
    /// Writes over the stamp in place. The text is of the same length each
    /// time, and written by one call.
    fn stamp_write(&mut self, text: &str) -> Result<(), DiskError>;
    /// Writes over the stamp and all that is behind it. Cut short, it leaves
    /// a part of what was behind.
    fn stamp_replace(&mut self, text: &str) -> Result<(), DiskError>;

    /// Identifies the time since the machine was started, if that is known.
    fn boot_id(&self) -> Option<String>;
    /// The wall clock.
    fn now(&self) -> SystemTime;
    /// Time since the machine was started, sleep included.
    fn uptime(&self) -> Duration;
    /// When a file was last written to, by the wall clock.
    fn written(&self, name: &str) -> Result<Option<SystemTime>, DiskError>;
}

/// The real folders, locked.
#[derive(Debug)]
pub(super) struct Folder {
    network: PathBuf,
    side: PathBuf,
    handle: File,
    temp: Option<File>,
    stamp: Option<Open>,
    /// What was read to be written over, by name.
    kept: Vec<(String, Open)>,
    _lock: File,
}

/// A file that was read and stays open, so that it is looked for once.
#[derive(Debug)]
struct Open {
    file: File,
    /// Its length in bytes.
    len: usize,
}

/// What came of opening a network's folder.
#[derive(Debug)]
pub(super) enum Opened {
    Locked(Folder),
    /// The folder is not there and was not to be made.
    Absent,
    /// The lock was not to be had in time.
    Busy,
}

// === impl Folder ===

impl Folder {
    /// Opens and locks the folder of `network`; with `create`, makes it and
    /// what is above it, 0755 (HL-24).
    pub(super) fn open(
        data_dir: &Path,
        network: &str,
        create: bool,
        deadline: Instant,
    ) -> Result<Opened, DiskError> {
        let path = data_dir.join(network);
        let lock_path = path.join(lock::NAME);
        let mut attempts = 3;
        let lock = loop {
            match lock::take(&lock_path, deadline) {
                Err(e) if is_absent(&e) && !create => {
                    return Ok(Opened::Absent);
                }
                // Not made yet, or removed while we waited for the lock.
                Err(e) if e.kind() == ErrorKind::NotFound && attempts > 0 => {
                    attempts -= 1;
                    make_dir(&path, 0o755).map_err(on("create", &path))?;
                }
                other => break other.map_err(on("lock", &lock_path))?,
            }
        };
        let Some(lock) = lock else { return Ok(Opened::Busy) };
        // Only now: the lock is inside, so this is its folder.
        let handle =
            file::open(&path, OFlag::O_RDONLY, 0).map_err(on("open", &path))?;
        let dev = |meta: io::Result<fs::Metadata>| meta.map(|meta| meta.dev());
        let inside = dev(handle.metadata()).map_err(on("stat", &path))?;
        let around =
            dev(fs::metadata(data_dir)).map_err(on("stat", data_dir))?;
        let side = match inside == around {
            true => data_dir.join(side_name(network)),
            false => path.join(".flannel"),
        };
        Ok(Opened::Locked(Self {
            handle,
            network: path,
            side,
            temp: None,
            stamp: None,
            kept: Vec::new(),
            _lock: lock,
        }))
    }

    fn temp_path(&self) -> PathBuf {
        self.side.join(TEMP)
    }

    /// Runs `f`, and once more after making the side folder if that is what
    /// was missing.
    fn in_side<T>(&self, f: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match f() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make_dir(&self.side, 0o700)?;
                f()
            }
            other => other,
        }
    }

    fn with_stamp(
        &mut self,
        write: impl FnOnce(&mut Open) -> io::Result<()>,
    ) -> Result<(), DiskError> {
        let path = self.side.join(STAMP);
        let open = match self.stamp.take() {
            Some(open) => Ok(open),
            None => self.in_side(|| Open::make(&path)),
        };
        let written = open.and_then(|open| write(self.stamp.insert(open)));
        written.map_err(on("write", &path))
    }
}

// === impl Open ===

impl Open {
    /// Opens and reads a file that is there.
    fn read(path: &Path) -> io::Result<(Self, Vec<u8>)> {
        let mut file = file::open(path, OFlag::O_RDWR, 0)?;
        let content = file::rest_of(&mut file)?;
        Ok((Self { file, len: content.len() }, content))
    }

    /// Opens a file that need not be there, to write over all of it.
    fn make(path: &Path) -> io::Result<Self> {
        let file = file::open(path, OFlag::O_WRONLY | OFlag::O_CREAT, 0o600)?;
        // whatever is in it
        Ok(Self { file, len: usize::MAX })
    }

    /// Writes over its beginning, by one call.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.len = self.len.max(text.len());
        self.file.write_all_at(text.as_bytes(), 0)
    }

    /// Cuts off what is longer.
    fn cut(&mut self, len: usize) -> io::Result<()> {
        if self.len > len {
            self.file.set_len(len as u64)?;
            self.len = len;
        }
        Ok(())
    }

    /// Writes over all of it.
    fn replace(&mut self, text: &str) -> io::Result<()> {
        self.cut(text.len())?;
        self.write(text)
    }
}

impl Disk for Folder {
    fn list(&self) -> Result<Vec<Entry>, DiskError> {
        let entries = fs::read_dir(&self.network).and_then(|entries| {
            entries
                .map(|entry| {
                    let entry = entry?;
                    let regular = entry.file_type()?.is_file();
                    let name = entry.file_name().into_string();
                    Ok(name.ok().map(|name| Entry { name, regular }))
                })
                .filter_map(Result::transpose)
                .collect()
        });
        entries.map_err(on("read", &self.network))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.network.join(name);
        present(file::read(&path)).map_err(on("read", &path))
    }

    fn read_first(&mut self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.network.join(name);
        let read = present(Open::read(&path)).map_err(on("read", &path))?;
        Ok(read.map(|(open, content)| {
            self.kept.retain(|(kept, _)| kept != name);
            self.kept.push((name.to_owned(), open));
            content
        }))
    }

    fn rewrite(&mut self, name: &str, text: &str) -> Result<(), DiskError> {
        let path = self.network.join(name);
        let kept = self.kept.iter().position(|(kept, _)| kept == name);
        let open = match kept {
            Some(kept) => Ok(self.kept.swap_remove(kept).1),
            None => Open::make(&path),
        };
        let written = open.and_then(|mut open| open.replace(text));
        written.map_err(on("write", &path))
    }

    fn remove(&mut self, name: &str) -> Result<bool, DiskError> {
        let path = self.network.join(name);
        let removed = present(fs::remove_file(&path));
        Ok(removed.map_err(on("remove", &path))?.is_some())
    }

    fn stat(&self) -> Result<Stat, DiskError> {
        let meta = self.handle.metadata().and_then(|meta| {
            let mtime = meta.modified()?;
            Ok(Stat { dev: meta.dev(), ino: meta.ino(), mtime })
        });
        meta.map_err(on("stat", &self.network))
    }

    fn set_mtime(&mut self, mtime: SystemTime) -> Result<(), DiskError> {
        self.handle
            .set_times(FileTimes::new().set_modified(mtime))
            .map_err(on("set the time of", &self.network))
    }

    fn temp_create(&mut self) -> Result<bool, DiskError> {
        let path = self.temp_path();
        let file = self.in_side(|| {
            let new = OFlag::O_CREAT | OFlag::O_EXCL;
            file::open(&path, OFlag::O_WRONLY | new, 0o600)
        });
        match file {
            Ok(file) => self.temp = Some(file),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Ok(false);
            }
            Err(e) => return Err(on("create", &path)(e)),
        }
        Ok(true)
    }

    fn temp_write(&mut self, content: &[u8]) -> Result<(), DiskError> {
        let temp = self.temp.as_mut().ok_or(ErrorKind::NotFound.into());
        let written = temp.and_then(|file| file.write_all(content));
        written.map_err(|e| on("write", &self.temp_path())(e))
    }

    fn temp_link(&mut self, name: &str) -> Result<bool, DiskError> {
        let path = self.network.join(name);
        match fs::hard_link(self.temp_path(), &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(on("create", &path)(e)),
        }
    }

    fn temp_remove(&mut self) -> Result<(), DiskError> {
        let path = self.temp_path();
        self.temp = None;
        let removed = present(fs::remove_file(&path));
        removed.map(|_| ()).map_err(on("remove", &path))
    }

    fn note(&self, key: &str) -> Result<Option<String>, DiskError> {
        let path = self.side.join(key);
        let target = match fs::read_link(&path) {
            // Not a link: not a note of ours.
            Err(e) if e.kind() == ErrorKind::InvalidInput => return Ok(None),
            other => present(other).map_err(on("read", &path))?,
        };
        Ok(target.and_then(|t| t.into_os_string().into_string().ok()))
    }

    fn notes(&self) -> Result<Vec<String>, DiskError> {
        let names = fs::read_dir(&self.side).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().into_string().ok()))
                .filter_map(Result::transpose)
                .collect()
        });
        let names = present(names).map_err(on("read", &self.side))?;
        Ok(names.unwrap_or_default())
    }

    fn note_add(&mut self, key: &str, text: &str) -> Result<(), DiskError> {
        let path = self.side.join(key);
        self.in_side(|| symlink(text, &path)).map_err(on("create", &path))
    }

    fn note_remove(&mut self, key: &str) -> Result<(), DiskError> {
        let path = self.side.join(key);
        let removed = present(fs::remove_file(&path));
        removed.map(|_| ()).map_err(on("remove", &path))
    }

    fn stamp(&mut self) -> Result<Option<String>, DiskError> {
        let path = self.side.join(STAMP);
        let read = present(Open::read(&path)).map_err(on("read", &path))?;
        let Some((open, content)) = read else { return Ok(None) };
        self.stamp = Some(open);
        Ok(String::from_utf8(content).ok())
    }

    fn stamp_write(&mut self, text: &str) -> Result<(), DiskError> {
        self.with_stamp(|stamp| stamp.write(text))
    }

    fn stamp_replace(&mut self, text: &str) -> Result<(), DiskError> {
        self.with_stamp(|stamp| {
            stamp.write(text)?;
            stamp.cut(text.len())
        })
    }

    fn boot_id(&self) -> Option<String> {
        let id = file::read(Path::new("/proc/sys/kernel/random/boot_id"));
        let id = String::from_utf8(id.ok()?).ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn uptime(&self) -> Duration {
        crate::daemon_state::uptime()
    }

    fn written(&self, name: &str) -> Result<Option<SystemTime>, DiskError> {
        let path = self.network.join(name);
        let time = fs::symlink_metadata(&path).and_then(|m| m.modified());
        present(time).map_err(on("stat", &path))
    }
}

/// `None` for what is not there.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Nothing is there; nor can anything be whose name is too long.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidFilename)
}

fn on(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError { action, path: path.to_owned(), source }
}

/// The side folder's name: a network's own name may be as long as a file's
/// name can be. The mark is in no network's name (S-9), so that no two
/// networks share a folder.
fn side_name(network: &str) -> String {
    let name = format!("{SIDE}{network}");
    if name.len() <= NAME_MAX {
        return name;
    }
    let mut hash = FNV_BASIS;
    for byte in network.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    }
    let mark = format!("~{hash:016x}");
    // S-9: ASCII
    let cut = name.get(..NAME_MAX - mark.len()).unwrap_or(SIDE);
    format!("{cut}{mark}")
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Seconds and nanoseconds since the epoch; negative before it.
pub(super) fn since_epoch(time: SystemTime) -> i128 {
    let nanos = |d: Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}
