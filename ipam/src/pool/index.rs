//! Which addresses an attachment holds, without reading every reservation
//! (HL-45).
//!
//! The truth is the network's folder; the index only remembers it. For each
//! attachment there is a note `<container id>@<ifname>` with its addresses
//! (`<container id>@` for legacy reservations, HL-28), so that neither a
//! look-up nor a change costs more when there are more of them. The stamp
//! says for which state of the folder all of them are right:
//!
//! * the folder's device, inode and **time of last change**. After each
//!   change of ours, still under the lock, that time is set to
//!   [`BEHIND`] in the past. Whatever anybody does to the folder later sets
//!   it to the present, which can never be that marker; so there is no race
//!   within the clock's tick (4 ms and more, where kernels stamp files
//!   coarsely), as there would be with the time that our own change left.
//! * the **boot id**. Notes are not synced: what a power loss does to them
//!   does not matter, since afterwards the id is another one.
//!
//! If the stamp does not fit, the folder is read once and the notes are put
//! right. A change that is cut short leaves a time that is no marker, so that
//! no order of the steps has to be durable. The stamp itself comes last.
//!
//! What the stamp cannot see is a file rewritten in place by hand. Nothing is
//! released or reported on a note's word alone: the reservation is read. And
//! that an attachment holds nothing is not believed before the whole folder
//! has been read, but by an allocation, which would do so each time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::cooling::Cooling;
use super::disk::{Disk, DiskError, NAME_MAX, Stat, since_epoch};
use super::{Attachment, Held};

/// Raised when the notes' meaning changes.
const VERSION: u32 = 1;
/// How far back the marker lies: more than any tick, and more than the
/// granularity of any file system (2 s).
const BEHIND: Duration = Duration::from_secs(10);
/// The stamp's length in bytes: more than its longest text.
const STAMP_LEN: usize = 160;

/// The index and whether it is known to be right.
#[derive(Debug)]
pub(super) struct Index {
    boot_id: Option<String>,
    fresh: bool,
    cooling: Cooling,
    /// Whether what rests has changed since it was read.
    cooled: bool,
}

/// The folder's reservations by (trimmed) content.
pub(super) type Scan = BTreeMap<String, Vec<IpAddr>>;

/// The address a reservation file's name stands for; `None` for any other
/// file. Only the canonical text reserves an address (HL-25).
pub(super) fn name_addr(name: &str) -> Option<IpAddr> {
    let ip: IpAddr = name.parse().ok()?;
    (addr_name(ip) == name).then_some(ip)
}

