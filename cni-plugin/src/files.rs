//! The small files that plugins keep about an attachment between ADD and DEL.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::protocol::CniError;

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), CniError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        // a name that is too long for a file has none
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::NotFound | ErrorKind::InvalidFilename
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(failed("remove", path, &e)),
    }
}

/// What could not be done to which file.
pub(crate) fn failed(doing: &str, path: &Path, e: &io::Error) -> CniError {
    CniError::io(e, format!("cannot {doing} {}: {e}", path.display()))
}
