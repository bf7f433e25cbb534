//! Small things the steps share.

use std::hash::{BuildHasher, RandomState};

use netlink::addr::AddrSpec;
use netlink::{Error, sysctl};

use crate::cidr::Cidr;
use crate::protocol::{CniError, log};

/// An address as it is put on a link; `detect` keeps duplicate address
/// detection.
pub(crate) fn address(index: u32, cidr: &Cidr, detect: bool) -> AddrSpec {
    let has_broadcast = cidr.ip.is_ipv4() && cidr.len < 31;
    let network = cidr.network().filter(|_| has_broadcast);
    let broadcast = network.map(|network| network.last());
    let nodad = cidr.ip.is_ipv6() && !detect;
    AddrSpec { index, ip: cidr.ip, len: cidr.len, nodad, broadcast }
}

/// The first failure of several requests.
pub(crate) fn all(results: Vec<Result<(), Error>>) -> Result<(), Error> {
    results.into_iter().collect()
}

/// What is not there any more need not be removed.
pub(crate) fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// Refuses a link name that the kernel would take for a pattern and make
/// another name of.
pub(crate) fn no_pattern(
    what: &str,
    name: &str,
    code: u32,
) -> Result<(), CniError> {
    if !name.contains('%') {
        return Ok(());
    }
    let msg = format!("{what} is {name:?}, but must not contain %");
    Err(CniError::new(code, msg))
}

/// A pod's cable has one queue in each direction. The kernel would use no more
/// unless told to, but makes room and a folder in sysfs for as many as the
/// machine can have processors, and takes the folders away: with two of them a
/// third of what a pair costs.
pub(crate) const QUEUES: Option<u32> = Some(1);

/// Lets a link have IPv6 addresses.
pub(crate) fn enable_ipv6(link: &str) -> Result<(), CniError> {
    let key = format!("net/ipv6/conf/{link}/disable_ipv6");
    match sysctl::write_if_different(&key, "0") {
        Err(e) if e.is_missing() => Err(CniError::internal(format_args!(
            "{link} can have no IPv6 address: its MTU is below 1280, or the \
             kernel has IPv6 off"
        ))
        .details(e.to_string())),
        other => other.map(drop).map_err(CniError::from),
    }
}

/// For settings that upstream sets if it can (BR-23, BR-27, BR-32).
pub(crate) fn ignore<T>(result: Result<T, sysctl::SysctlError>) {
    match result {
        Err(e) if !e.is_missing() => log(e),
        _ => {}
    }
}

/// Numbers nobody needs to be unable to guess: the keys of a new hash table
/// come from the kernel's random source.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn broadcast_and_duplicate_detection() {
        let spec = address(7, &cidr("10.1.0.2/24"), false);
        assert_eq!(spec.broadcast, Some("10.1.0.255".parse().unwrap()));
        assert!(!spec.nodad);
        assert_eq!(address(7, &cidr("10.1.0.2/31"), false).broadcast, None);
        assert!(address(7, &cidr("fd00::2/64"), false).nodad);
        assert!(!address(7, &cidr("fd00::2/64"), true).nodad);
    }

    #[test]
    fn texts_and_numbers() {
        assert_ne!(random(), random());
    }
}
