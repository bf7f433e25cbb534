//! Which peers are reached without a router between.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{End, PathTo};

/// The peers to which the kernel has exactly one path and that without a
/// gateway (B-4). A multipath route is not direct, an address of our own is
/// not a peer's, and a peer the kernel cannot reach (`None`) is not direct
/// either.
///
/// `lookup` is the kernel's route lookup (`RTM_GETROUTE`).
///
/// # Errors
/// The first of `lookup`: a peer of which nothing is known must not lose its
/// route for that.
pub fn direct<E>(
    peers: impl IntoIterator<Item = IpAddr>,
    mut lookup: impl FnMut(IpAddr) -> Result<Option<PathTo>, E>,
) -> Result<BTreeSet<IpAddr>, E> {
    let mut direct = BTreeSet::new();
    for peer in peers {
        let one_hop = lookup(peer)?.is_some_and(|path| {
            !path.gateway && !path.multipath && path.end == End::Onward
        });
        if one_hop {
            direct.insert(peer);
        }
    }
    Ok(direct)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathTo {
        PathTo {
            link: Some(2),
            source: None,
            gateway: false,
            multipath: false,
            end: End::Onward,
        }
    }

    #[test]
    fn one_path_without_gateway_is_direct() {
        let ip = |n| IpAddr::from([10, 0, 0, n]);
        let lookup = |peer| {
            Ok(match peer {
                p if p == ip(1) => Some(path()),
                p if p == ip(2) => Some(PathTo { gateway: true, ..path() }),
                p if p == ip(3) => Some(PathTo { multipath: true, ..path() }),
                p if p == ip(4) => Some(PathTo { end: End::Here, ..path() }),
                p if p == ip(5) => Some(PathTo { end: End::Nowhere, ..path() }),
                p if p == ip(6) => None,
                _ => return Err("no answer"),
            })
        };
        let found = direct((1..=6).map(ip), lookup);
        assert_eq!(found, Ok(BTreeSet::from([ip(1)])));
        assert_eq!(direct((1..=7).map(ip), lookup), Err("no answer"));
    }
}
