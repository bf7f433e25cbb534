use super::*;

#[test]
fn integers_as_go_reads_them() {
    for (text, want) in [
        ("0", 0),
        ("00", 0),
        ("-0", 0),
        ("+7", 7),
        ("-5", -5),
        ("0x10", 16),
        ("0XfF", 255),
        ("-0x10", -16),
        ("0b101", 5),
        ("0o17", 15),
        ("017", 15),
        ("0_7", 7),
        ("1_000", 1000),
        ("0x_1f", 31),
        ("0b_1", 1),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(go_int(text), Ok(want), "{text}");
    }
}

#[test]
fn texts_that_are_no_integer_for_go() {
    for text in [
        "", "-", "+", "--1", "+-1", " 1", "1 ", "1.0", "1e3", "abc", "0x",
        "0b", "0o", "0x_", "0xg", "0b2", "08", "_1", "1_", "1__0", "0__7",
        "0x1__0", "١",
    ] {
        assert_eq!(go_int(text), Err("not an integer".to_owned()), "{text:?}");
    }
    for text in [
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999999999999999999999999999",
        "0xffffffffffffffff",
    ] {
        assert_eq!(go_int(text), Err("out of range".to_owned()), "{text:?}");
    }
}

#[test]
fn booleans_as_go_reads_them() {
    for text in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!(go_bool(text), Ok(true), "{text}");
    }
    for text in ["0", "f", "F", "false", "FALSE", "False"] {
        assert_eq!(go_bool(text), Ok(false), "{text}");
    }
    for text in ["", "yes", "tRUE", "on", " true", "2"] {
        assert!(go_bool(text).is_err(), "{text:?}");
    }
}

#[test]
fn addresses_of_their_family_only() {
    let ip = |text: &str| Ok(Some(text.parse::<IpAddr>().unwrap()));
    assert_eq!(optional_ip(""), Ok(None));
    assert_eq!(optional_ipv4("10.0.0.1"), ip("10.0.0.1"));
    assert_eq!(optional_ipv4("::ffff:10.0.0.1"), ip("10.0.0.1"));
    assert_eq!(optional_ipv6("fd00::1"), ip("fd00::1"));
    assert!(optional_ipv4("fd00::1").unwrap_err().contains("--public-ipv6"));
    assert!(optional_ipv6("10.0.0.1").unwrap_err().contains("--public-ip"));
    for bad in ["10.0.0", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "host"] {
        assert!(optional_ip(bad).is_err(), "{bad}");
    }
}

#[test]
fn endpoints_are_split_at_commas() {
    let list = |text| endpoints(text).map(|e| e.0);
    assert_eq!(
        list("http://a:1, https://[::1]:2,,b:3,"),
        Ok(vec!["http://a:1".into(), "https://[::1]:2".into(), "b:3".into()])
    );
    assert!(list("").is_err());
    assert!(list(" , ").is_err());
    let error = list("http://root:hunter2@a:1").unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
    assert!(error.contains("--etcd-username"), "{error}");
}
