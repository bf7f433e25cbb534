//! Allocation and release on a locked folder.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::disk::{Disk, DiskError};
use super::index::{Index, addr_name, name_addr};
use super::range::{Range, RangeSet};
use super::{
    AllocateError, Allocated, Attachment, Count, Held, PoolError, Reservation,
    index,
};

/// After that many taken addresses in a row the folder is listed once,
/// instead of asking for each (HL-46). Listing thousands of files takes as
/// long as several hundred questions.
const QUESTIONS: usize = 64;

/// An address and its range, or why there is none.
type Pick<'a> = Result<(&'a Range, IpAddr), AllocateError>;

/// A locked folder with its index.
#[derive(Debug)]
pub(super) struct Store<D> {
    disk: D,
    index: Index,
}

// === impl Store ===

impl<D: Disk> Store<D> {
    pub(super) fn open(mut disk: D) -> Self {
        let index = Index::open(&mut disk);
        Self { disk, index }
    }

    pub(super) fn allocate(
        &mut self,
        attachment: &Attachment,
        sets: &[RangeSet],
        requested: &[IpAddr],
    ) -> Result<Vec<Allocated>, PoolError> {
        let held = self.index.held(&mut self.disk, attachment)?;
        let mut made = Vec::with_capacity(sets.len());
        let content = attachment.content();
        let outcome = self
            .write_temp(content.as_bytes())
            .map_err(PoolError::from)
            .and_then(|()| {
                self.reserve(attachment, &held, sets, requested, &mut made)
            })
            .and_then(|()| Ok(self.disk.temp_remove()?))
            .and_then(|()| Ok(self.settle(&made)?));
        if let Err(e) = outcome {
            self.take_back(&made, &e);
            return Err(e);
        }
        let mut ips = held.exact.clone();
        ips.extend(made.iter().map(|a| a.ip));
        self.index.put(&mut self.disk, &content, &held.exact, &ips);
        self.index.seal(&mut self.disk);
        Ok(made)
    }

