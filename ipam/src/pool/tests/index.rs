//! The index: flat cost, trust, and finding out about foreign hands.

use super::super::disk::Disk;
use super::super::store::Store;
use super::mem::{Clock, Mem};
use super::{Attachment, NONE, eth0, ip, ips, set};

const CLOCKS: [Clock; 3] = [Clock::Fine, Clock::Seconds, Clock::Untold];

fn allocate(mem: &Mem, id: &str) -> String {
    let sets = [set(&["10.1.0.0/16"])];
    let mut store = Store::open(mem.clone());
    store.allocate(&eth0(id), &sets, &[]).unwrap()[0].ip.to_string()
}

fn find(mem: &Mem, id: &str) -> Vec<std::net::IpAddr> {
    Store::open(mem.clone()).find(&eth0(id)).unwrap()
}

fn release(mem: &Mem, id: &str) -> Vec<std::net::IpAddr> {
    Store::open(mem.clone()).release(&eth0(id)).unwrap()
}

/// Calls of an allocation, a look-up and a release next to `n` reservations.
fn costs(n: usize) -> [usize; 3] {
    let mem = Mem::new(Clock::Fine);
    for i in 0..n {
        let addr = format!("10.1.{}.{}", i / 250, 2 + i % 250);
        mem.foreign_write(&addr, &format!("c{i}\r\neth0"));
    }
    mem.foreign_write("last_reserved_ip.0", "10.1.200.9");
    // Makes the index.
    allocate(&mem, "x");
    mem.calls();
    allocate(&mem, "y");
    let add = mem.calls();
    assert_eq!(find(&mem, "c3").len(), 1);
    let check = mem.calls();
    assert_eq!(release(&mem, "c4").len(), 1);
    let del = mem.calls();
    [add, check, del]
}

/// A process may have been at work while somebody removed its notes or its
/// lock: what the stamp then vouches for lacks some. Nobody is told that he
/// holds nothing on their word.
#[test]
fn that_nothing_is_held_is_not_believed() {
    let mem = Mem::new(Clock::Fine);
    allocate(&mem, "a");
    allocate(&mem, "b");
    let mut disk = mem.clone();
    disk.note_remove("a@eth0").unwrap();
    assert_eq!(find(&mem, "a").len(), 1);
    disk.note_remove("b@eth0").unwrap();
    assert_eq!(release(&mem, "b").len(), 1);
    assert_eq!(release(&mem, "b"), NONE);
    assert_eq!(find(&mem, "a").len(), 1);
}

#[test]
fn the_cost_is_the_same_at_10_and_4000_reservations() {
    let few = costs(10);
    assert_eq!(few, costs(4000));
    assert!(few[0] <= 30 && few[2] <= 12, "{few:?}");
}

#[test]
fn a_foreign_change_within_the_same_tick_is_seen() {
    for clock in CLOCKS {
        let mem = Mem::new(clock);
        assert_eq!(allocate(&mem, "a"), "10.1.0.2");
        mem.foreign_write("10.1.0.9", "go\r\neth0");
        assert_eq!(find(&mem, "go"), ips(&["10.1.0.9"]));
        mem.foreign_remove("10.1.0.2");
        assert_eq!(find(&mem, "a"), NONE);
        // The same address for another one, between two looks of ours.
        mem.foreign_write("10.1.0.2", "b\r\neth0");
        mem.foreign_remove("10.1.0.9");
        mem.foreign_write("10.1.0.9", "a\r\neth0");
        assert_eq!(find(&mem, "a"), ips(&["10.1.0.9"]));
        assert_eq!(release(&mem, "b"), ips(&["10.1.0.2"]));
        assert_eq!(find(&mem, "go"), NONE);
    }
}

#[test]
fn a_foreign_change_costs_one_reading() {
    let mem = Mem::new(Clock::Fine);
    for n in 2..100 {
        mem.foreign_write(&format!("10.1.0.{n}"), &format!("c{n}\r\neth0"));
    }
    find(&mem, "c2");
    mem.calls();
    find(&mem, "c2");
    let cheap = mem.calls();
    mem.foreign_write("10.1.0.200", "c200\r\neth0");
    find(&mem, "c2");
    assert!(mem.calls() > 98);
    find(&mem, "c2");
    assert_eq!(mem.calls(), cheap);
    mem.reboot();
    find(&mem, "c2");
    assert!(mem.calls() > 98);
    find(&mem, "c2");
    assert_eq!(mem.calls(), cheap);
    // A failed allocation leaves the index right.
    let sets = [set(&["10.1.0.0/16"]), set(&["10.2.0.0/30"])];
    mem.foreign_write("10.2.0.2", "");
    find(&mem, "c2");
    let mut store = Store::open(mem.clone());
    store.allocate(&eth0("new"), &sets, &[]).unwrap_err();
    mem.calls();
    find(&mem, "c2");
    assert_eq!(mem.calls(), cheap);
}

