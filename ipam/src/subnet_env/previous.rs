//! The file as flanneld reads it back (F-13).

use std::collections::BTreeMap;

use super::{Keys, cidr};
use crate::{Family, PerFamily, Subnet};

/// What an earlier run left in the file: a wish for the same subnet (E-23),
/// and the network whose rules may still be there (T-40).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// The cluster's networks then.
    pub networks: PerFamily<Subnet>,
    /// The node's subnets then.
    pub subnets: PerFamily<Subnet>,
    /// What could not be read and was skipped, one text each, for the log.
    pub problems: Vec<String>,
}

// === impl Previous ===

impl Previous {
    /// Reads a file, whoever wrote it: the rules are those of dotenv files
    /// (comments, quotes, `export`, the last assignment counts). A value may
    /// be a list; members that are no network of the family are skipped, and
    /// several that are mean nothing at all. Never fails.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        let mut values = BTreeMap::new();
        for line in text.lines() {
            if let Some((key, value)) = assignment(line) {
                values.insert(key, value);
            }
        }
        for family in Family::ALL {
            let keys = Keys::of(family);
            let mut read = |key: &str| {
                let value = values.get(key).copied().unwrap_or_default();
                only(key, value, family, &mut out.problems)
            };
            let (network, subnet) = (read(keys.network), read(keys.subnet));
            out.networks.set(family, network);
            out.subnets.set(family, subnet);
        }
        out
    }
}

/// The one network of a list, if there is just one.
fn only(
    key: &str,
    list: &str,
    family: Family,
    problems: &mut Vec<String>,
) -> Option<Subnet> {
    let mut found = Vec::new();
    for member in list.split(',').map(str::trim).filter(|m| !m.is_empty()) {
        match cidr(member, family) {
            // how upstream writes that there is none
            Some(net) if net.len() == 0 => {}
            Some(net) => found.push(net),
            None => problems.push(format!(
                "{key} holds {member:?}, which is no {family} network: \
                 skipped"
            )),
        }
    }
    match found.as_slice() {
        [] => None,
        [net] => Some(*net),
        several => {
            problems.push(format!(
                "{key} holds {} networks, of which none can be preferred: \
                 ignored",
                several.len()
            ));
            None
        }
    }
}

/// Key and value of a line, unless it is empty, a comment or no assignment.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once(['=', ':'])?;
    let value = value.trim_start();
    for quote in ['\'', '"'] {
        if let Some(rest) = value.strip_prefix(quote) {
            let (inner, _) = rest.split_once(quote)?;
            return Some((key.trim_end(), inner));
        }
    }
    // unquoted: a comment starts at a # behind white space
    let end = value
        .match_indices('#')
        .map(|(at, _)| value.get(..at).unwrap_or_default())
        .find(|before| {
            before.is_empty() || before.ends_with(char::is_whitespace)
        });
    Some((key.trim_end(), end.unwrap_or(value).trim_end()))
}