/// The name of an address's reservation file (HL-25).
pub(super) fn addr_name(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

// === impl Index ===

impl Index {
    /// Judges the notes against the folder as it is now.
    pub(super) fn open(disk: &mut impl Disk) -> Self {
        let mut index = Self {
            boot_id: disk.boot_id(),
            fresh: false,
            cooling: Cooling::default(),
            cooled: false,
        };
        if let (Ok(Some(text)), Ok(stat)) = (disk.stamp(), disk.stat()) {
            let (stamp, behind) =
                text.split_at_checked(STAMP_LEN + 1).unwrap_or((&text, ""));
            index.fresh = index.stamp(&stat).as_deref() == Some(stamp);
            let boot_id = index.boot_id.as_deref().unwrap_or_default();
            index.cooling = Cooling::parse(behind, boot_id, disk.uptime());
        }
        index
    }

    /// Whether the notes are known to be right.
    pub(super) const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The addresses that were given back a moment ago.
    pub(super) const fn cooling(&self) -> &Cooling {
        &self.cooling
    }

    /// Remembers that `ips` are free from now on: written with the next
    /// [`Self::seal`], which must follow.
    pub(super) fn cool(&mut self, disk: &impl Disk, ips: &[IpAddr]) {
        self.cooling.add(ips, disk.uptime());
        self.cooled = true;
    }

    /// What `attachment` holds.
    pub(super) fn held(
        &mut self,
        disk: &mut impl Disk,
        attachment: &Attachment,
    ) -> Result<Held, DiskError> {
        let id = &attachment.container_id;
        let content = attachment.content();
        if self.fresh
            && let (Some(exact), Some(legacy)) =
                (self.noted(disk, &content)?, self.noted(disk, id)?)
        {
            return Ok(Held { exact, legacy });
        }
        let mut scan = self.refresh(disk)?;
        let exact = scan.remove(&content).unwrap_or_default();
        Ok(Held { exact, legacy: scan.remove(id).unwrap_or_default() })
    }

    /// Reads the folder, and puts the notes right unless they are known to
    /// be.
    pub(super) fn refresh(
        &mut self,
        disk: &mut impl Disk,
    ) -> Result<Scan, DiskError> {
        let scan = scan(disk)?;
        if !self.fresh {
            // Failing to write notes costs time later, nothing else.
            self.fresh = rebuild(disk, &scan).is_ok();
            self.seal(disk);
        }
        Ok(scan)
    }

    /// Notes that reservations with `content` are those of `after` now, no
    /// longer those of `before`. The folder has changed: [`Self::seal`] must
    /// follow.
    pub(super) fn put(
        &mut self,
        disk: &mut impl Disk,
        content: &str,
        before: &[IpAddr],
        after: &[IpAddr],
    ) {
        let Some(key) = key(content).filter(|_| self.fresh) else { return };
        let removed = match before {
            [] => Ok(()),
            _ => disk.note_remove(&key),
        };
        let written = removed.and_then(|()| match after {
            [] => Ok(()),
            ips => disk.note_add(&key, &join(ips)),
        });
        self.fresh = written.is_ok();
    }

    /// The notes are no longer known to be right.
    pub(super) const fn spoil(&mut self) {
        self.fresh = false;
    }

    /// Ties the notes, if they are right, to the folder's present state.
    pub(super) fn seal(&mut self, disk: &mut impl Disk) {
        self.fresh = self.fresh && self.try_seal(disk).unwrap_or(false);
        if self.cooled && !self.fresh {
            // Notes that are not right need no stamp, but what rests does.
            // Failing has no consequence but that it may be given at once.
            let text = self.cooling_behind(format!("{:STAMP_LEN$}\n", ""));
            let _ = disk.stamp_replace(&text);
        }
        self.cooled = false;
    }

    fn cooling_behind(&self, stamp: String) -> String {
        let boot_id = self.boot_id.as_deref().unwrap_or_default();
        stamp + &self.cooling.render(boot_id)
    }

    fn try_seal(&self, disk: &mut impl Disk) -> Result<bool, DiskError> {
        let Some(marker) = disk.now().checked_sub(BEHIND) else {
            return Ok(false);
        };
        disk.set_mtime(marker)?;
        // What the file system kept of it: maybe no fractions, maybe not
        // the marker at all.
        let stat = disk.stat()?;
        let Some(stamp) = self.stamp(&stat).filter(|_| stat.mtime <= marker)
        else {
            return Ok(false);
        };
        match self.cooled {
            true => disk.stamp_replace(&self.cooling_behind(stamp))?,
            false => disk.stamp_write(&stamp)?,
        }
        Ok(true)
    }

    fn stamp(&self, stat: &Stat) -> Option<String> {
        let boot_id = self.boot_id.as_deref()?;
        let Stat { dev, ino, mtime } = stat;
        let mtime = since_epoch(*mtime);
        let mut text = format!("{VERSION} {boot_id} {dev} {ino} {mtime}");
        text.push_str(&" ".repeat(STAMP_LEN.saturating_sub(text.len())));
        text.push('\n');
        Some(text)
    }

    /// The addresses noted for `content`, each confirmed by its reservation;
    /// `None` when the notes cannot answer. Notes found wrong are no longer
    /// fresh.
    fn noted(
        &mut self,
        disk: &impl Disk,
        content: &str,
    ) -> Result<Option<Vec<IpAddr>>, DiskError> {
        let Some(key) = key(content) else { return Ok(None) };
        let Some(text) = disk.note(&key)? else { return Ok(Some(vec![])) };
        let mut ips = Vec::new();
        for name in text.split(',') {
            let right = match name_addr(name) {
                Some(ip)
                    if content_of(disk, name)?.as_deref() == Some(content) =>
                {
                    ips.push(ip);
                    true
                }
                _ => false,
            };
            self.fresh &= right;
        }
        Ok(self.fresh.then_some(ips))
    }
}

/// Reads every reservation.
fn scan(disk: &impl Disk) -> Result<Scan, DiskError> {
    let mut out = Scan::new();
    for entry in disk.list()? {
        let Some(ip) = name_addr(&entry.name).filter(|_| entry.regular) else {
            continue;
        };
        // One unreadable file hides only itself; its address stays taken.
        if let Ok(Some(content)) = content_of(disk, &entry.name) {
            out.entry(content).or_default().push(ip);
        }
    }
    for ips in out.values_mut() {
        ips.sort_unstable();
    }
    Ok(out)
}

/// Makes the notes say what `scan` says, leaving alone those that do.
fn rebuild(disk: &mut impl Disk, scan: &Scan) -> Result<(), DiskError> {
    let mut right = BTreeSet::new();
    let wanted: BTreeMap<String, String> = scan
        .iter()
        .filter_map(|(content, ips)| Some((key(content)?, join(ips))))
        .collect();
    for key in disk.notes()?.into_iter().filter(|key| key.contains('@')) {
        let text = disk.note(&key)?;
        if text.is_some() && text.as_ref() == wanted.get(&key) {
            right.insert(key);
        } else {
            disk.note_remove(&key)?;
        }
    }
    for (key, text) in wanted.iter().filter(|(key, _)| !right.contains(*key)) {
        disk.note_add(key, text)?;
    }
    Ok(())
}

/// A reservation's content without surrounding white space (HL-28); `None`
/// for an absent or empty file and one that is not text, such as the zeros that
/// some file systems leave after a power loss.
pub(super) fn content_of(
    disk: &impl Disk,
    name: &str,
) -> Result<Option<String>, DiskError> {
    let text = disk.read(name)?.and_then(|b| String::from_utf8(b).ok());
    let text = text.filter(|t| !t.contains('\0'));
    Ok(text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()))
}

/// The note's name for reservations with `content`. Ids and names that make
/// no unambiguous file name have none, and are searched for in the folder.
fn key(content: &str) -> Option<String> {
    let (id, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
    // S-9: in particular no `@`.
    let plain = id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')
        });
    let fits = id.len() + 1 + ifname.len() <= NAME_MAX;
    (plain && fits && !ifname.contains(['/', '\0']))
        .then(|| format!("{id}@{ifname}"))
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(|ip| addr_name(*ip)).collect::<Vec<_>>().join(",")
}
