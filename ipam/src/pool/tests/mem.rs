//! A disk in memory that remembers its state after every change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::super::disk::{Disk, DiskError, Entry, Stat};

/// A file system's ways with the time of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Fine,
    /// Keeps whole seconds.
    Seconds,
    /// Cannot be told a time: takes the present.
    Untold,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    data: Vec<u8>,
    on_disk: bool,
}

/// Everything on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    files: BTreeMap<u64, File>,
    network: BTreeMap<String, u64>,
    temp: Option<u64>,
    notes: BTreeMap<String, String>,
    stamp: Option<String>,
    mtime: SystemTime,
    boot: u32,
    next_inode: u64,
}

/// A change and what the disk held after it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) state: State,
}

#[derive(Debug)]
struct World {
    state: State,
    /// As the kernel stamps files: moves only when told to.
    now: SystemTime,
    clock: Clock,
    steps: Vec<Step>,
    calls: usize,
    /// The numbers of the calls that fail.
    fail: Range<usize>,
}

/// A handle on the disk; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Mem(Rc<RefCell<World>>);

// === impl State ===

impl State {
    /// The network's folder as names and contents.
    pub(super) fn folder(&self) -> BTreeMap<String, Vec<u8>> {
        self.network
            .iter()
            .map(|(name, ino)| (name.clone(), self.files[ino].data.clone()))
            .collect()
    }

    /// What a power loss leaves when the folders' entries had reached the
    /// disk as of `self`, but of what was written since then nothing.
    pub(super) fn after_power_loss(&self, last: &Self) -> Self {
        let mut state = self.clone();
        for file in state.files.values_mut().filter(|file| !file.on_disk) {
            file.data.clear();
            file.on_disk = true;
        }
        state.boot += 1;
        // At worst the stamp has reached the disk and
        // those it vouches for have not.
        state.stamp = last.stamp.clone();
        state.mtime = last.mtime;
        state
    }
}

// === impl Mem ===

impl Mem {
    pub(super) fn new(clock: Clock) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let state = State {
            files: BTreeMap::new(),
            network: BTreeMap::new(),
            temp: None,
            notes: BTreeMap::new(),
            stamp: None,
            mtime: now,
            boot: 1,
            next_inode: 1,
        };
        let mem = Self(Rc::new(RefCell::new(World {
            state,
            now,
            clock,
            steps: vec![],
            calls: 0,
            fail: 0..0,
        })));
        mem.foreign_write("lock", "");
        mem
    }

    pub(super) fn from_state(state: State, clock: Clock) -> Self {
        let mem = Self::new(clock);
        mem.0.borrow_mut().state = state;
        mem
    }

    pub(super) fn state(&self) -> State {
        self.0.borrow().state.clone()
    }

    pub(super) fn set_state(&self, state: State) {
        self.0.borrow_mut().state = state;
    }

    pub(super) fn folder(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.borrow().state.folder()
    }

    pub(super) fn notes(&self) -> BTreeMap<String, String> {
        self.0.borrow().state.notes.clone()
    }

    pub(super) fn has_temp(&self) -> bool {
        self.0.borrow().state.temp.is_some()
    }

    /// Another program writes a file, within the same tick.
    pub(super) fn foreign_write(&self, name: &str, content: &str) {
        let mut world = self.0.borrow_mut();
        let data = content.as_bytes().to_vec();
        let ino = world.new_file(File { data, on_disk: true });
        world.state.network.insert(name.to_owned(), ino);
        world.touch();
    }

    /// Another program removes a file, within the same tick.
    pub(super) fn foreign_remove(&self, name: &str) {
        let mut world = self.0.borrow_mut();
        if world.state.network.remove(name).is_some() {
            world.touch();
        }
    }

    /// Another program overwrites a file in place, which no folder shows.
    pub(super) fn foreign_edit(&self, name: &str, content: &str) {
        let mut world = self.0.borrow_mut();
        let ino = world.state.network[name];
        let data = content.as_bytes().to_vec();
        world.state.files.insert(ino, File { data, on_disk: true });
    }

    pub(super) fn tick(&self) {
        self.0.borrow_mut().now += Duration::from_millis(4);
    }

    pub(super) fn pass(&self, time: Duration) {
        self.0.borrow_mut().now += time;
    }

    pub(super) fn reboot(&self) {
        self.0.borrow_mut().state.boot += 1;
    }

    /// Forgets the steps so far: all that was written is on the disk.
    pub(super) fn record(&self) {
        let mut world = self.0.borrow_mut();
        world.steps.clear();
        world.state.files.values_mut().for_each(|file| file.on_disk = true);
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.0.borrow().steps.clone()
    }

    /// How many calls there were since the last time this was asked.
    pub(super) fn calls(&self) -> usize {
        std::mem::take(&mut self.0.borrow_mut().calls)
    }

    /// Lets these calls fail, counted from now.
    pub(super) fn fail(&self, calls: Range<usize>) {
        let mut world = self.0.borrow_mut();
        world.calls = 0;
        world.fail = calls;
    }

    fn ask<T>(&self, f: impl FnOnce(&World) -> T) -> Result<T, DiskError> {
        self.0.borrow_mut().call("read")?;
        Ok(f(&self.0.borrow()))
    }

    fn change<T>(
        &self,
        name: &'static str,
        f: impl FnOnce(&mut World) -> T,
    ) -> Result<T, DiskError> {
        let mut world = self.0.borrow_mut();
        world.call(name)?;
        let out = f(&mut world);
        let state = world.state.clone();
        // Thousands of reservations are for counting calls, not for replay.
        if world.state.network.len() < 100 {
            world.steps.push(Step { name, state });
        }
        Ok(out)
    }
}

