//! JSON as Go's `encoding/json` reads and writes it.
//!
//! Everything a flannel cluster shares (net-conf, lease values, annotations,
//! CNI configurations and results) is read and written by Go programs, and
//! Go's habits are part of those contracts (N-1..N-4, E-17, S-32):
//!
//! * keys match without regard to case;
//! * of repeated keys the last one counts;
//! * `null` leaves the default;
//! * unknown keys are ignored (here they can be listed, for a warning);
//! * a value of the wrong type is an error, also under a repeated key;
//! * numbers are read from their literal: `1e2` and `1.0` are no integers;
//! * `<`, `>`, `&`, U+2028 and U+2029 are written as `\u00xx`/`\u202x`, even
//!   inside raw values, which otherwise keep order and spelling.
//!
//! ```
//! let conf = ipam::gojson::Object::parse(r#"{"SUBNETLEN": 24, "x": 1}"#)?;
//! assert_eq!(conf.uint("SubnetLen")?, Some(24));
//! assert_eq!(conf.string("Network")?, None);
//! assert_eq!(conf.unknown(&["SubnetLen", "Network"])[0].path, "x");
//! # Ok::<(), ipam::gojson::Error>(())
//! ```
//!
//! A text is gone through once, which says where each value begins and ends;
//! [`Value`] is one of them, and its text survives verbatim. Text that may hold broken UTF-8 goes through
//! [`String::from_utf8_lossy`] first, which is what Go does inside strings.

mod nearest;
mod scan;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use nearest::nearest;
pub use value::{Document, Integer, Object, UnknownKey, Value, parse};
pub use write::{compact, to_lines, to_string};

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not JSON, or something follows the value.
    #[error("not valid JSON at line {line}, column {column}: {what}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was found there.
        what: String,
    },
    /// A value has another type than its key needs.
    #[error("{path} is {got}, but must be {want}")]
    Type {
        /// Where: `Backend.VNI`, `ranges[0][1].subnet`; for the whole text
        /// `the document`.
        path: String,
        /// What is there, shortened.
        got: String,
        /// What would be accepted.
        want: String,
    },
}
