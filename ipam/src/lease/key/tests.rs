use proptest::prelude::*;

use super::*;

fn key(text: &str) -> SubnetKey {
    SubnetKey::parse(text).unwrap()
}

fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

/// E-2, E-3, and addresses as Go's `net.IP` writes them (each line checked
/// against Go's standard library).
#[test]
fn keys_are_read_and_written_byte_for_byte() {
    for text in [
        "10.12.13.0-24",
        "10.12.13.0-24&fd00:12:13::-56",
        "0.0.0.0-0&fd00:0:0:1::-64",
        "10.0.0.0-31",
        "10.0.0.0-24&fd00::-127",
        "0.0.0.0-8",
        // a single zero group is not compressed
        "10.12.13.0-24&2001:db8:0:1:1:1:1:0-124",
        "10.12.13.0-24&0:1:2:3:4:5:6:0-112",
        "10.12.13.0-24&1:2:3:4:5:6:7:0-112",
        // of two runs the longer one is, of equal ones the first
        "10.12.13.0-24&2001:db8:0:0:1::-124",
        "10.12.13.0-24&2001:db8::1:0:0:10-124",
        "10.12.13.0-24&0:0:0:1::-64",
        // the IPv4-compatible form is written in hexadecimal
        "10.12.13.0-24&::a00:0-104",
        "10.12.13.0-24&64:ff9b::a00:0-104",
    ] {
        assert_eq!(key(text).to_string(), text);
        let whole = format!("/coreos.com/network/subnets/{text}");
        assert_eq!(key(&whole), key(text));
    }
}

#[test]
fn a_missing_family_is_none() {
    let v4 = key("10.5.52.0-24");
    assert_eq!(v4.get(Family::V4), Some(net("10.5.52.0/24")));
    assert_eq!(v4.get(Family::V6), None);

    let v6 = key("0.0.0.0-0&fd00:0:0:1::-64");
    assert_eq!(v6.get(Family::V4), None);
    assert_eq!(v6.get(Family::V6), Some(net("fd00:0:0:1::/64")));

    let dual = key("10.12.13.0-24&fd00:12:13::-56");
    assert_eq!(dual.subnets().families().collect::<Vec<_>>(), Family::ALL);
}

/// E-3 with upstream's examples.
#[test]
fn what_names_no_subnet_is_refused() {
    for text in [
        "",
        "10",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "&2001::-56",
        "10.12.13.0-24&:12:13:-56",
        "10.12.13.0-24&20011::-56",
        "10.12.13.0-24&2001-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-56hi",
        // lengths of 5 and 7 bits
        "10.0.0.0-32",
        "10.0.0.0-24&fd00::-128",
        "10.12.13.0-99999999999999999999",
        "10.12.13.0-24&fd00::-99999999999999999999",
        "10.0.0.0-24&FD00::-64",
        "010.12.13.0-24",
        "10x12.13.0-24",
        "10.12x13x0-24",
        "10.12.13.0-+24",
        "10.12.13.0--24",
        "10.12.13.0-24&",
        "10.12.13.0-24&fd00::1:2:3::-112",
        "10.12.13.0-24&fd00::-64&fd01::-64",
        "10.12.13.0-24\n",
        "10.12.13.0-24/",
        "config",
        // what only upstream takes: leases of nothing, IPv4 in disguise
        "0.0.0.0-0",
        "0.0.0.0-0&::-0",
        "10.12.13.0-24&::-0",
        "10.12.13.0-24&::ffff:a00:0-104",
    ] {
        assert_eq!(
            SubnetKey::parse(text),
            Err(KeyError::NotASubnet(text.to_owned())),
        );
    }
}

/// What upstream's pattern finds in such keys (checked against Go's regexp)
/// is occupied, but the key is nobody's.
#[test]
fn other_spellings_say_what_they_occupy() {
    for (text, means) in [
        ("10.12.13.5-24", "10.12.13.0-24"),
        ("10.12.13.0-024", "10.12.13.0-24"),
        ("foo10.12.13.0-24", "10.12.13.0-24"),
        ("9.10.12.13.0-24", "10.12.13.0-24"),
        ("é.10.12.13.0-24", "10.12.13.0-24"),
        ("10.12.13.0-24&fd00:0:0:0::-64", "10.12.13.0-24&fd00::-64"),
        ("10.12.13.0-24&fd00::1-64", "10.12.13.0-24&fd00::-64"),
        ("10.12.13.0-24&1:2:3:4:5:6:7::-112", {
            "10.12.13.0-24&1:2:3:4:5:6:7:0-112"
        }),
        ("10.12.13.0-24&::ffff:10.0.0.0-24", "10.0.0.0-24"),
        ("10.0.0.1-0&fd00::-64", "0.0.0.0-0&fd00::-64"),
    ] {
        let (text, means) = (text.to_owned(), key(means));
        assert_eq!(
            SubnetKey::parse(&text),
            Err(KeyError::Spelling { text, key: means }),
        );
    }
    let error = SubnetKey::parse("10.12.13.5-24").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"subnet key "10.12.13.5-24" must be written 10.12.13.0-24: rename it"#,
    );
}