/// What no folder shows: the reservation is read before it is believed.
#[test]
fn a_file_edited_in_place_is_not_released_for_its_old_owner() {
    let mem = Mem::new(Clock::Fine);
    allocate(&mem, "a");
    mem.foreign_edit("10.1.0.2", "b\r\neth0");
    assert_eq!(release(&mem, "a"), NONE);
    assert_eq!(find(&mem, "b"), ips(&["10.1.0.2"]));
}

#[test]
fn legacy_reservations_hl_28() {
    for reopen in [false, true] {
        let mem = Mem::new(Clock::Fine);
        mem.foreign_write("10.1.0.7", "  c\n");
        mem.foreign_write("10.1.0.8", "c\r\neth0\n");
        mem.foreign_write("10.1.0.9", "c");
        if reopen {
            find(&mem, "x");
        }
        // Exact ones first; then, if there are none, those of the id.
        assert_eq!(find(&mem, "c"), ips(&["10.1.0.8"]));
        assert_eq!(release(&mem, "c"), ips(&["10.1.0.8"]));
        assert_eq!(find(&mem, "c"), ips(&["10.1.0.7", "10.1.0.9"]));
        assert_eq!(release(&mem, "c"), ips(&["10.1.0.7", "10.1.0.9"]));
        assert_eq!(release(&mem, "c"), NONE);
        assert_eq!(mem.folder().keys().collect::<Vec<_>>(), ["lock"]);
    }
}

/// Ids that make no file name are found in the folder instead.
#[test]
fn ids_without_a_note() {
    let mem = Mem::new(Clock::Fine);
    let long = "x".repeat(300);
    for (n, id) in
        [long.as_str(), "a/b", "a@b", "../..", "ä"].iter().enumerate()
    {
        assert_eq!(allocate(&mem, id), format!("10.1.0.{}", 2 + n));
        assert_eq!(find(&mem, id).len(), 1);
    }
    assert_eq!(mem.notes().len(), 0);
    // `a@b` with `eth0` is not `a` with `b@eth0`.
    let mut store = Store::open(mem.clone());
    assert_eq!(store.find(&Attachment::new("a", "b@eth0")).unwrap(), NONE);
    for id in [long.as_str(), "a/b", "a@b", "../..", "ä"] {
        assert_eq!(release(&mem, id).len(), 1);
    }
}

#[test]
fn what_is_no_reservation_is_left_alone() {
    let mem = Mem::new(Clock::Fine);
    let others = [
        "FD00::9",
        "::ffff:10.1.0.9",
        "10.1.0.09",
        "readme",
        "last_reserved_ip.0",
    ];
    for name in others {
        mem.foreign_write(name, "c\r\neth0");
    }
    mem.foreign_write("10.1.0.2", "");
    assert_eq!(release(&mem, "c"), NONE);
    assert_eq!(
        Store::open(mem.clone()).find(&Attachment::new("", "")).unwrap(),
        NONE
    );
    // An empty file takes its address (HL-42).
    assert_eq!(allocate(&mem, "d"), "10.1.0.3");
    assert_eq!(mem.folder().len(), others.len() + 3);
    assert_eq!(mem.notes()["d@eth0"], "10.1.0.3");
}

#[test]
fn counts() {
    let mem = Mem::new(Clock::Fine);
    for name in ["10.1.0.1", "10.1.0.2", "10.1.0.7", "10.9.0.9", "fd00::9"] {
        mem.foreign_write(name, "");
    }
    let sets =
        [set(&["10.1.0.0/29"]), set(&["fd00::/64"]), set(&["10.5.0.0/30"])];
    let counts = Store::open(mem).counts(&sets).unwrap();
    let got: Vec<_> = counts.iter().map(|c| (c.total, c.taken)).collect();
    // Neither the gateway's file nor what lies outside counts.
    assert_eq!(got, [(5, 1), (u128::from(u64::MAX) - 1, 1), (1, 0)]);
    assert!(sets[0].contains(ip("10.1.0.1")));
}
