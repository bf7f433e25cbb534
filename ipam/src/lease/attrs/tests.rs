use proptest::prelude::*;
use serde::Serialize;

use super::*;

fn decode(text: &str) -> Result<LeaseAttrs, gojson::Error> {
    LeaseAttrs::decode(text.as_bytes())
}

fn data(json: &str) -> Option<BackendData> {
    Some(json.parse().unwrap())
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// E-10..E-16. Written and read back.
#[test]
fn golden() {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Wireguard {
        public_key: &'static str,
        port: u16,
    }
    let v4 = PerFamily { v4: ip("192.168.1.10"), v6: None };
    let vxlan = |last: &str| {
        data(&format!(r#"{{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:{last}"}}"#))
    };
    let cases = [
        (
            "E-10",
            LeaseAttrs {
                public: PerFamily { v4: ip("192.168.64.3"), v6: None },
                backend_type: "vxlan".into(),
                data: PerFamily {
                    v4: data(r#"{"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"}"#),
                    v6: None,
                },
            },
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
        ),
        (
            "E-11",
            LeaseAttrs {
                public: PerFamily {
                    v4: ip("192.168.1.10"),
                    v6: ip("fd00::10"),
                },
                backend_type: "vxlan".into(),
                data: PerFamily { v4: vxlan("ff"), v6: vxlan("fe") },
            },
            r#"{"PublicIP":"192.168.1.10","PublicIPv6":"fd00::10","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"},"BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}}"#,
        ),
        (
            "E-12",
            LeaseAttrs {
                public: PerFamily { v4: None, v6: ip("fd00::10") },
                backend_type: "vxlan".into(),
                data: PerFamily { v4: None, v6: vxlan("fe") },
            },
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::10","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:fe"}}"#,
        ),
        (
            "E-13",
            LeaseAttrs {
                public: v4,
                backend_type: "host-gw".into(),
                data: PerFamily::default(),
            },
            r#"{"PublicIP":"192.168.1.10","PublicIPv6":null,"BackendType":"host-gw"}"#,
        ),
        (
            "E-14",
            LeaseAttrs {
                public: v4,
                backend_type: "wireguard".into(),
                data: PerFamily {
                    v4: BackendData::new(&Wireguard {
                        public_key: "A+/=",
                        port: 51820,
                    })
                    .ok(),
                    v6: None,
                },
            },
            r#"{"PublicIP":"192.168.1.10","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"A+/=","Port":51820}}"#,
        ),
        (
            "E-15",
            LeaseAttrs { public: v4, ..LeaseAttrs::default() },
            r#"{"PublicIP":"192.168.1.10","PublicIPv6":null}"#,
        ),
        (
            "E-16",
            LeaseAttrs {
                public: v4,
                backend_type: "extension".into(),
                data: PerFamily {
                    v4: BackendData::new("a <b> & c\n\u{2028}é").ok(),
                    v6: None,
                },
            },
            r#"{"PublicIP":"192.168.1.10","PublicIPv6":null,"BackendType":"extension","BackendData":"a \u003cb\u003e \u0026 c\n\u2028é"}"#,
        ),
    ];
    for (id, attrs, text) in cases {
        assert_eq!(attrs.encode(), text, "{id}");
        assert_eq!(decode(text), Ok(attrs), "{id}");
    }
}

/// Each line re-encoded as Go's `encoding/json` does it (checked with Go;
/// only that `null` data is dropped here).
#[test]
fn any_spelling_is_read_and_written_in_one() {
    for (text, canonical) in [
        ("null", r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#),
        (" {} ", r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#),
        (
            r#"{"publicip":"1.2.3.4","PUBLICIP":"1.2.3.5","x":[{}]}"#,
            r#"{"PublicIP":"1.2.3.5","PublicIPv6":null}"#,
        ),
        (
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":"FD00::0010"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::10"}"#,
        ),
        (
            r#"{"PublicIPv6":"fd00::1","PublicIPv6":null}"#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#,
        ),
        (
            r#"{"PublicIP":"1.2.3.4","BackendType":null,"BackendData":null,
                "BackendV6Data": { "b" : 1 , "a" : [ 1.0, "x y" ] } }"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendV6Data":{"b":1,"a":[1.0,"x y"]}}"#,
        ),
        (
            r#"{"PublicIP":"1.2.3.4","BackendType":"a<b\u0001\b\"\\"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"a\u003cb\u0001\b\"\\"}"#,
        ),
    ] {
        assert_eq!(decode(text).unwrap().encode(), canonical);
    }
    let broken = b"{\"PublicIP\":\"1.2.3.4\",\"BackendType\":\"\xff\"}";
    let attrs = LeaseAttrs::decode(broken).unwrap();
    assert_eq!(attrs.backend_type, "\u{fffd}");
}

/// Appendix D.5 and X-1: what peers that are not quite ready publish is
/// still a lease; judging its data is the backend's task.
#[test]
fn unfinished_peers_are_tolerated() {
    for backend_data in
        [r#"{"VtepMAC":""}"#, r#"{"VNI":4096}"#, "null", "{}", r#""text""#]
    {
        let text = format!(
            r#"{{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{backend_data},"New":true}}"#
        );
        let attrs = decode(&text).unwrap();
        let expected = (backend_data != "null").then_some(backend_data);
        let got = attrs.data.v4.as_ref().map(BackendData::as_str);
        assert_eq!(got, expected);
    }
    let unset = decode(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"::"}"#);
    for v4 in ["1.2.3.4", "::ffff:1.2.3.4"] {
        let text = format!(r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"{v4}"}}"#);
        assert_eq!(decode(&text), unset, "{v4}");
    }
    assert_eq!(unset, Ok(LeaseAttrs::default()));
}

/// E-17: the entry is skipped.
#[test]
fn unusable_values_say_what_is_wrong() {
    for (text, message) in [
        (r#"{"PublicIP":""}"#, {
            r#"PublicIP is "", but must be an IPv4 address"#
        }),
        (r#"{"PublicIP":null}"#, "PublicIP is null, but must be a string"),
        (r#"{"PublicIP":7}"#, "PublicIP is 7, but must be a string"),
        (r#"{"PublicIP":"01.2.3.4"}"#, {
            r#"PublicIP is "01.2.3.4", but must be an IPv4 address"#
        }),
        (r#"{"PublicIP":"fd00::1"}"#, {
            r#"PublicIP is "fd00::1", but must be an IPv4 address"#
        }),
        (r#"{"PublicIPv6":""}"#, {
            r#"PublicIPv6 is "", but must be an IPv6 address"#
        }),
        (r#"{"PublicIP":"1.2.3.4","BackendType":7}"#, {
            "BackendType is 7, but must be a string"
        }),
        ("[]", "the document is [], but must be an object"),
    ] {
        assert_eq!(decode(text).unwrap_err().to_string(), message);
    }
    for text in ["", "{", "hello", r#"{"PublicIP":"1.2.3.4"} x"#] {
        assert!(
            matches!(decode(text), Err(gojson::Error::Syntax { .. })),
            "{text}",
        );
    }
}

