//! Keys that nobody reads: almost always a slip of the pen.

use std::fmt;

use super::Backend;
use super::backend::OPTIONS;
use crate::gojson::{Object, UnknownKey};

/// A key that is ignored, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key as written, `Backend.` in front of one in there.
    pub key: String,
    hint: Hint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hint {
    None,
    Nearest(&'static str),
    InsideBackend,
    TopLevel,
    OtherBackend { of: Vec<&'static str>, not: &'static str },
    NeverRun,
}

// === impl Warning ===

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?} is ignored", self.key)?;
        match &self.hint {
            Hint::None => Ok(()),
            Hint::Nearest(name) => write!(f, "; did you mean {name:?}?"),
            Hint::InsideBackend => {
                f.write_str("; it belongs inside \"Backend\"")
            }
            Hint::TopLevel => {
                f.write_str("; it belongs beside \"Backend\", not inside")
            }
            Hint::OtherBackend { of, not } => write!(
                f,
                "; it is an option of {}, but the backend is {not}",
                of.join(", ")
            ),
            Hint::NeverRun => f.write_str("; no such command is ever run"),
        }
    }
}

/// The keys of a whole configuration that are not in `known`.
pub(super) fn top_level(
    conf: &Object<'_>,
    known: &[&'static str],
) -> Vec<Warning> {
    let warning = |unknown: UnknownKey| {
        let inside = unknown.key.eq_ignore_ascii_case("Type")
            || !backends_with(&unknown.key).is_empty();
        let hint = match unknown.nearest {
            _ if inside => Hint::InsideBackend,
            Some(name) => Hint::Nearest(name),
            None => Hint::None,
        };
        Warning { key: unknown.path, hint }
    };
    conf.unknown(known).into_iter().map(warning).collect()
}

/// The keys inside `Backend` that are no options of `backend`.
pub(super) fn backend(
    options: &Object<'_>,
    backend: &Backend,
    outside: &[&'static str],
) -> Vec<Warning> {
    let name = backend.type_name();
    let mut known = vec!["Type"];
    known.extend(OPTIONS.iter().filter(|o| o.0 == name).flat_map(|o| o.1));
    let warning = |unknown: UnknownKey| {
        let key = unknown.key.as_str();
        let of = backends_with(key);
        let hint = if name == "extension"
            && key.eq_ignore_ascii_case("ShutdownCommand")
        {
            Hint::NeverRun
        } else if !of.is_empty() {
            Hint::OtherBackend { of, not: name }
        } else if outside.iter().any(|k| key.eq_ignore_ascii_case(k)) {
            Hint::TopLevel
        } else {
            unknown.nearest.map_or(Hint::None, Hint::Nearest)
        };
        Warning { key: unknown.path, hint }
    };
    options.unknown(&known).into_iter().map(warning).collect()
}

fn backends_with(key: &str) -> Vec<&'static str> {
    OPTIONS
        .iter()
        .filter(|(_, keys)| keys.iter().any(|k| k.eq_ignore_ascii_case(key)))
        .map(|(name, _)| *name)
        .collect()
}
