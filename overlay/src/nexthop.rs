//! Ids of nexthop objects.
//!
//! An object's id is a function of its device and gateway, so that a
//! restarted daemon finds its own without a record of them. Ids have the
//! highest bit set: other programs count up from 1, the kernel itself picks
//! from below as well.

use std::net::IpAddr;

use crate::IfName;

const RANGE: u32 = 1 << 31;

/// Whether `id` lies in the range ours are in.
#[must_use]
pub const fn is_ours(id: u32) -> bool {
    id & RANGE != 0
}

/// The id for a gateway on a device: a 64-bit FNV-1a hash of both, folded to
/// 31 bits, above the range's lower end. Two pairs may share one (by chance
/// once in some 170 clusters of 5,000 nodes): the planner gives it to the
/// first and a plain route to the other.
#[must_use]
pub fn id(link: IfName, gateway: IpAddr) -> u32 {
    let mut hash = Fnv::default();
    hash.write(link.as_str().as_bytes());
    hash.write(&[0]);
    match gateway {
        IpAddr::V4(addr) => hash.write(&addr.octets()),
        IpAddr::V6(addr) => hash.write(&addr.octets()),
    }
    let folded = hash.0 ^ (hash.0 >> 32);
    (folded as u32) | RANGE
}

/// Fowler–Noll–Vo 1a, 64 bits (draft-eastlake-fnv).
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_the_same_from_release_to_release() {
        let id = |link: &str, gateway: &str| {
            id(IfName::new(link).unwrap(), gateway.parse().unwrap())
        };
        assert_eq!(id("flannel.1", "10.5.2.0"), V4);
        assert_eq!(id("flannel-v6.1", "fd00:5:0:2::"), V6);
        assert_ne!(id("flannel.2", "10.5.2.0"), V4);
        assert!(is_ours(V4) && is_ours(V6) && !is_ours(1));
    }

    const V4: u32 = 3_519_912_847;
    const V6: u32 = 2_731_491_827;

    #[test]
    fn the_hash_is_fnv_1a() {
        // test vector of draft-eastlake-fnv
        let mut hash = Fnv::default();
        hash.write(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
