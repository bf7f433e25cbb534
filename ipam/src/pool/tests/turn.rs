//! Which address comes next: HL-32 to HL-36, CT-28.

use std::net::IpAddr;

use super::super::store::Store;
use super::super::{Allocated, PoolError, RangeSet};
use super::mem::{Clock, Mem};
use super::{NONE, eth0, ip, ips, range, set};

fn one(text: &str) -> RangeSet {
    RangeSet::from_conf(&[vec![range(text)]], "1.0.0").unwrap().remove(0)
}

fn turn(set: &RangeSet, last: Option<&str>) -> Vec<IpAddr> {
    set.turn(last.map(ip)).map(|(_, ip)| ip).collect()
}

/// Allocates in a new "process".
fn allocate(
    mem: &Mem,
    id: &str,
    sets: &[RangeSet],
    requested: &[&str],
) -> Result<Vec<Allocated>, PoolError> {
    Store::open(mem.clone()).allocate(&eth0(id), sets, &ips(requested))
}

fn addrs(allocated: &[Allocated]) -> Vec<String> {
    allocated.iter().map(|a| a.ip.to_string()).collect()
}

fn release(mem: &Mem, id: &str) {
    Store::open(mem.clone()).release(&eth0(id)).unwrap();
}

#[test]
fn a_turn_visits_every_address_once() {
    let small = set(&["192.168.1.0/29"]);
    let from = |n: u8| ip(&format!("192.168.1.{n}"));
    assert_eq!(turn(&small, None), [2, 3, 4, 5, 6].map(from));
    assert_eq!(turn(&small, Some("192.168.1.6")), [2, 3, 4, 5, 6].map(from));
    assert_eq!(turn(&small, Some("192.168.1.3")), [4, 5, 6, 2, 3].map(from));
    // The gateway and what is outside.
    assert_eq!(turn(&small, Some("192.168.1.1")), [2, 3, 4, 5, 6].map(from));
    assert_eq!(turn(&small, Some("192.168.2.4")), [2, 3, 4, 5, 6].map(from));

    let two = set(&["192.168.1.0/30", "192.168.2.0/29"]);
    assert_eq!(
        turn(&two, Some("192.168.2.5")),
        ips(&[
            "192.168.2.6",
            "192.168.1.2",
            "192.168.2.2",
            "192.168.2.3",
            "192.168.2.4",
            "192.168.2.5"
        ])
    );
    assert_eq!(
        turn(&two, Some("192.168.1.2"))[..2],
        ips(&["192.168.2.2", "192.168.2.3"])
    );
    // HL-21: the network's and the broadcast address, if asked for.
    assert_eq!(
        turn(&one("10.1.0.0/30 10.1.0.0 10.1.0.3"), None),
        ips(&["10.1.0.0", "10.1.0.2", "10.1.0.3"])
    );
    // Nothing but the gateway.
    assert_eq!(turn(&one("10.1.0.0/30 10.1.0.1 10.1.0.1"), None), NONE);
}

#[test]
fn the_end_of_the_address_space_is_no_obstacle() {
    let top = one("255.255.255.248/29 - 255.255.255.255");
    assert_eq!(turn(&top, Some("255.255.255.255"))[0], ip("255.255.255.250"));
    assert_eq!(turn(&top, Some("255.255.255.254")).len(), 6);
    let top = one("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/125");
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(turn(&top, Some(last)).len(), 6);
    assert_eq!(turn(&top, Some(last))[5], ip(last));
    let all = one("::/0 :: - fd00::1");
    assert_eq!(all.turn(Some(ip(last))).next().unwrap().1, ip("::"));
    assert_eq!(all.turn(None).next().unwrap().1, ip("::"));
}

/// Subnets of one set, taken, last reserved, next.
type Row = (
    &'static [&'static str],
    &'static [&'static str],
    Option<&'static str>,
    &'static str,
);

/// CT-28's table.
#[test]
fn round_robin_table() {
    let rows: &[Row] = &[
        (&["10.0.0.0/29"], &[], None, "10.0.0.2"),
        (&["2001:db8:1::/64"], &[], None, "2001:db8:1::2"),
        (&["10.0.0.0/30"], &[], None, "10.0.0.2"),
        (&["10.0.0.0/29"], &["10.0.0.2"], None, "10.0.0.3"),
        // Next after the last, not the lowest free.
        (&["10.0.0.0/29"], &[], Some("10.0.0.3"), "10.0.0.4"),
        (&["10.0.0.0/29"], &[], Some("10.0.0.6"), "10.0.0.2"),
        (&["10.0.0.0/29"], &["10.0.0.5"], Some("10.0.0.4"), "10.0.0.6"),
        // Out of range: from the start.
        (&["10.0.0.0/29"], &[], Some("10.0.0.128"), "10.0.0.2"),
        (&["10.0.0.0/29"], &[], Some("fd00::1"), "10.0.0.2"),
        // All taken but the last reserved itself.
        (
            &["10.0.0.0/29"],
            &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
            Some("10.0.0.3"),
            "10.0.0.3",
        ),
        (&["10.0.0.0/30", "10.0.1.0/30"], &["10.0.0.2"], None, "10.0.1.2"),
        (
            &["10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/30"],
            &["10.0.0.2", "10.0.2.2"],
            Some("10.0.2.2"),
            "10.0.1.2",
        ),
        (
            &["10.0.0.0/29", "10.0.1.0/30"],
            &["10.0.0.6", "10.0.1.2"],
            Some("10.0.0.6"),
            "10.0.0.2",
        ),
    ];
    for (subnets, taken, last, next) in rows {
        let mem = Mem::new(Clock::Fine);
        for name in *taken {
            mem.foreign_write(name, "other\r\neth0");
        }
        if let Some(last) = last {
            mem.foreign_write("last_reserved_ip.0", last);
        }
        let got = allocate(&mem, "c", &[set(subnets)], &[]).unwrap();
        assert_eq!(addrs(&got), [*next], "{subnets:?} {taken:?} {last:?}");
        assert_eq!(mem.folder()["last_reserved_ip.0"], next.as_bytes());
    }
}

