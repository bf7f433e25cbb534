//! Names and marks made of hashes, by which upstream's plugins find what is
//! theirs again, and so do ours (BR-49, BR-53, PM-6, BW-4).

use sha2::{Digest, Sha512};

/// The longest name of an iptables chain that upstream's plugins make.
const CHAIN_LEN: usize = 28;

/// `prefix` and as much of the hex SHA-512 of `parts`, one after the other,
/// as makes `len` characters together.
pub(crate) fn name(prefix: &str, parts: &[&str], len: usize) -> String {
    let mut out = prefix.to_owned() + &hex(parts);
    out.truncate(len);
    out
}

/// The chain of one container in one network: `CNI-`, `CNI-DN-`.
pub(crate) fn chain(prefix: &str, network: &str, container_id: &str) -> String {
    name(prefix, &[network, container_id], CHAIN_LEN)
}

/// The first 16 hex digits.
pub(crate) fn short(parts: &[&str]) -> String {
    name("", parts, 16)
}

fn hex(parts: &[&str]) -> String {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BR-52, BR-54, PM-14, BW-7: what the Go plugins make.
    #[test]
    fn vectors() {
        assert_eq!(
            chain("CNI-", "test", "1234"),
            "CNI-2bbe0c48b91a7d1b8a6753a8"
        );
        assert_eq!(chain("CNI-", "tn", "cC"), "CNI-6715ee60897c985fa309707b");
        assert_eq!(
            chain("CNI-DN-", "tn", "cA"),
            "CNI-DN-8627aa4484433eaa48dbb"
        );
        assert_eq!(short(&["unit-test"]), "6fd94d501e58f0aa");
        assert_eq!(short(&["eth0", ":", "one"]), "287fc69eff0574a2");
        let ifb = name("bwp", &["cni-plugin-bandwidth-test", "dummy"], 15);
        assert_eq!(ifb, "bwpa8eda89404b7");
    }
}
