//! JSON objects that are passed on unread, as Go's maps are: keys exact and
//! sorted, of repeated ones the last, values in Go's spelling (P-10, P-25).

use std::collections::BTreeMap;

use ipam::gojson;
use serde::Serialize;
use serde_json::Value;

/// Such an object: each key's value as the text that Go writes.
#[derive(Clone, Debug, Default)]
pub(super) struct GoMap(BTreeMap<String, String>);

// === impl GoMap ===

impl GoMap {
    /// Takes a value in that came as JSON text: its objects get sorted too.
    pub(super) fn set_json(
        &mut self,
        key: &str,
        json: &str,
    ) -> Result<(), serde_json::Error> {
        let value: Value = serde_json::from_str(json)?;
        self.set(key, &value)
    }

    /// Sets a value, struct fields in their order.
    pub(super) fn set<T: Serialize + ?Sized>(
        &mut self,
        key: &str,
        value: &T,
    ) -> Result<(), serde_json::Error> {
        self.0.insert(key.to_owned(), gojson::to_string(value)?);
        Ok(())
    }

    /// Sets a value to another such object.
    pub(super) fn set_map(
        &mut self,
        key: &str,
        map: &Self,
    ) -> Result<(), serde_json::Error> {
        self.0.insert(key.to_owned(), map.render()?);
        Ok(())
    }

    /// Sets a value where the key, spelt exactly so, is absent.
    pub(super) fn set_default<T: Serialize + ?Sized>(
        &mut self,
        key: &str,
        value: &T,
    ) -> Result<(), serde_json::Error> {
        match self.contains(key) {
            true => Ok(()),
            false => self.set(key, value),
        }
    }

    /// Whether the key, spelt exactly so, is there.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The JSON text of a value.
    pub(super) fn raw(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of a key that holds a string.
    pub(super) fn string(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.raw(key)?).ok()
    }

    /// The whole object as text.
    pub(super) fn render(&self) -> Result<String, serde_json::Error> {
        let mut out = String::with_capacity(512);
        for (key, value) in &self.0 {
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push_str(&gojson::to_string(key)?);
            out.push(':');
            out.push_str(value);
        }
        out.push_str(if out.is_empty() { "{}" } else { "}" });
        Ok(out)
    }
}
