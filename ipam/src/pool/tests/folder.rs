//! The real folder: bytes, modes, the lock, and what a crash leaves.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::{Attachment, Pool, PoolError};
use super::{NONE, eth0, ip, ips, set};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn open(dir: &Path) -> Pool {
    Pool::open(dir, "cbr0", soon()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// A data folder with a network's folder in it.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let network = dir.path().join("cbr0");
    fs::create_dir(&network).unwrap();
    (dir, network)
}

/// CT-26, HL-24 to HL-27.
#[test]
fn the_format_is_host_locals() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("lib/cni/networks");
    let sets =
        [set(&["10.1.2.0/24", "10.2.2.0/24"]), set(&["2001:db8:1::/64"])];
    let dummy = Attachment::new("  dummy\n", "eth0");
    let got = open(&data).allocate(&dummy, &sets, &[]).unwrap();
    assert_eq!(
        got.iter().map(|a| a.ip).collect::<Vec<_>>(),
        ips(&["10.1.2.2", "2001:db8:1::2"])
    );
    let network = data.join("cbr0");
    let expected: [(&str, &[u8], u32); 5] = [
        ("10.1.2.2", b"dummy\r\neth0", 0o600),
        ("2001:db8:1::2", b"dummy\r\neth0", 0o600),
        ("last_reserved_ip.0", b"10.1.2.2", 0o600),
        ("last_reserved_ip.1", b"2001:db8:1::2", 0o600),
        ("lock", b"", 0o750),
    ];
    assert_eq!(names(&network), expected.map(|(name, ..)| name));
    for (name, content, bits) in expected {
        let path = network.join(name);
        assert_eq!(fs::read(&path).unwrap(), content, "{name}");
        assert_eq!(mode(&path), bits, "{name}");
    }
    assert_eq!(mode(&network), 0o755);
    assert_eq!(mode(&data), 0o755);
    assert_eq!(names(&data), [".flannel-cbr0", "cbr0"]);
    assert_eq!(names(&data.join(".flannel-cbr0")), ["dummy@eth0", "stamp"]);

    let released = open(&data).release(&dummy).unwrap();
    assert_eq!(released.len(), 2);
    let left = ["last_reserved_ip.0", "last_reserved_ip.1", "lock"];
    assert_eq!(names(&network), left);
    assert_eq!(names(&data.join(".flannel-cbr0")), ["stamp"]);
    assert_eq!(open(&data).release(&dummy).unwrap(), NONE);
}

/// What Go's host-local left is found, kept and released.
#[test]
fn reservations_of_host_local() {
    let (dir, network) = folder();
    for (name, content) in [
        ("10.1.0.2", "go\r\neth0"),
        ("10.1.0.3", "legacy"),
        ("10.1.0.4", ""),
        ("fd00::2", "go\r\neth0"),
        ("last_reserved_ip.0", "10.1.0.4"),
        ("lock", ""),
    ] {
        fs::write(network.join(name), content).unwrap();
    }
    let mut pool = open(dir.path());
    assert_eq!(pool.find(&eth0("go")).unwrap(), ips(&["10.1.0.2", "fd00::2"]));
    let sets = [set(&["10.1.0.0/29"])];
    let got = pool.allocate(&eth0("ours"), &sets, &[]).unwrap();
    assert_eq!(got[0].ip, ip("10.1.0.5"));
    assert_eq!(pool.release(&eth0("go")).unwrap().len(), 2);
    assert_eq!(pool.release(&eth0("legacy")).unwrap().len(), 1);
    let left = ["10.1.0.4", "10.1.0.5", "last_reserved_ip.0", "lock"];
    assert_eq!(names(&network), left);
}

/// The whole cycle again and again, a foreign program's writes right after
/// ours: within the same tick of a kernel that stamps coarsely.
#[test]
fn foreign_writes_right_after_ours_are_seen() {
    let (dir, network) = folder();
    let sets = [set(&["10.1.0.0/24"])];
    for n in 0..100 {
        let id = format!("ours{n}");
        let mut pool = open(dir.path());
        let got = pool.allocate(&eth0(&id), &sets, &[]).unwrap()[0].ip;
        let foreign = network.join("10.2.0.9");
        fs::write(&foreign, format!("go{n}\r\neth0")).unwrap();
        drop(pool);
        let mut pool = open(dir.path());
        let go = eth0(&format!("go{n}"));
        assert_eq!(pool.find(&go).unwrap(), ips(&["10.2.0.9"]), "{n}");
        drop(pool);
        fs::remove_file(&foreign).unwrap();
        fs::remove_file(network.join(got.to_string())).unwrap();
        let mut pool = open(dir.path());
        assert_eq!(pool.find(&go).unwrap(), NONE);
        assert_eq!(pool.release(&eth0(&id)).unwrap(), NONE);
    }
}

/// The temporary file may be a live reservation's other name: writing to it
/// would destroy that.
#[test]
fn a_temporary_file_left_by_a_crash_is_not_written_to() {
    let (dir, network) = folder();
    let sets = [set(&["10.1.0.0/24"])];
    open(dir.path()).allocate(&eth0("a"), &sets, &[]).unwrap();
    let temp = dir.path().join(".flannel-cbr0/temp");
    fs::hard_link(network.join("10.1.0.2"), &temp).unwrap();
    open(dir.path()).allocate(&eth0("b"), &sets, &[]).unwrap();
    assert_eq!(fs::read(network.join("10.1.0.2")).unwrap(), b"a\r\neth0");
    assert_eq!(fs::read(network.join("10.1.0.3")).unwrap(), b"b\r\neth0");
    assert!(!temp.exists());
}

