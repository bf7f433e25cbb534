//! User data of tables, chains and rules: a list of (type, length, value),
//! by libnftnl's convention. The kernel keeps it and does not look at it.

use super::uapi::UDATA_COMMENT;

/// Type of a rule's note: none of libnftnl's, which passes over others.
const NOTE: u8 = 0xf1;

/// `comment` as the only entry.
pub(super) fn of_comment(comment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry(&mut bytes, UDATA_COMMENT, comment);
    bytes
}

/// A rule's entries; `None` when it has none.
pub(super) fn of_rule(
    comment: Option<&str>,
    note: Option<&str>,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (kind, text) in [(UDATA_COMMENT, comment), (NOTE, note)] {
        if let Some(text) = text {
            entry(&mut bytes, kind, text);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// A text with its closing zero byte.
fn entry(bytes: &mut Vec<u8>, kind: u8, text: &str) {
    // One that is too long the kernel refuses, whatever its length byte says.
    let len = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    bytes.extend_from_slice(&[kind, len]);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

/// The comment among the entries; others, such as the version of the `nft`
/// that made the table, are passed over.
pub(super) fn comment(bytes: &[u8]) -> Option<String> {
    find(bytes, UDATA_COMMENT)
}

/// The note among a rule's entries.
pub(super) fn note(bytes: &[u8]) -> Option<String> {
    find(bytes, NOTE)
}

fn find(mut bytes: &[u8], wanted: u8) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let (value, after) = rest.split_at_checked(usize::from(*len))?;
        if *kind == wanted {
            return Some(crate::wire::string(value));
        }
        bytes = after;
    }
    None
}
