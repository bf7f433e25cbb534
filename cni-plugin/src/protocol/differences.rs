//! What CHECK finds (S-62): all of it, so that one look is enough.

use std::fmt::Display;

use super::{CniError, code};

/// As many are named; whoever has that many sees what has happened.
const MOST: usize = 16;

/// How an attachment differs from what ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences(Vec<String>);

// === impl Differences ===

impl Differences {
    /// One more.
    pub(crate) fn add(&mut self, what: impl Display) {
        self.0.push(what.to_string());
    }

    /// One more unless `so`.
    pub(crate) fn expect(&mut self, so: bool, otherwise: impl Display) {
        if !so {
            self.add(otherwise);
        }
    }

    /// What another look has found.
    ///
    /// # Errors
    /// When that has failed for another reason than a difference.
    pub(crate) fn note(
        &mut self,
        result: Result<(), CniError>,
    ) -> Result<(), CniError> {
        match result {
            Err(e) if e.code == code::DIFFERS => {
                self.add(e);
                Ok(())
            }
            other => other,
        }
    }

    /// The outcome of CHECK.
    ///
    /// # Errors
    /// Code 100 with all of them, as far as they can be read.
    pub(crate) fn end(mut self) -> Result<(), CniError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let more = self.0.len().saturating_sub(MOST);
        self.0.truncate(MOST);
        if more > 0 {
            self.add(format_args!("and {more} more"));
        }
        Err(CniError::new(code::DIFFERS, self.0.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_named_but_a_flood() {
        assert_eq!(Differences::default().end(), Ok(()));
        let mut found = Differences::default();
        found.expect(true, "a");
        found.expect(false, "b");
        let other = CniError::new(code::DIFFERS, "c");
        assert_eq!(found.note(Err(other)), Ok(()));
        let failed = CniError::internal("d");
        assert_eq!(found.note(Err(failed.clone())), Err(failed));
        let error = found.clone().end().unwrap_err();
        assert_eq!((error.code, &*error.msg), (100, "b; c"));
        (0..40).for_each(|n| found.add(n));
        let msg = found.end().unwrap_err().msg;
        assert!(
            msg.starts_with("b; c; 0; ") && msg.ends_with("13; and 26 more")
        );
    }
}