#[test]
fn odd_files_are_in_nobodys_way() {
    let (dir, network) = folder();
    fs::create_dir(network.join("10.1.0.2")).unwrap();
    fs::write(network.join("10.1.0.3"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink("/nowhere", network.join("10.1.0.4")).unwrap();
    nix::unistd::mkfifo(
        &network.join("10.1.0.5"),
        nix::sys::stat::Mode::S_IRUSR,
    )
    .unwrap();
    fs::create_dir(network.join("sub")).unwrap();
    let mut pool = open(dir.path());
    let sets = [set(&["10.1.0.0/24"])];
    let got = pool.allocate(&eth0("a"), &sets, &[]).unwrap();
    assert_eq!(got[0].ip, ip("10.1.0.6"));
    assert_eq!(pool.counts(&sets).unwrap()[0].taken, 5);
    // Something else where a note should be.
    for note in ["a@eth0", "stamp"] {
        let path = dir.path().join(".flannel-cbr0").join(note);
        fs::remove_file(&path).unwrap();
        fs::write(path, "x").unwrap();
    }
    drop(pool);
    let mut pool = open(dir.path());
    assert_eq!(pool.release(&eth0("a")).unwrap(), ips(&["10.1.0.6"]));
}

#[test]
fn what_does_not_allocate_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("networks");
    assert!(Pool::open_existing(&data, "cbr0", soon()).unwrap().is_none());
    assert!(!data.exists());
    // nothing can be under a name that no file can have
    let long = "n".repeat(256);
    assert!(Pool::open_existing(&data, &long, soon()).unwrap().is_none());
    fs::create_dir(&data).unwrap();
    assert!(Pool::open_existing(&data, &long, soon()).unwrap().is_none());
    open(&data).allocate(&eth0("a"), &[set(&["10.1.0.0/24"])], &[]).unwrap();
    let mut pool = Pool::open_existing(&data, "cbr0", soon()).unwrap().unwrap();
    assert_eq!(pool.release(&eth0("a")).unwrap().len(), 1);
}

#[test]
fn a_network_name_stays_inside_the_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", "../x", "a/b", ".flannel-a", "a\0b"] {
        let e = Pool::open(dir.path(), name, soon()).unwrap_err();
        assert!(matches!(e, PoolError::Network(_)), "{name:?}: {e}");
    }
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn an_error_names_the_file() {
    let (dir, network) = folder();
    let other = dir.path().join("file");
    fs::write(&other, "").unwrap();
    let e = Pool::open(dir.path(), "file", soon()).unwrap_err();
    assert!(e.to_string().contains("file/lock"), "{e}");
    fs::create_dir(network.join("last_reserved_ip.0")).unwrap();
    let mut pool = open(dir.path());
    let sets = [set(&["10.1.0.0/24"])];
    let e = pool.allocate(&eth0("a"), &sets, &[]).unwrap_err();
    let text = e.to_string();
    assert!(text.contains("cbr0/last_reserved_ip.0"), "{text}");
    assert_eq!(names(&network), ["last_reserved_ip.0", "lock"]);
}

/// CT-31 and the deadline.
#[test]
fn the_lock_excludes_others_until_the_deadline() {
    let (dir, network) = folder();
    let lock = network.join("lock");
    // As Go's host-local holds it.
    let file = File::create(&lock).unwrap();
    file.lock().unwrap();
    let began = Instant::now();
    let deadline = began + Duration::from_millis(150);
    let e = Pool::open(dir.path(), "cbr0", deadline).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(matches!(e, PoolError::Busy { .. }));
    assert!(e.to_string().contains(lock.to_str().unwrap()), "{e}");
    // A deadline that has passed still takes a free lock.
    drop(file);
    let late = Instant::now();
    // The wait that was given up may hold it for a moment.
    let mut tries = 0;
    let pool = loop {
        match Pool::open(dir.path(), "cbr0", late) {
            Ok(pool) => break pool,
            Err(PoolError::Busy { .. }) if tries < 1000 => tries += 1,
            Err(e) => panic!("{e}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let other = File::open(&lock).unwrap();
    assert!(other.try_lock().is_err());
    drop(pool);
    other.try_lock().unwrap();
}

#[test]
fn a_wait_ends_when_the_lock_is_free() {
    let (dir, network) = folder();
    let file = File::create(network.join("lock")).unwrap();
    file.lock().unwrap();
    let data = dir.path().to_owned();
    let waiter = std::thread::spawn(move || {
        Pool::open(&data, "cbr0", soon()).map(|_| ())
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    drop(file);
    waiter.join().unwrap().unwrap();
}

/// Removed and made anew while we waited: the old file's lock protects from
/// nobody.
#[test]
fn a_lost_lock_file_is_noticed() {
    let (dir, network) = folder();
    let lock = network.join("lock");
    let old = File::create(&lock).unwrap();
    old.lock().unwrap();
    let data = dir.path().to_owned();
    let waiter = std::thread::spawn(move || Pool::open(&data, "cbr0", soon()));
    std::thread::sleep(Duration::from_millis(50));
    fs::remove_file(&lock).unwrap();
    let new = File::create(&lock).unwrap();
    new.lock().unwrap();
    drop(old);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    drop(new);
    let pool = waiter.join().unwrap().unwrap();
    let now = File::open(&lock).unwrap();
    assert!(now.try_lock().is_err());
    assert_eq!(now.metadata().unwrap().nlink(), 1);
    drop(pool);
}
