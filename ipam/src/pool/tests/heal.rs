//! What is taken, what is taken back, what rests.

use std::time::Duration;

use super::super::store::Store;
use super::super::{Allocated, Attachment, RangeSet};
use super::mem::{Clock, Mem};
use super::{eth0, ip, ips, set};

fn sets() -> [RangeSet; 1] {
    [set(&["10.1.0.0/29"])]
}

/// `who` gets an address, the one asked for if there is one.
fn allocate(mem: &Mem, who: &str, asked: &[&str]) -> Option<Allocated> {
    let mut store = Store::open(mem.clone());
    let made = store.allocate(&eth0(who), &sets(), &ips(asked)).ok()?;
    made.into_iter().next()
}

fn next(mem: &Mem, who: &str) -> Option<String> {
    allocate(mem, who, &[]).map(|made| made.ip.to_string())
}

fn release(mem: &Mem, who: &str) {
    Store::open(mem.clone()).release(&eth0(who)).unwrap();
}

#[test]
fn everything_that_is_taken_and_by_whom() {
    let mem = Mem::new(Clock::Fine);
    allocate(&mem, "a", &[]);
    mem.foreign_write("10.1.0.4", " old \n");
    mem.foreign_write("10.1.0.5", "");
    mem.foreign_write("10.1.0.6", "\0\0\0");
    mem.foreign_write("other", "x");
    let found = Store::open(mem).reservations().unwrap();
    let found: Vec<_> =
        found.into_iter().map(|r| (r.ip.to_string(), r.attachment)).collect();
    assert_eq!(
        found,
        [
            ("10.1.0.2".to_owned(), Some(eth0("a"))),
            ("10.1.0.4".to_owned(), Some(Attachment::new("old", ""))),
            ("10.1.0.5".to_owned(), None),
            ("10.1.0.6".to_owned(), None),
        ]
    );
}

/// One that cannot be read hides only itself: nobody gets its address.
#[test]
fn a_reservation_that_cannot_be_read() {
    let mem = Mem::new(Clock::Fine);
    let [_, second] = ["a", "b"].map(|who| next(&mem, who).unwrap());
    let store = Store::open(mem.clone());
    // the folder is listed first
    mem.fail(1..2);
    let found = store.reservations().unwrap();
    let found: Vec<_> = found.into_iter().map(|r| r.ip.to_string()).collect();
    assert_eq!(found, [second]);
    assert_eq!(next(&mem, "c").unwrap(), "10.1.0.4");
}

#[test]
fn what_is_taken_back_is_free_and_the_rest_is_not() {
    for clock in [Clock::Fine, Clock::Seconds, Clock::Untold] {
        let mem = Mem::new(clock);
        allocate(&mem, "a", &[]);
        allocate(&mem, "b", &[]);
        for n in 4..=6 {
            mem.foreign_write(&format!("10.1.0.{n}"), "");
        }
        assert_eq!(next(&mem, "c"), None, "{clock:?}");
        let mut store = Store::open(mem.clone());
        store.reclaim(&ips(&["10.1.0.2", "10.1.0.5"])).unwrap();
        // the same store goes on
        assert_eq!(store.find(&eth0("a")).unwrap(), super::NONE);
        assert_eq!(store.find(&eth0("b")).unwrap(), ips(&["10.1.0.3"]));
        drop(store);
        let got = [next(&mem, "c"), next(&mem, "d"), next(&mem, "e")];
        let want = [Some("10.1.0.5"), Some("10.1.0.2"), None];
        assert_eq!(got, want.map(|ip| ip.map(str::to_owned)), "{clock:?}");
    }
}

/// P17
#[test]
fn a_released_address_rests_while_others_are_free() {
    for clock in [Clock::Fine, Clock::Seconds, Clock::Untold] {
        let mem = Mem::new(clock);
        let turn = || mem.foreign_write("last_reserved_ip.0", "10.1.0.6");
        assert_eq!(next(&mem, "a").unwrap(), "10.1.0.2");
        release(&mem, "a");
        turn();
        assert_eq!(next(&mem, "b").unwrap(), "10.1.0.3", "{clock:?}");
        // who asks for it gets it, and is told
        let asked = allocate(&mem, "c", &["10.1.0.2"]).unwrap();
        assert!(asked.recent && asked.ip == ip("10.1.0.2"), "{clock:?}");
        release(&mem, "b");
        mem.pass(Duration::from_secs(10));
        release(&mem, "c");
        for n in 4..=6 {
            mem.foreign_write(&format!("10.1.0.{n}"), "go\r\neth0");
        }
        // nothing else is left: the one that has rested longest
        turn();
        let made = allocate(&mem, "d", &[]).unwrap();
        assert!(made.recent && made.ip == ip("10.1.0.3"), "{clock:?}");
        release(&mem, "d");
        mem.pass(Duration::from_secs(25));
        turn();
        // c's has rested for longer than it must
        assert_eq!(next(&mem, "e").unwrap(), "10.1.0.2", "{clock:?}");
        release(&mem, "e");
        mem.reboot();
        turn();
        let made = allocate(&mem, "f", &[]).unwrap();
        assert!(!made.recent && made.ip == ip("10.1.0.2"), "{clock:?}");
    }
}

/// A killed allocation's temporary file goes with what comes next.
#[test]
fn a_killed_allocation_leaves_no_file() {
    let mem = Mem::new(Clock::Fine);
    mem.record();
    allocate(&mem, "a", &[]);
    for step in mem.steps() {
        for by_reclaim in [false, true] {
            let mem = Mem::from_state(step.state.clone(), Clock::Fine);
            match by_reclaim {
                true => {
                    let mut store = Store::open(mem.clone());
                    store.reclaim(&ips(&["10.1.0.2"])).unwrap();
                }
                false => release(&mem, "a"),
            }
            assert!(!mem.has_temp(), "killed after {}", step.name);
            assert_eq!(mem.notes().len(), 0, "killed after {}", step.name);
            let left = mem.folder();
            assert!(!left.contains_key("10.1.0.2"), "after {}", step.name);
        }
    }
}

/// As after a release: connections of the one before may be remembered.
#[test]
fn what_is_taken_back_rests() {
    for clock in [Clock::Fine, Clock::Seconds] {
        let mem = Mem::new(clock);
        let first = next(&mem, "a").unwrap();
        next(&mem, "b").unwrap();
        Store::open(mem.clone()).reclaim(&ips(&[&first])).unwrap();
        mem.foreign_write("last_reserved_ip.0", "10.1.0.1");
        assert_eq!(next(&mem, "c").as_deref(), Some("10.1.0.4"), "{clock:?}");
        assert!(allocate(&mem, "d", &[&first]).unwrap().recent, "{clock:?}");
    }
}
