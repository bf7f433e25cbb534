//! Several threads and several processes on one pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::{Pool, PoolError, RangeSet};
use super::{eth0, set};

const FOLDER: &str = "POOL_TEST_FOLDER";

fn sets() -> [RangeSet; 2] {
    [set(&["10.1.0.0/25"]), set(&["fd00::/120"])]
}

fn open(dir: &Path) -> Pool {
    let deadline = Instant::now() + Duration::from_secs(60);
    Pool::open(dir, "cbr0", deadline).unwrap()
}

fn reservations(dir: &Path) -> Vec<(IpAddr, Vec<u8>)> {
    fs::read_dir(dir.join("cbr0"))
        .unwrap()
        .filter_map(|e| {
            let path = e.unwrap().path();
            let ip = path.file_name()?.to_str()?.parse().ok()?;
            Some((ip, fs::read(&path).unwrap()))
        })
        .collect()
}

#[test]
fn threads_get_different_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let got: Vec<IpAddr> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let data = dir.path();
                scope.spawn(move || {
                    let mut got = vec![];
                    for n in 0..15 {
                        let pod = eth0(&format!("w{worker}-{n}"));
                        let mut pool = open(data);
                        let made = pool.allocate(&pod, &sets(), &[]).unwrap();
                        // Every third one goes again.
                        match n % 3 {
                            0 => {
                                assert_eq!(pool.release(&pod).unwrap().len(), 2)
                            }
                            _ => got.extend(made.iter().map(|a| a.ip)),
                        }
                    }
                    got
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let unique: BTreeSet<IpAddr> = got.iter().copied().collect();
    assert_eq!((got.len(), unique.len()), (160, 160));
    let left = reservations(dir.path());
    assert_eq!(left.iter().map(|(ip, _)| *ip).collect::<BTreeSet<_>>(), unique);
    assert_eq!(open(dir.path()).find(&eth0("w3-4")).unwrap().len(), 2);
}

/// Not a test of its own: what the processes of the tests below run.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    for n in 0.. {
        let pod = eth0(&format!("p{}-{n}", std::process::id()));
        let mut pool = open(Path::new(&folder));
        match pool.allocate(&pod, &sets(), &[]) {
            Ok(_) if n % 3 == 0 => drop(pool.release(&pod).unwrap()),
            Ok(_) => {}
            Err(PoolError::Allocate { .. }) => return,
            Err(e) => panic!("{e}"),
        }
    }
}

fn spawn_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pool::tests::processes::child"])
        .env(FOLDER, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_fill_the_pool_without_a_duplicate() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<Child> =
        (0..4).map(|_| spawn_child(dir.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let left = reservations(dir.path());
    // All 125 of the first set, and of the second one for each of them.
    assert_eq!(left.len(), 2 * 125);
    let owners: BTreeSet<&[u8]> = left.iter().map(|(_, c)| &c[..]).collect();
    assert_eq!(owners.len(), 125);
}

/// kill -9 at random moments: whatever is left is complete, and taken.
#[test]
fn killed_processes_leave_complete_reservations() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..15u64 {
        let mut child = spawn_child(dir.path());
        std::thread::sleep(Duration::from_millis(5 + round * 7 % 40));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut pool = open(dir.path());
        let mut by_id = BTreeMap::<String, BTreeSet<IpAddr>>::new();
        for (ip, content) in reservations(dir.path()) {
            let text = String::from_utf8(content).unwrap();
            let (id, ifname) = text.split_once("\r\n").unwrap();
            assert_eq!(ifname, "eth0", "{ip}");
            by_id.entry(id.to_owned()).or_default().insert(ip);
        }
        for (id, ips) in by_id {
            // A cut-short one has one address, the others two.
            let found = pool.find(&eth0(&id)).unwrap();
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), ips);
            assert_eq!(pool.release(&eth0(&id)).unwrap().len(), ips.len());
        }
        assert_eq!(reservations(dir.path()), []);
    }
}
