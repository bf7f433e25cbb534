use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

fn object(text: &str) -> Object<'_> {
    Object::parse(text).unwrap()
}

#[test]
fn keys_match_without_case_and_the_last_one_counts() {
    let o = object(r#"{"network":"a","NETWORK":"b","Net\u0077ork":"c"}"#);
    assert_eq!(o.string("Network").unwrap().unwrap(), "c");
    // Kelvin sign and long s fold to ASCII in Go
    let o = object("{\"p\u{17f}\u{212a}\":1}");
    assert_eq!(o.uint("PSK").unwrap(), Some(1));
}

#[test]
fn null_leaves_what_was_there() {
    let o = object(r#"{"a":1,"a":null,"b":null}"#);
    assert_eq!(o.uint("a").unwrap(), Some(1));
    assert_eq!(o.uint("b").unwrap(), None);
    assert!(o.raw("a").unwrap().is_null());
    assert_eq!(o.value("a").unwrap().raw(), "1");
    assert_eq!(o.raw("c"), None);
    assert_eq!(Object::parse(" null\n").unwrap(), Object::default());
}

#[test]
fn a_wrong_type_is_an_error_even_when_repeated_correctly() {
    let o = object(r#"{"len":"24","len":24}"#);
    let error = o.uint("Len").unwrap_err().to_string();
    assert_eq!(error, "len is \"24\", but must be a whole number of 0 or more");
    let error = Object::parse("[1]").unwrap_err().to_string();
    assert_eq!(error, "the document is [1], but must be an object");
}

#[test]
fn integers_are_read_from_their_literal() {
    for bad in ["-1", "1.0", "1e2", "\"1\"", "true", "18446744073709551616"] {
        let text = format!("{{\"n\":{bad}}}");
        assert!(object(&text).uint("n").is_err(), "{bad}");
    }
    let o = object(r#"{"n":18446744073709551615,"m":-9007199254740993}"#);
    assert_eq!(o.uint("n").unwrap(), Some(u64::MAX));
    assert_eq!(o.int("m").unwrap(), Some(-9_007_199_254_740_993));
    assert!(object(r#"{"n":70000}"#).integer::<u16>("n").is_err());
}

#[test]
fn a_path_leads_to_the_value() {
    let o = object(r#"{"IPAM":{"ranges":[[{"subnet":1}], []]}}"#);
    let ranges = o.object("ipam").unwrap().unwrap().array("ranges").unwrap();
    let first = ranges.unwrap()[0].array().unwrap()[0].object().unwrap();
    let error = first.string("subnet").unwrap_err().to_string();
    assert_eq!(error, "IPAM.ranges[0][0].subnet is 1, but must be a string");
}

#[test]
fn repeated_objects_are_read_over_each_other() {
    let o = object(r#"{"dns":{"a":1,"b":2},"DNS":{"B":3}}"#);
    let dns = o.object("dns").unwrap().unwrap();
    assert_eq!(dns.uint("a").unwrap(), Some(1));
    assert_eq!(dns.uint("b").unwrap(), Some(3));
}

#[test]
fn strings_are_unescaped_as_in_go() {
    let o = object(r#"{"s":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é"}"#);
    let want = "\"\\/\u{8}\u{c}\n\r\té😀é";
    assert_eq!(o.string("s").unwrap().unwrap(), want);
    // half a pair, alone or before something else
    let o = object(r#"{"s":"\ud800","t":"\ud800\u0041","u":"\udc00x"}"#);
    assert_eq!(o.string("s").unwrap().unwrap(), "\u{fffd}");
    assert_eq!(o.string("t").unwrap().unwrap(), "\u{fffd}A");
    assert_eq!(o.string("u").unwrap().unwrap(), "\u{fffd}x");
    let o = object(r#"{"l":["a",null]}"#);
    assert_eq!(o.strings("l").unwrap().unwrap(), ["a", ""]);
}

#[test]
fn broken_text_says_where() {
    for (text, at, what) in [
        ("", (1, 1), "the text ends"),
        ("{\n  \"a\": 1,\n}", (3, 1), "'}' found"),
        ("{} x", (1, 4), "nothing may follow"),
        ("{\"a\" 1}", (1, 6), "after a key"),
        ("[1 2]", (1, 4), "between two values"),
        ("{\"é\": tru}", (1, 7), "only true"),
        ("{\"a\":01}", (1, 7), "between two values"),
        ("\"a\nb\"", (1, 3), "control character"),
        ("\"\\x\"", (1, 3), "no escape"),
        ("\"\\u12\"", (1, 6), "four digits"),
        ("[1.]", (1, 4), "a digit is needed"),
        ("{\"a\":separate}", (1, 6), "a value is needed"),
        ("\u{feff}{}", (1, 1), "a value is needed"),
        ("{\"a\":1,}", (1, 8), "before a key"),
        ("{\"a\":1 \"b\":2}", (1, 8), "between two values"),
        ("{,}", (1, 2), "before a key"),
        ("{\"a\":1} x", (1, 9), "nothing may follow"),
    ] {
        // an object is read in one go, with the same errors
        assert_eq!(Object::parse(text).unwrap_err(), parse(text).unwrap_err());
        match parse(text).unwrap_err() {
            Error::Syntax { line, column, what: found } => {
                assert_eq!((line, column), at, "{text}");
                assert!(found.contains(what), "{text}: {found}");
            }
            other @ Error::Type { .. } => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(parse(&deep(10_000)).is_ok());
    assert!(parse(&deep(10_001)).is_err());
    assert!(parse(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn unknown_keys_name_the_nearest() {
    const KNOWN: &[&str] =
        &["Network", "SubnetLen", "SubnetMin", "EnableNFTables", "Backend"];
    let o = object(
        r#"{"netwrok":1,"subnetlength":2,"NFTables":3,"foo":4,"BACKEND":{},"foo":5}"#,
    );
    let found: Vec<_> =
        o.unknown(KNOWN).into_iter().map(|u| (u.path, u.nearest)).collect();
    let want = [
        ("netwrok", Some("Network")),
        ("subnetlength", Some("SubnetLen")),
        ("NFTables", Some("EnableNFTables")),
        ("foo", None),
    ];
    assert_eq!(found, want.map(|(k, n)| (k.to_owned(), n)));
    assert_eq!(nearest(&"x".repeat(1_000_000), KNOWN), None);
    // one edit is less than half a word
    let flags = ["iface", "iface-regex"];
    assert_eq!(nearest("iface-regx", &flags), Some("iface-regex"));
}

#[test]
fn raw_values_are_compacted_and_escaped_only() {
    let raw = "{ \"b\" : [1.50, 1E2, 9007199254740993 ],\n \"a\":\"<\\u0041\\/&\u{2028}\\\"> x\", \"a\":{} }";
    let want = r#"{"b":[1.50,1E2,9007199254740993],"a":"\u003c\u0041\/\u0026\u2028\"\u003e x","a":{}}"#;
    assert_eq!(compact(raw), want);
    assert_eq!(parse(raw).unwrap().compact(), want);
}

#[test]
fn written_as_go_writes() {
    #[derive(serde::Serialize)]
    struct Sample<'a> {
        z: &'a str,
        raw: &'a RawValue,
        f: [f64; 7],
    }
    let raw = RawValue::from_string("{ \"x\": \"&\" }".to_owned()).unwrap();
    let f = [1.0, 0.5, -0.0, 1e20, 1e21, 1e-6, 1.5e-7];
    let text =
        to_string(&Sample { z: "a<b>&\u{2029}\u{1}\u{8}\"", raw: &raw, f });
    // as printed by Go 1.22 and later
    assert_eq!(
        text.unwrap(),
        r#"{"z":"a\u003cb\u003e\u0026\u2029\u0001\b\"","raw":{"x":"\u0026"},"f":[1,0.5,-0,100000000000000000000,1e+21,0.000001,1.5e-7]}"#
    );
}

#[test]
fn indented_as_go_indents() {
    let text = r#"{"a":[1,{"b":"{,}:"},[]],"c":{},"d":[{}]}"#;
    let want = r#"{
    "a": [
        1,
        {
            "b": "{,}:"
        },
        []
    ],
    "c": {},
    "d": [
        {}
    ]
}"#;
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(to_lines(&value, "    ").unwrap(), want);
    assert_eq!(to_string(&value).unwrap(), text);
    assert_eq!(compact(want), text);
    assert_eq!(to_lines("x", "    ").unwrap(), r#""x""#);
}

/// Any JSON value, as serde_json knows it.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|m| m.into_iter().collect()),
        ]
    })
}

/// Takes everything apart that can be.
fn walk(value: &Value<'_>) -> serde_json::Value {
    if let Ok(object) = value.object() {
        return object
            .iter()
            .map(|(k, v)| (k.into_owned(), walk(&v)))
            .collect();
    }
    if let Ok(array) = value.array() {
        return array.iter().map(walk).collect();
    }
    if let Ok(text) = value.string() {
        return text.into();
    }
    if let Ok(b) = value.bool() {
        return b.into();
    }
    if let Ok(n) = value.integer::<u64>() {
        return n.into();
    }
    value.integer::<i64>().map_or(serde_json::Value::Null, Into::into)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn never_panics(text in ".{0,64}", json in r#"[\[\]{}":,a0\\u.e \-tn]{0,24}"#) {
        for text in [text, json] {
            drop(compact(&text));
            if let Ok(value) = parse(&text) {
                walk(&value);
            }
        }
    }

    /// The grammar is serde_json's (which has the same one but for half
    /// surrogate pairs and depth).
    #[test]
    fn accepts_what_serde_json_accepts(
        text in r#"[\[\]{}":,a01.eE\- ]{0,12}|-?[0-9.eE+\-]{1,8}"#
    ) {
        let theirs = serde_json::from_str::<&RawValue>(&text).is_ok();
        prop_assert_eq!(parse(&text).is_ok(), theirs, "{}", text);
    }

    #[test]
    fn what_is_written_is_read(json in any_json()) {
        let text = to_string(&json).unwrap();
        for text in [to_lines(&json, "\t").unwrap(), text] {
            prop_assert_eq!(walk(&parse(&text).unwrap()), json.clone());
        }
    }

    #[test]
    fn compact_is_stable(json in any_json()) {
        let text = to_string(&json).unwrap();
        prop_assert_eq!(&compact(&text), &text);
        prop_assert_eq!(&compact(&to_lines(&json, " ").unwrap()), &text);
    }
}