impl World {
    fn call(&mut self, action: &'static str) -> Result<(), DiskError> {
        let number = self.calls;
        self.calls += 1;
        match self.fail.contains(&number) {
            true => Err(DiskError {
                action,
                path: PathBuf::from("mem"),
                source: Error::from(ErrorKind::StorageFull),
            }),
            false => Ok(()),
        }
    }

    fn new_file(&mut self, file: File) -> u64 {
        let ino = self.state.next_inode;
        self.state.next_inode += 1;
        self.state.files.insert(ino, file);
        ino
    }

    fn touch(&mut self) {
        self.state.mtime = self.keep(self.now);
    }

    fn keep(&self, time: SystemTime) -> SystemTime {
        match self.clock {
            Clock::Fine => time,
            Clock::Untold => self.now,
            Clock::Seconds => {
                let secs = time
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs();
                SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
            }
        }
    }

    fn temp(&mut self) -> (u64, &mut File) {
        let ino = self.state.temp.expect("a temporary file");
        (ino, self.state.files.get_mut(&ino).unwrap())
    }
}

impl Disk for Mem {
    fn list(&self) -> Result<Vec<Entry>, DiskError> {
        self.ask(|w| {
            let entry =
                |name: &String| Entry { name: name.clone(), regular: true };
            w.state.network.keys().map(entry).collect()
        })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.ask(|w| {
            let ino = w.state.network.get(name)?;
            Some(w.state.files[ino].data.clone())
        })
    }

    fn read_first(&mut self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.read(name)
    }

    fn rewrite(&mut self, name: &str, text: &str) -> Result<(), DiskError> {
        self.change("open to rewrite", |w| {
            if !w.state.network.contains_key(name) {
                let ino = w.new_file(File { data: vec![], on_disk: true });
                w.state.network.insert(name.to_owned(), ino);
                w.touch();
            }
        })?;
        let data = |w: &mut World, f: &dyn Fn(&mut Vec<u8>)| {
            let ino = w.state.network[name];
            let file = w.state.files.get_mut(&ino).unwrap();
            f(&mut file.data);
            file.on_disk = false;
        };
        self.change("resize", |w| data(w, &|d| d.resize(text.len(), 0)))?;
        self.change("rewrite", |w| data(w, &|d| *d = text.into()))
    }

