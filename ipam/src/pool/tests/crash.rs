//! Every point at which a process may be killed or the power fail, and every
//! call that may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::store::Store;
use super::super::{PoolError, RangeSet};
use super::mem::{Clock, Mem, State, Step};
use super::{eth0, ips, set};

type Folder = BTreeMap<String, Vec<u8>>;

fn sets() -> [RangeSet; 2] {
    [set(&["10.1.0.0/29"]), set(&["fd00::/125"])]
}

/// A pool that has been in use: `old` and a reservation of Go's host-local.
fn used(clock: Clock) -> Mem {
    let mem = Mem::new(clock);
    Store::open(mem.clone()).allocate(&eth0("old"), &sets(), &[]).unwrap();
    mem.foreign_write("10.1.0.4", "go\r\neth0");
    Store::open(mem.clone()).find(&eth0("go")).unwrap();
    mem.record();
    mem
}

fn reservations(folder: &Folder) -> Folder {
    let mut folder = folder.clone();
    folder.retain(|name, _| name.parse::<IpAddr>().is_ok());
    folder
}

/// All states a crash during `steps` may leave, with what came before.
fn crashes(start: &State, steps: &[Step]) -> Vec<(String, State)> {
    let begin = Step { name: "nothing", state: start.clone() };
    let all: Vec<&Step> = std::iter::once(&begin).chain(steps).collect();
    let mut out = vec![];
    for (at, last) in all.iter().enumerate() {
        out.push((
            format!("killed after {at} {}", last.name),
            last.state.clone(),
        ));
        for (from, step) in all[..=at].iter().enumerate() {
            let what = format!(
                "power lost after {at} {}, entries as after {from} {}",
                last.name, step.name
            );
            out.push((what, step.state.after_power_loss(&last.state)));
        }
    }
    out
}

/// A reservation is absent, as it was, or complete, and after a power loss at
/// worst nobody's; the pool goes on working and gives nothing twice.
fn check_allocation(what: &str, start: &Folder, state: &State, clock: Clock) {
    let mem = Mem::from_state(state.clone(), clock);
    let left = reservations(&mem.folder());
    let mut nobodys = vec![];
    for (name, content) in &left {
        let expected = start.get(name).map_or(&b"new\r\neth0"[..], |c| c);
        if content.is_empty() && what.starts_with("power lost") {
            assert!(!start.contains_key(name), "{what}: {name} is lost");
            nobodys.push(name.parse().unwrap());
            continue;
        }
        assert_eq!(content, expected, "{what}: {name}");
    }
    for name in reservations(start).keys() {
        assert!(left.contains_key(name), "{what}: {name} is lost");
    }
    let next = Store::open(mem.clone())
        .allocate(&eth0("next"), &sets(), &[])
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    for one in &next {
        assert!(!left.contains_key(&one.ip.to_string()), "{what}: twice");
    }
    assert!(!mem.has_temp(), "{what}");
    // What healing does.
    let mut store = Store::open(mem.clone());
    let all = store.reservations().unwrap();
    let found = all.iter().filter(|r| r.attachment.is_none()).map(|r| r.ip);
    let found: BTreeSet<IpAddr> = found.collect();
    assert_eq!(found, nobodys.into_iter().collect(), "{what}");
    store.reclaim(&found.into_iter().collect::<Vec<_>>()).unwrap();
    // What a runtime does about a failed ADD: DEL, then ADD again.
    let mut store = Store::open(mem.clone());
    store.release(&eth0("new")).unwrap();
    assert_eq!(store.allocate(&eth0("new"), &sets(), &[]).unwrap().len(), 2);
    for id in ["new", "next", "old"] {
        let released = Store::open(mem.clone()).release(&eth0(id)).unwrap();
        assert_eq!(released.len(), 2, "{what}: {id}");
    }
    let names: Vec<_> = reservations(&mem.folder()).into_keys().collect();
    assert_eq!(names, ["10.1.0.4"], "{what}");
}

#[test]
fn an_allocation_may_be_cut_short_anywhere() {
    for clock in [Clock::Fine, Clock::Seconds, Clock::Untold] {
        let mem = used(clock);
        let start = mem.state();
        let mut store = Store::open(mem.clone());
        store.allocate(&eth0("new"), &sets(), &[]).unwrap();
        let states = crashes(&start, &mem.steps());
        assert!(states.len() > 50);
        for (what, state) in &states {
            check_allocation(what, &start.folder(), state, clock);
        }
    }
}