    pub(super) fn release(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Vec<IpAddr>, DiskError> {
        let certain = self.index.is_fresh();
        let held = self.held_for_sure(attachment)?;
        if !certain || (held.exact.is_empty() && held.legacy.is_empty()) {
            // what a killed allocation may have left: rubbish
            let _ = self.disk.temp_remove();
        }
        let content = match held.exact.is_empty() {
            true => attachment.container_id.clone(),
            false => attachment.content(),
        };
        let ips = held.releasable();
        if ips.is_empty() {
            return Ok(ips);
        }
        let mut failed = None;
        let mut left = Vec::new();
        for ip in &ips {
            if let Err(e) = self.disk.remove(&addr_name(*ip)) {
                failed.get_or_insert(e);
                left.push(*ip);
            }
        }
        self.index.put(&mut self.disk, &content, &ips, &left);
        let free: Vec<IpAddr> =
            ips.iter().copied().filter(|ip| !left.contains(ip)).collect();
        self.index.cool(&self.disk, &free);
        self.index.seal(&mut self.disk);
        failed.map_or(Ok(ips), Err)
    }

    pub(super) fn reservations(&self) -> Result<Vec<Reservation>, DiskError> {
        let now = self.disk.now();
        let mut out = Vec::new();
        for entry in self.disk.list()? {
            let Some(ip) = name_addr(&entry.name).filter(|_| entry.regular)
            else {
                continue;
            };
            // one unreadable file hides only itself; its address stays taken
            let Ok(content) = index::content_of(&self.disk, &entry.name) else {
                continue;
            };
            let Some(written) = self.disk.written(&entry.name)? else {
                continue;
            };
            let age = now
                .duration_since(written)
                .unwrap_or_else(|ahead| ahead.duration());
            let attachment = content.map(|text| Attachment::read(&text));
            out.push(Reservation { ip, attachment, age });
        }
        Ok(out)
    }

    /// Removes the reservations of `ips`, whoever they are.
    pub(super) fn reclaim(&mut self, ips: &[IpAddr]) -> Result<(), DiskError> {
        let mut failed = None;
        let mut free = Vec::new();
        // what a killed allocation may have left: rubbish
        let _ = self.disk.temp_remove();
        for ip in ips {
            match self.disk.remove(&addr_name(*ip)) {
                Ok(_) => free.push(*ip),
                Err(e) => {
                    failed.get_or_insert(e);
                }
            }
        }
        self.index.cool(&self.disk, &free);
        // rare, so it may well read the folder
        self.index.spoil();
        let noted = self.index.refresh(&mut self.disk).map(drop);
        failed.map_or(noted, Err)
    }

    pub(super) fn find(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Vec<IpAddr>, DiskError> {
        Ok(self.held_for_sure(attachment)?.releasable())
    }

    /// What `attachment` holds. That it holds nothing is not believed on the
    /// notes' word: somebody may have removed them, or the lock, under a
    /// process at work. Asking for nothing is rare, so the folder may be read.
    fn held_for_sure(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Held, DiskError> {
        let held = self.index.held(&mut self.disk, attachment)?;
        if held.exact.is_empty() && held.legacy.is_empty() {
            self.index.spoil();
            return self.index.held(&mut self.disk, attachment);
        }
        Ok(held)
    }

    pub(super) fn counts(
        &self,
        sets: &[RangeSet],
    ) -> Result<Vec<Count>, DiskError> {
        let taken = self.taken()?;
        let count = |set: &RangeSet| {
            let in_set = taken.iter().filter(|ip| {
                set.range_of(**ip).is_some_and(|r| r.gateway() != **ip)
            });
            Count { total: set.size(), taken: in_set.count() as u128 }
        };
        Ok(sets.iter().map(count).collect())
    }

    /// Links the temporary file to one address of each set.
    fn reserve(
        &mut self,
        attachment: &Attachment,
        held: &Held,
        sets: &[RangeSet],
        requested: &[IpAddr],
        made: &mut Vec<Allocated>,
    ) -> Result<(), PoolError> {
        let mut wanted: Vec<IpAddr> = Vec::new();
        for ip in requested.iter().map(IpAddr::to_canonical) {
            if !wanted.contains(&ip) {
                wanted.push(ip);
            }
        }
        for (number, set) in sets.iter().enumerate() {
            let failed = |source| PoolError::Allocate { set: number, source };
            let pick = match wanted.iter().position(|ip| set.contains(*ip)) {
                Some(at) => self.reserve_requested(set, wanted.remove(at))?,
                None => match duplicate(attachment, held, set) {
                    Some(duplicate) => Err(duplicate),
                    None => self.reserve_next(set, number)?,
                },
            };
            let (range, ip) = pick.map_err(failed)?;
            made.push(Allocated {
                ip,
                prefix_len: range.subnet().len(),
                gateway: range.gateway(),
                set: number,
                recent: self.index.cooling().is_recent(ip),
            });
        }
        match wanted.is_empty() {
            true => Ok(()),
            false => Err(PoolError::Requested(wanted)),
        }
    }

    fn reserve_requested<'a>(
        &mut self,
        set: &'a RangeSet,
        ip: IpAddr,
    ) -> Result<Pick<'a>, DiskError> {
        let taken = || AllocateError::Taken { ip, set: set.clone() };
        let Some(range) = set.range_of(ip) else { return Ok(Err(taken())) };
        if range.gateway() == ip {
            return Ok(Err(AllocateError::Gateway(ip)));
        }
        Ok(match self.disk.temp_link(&addr_name(ip))? {
            true => Ok((range, ip)),
            false => Err(taken()),
        })
    }

    /// The next free address in turn (HL-34).
    fn reserve_next<'a>(
        &mut self,
        set: &'a RangeSet,
        number: usize,
    ) -> Result<Pick<'a>, DiskError> {
        let last = self.disk.read_first(&last_reserved(number))?;
        let last = last
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical());
        let mut taken = BTreeSet::new();
        let mut resting = Vec::new();
        for (asked, (range, ip)) in set.turn(last).enumerate() {
            if asked == QUESTIONS {
                taken = self.taken()?;
            }
            if let Some(since) = self.index.cooling().resting(ip) {
                resting.push((since, range, ip));
                continue;
            }
            if !taken.contains(&ip) && self.disk.temp_link(&addr_name(ip))? {
                return Ok(Ok((range, ip)));
            }
        }
        // nothing else is free: whichever has rested longest
        resting.sort_by_key(|(since, ..)| *since);
        for (_, range, ip) in resting {
            if !taken.contains(&ip) && self.disk.temp_link(&addr_name(ip))? {
                return Ok(Ok((range, ip)));
            }
        }
        Ok(Err(AllocateError::Exhausted(set.clone())))
    }

    /// Moves the turns on.
    fn settle(&mut self, made: &[Allocated]) -> Result<(), DiskError> {
        for one in made {
            // In place: whatever a crash makes of it, the turn goes on from
            // another address (HL-43), and nothing else depends on it. A
            // rename over the old file waits for the disk.
            self.disk.rewrite(&last_reserved(one.set), &addr_name(one.ip))?;
        }
        Ok(())
    }

    /// Undoes an allocation that failed for `reason`, as far as the disk
    /// lets us.
    fn take_back(&mut self, made: &[Allocated], reason: &PoolError) {
        let mut undone = !matches!(reason, PoolError::Disk(_));
        let _ = self.disk.temp_remove();
        for one in made {
            undone &= self.disk.remove(&addr_name(one.ip)).is_ok();
        }
        if !undone {
            // There may be a reservation that the notes do not know.
            self.index.spoil();
        } else if !made.is_empty() {
            self.index.seal(&mut self.disk);
        }
    }

    /// A temporary file with `content` and no other name. The one a crash
    /// left behind may be linked to a live reservation: it is removed, never
    /// opened.
    fn write_temp(&mut self, content: &[u8]) -> Result<(), DiskError> {
        if !self.disk.temp_create()? {
            self.disk.temp_remove()?;
            self.disk.temp_create()?;
        }
        self.disk.temp_write(content)
    }

    /// All addresses that have a file, whoever wrote it, whatever is in it.
    fn taken(&self) -> Result<BTreeSet<IpAddr>, DiskError> {
        let entries = self.disk.list()?;
        Ok(entries.iter().filter_map(|e| name_addr(&e.name)).collect())
    }
}

/// The address of `set` that `attachment` has already (HL-33).
fn duplicate(
    attachment: &Attachment,
    held: &Held,
    set: &RangeSet,
) -> Option<AllocateError> {
    let ip =
        held.exact.iter().chain(&held.legacy).find(|ip| set.contains(**ip))?;
    Some(AllocateError::Duplicate {
        ip: *ip,
        container_id: attachment.container_id.clone(),
    })
}

/// The file that remembers where a set's turn stands (HL-26).
fn last_reserved(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}