    fn remove(&mut self, name: &str) -> Result<bool, DiskError> {
        self.change("remove", |w| {
            let removed = w.state.network.remove(name).is_some();
            if removed {
                w.touch();
            }
            removed
        })
    }

    fn stat(&self) -> Result<Stat, DiskError> {
        self.ask(|w| Stat { dev: 1, ino: 2, mtime: w.state.mtime })
    }

    fn set_mtime(&mut self, mtime: SystemTime) -> Result<(), DiskError> {
        self.change("set_mtime", |w| w.state.mtime = w.keep(mtime))
    }

    fn temp_create(&mut self) -> Result<bool, DiskError> {
        self.change("temp_create", |w| {
            if w.state.temp.is_some() {
                return false;
            }
            let ino = w.new_file(File { data: vec![], on_disk: false });
            w.state.temp = Some(ino);
            true
        })
    }

    fn temp_write(&mut self, content: &[u8]) -> Result<(), DiskError> {
        let half = content.len() / 2;
        self.change("half a write", |w| {
            w.temp().1.data = content[..half].to_vec();
        })?;
        self.change("temp_write", |w| w.temp().1.data = content.to_vec())
    }

    fn temp_link(&mut self, name: &str) -> Result<bool, DiskError> {
        self.change("temp_link", |w| {
            let (ino, _) = w.temp();
            if w.state.network.contains_key(name) {
                return false;
            }
            w.state.network.insert(name.to_owned(), ino);
            w.touch();
            true
        })
    }

    fn temp_remove(&mut self) -> Result<(), DiskError> {
        self.change("temp_remove", |w| w.state.temp = None)
    }

    fn note(&self, key: &str) -> Result<Option<String>, DiskError> {
        self.ask(|w| w.state.notes.get(key).cloned())
    }

    fn notes(&self) -> Result<Vec<String>, DiskError> {
        self.ask(|w| w.state.notes.keys().cloned().collect())
    }

    fn note_add(&mut self, key: &str, text: &str) -> Result<(), DiskError> {
        self.change("note_add", |w| {
            let before = w.state.notes.insert(key.to_owned(), text.to_owned());
            assert_eq!(before, None, "note {key} is there already");
        })
    }

    fn note_remove(&mut self, key: &str) -> Result<(), DiskError> {
        self.change("note_remove", |w| {
            w.state.notes.remove(key);
        })
    }

    fn stamp(&mut self) -> Result<Option<String>, DiskError> {
        self.ask(|w| w.state.stamp.clone())
    }

    fn stamp_write(&mut self, text: &str) -> Result<(), DiskError> {
        self.change("stamp_write", |w| {
            let before = w.state.stamp.take().unwrap_or_default();
            let behind = before.get(text.len()..).unwrap_or_default();
            w.state.stamp = Some(text.to_owned() + behind);
        })
    }

    fn stamp_replace(&mut self, text: &str) -> Result<(), DiskError> {
        self.change("half a stamp_replace", |w| {
            let half = text.len() / 2;
            let before = w.state.stamp.take().unwrap_or_default();
            let behind = before.get(half..).unwrap_or_default();
            w.state.stamp = Some(text[..half].to_owned() + behind);
        })?;
        self.change("stamp_replace", |w| {
            w.state.stamp = Some(text.to_owned());
        })
    }

    fn uptime(&self) -> Duration {
        let now = self.now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default()
    }

    fn written(&self, name: &str) -> Result<Option<SystemTime>, DiskError> {
        self.ask(|w| w.state.network.get(name).map(|_| w.now))
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("boot-{}", self.0.borrow().state.boot))
    }

    fn now(&self) -> SystemTime {
        self.0.borrow().now
    }
}