#[test]
fn a_result_has_prefix_length_and_gateway() {
    let sets = RangeSet::from_conf(
        &[
            vec![range("10.1.0.0/24"), range("10.2.0.0/16 - - 10.9.9.9")],
            vec![range("fd00::/64")],
        ],
        "1.0.0",
    )
    .unwrap();
    let mem = Mem::new(Clock::Fine);
    mem.foreign_write("last_reserved_ip.0", "10.1.0.254");
    let got = allocate(&mem, "c", &sets, &[]).unwrap();
    let expected =
        [("10.2.0.1", 16, "10.9.9.9", 0), ("fd00::2", 64, "fd00::1", 1)];
    assert_eq!(
        got,
        expected.map(|(addr, prefix_len, gateway, set)| Allocated {
            ip: ip(addr),
            prefix_len,
            gateway: ip(gateway),
            set,
            recent: false,
        })
    );
}

#[test]
fn a_released_address_waits_for_a_full_turn() {
    let mem = Mem::new(Clock::Fine);
    let sets = [set(&["10.1.0.0/29"])];
    let mut seen = vec![];
    for n in 0..7 {
        let id = format!("c{n}");
        seen.extend(addrs(&allocate(&mem, &id, &sets, &[]).unwrap()));
        release(&mem, &id);
    }
    let order = [2, 3, 4, 5, 6, 2, 3].map(|n| format!("10.1.0.{n}"));
    assert_eq!(seen, order);
}

/// HL-43 and what else may be in that file.
#[test]
fn an_odd_last_reserved_ip_restarts_the_turn() {
    for odd in ["", "x", "10.1.0.3\n", "\0\0"] {
        let mem = Mem::new(Clock::Fine);
        mem.foreign_write("last_reserved_ip.0", odd);
        let got = allocate(&mem, "c", &[set(&["10.1.0.0/29"])], &[]);
        assert_eq!(addrs(&got.unwrap()), ["10.1.0.2"], "{odd:?}");
    }
}

#[test]
fn exhausted_texts() {
    for (subnets, taken, text) in [
        (&["10.1.0.0/30"][..], &["10.1.0.2"][..], "10.1.0.1-10.1.0.2"),
        (
            &["10.1.0.0/30", "10.2.0.0/30"],
            &["10.1.0.2", "10.2.0.2"],
            "10.1.0.1-10.1.0.2,10.2.0.1-10.2.0.2",
        ),
        (&["fd00::/126"], &["fd00::2", "fd00::3"], "fd00::1-fd00::3"),
    ] {
        let mem = Mem::new(Clock::Fine);
        for name in taken {
            mem.foreign_write(name, "other\r\neth0");
        }
        let before = mem.folder();
        let e = allocate(&mem, "c", &[set(subnets)], &[]).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!(
                "failed to allocate for range 0: no IP addresses available \
                 in range set: {text}"
            )
        );
        assert_eq!(mem.folder(), before);
        assert!(!mem.has_temp());
    }
}

