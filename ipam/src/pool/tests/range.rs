//! Validation of ranges: HL-9 to HL-22, CT-29, CT-30.

use super::super::{RangeError, RangeSet, parse_cidr, parse_requested};
use super::{ip, range, set, subnet};

/// The error's text for one set of `ranges`.
fn refused(ranges: &[&str]) -> String {
    let conf = ranges.iter().map(|r| range(r)).collect();
    RangeSet::from_conf(&[conf], "1.0.0").unwrap_err().to_string()
}

/// The error's text for several sets of one range each.
fn sets_refused(sets: &[&str], version: &str) -> String {
    let conf: Vec<_> = sets.iter().map(|r| vec![range(r)]).collect();
    RangeSet::from_conf(&conf, version).unwrap_err().to_string()
}

fn one(text: &str) -> RangeSet {
    RangeSet::from_conf(&[vec![range(text)]], "1.0.0").unwrap().remove(0)
}

#[test]
fn defaults_hl_20() {
    for (conf, text, gateway) in [
        ("192.0.2.0/24", "192.0.2.1-192.0.2.254", "192.0.2.1"),
        (
            "2001:db8:1::/64",
            "2001:db8:1::1-2001:db8:1:0:ffff:ffff:ffff:ffff",
            "2001:db8:1::1",
        ),
        ("192.0.2.0/30", "192.0.2.1-192.0.2.2", "192.0.2.1"),
        ("fd00::/126", "fd00::1-fd00::3", "fd00::1"),
        ("0.0.0.0/0", "0.0.0.1-255.255.255.254", "0.0.0.1"),
        ("::/0", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"),
        (
            "192.0.2.0/24 192.0.2.10 192.0.2.20 10.9.9.9",
            "192.0.2.10-192.0.2.20",
            "10.9.9.9",
        ),
        // An IPv4-mapped network is the IPv4 network (HL-25).
        ("::ffff:10.1.0.0/120", "10.1.0.1-10.1.0.254", "10.1.0.1"),
        ("10.1.0.0/24 ::ffff:10.1.0.9 - -", "10.1.0.9-10.1.0.254", "10.1.0.1"),
    ] {
        let set = one(conf);
        assert_eq!(set.to_string(), text);
        assert_eq!(set.ranges()[0].gateway(), ip(gateway), "{conf}");
    }
    let empty = RangeSet::from_conf(
        &[vec![super::RangeConf {
            range_start: Some(String::new()),
            gateway: Some(String::new()),
            ..subnet("10.1.0.0/24")
        }]],
        "1.0.0",
    );
    assert_eq!(empty.unwrap(), [set(&["10.1.0.0/24"])]);
}

#[test]
fn addresses_with_a_length() {
    for (text, ip, len) in [
        ("10.1.2.3/16", "10.1.2.3", 16),
        ("fd00::5/64", "fd00::5", 64),
        ("::ffff:10.0.0.1/120", "10.0.0.1", 24),
        ("::ffff:10.0.0.1/96", "10.0.0.1", 0),
    ] {
        assert_eq!(parse_cidr(text), Ok((ip.parse().unwrap(), len)));
    }
    for text in ["10.1.2.3/33", "::ffff:10.0.0.1/95", "10.1.2.3/+8", "x/8"] {
        let error = parse_cidr(text).unwrap_err();
        let want = format!("invalid CIDR address: {text}");
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn usable_counts_hl_22() {
    for (conf, size) in [
        ("10.1.0.0/30", 1),
        ("10.1.0.0/29", 5),
        ("10.1.0.0/24", 253),
        ("fd00::/126", 2),
        // Network and broadcast address when asked for (HL-21).
        ("10.1.0.0/30 10.1.0.0 10.1.0.3", 3),
        ("10.1.0.0/30 10.1.0.0 10.1.0.3 10.2.0.1", 4),
        ("::/0 :: - fd00::1", u128::MAX),
        ("::/0 :: - 10.0.0.1", u128::MAX),
    ] {
        assert_eq!(one(conf).size(), size, "{conf}");
    }
    assert_eq!(set(&["10.1.0.0/30", "10.2.0.0/29"]).size(), 6);
}

#[test]
fn texts_of_a_wrong_set() {
    for (ranges, text) in [
        (&[][..], "empty range set"),
        (&["10.1.0.0/31"], "Network 10.1.0.0/31 too small to allocate from"),
        (&["10.1.0.1/32"], "Network 10.1.0.1/32 too small to allocate from"),
        (&["fd00::/127"], "Network fd00::/127 too small to allocate from"),
        (
            &["10.1.0.7/24"],
            "Network has host bits set. For a subnet mask of length 24 the \
             network address is 10.1.0.0",
        ),
        (
            &["fd00::7/64"],
            "Network has host bits set. For a subnet mask of length 64 the \
             network address is fd00::",
        ),
        (
            &["10.1.0.0/24 10.2.0.1"],
            "RangeStart 10.2.0.1 not in network 10.1.0.0/24",
        ),
        (
            &["10.1.0.0/24 - 10.2.0.1"],
            "RangeEnd 10.2.0.1 not in network 10.1.0.0/24",
        ),
        (
            &["10.1.0.0/24 fd00::5"],
            "RangeStart fd00::5 not in network 10.1.0.0/24",
        ),
        (
            &["10.1.0.0/24 - fd00::5"],
            "RangeEnd fd00::5 not in network 10.1.0.0/24",
        ),
        // Both wrong, the end of another family: the start is named first.
        (
            &["10.1.0.0/24 10.2.0.1 fd00::5"],
            "RangeStart 10.2.0.1 not in network 10.1.0.0/24",
        ),
        (
            &["10.1.0.0/24 10.1.0.5 10.1.0.4"],
            "RangeStart 10.1.0.5 not in network 10.1.0.0/24",
        ),
        // Before the default start.
        (
            &["10.1.0.0/24 - 10.1.0.0"],
            "RangeEnd 10.1.0.0 not in network 10.1.0.0/24",
        ),
        (&["10.1.0.0/24", "fd00::/64"], "mixed address families"),
        (
            &["10.1.0.0/24", "10.1.0.0/25"],
            "subnets 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.0.126 overlap",
        ),
        (
            &["10.1.0.0/24 10.1.0.9 10.1.0.9", "10.2.0.0/24", "10.1.0.0/24"],
            "subnets 10.1.0.9-10.1.0.9 and 10.1.0.1-10.1.0.254 overlap",
        ),
        (&["- 10.1.0.9"], "a range without \"subnet\""),
    ] {
        let expected = format!("invalid range set 0: {text}");
        assert_eq!(refused(ranges), expected, "{ranges:?}");
    }
    assert_eq!(
        sets_refused(&["10.1.0.0/24", "10.2.0.0/31"], "1.0.0"),
        "invalid range set 1: Network 10.2.0.0/31 too small to allocate from"
    );
}

#[test]
fn texts_about_several_sets() {
    assert_eq!(RangeSet::from_conf(&[], "1.0.0"), Err(RangeError::NoSets),);
    assert_eq!(RangeError::NoSets.to_string(), "no IP ranges specified");
    assert_eq!(
        sets_refused(&["10.1.0.0/24", "10.1.0.0/16"], "1.0.0"),
        "range set 0 overlaps with 1"
    );
    assert_eq!(
        sets_refused(&["10.1.0.0/24", "fd00::/64", "10.1.0.0/16"], "1.0.0"),
        "range set 0 overlaps with 2"
    );
    for version in ["0.2.0", "0.1.0", ""] {
        assert_eq!(
            sets_refused(&["10.1.0.0/24", "10.2.0.0/24"], version),
            format!(
                "CNI version {version} does not support more than 1 address \
                 per family"
            )
        );
        assert!(
            sets_refused(&["fd00::/64", "fd01::/64"], version)
                .ends_with("per family")
        );
        let dual = [vec![range("10.1.0.0/24")], vec![range("fd00::/64")]];
        assert!(RangeSet::from_conf(&dual, version).is_ok());
    }
    let two = [vec![range("10.1.0.0/24")], vec![range("10.2.0.0/24")]];
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        assert!(RangeSet::from_conf(&two, version).is_ok(), "{version}");
    }
}

#[test]
fn unreadable_texts_come_before_everything_else_hl_19() {
    for (conf, text) in [
        ("bogus", "invalid CIDR address: bogus"),
        ("10.1.0.0", "invalid CIDR address: 10.1.0.0"),
        ("10.1.0.0/33", "invalid CIDR address: 10.1.0.0/33"),
        ("10.1.0.0/+8", "invalid CIDR address: 10.1.0.0/+8"),
        ("fd00::/129", "invalid CIDR address: fd00::/129"),
        ("10.1.0.0/24 x", "invalid IP address: x"),
        ("10.1.0.0/24 - 10.1.0.256", "invalid IP address: 10.1.0.256"),
        ("10.1.0.0/24 - - 10.1", "invalid IP address: 10.1"),
    ] {
        assert_eq!(sets_refused(&["10.1.0.7/24", conf], "1.0.0"), text);
    }
}

#[test]
fn parts_of_one_subnet_do_not_overlap() {
    let conf =
        [range("10.1.0.0/24 - 10.1.0.99"), range("10.1.0.0/24 10.1.0.100 -")];
    let sets = RangeSet::from_conf(&[conf.to_vec()], "1.0.0").unwrap();
    assert_eq!(sets[0].to_string(), "10.1.0.1-10.1.0.99,10.1.0.100-10.1.0.254");
    let apart = conf.map(|r| vec![r]);
    assert_eq!(RangeSet::from_conf(&apart, "1.0.0").unwrap().len(), 2);
}

#[test]
fn membership() {
    let v4 = one("192.0.2.0/24 192.0.2.40 192.0.2.50");
    for (addr, inside) in [
        ("192.0.2.39", false),
        ("192.0.2.40", true),
        ("192.0.2.50", true),
        ("192.0.2.51", false),
        ("192.0.3.45", false),
        ("::c000:22d", false),
    ] {
        assert_eq!(v4.contains(ip(addr)), inside, "{addr}");
    }
    let v6 = one("fd00::/64 fd00::40 fd00::50");
    assert!(v6.contains(ip("fd00::40")) && v6.contains(ip("fd00::50")));
    assert!(!v6.contains(ip("fd00::51")) && !v6.contains(ip("fd01::45")));
    let both = set(&["10.1.0.0/24", "10.3.0.0/24"]);
    assert_eq!(
        both.range_of(ip("10.3.0.9")).unwrap().subnet().to_string(),
        "10.3.0.0/24"
    );
    assert_eq!(both.range_of(ip("10.2.0.9")), None);
}

#[test]
fn requested_addresses_hl_7() {
    for (text, addr) in [
        ("10.1.0.9", "10.1.0.9"),
        ("10.1.0.9/24", "10.1.0.9"),
        ("10.1.0.9/32", "10.1.0.9"),
        ("fd00::9/64", "fd00::9"),
        ("::ffff:10.1.0.9", "10.1.0.9"),
    ] {
        assert_eq!(parse_requested(text), Ok(ip(addr)));
    }
    for bad in ["", "x", "10.1.0.9/", "10.1.0.9/33", "10.1.0/24"] {
        assert_eq!(
            parse_requested(bad).unwrap_err().to_string(),
            format!("invalid IP address: {bad}")
        );
    }
}
