//! User data of tables, chains and rules: a list of (type, length, value),
//! by libnftnl's convention. The kernel keeps it and does not look at it.

use super::uapi::UDATA_COMMENT;

/// `comment` with its closing zero byte as the only entry.
pub(super) fn of_comment(comment: &str) -> Vec<u8> {
    // One that is too long the kernel refuses, whatever its length byte says.
    let len = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![UDATA_COMMENT, len];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// The comment among the entries; others, such as the version of the `nft`
/// that made the table, are passed over.
pub(super) fn comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let (value, after) = rest.split_at_checked(usize::from(*len))?;
        if *kind == UDATA_COMMENT {
            return Some(crate::wire::string(value));
        }
        bytes = after;
    }
    None
}
