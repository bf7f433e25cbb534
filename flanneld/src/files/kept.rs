//! Reading the daemon's own JSON files, which anybody may have written.

use std::path::Path;
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The content of `file`, if there is one.
///
/// # Errors
/// The system's, and for a file above `longest` bytes, which is not ours.
pub(super) fn bytes(
    file: &Path,
    longest: u64,
) -> Result<Option<Vec<u8>>, String> {
    match fs::metadata(file) {
        Ok(meta) if meta.len() > longest => {
            return Err("it is too long to be the daemon's".to_owned());
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    }
    fs::read(file).map(Some).map_err(|e| e.to_string())
}

/// The value in `bytes`, if it is of the form `version`.
///
/// # Errors
/// In words, what is wrong with it.
pub(super) fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    version: u32,
) -> Result<T, String> {
    let found: Versioned =
        serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if found.version != version {
        return Err(format!(
            "it has version {}, this daemon writes {version}",
            found.version
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}