#[test]
fn requested_texts_hl_32() {
    let mem = Mem::new(Clock::Fine);
    let sets = [set(&["10.1.0.0/29"])];
    allocate(&mem, "h1", &sets, &["10.1.0.3"]).unwrap();
    let text = |id: &str, requested: &[&str]| {
        allocate(&mem, id, &sets, requested).unwrap_err().to_string()
    };
    let taken = "failed to allocate for range 0: requested IP address \
                 10.1.0.3 is not available in range set 10.1.0.1-10.1.0.6";
    assert_eq!(text("h2", &["10.1.0.3"]), taken);
    // Even if it is its own.
    assert_eq!(text("h1", &["10.1.0.3"]), taken);
    assert_eq!(
        text("h2", &["10.1.0.1"]),
        "failed to allocate for range 0: requested ip 10.1.0.1 is subnet's \
         gateway"
    );
    // Beyond either end no set takes it (HL-35).
    for outside in ["10.1.0.0", "10.1.0.7", "10.5.0.3"] {
        assert_eq!(
            text("h2", &[outside]),
            format!("failed to allocate all requested IPs: {outside}")
        );
    }
    assert_eq!(
        text("h2", &["10.1.0.4", "10.1.0.5", "10.5.0.3"]),
        "failed to allocate all requested IPs: 10.1.0.5 10.5.0.3"
    );
    assert!(!mem.folder().contains_key("10.1.0.4"));
    // The same twice is one request; a mapped address is the IPv4 one.
    let got = allocate(
        &mem,
        "h2",
        &sets,
        &["10.1.0.5", "10.1.0.5", "::ffff:10.1.0.5"],
    );
    assert_eq!(addrs(&got.unwrap()), ["10.1.0.5"]);
    // A requested address moves the turn on as well (HL-26).
    assert_eq!(mem.folder()["last_reserved_ip.0"], b"10.1.0.5");
    let got = allocate(&mem, "h3", &sets, &[]).unwrap();
    assert_eq!(addrs(&got), ["10.1.0.6"]);
}

/// CT-26: custom addresses from several sets, the rest in turn.
#[test]
fn requests_find_their_sets() {
    let mem = Mem::new(Clock::Fine);
    let sets =
        [set(&["10.1.0.0/24"]), set(&["10.2.0.0/24"]), set(&["fd00::/64"])];
    let got = allocate(&mem, "c", &sets, &["fd00::77", "10.1.0.88"]).unwrap();
    assert_eq!(addrs(&got), ["10.1.0.88", "10.2.0.2", "fd00::77"]);
    // There is no duplicate check for requested addresses (HL-32).
    let more = ["10.1.0.89", "10.2.0.89", "fd00::89"];
    let got = allocate(&mem, "c", &sets, &more).unwrap();
    assert_eq!(addrs(&got), more);
    let mut all = ips(&["10.1.0.88", "10.2.0.2", "fd00::77"]);
    all.extend(ips(&more));
    all.sort_unstable();
    let mut found = Store::open(mem).find(&eth0("c")).unwrap();
    found.sort_unstable();
    assert_eq!(found, all);
}

#[test]
fn duplicates_are_refused_hl_33() {
    let mem = Mem::new(Clock::Fine);
    let sets = [set(&["10.1.0.0/29"])];
    mem.foreign_write("10.1.0.3", "h1\r\neth0");
    mem.foreign_write("10.1.0.4", "old");
    for (id, addr) in [("h1", "10.1.0.3"), ("old", "10.1.0.4")] {
        let e = allocate(&mem, id, &sets, &[]).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!(
                "failed to allocate for range 0: {addr} has been allocated \
                 to {id}, duplicate allocation is not allowed"
            )
        );
    }
    // Another interface is another attachment, another set another matter.
    let h1 = super::Attachment::new("h1", "net1");
    let mut store = Store::open(mem.clone());
    assert_eq!(addrs(&store.allocate(&h1, &sets, &[]).unwrap()), ["10.1.0.2"]);
    let other = [set(&["10.2.0.0/29"])];
    let got = allocate(&mem, "h1", &other, &[]).unwrap();
    assert_eq!(addrs(&got), ["10.2.0.2"]);
}

/// Not HL-36: what the attachment had before stays.
#[test]
fn a_failure_in_a_later_set_takes_back_this_call_only() {
    let mem = Mem::new(Clock::Fine);
    let sets =
        [set(&["10.1.0.0/29"]), set(&["fd00::/126"]), set(&["10.3.0.0/29"])];
    mem.foreign_write("10.3.0.5", "c\r\neth0");
    let before = mem.folder();
    let e = allocate(&mem, "c", &sets, &[]).unwrap_err();
    assert_eq!(
        e.to_string(),
        "failed to allocate for range 2: 10.3.0.5 has been allocated to c, \
         duplicate allocation is not allowed"
    );
    assert_eq!(mem.folder(), before);
    allocate(&mem, "a", &sets[1..2], &[]).unwrap();
    allocate(&mem, "b", &sets[1..2], &[]).unwrap();
    let before = mem.folder();
    let e = allocate(&mem, "d", &sets, &[]).unwrap_err();
    assert!(e.to_string().starts_with("failed to allocate for range 1: no"));
    assert_eq!(mem.folder(), before);
}

/// HL-46: the cost is bounded by what is taken, not by the range.
#[test]
fn a_long_run_of_taken_addresses_costs_one_listing() {
    let mem = Mem::new(Clock::Fine);
    for n in 2..4000u16 {
        mem.foreign_write(&format!("fd00::{n:x}"), "other\r\neth0");
    }
    allocate(&mem, "first", &[set(&["10.1.0.0/24"])], &[]).unwrap();
    mem.calls();
    let sets = [set(&["fd00::/64"])];
    let got = allocate(&mem, "c", &sets, &[]).unwrap();
    assert_eq!(addrs(&got), ["fd00::fa0"]);
    assert!(mem.calls() < 100);
}
