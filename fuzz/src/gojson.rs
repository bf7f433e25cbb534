use ipam::gojson::{Value, compact, parse};
use serde::de::IgnoredAny;

use crate::text;

/// JSON by Go's rules.
pub fn gojson(data: &[u8]) {
    let text = text(data);
    let value = match parse(&text) {
        Ok(value) => value,
        Err(error) => {
            assert!(!accepted_elsewhere(&text), "{text:?}: {error}");
            return;
        }
    };
    assert!(accepted_elsewhere(&text), "{text:?} was taken for JSON");

    let short = compact(&text);
    assert_eq!(compact(&short), short);
    assert_eq!(value.compact(), short);
    same_meaning(&text, &short);
    walk(&value);
}

/// Only the grammar: neither the depth, nor the size of numbers, nor what
/// escapes stand for.
fn accepted_elsewhere(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn same_meaning(a: &str, b: &str) {
    // Fails on what Go takes: huge numbers, half surrogates, deep nesting.
    if let Ok(a) = serde_json::from_str::<serde_json::Value>(a) {
        let b = serde_json::from_str::<serde_json::Value>(b);
        assert_eq!(Some(a), b.ok());
    }
}

/// Everything inside, as each type it could be.
fn walk(value: &Value<'_>) {
    let raw = value.raw();
    let elsewhere = serde_json::from_str::<serde_json::Value>(raw);
    if let (Ok(ours), Ok(theirs)) = (value.string(), &elsewhere) {
        assert_eq!(Some(ours.as_str()), theirs.as_str());
    }
    if let Ok(ours) = value.integer::<u64>() {
        assert_eq!(elsewhere.ok().and_then(|v| v.as_u64()), Some(ours));
    } else if let Ok(ours) = value.bool() {
        assert_eq!(raw, if ours { "true" } else { "false" });
    }
    let elements = value.array().unwrap_or_default();
    let object = value.object().unwrap_or_default();
    assert!(elements.is_empty() || raw.starts_with('['));
    assert_eq!(
        raw.starts_with(['[', '{']),
        value.array().is_ok() || value.object().is_ok()
    );
    let members = object.iter().map(|(_, value)| value);
    for inner in elements.iter().cloned().chain(members) {
        assert_eq!(parse(inner.raw()).map(|v| v.raw()), Ok(inner.raw()));
        walk(&inner);
    }
    for (key, _) in object.iter() {
        assert!(object.raw(&key).is_some());
    }
    assert!(object.unknown(&[]).len() <= object.iter().count());
}
