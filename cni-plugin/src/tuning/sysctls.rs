//! Which settings may be written (TU-2).

use std::collections::BTreeMap;
use std::io::ErrorKind;

use regex::Regex;

use crate::protocol::CniError;

/// What stands for the interface's name in a key.
pub(super) const IFNAME: &str = "IFNAME";
/// Regular expressions, one a line, of the keys that may be written; all
/// where there is no such file.
const ALLOWED: &str = "/etc/cni/tuning/allowlist.conf";

/// The files below `/proc/sys` and their values.
///
/// # Errors
/// Code 7 for a key that is no setting of a network namespace, or not
/// allowed; code 5 when the list of those allowed cannot be read.
pub(super) fn resolve(
    wanted: &BTreeMap<String, String>,
    ifname: &str,
) -> Result<Vec<(String, String)>, CniError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let text = match std::fs::read_to_string(ALLOWED) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => {
            let msg = format!("{ALLOWED} cannot be read: {e}");
            return Err(CniError::io(&e, msg));
        }
    };
    let allowed = text.as_deref().map(allowlist).transpose()?;
    resolve_with(wanted, ifname, allowed.as_deref())
}

pub(super) fn resolve_with(
    wanted: &BTreeMap<String, String>,
    ifname: &str,
    allowed: Option<&[Regex]>,
) -> Result<Vec<(String, String)>, CniError> {
    let mut out = BTreeMap::new();
    for (key, value) in wanted {
        if let Some(allowed) = allowed
            && !allowed.iter().any(|pattern| pattern.is_match(key))
        {
            return Err(CniError::config(format!(
                "sysctl {key:?} is not allowed on this node; see {ALLOWED}"
            )));
        }
        let path = path(key, ifname)?;
        if out.insert(path, value.clone()).is_some() {
            return Err(CniError::config(
                "duplicated sysctl keys are not allowed",
            )
            .details(key));
        }
    }
    Ok(out.into_iter().collect())
}

/// Each expression must match a key from end to end (CW-16: upstream's match
/// anywhere in it).
///
/// # Errors
/// Code 7 for a line that is no regular expression.
pub(super) fn allowlist(text: &str) -> Result<Vec<Regex>, CniError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            Regex::new(&format!("^(?:{line})$")).map_err(|e| {
                CniError::config(format!("{ALLOWED}: {line:?}: {e}"))
            })
        })
        .collect()
}

/// A key with dots or slashes. The interface's name may hold dots; it is put
/// in afterwards.
fn path(key: &str, ifname: &str) -> Result<String, CniError> {
    let path = key.replace('.', "/").replacen(IFNAME, ifname, 1);
    let parts: Vec<&str> = path.split('/').collect();
    let odd = |part: &&str| part.is_empty() || *part == "." || *part == "..";
    let inside = parts.first() == Some(&"net") && parts.len() > 1;
    match inside && !parts.iter().any(odd) {
        true => Ok(path),
        false => Err(CniError::config(format!(
            "invalid net sysctl key: {path:?} (only settings below net are a \
             pod's own)"
        ))),
    }
}
