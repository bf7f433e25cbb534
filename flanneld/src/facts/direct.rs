//! Which peers are reached without a router between.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{End, PathTo};

/// The peers to which the kernel has exactly one path and that without a
/// gateway (B-4). A multipath route is not direct, an address of our own is
/// not a peer's, and a peer the kernel cannot reach is not direct either.
///
/// `lookup` is the kernel's route lookup (`RTM_GETROUTE`).
pub fn direct<E>(
    peers: impl IntoIterator<Item = IpAddr>,
    mut lookup: impl FnMut(IpAddr) -> Result<PathTo, E>,
) -> BTreeSet<IpAddr> {
    peers
        .into_iter()
        .filter(|peer| {
            lookup(*peer).is_ok_and(|path| {
                !path.gateway && !path.multipath && path.end == End::Onward
            })
        })
        .collect()
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
        let found = direct((1..=6).map(ip), |peer| match peer {
            p if p == ip(1) => Ok(path()),
            p if p == ip(2) => Ok(PathTo { gateway: true, ..path() }),
            p if p == ip(3) => Ok(PathTo { multipath: true, ..path() }),
            p if p == ip(4) => Ok(PathTo { end: End::Here, ..path() }),
            p if p == ip(5) => Ok(PathTo { end: End::Nowhere, ..path() }),
            _ => Err("no route to host"),
        });
        assert_eq!(found, BTreeSet::from([ip(1)]));
    }
}