/// W-3: what is equal is equal whatever the spelling, and nothing else is.
#[test]
fn equality_is_that_of_the_written_value() {
    let a = decode(r#"{"PublicIP":"1.2.3.4","BackendData":{"VNI": 1}}"#);
    let b = decode(r#"{"publicIP":"1.2.3.4","BackendData":{"VNI":1},"z":0}"#);
    let c = decode(r#"{"PublicIP":"1.2.3.4","BackendData":{"VNI":2}}"#);
    assert_eq!(a, b);
    assert_ne!(a, c);
}

prop_compose! {
    fn any_attrs()(
        v4 in proptest::option::of(1u32..),
        v6 in proptest::option::of(0xfd00u128 << 112..),
        backend_type in "\\PC{0,12}",
        strings in proptest::collection::vec(
            proptest::option::of("\\PC{0,12}"), 2,
        ),
        number: i64,
    ) -> LeaseAttrs {
        let data = |text: &Option<String>| {
            text.as_ref().map(|s| BackendData::new(&(s, number)).unwrap())
        };
        LeaseAttrs {
            public: PerFamily {
                v4: v4.map(|bits| Family::V4.addr(bits.into())),
                v6: v6.map(|bits| Family::V6.addr(bits)),
            },
            backend_type: backend_type.into(),
            data: PerFamily { v4: data(&strings[0]), v6: data(&strings[1]) },
        }
    }
}

proptest! {
    #[test]
    fn every_value_survives_its_text(attrs in any_attrs()) {
        let text = attrs.encode();
        prop_assert_eq!(decode(&text), Ok(attrs));
        prop_assert_eq!(gojson::compact(&text), text);
    }

    #[test]
    fn no_value_is_too_strange(bytes: Vec<u8>) {
        let _ = LeaseAttrs::decode(&bytes);
    }

    #[test]
    fn cut_and_changed_values_are_read_or_refused(
        attrs in any_attrs(),
        at: prop::sample::Index,
        byte: u8,
        cut: bool,
    ) {
        let mut bytes = attrs.encode().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(attrs) = LeaseAttrs::decode(&bytes) {
            prop_assert_eq!(decode(&attrs.encode()), Ok(attrs));
        }
    }
}