/// A second crash on top of the first: the temporary file may still be the
/// live reservation's other name.
#[test]
fn an_allocation_after_a_crash_may_be_cut_short_too() {
    let mem = used(Clock::Fine);
    let start = mem.state();
    Store::open(mem.clone()).allocate(&eth0("new"), &sets(), &[]).unwrap();
    let mut seen = 0;
    for step in mem.steps() {
        let again = Mem::from_state(step.state.clone(), Clock::Fine);
        let before = reservations(&again.folder());
        let mut store = Store::open(again.clone());
        store.allocate(&eth0("next"), &sets(), &[]).unwrap();
        for (what, state) in crashes(&step.state, &again.steps()) {
            let left = reservations(&state.folder());
            // After a power loss the first crash's links may be empty.
            let killed = what.starts_with("killed");
            for (name, content) in &before {
                let now = &left[name];
                let whole = now == content;
                assert!(whole || !killed && now.is_empty(), "{what}: {name}");
            }
            for (name, content) in left {
                let owner = [&b"new\r\neth0"[..], b"next\r\neth0"];
                let old = start.folder().get(&name) == Some(&content);
                let whole = old || owner.contains(&&content[..]);
                assert!(whole || !killed && content.is_empty(), "{what}");
            }
            seen += 1;
        }
    }
    assert!(seen > 1000);
}

#[test]
fn a_release_may_be_cut_short_anywhere() {
    let mem = used(Clock::Fine);
    let start = mem.state();
    Store::open(mem.clone()).release(&eth0("old")).unwrap();
    for (what, state) in crashes(&start, &mem.steps()) {
        let mem = Mem::from_state(state, Clock::Fine);
        for (name, content) in reservations(&mem.folder()) {
            assert_eq!(start.folder().get(&name), Some(&content), "{what}");
        }
        let mut store = Store::open(mem.clone());
        let next = store.allocate(&eth0("next"), &sets(), &[]).unwrap();
        assert_eq!(next.len(), 2, "{what}");
        Store::open(mem.clone()).release(&eth0("old")).unwrap();
        let left = reservations(&mem.folder());
        assert!(!left.values().any(|c| c == b"old\r\neth0"), "{what}");
        assert_eq!(left.len(), 3, "{what}");
    }
}

/// A full disk, at any call: the allocation fails and leaves nothing, or it
/// has succeeded and only the index is stale.
#[test]
fn any_call_of_an_allocation_may_fail() {
    let calls = {
        let mem = used(Clock::Fine);
        let mut store = Store::open(mem.clone());
        mem.calls();
        store.allocate(&eth0("new"), &sets(), &[]).unwrap();
        mem.calls()
    };
    let mut failures = 0;
    for n in 0..calls {
        let mem = used(Clock::Fine);
        let before = reservations(&mem.folder());
        let mut store = Store::open(mem.clone());
        mem.fail(n..n + 1);
        match store.allocate(&eth0("new"), &sets(), &[]) {
            Ok(made) => {
                assert_eq!(made.len(), 2);
                mem.fail(0..0);
                store.release(&eth0("new")).unwrap();
            }
            Err(e) => {
                assert!(matches!(e, PoolError::Disk(_)), "{e}");
                failures += 1;
                mem.fail(0..0);
            }
        }
        assert_eq!(reservations(&mem.folder()), before, "call {n}");
        // The same value goes on working, and so does the next process.
        store.allocate(&eth0("new"), &sets(), &[]).unwrap();
        let mut store = Store::open(mem.clone());
        assert_eq!(store.find(&eth0("new")).unwrap().len(), 2, "call {n}");
        assert_eq!(store.release(&eth0("old")).unwrap().len(), 2);
        assert_eq!(store.release(&eth0("new")).unwrap().len(), 2);
        assert_eq!(store.find(&eth0("go")).unwrap(), ips(&["10.1.0.4"]));
    }
    assert!(failures > 10);
}

/// A disk that fails and goes on failing, so that nothing can be taken back:
/// what is left belongs to the attachment and goes with it.
#[test]
fn a_disk_may_fail_for_good_and_come_back() {
    let mut leftovers = 0;
    for n in 0..40 {
        let mem = used(Clock::Fine);
        let before = reservations(&mem.folder());
        let mut store = Store::open(mem.clone());
        mem.fail(n..usize::MAX);
        let made = store.allocate(&eth0("new"), &sets(), &[]);
        mem.fail(0..0);
        let left = reservations(&mem.folder()).len() - before.len();
        leftovers += usize::from(made.is_err() && left > 0);
        // In this process or another.
        let mut again = match n % 2 {
            0 => store,
            _ => Store::open(mem.clone()),
        };
        let released = again.release(&eth0("new")).unwrap();
        assert_eq!(released.len(), left, "call {n}");
        assert_eq!(reservations(&mem.folder()), before, "call {n}");
        assert_eq!(again.release(&eth0("old")).unwrap().len(), 2);
    }
    assert!(leftovers > 3);
}

#[test]
fn any_call_of_a_release_may_fail() {
    for n in 0..20 {
        let mem = used(Clock::Fine);
        let mut store = Store::open(mem.clone());
        mem.fail(n..n + 1);
        let first = store.release(&eth0("old"));
        mem.fail(0..0);
        // Repeating it finishes the work, in this process or another.
        let mut again = match n % 2 {
            0 => store,
            _ => Store::open(mem.clone()),
        };
        let second = again.release(&eth0("old")).unwrap();
        assert_eq!(first.is_ok(), second.is_empty(), "call {n}");
        let names: Vec<_> = reservations(&mem.folder()).into_keys().collect();
        assert_eq!(names, ["10.1.0.4"], "call {n}");
    }
}