#[test]
fn subnets_without_a_key_are_refused() {
    let one = |family, text| PerFamily::one(family, net(text));
    assert_eq!(SubnetKey::new(PerFamily::default()), Err(KeyError::Empty));
    for subnets in [
        one(Family::V4, "0.0.0.0/0"),
        one(Family::V4, "10.0.0.1/32"),
        one(Family::V4, "fd00::/64"),
        one(Family::V6, "::/0"),
        one(Family::V6, "fd00::1/128"),
        one(Family::V6, "10.0.0.0/24"),
        one(Family::V6, "::ffff:10.0.0.0/120"),
    ] {
        assert!(
            matches!(SubnetKey::new(subnets), Err(KeyError::Unusable(_))),
            "{subnets:?}",
        );
    }
}

#[test]
fn a_long_foreign_key_is_shortened_in_the_message() {
    let text = "ü".repeat(100_000);
    let message = SubnetKey::parse(&text).unwrap_err().to_string();
    assert!(message.len() < 1000, "{} bytes", message.len());
}

/// W-10: a lease without IPv6 overlaps nothing there.
#[test]
fn overlap_needs_a_family_that_both_have() {
    let v4 = key("10.5.1.0-24");
    let v6 = key("0.0.0.0-0&fd00:0:0:1::-64");
    let dual = key("10.5.0.0-16&fd00:0:0:2::-64");
    assert!(!v4.overlaps(&v6));
    assert!(v4.overlaps(&dual) && dual.overlaps(&v4));
    assert!(!v6.overlaps(&dual));
    assert!(v6.overlaps(&key("10.6.0.0-24&fd00::-48")));
}

#[test]
fn serde_is_the_text() {
    let lease = key("10.12.13.0-24&fd00:12:13::-56");
    let json = serde_json::to_string(&lease).unwrap();
    assert_eq!(json, r#""10.12.13.0-24&fd00:12:13::-56""#);
    assert_eq!(serde_json::from_str::<SubnetKey>(&json).unwrap(), lease);
    assert!(serde_json::from_str::<SubnetKey>(r#""10.1.1.1-24""#).is_err());
}

prop_compose! {
    fn any_key()(
        v4 in proptest::option::of((any::<u32>(), 1u8..32)),
        v6 in (any::<u128>(), any::<u128>(), 1u8..128),
        with_v6: bool,
    ) -> Option<SubnetKey> {
        let v4 = v4.map(|(bits, len)| {
            Subnet::new(Family::V4.addr(bits.into()), len).unwrap()
        });
        // a mask of random bits makes runs of zeros likely
        let (bits, mask, len) = v6;
        let v6 = Subnet::new(Family::V6.addr(bits & mask), len).unwrap();
        SubnetKey::new(PerFamily { v4, v6: with_v6.then_some(v6) }).ok()
    }
}

proptest! {
    #[test]
    fn every_key_survives_its_text(key in any_key()) {
        let Some(key) = key else { return Ok(()) };
        let text = key.to_string();
        prop_assert_eq!(SubnetKey::parse(&text), Ok(key));
        prop_assert_eq!(SubnetKey::parse(&format!("/a/b/{text}")), Ok(key));
    }

    #[test]
    fn no_text_is_too_strange(text in "\\PC*") {
        let _ = SubnetKey::parse(&text);
    }

    #[test]
    fn almost_keys_parse_to_what_they_are_or_not_at_all(
        text in "[0-9./é]{0,8}[0-9]{1,3}(\\.[0-9]{1,3}){3}-[0-9]{1,2}\
                 (&[0-9a-f:]{2,12}-[0-9]{1,3})?",
    ) {
        match SubnetKey::parse(&text) {
            Ok(key) => prop_assert!(text.ends_with(&key.to_string())),
            Err(KeyError::Spelling { key, .. }) => {
                let segment = text.rsplit('/').next().unwrap();
                prop_assert_ne!(segment, key.to_string());
                prop_assert_eq!(SubnetKey::parse(&key.to_string()), Ok(key));
            }
            Err(error) => {
                prop_assert_eq!(error, KeyError::NotASubnet(text));
            }
        }
    }
}
