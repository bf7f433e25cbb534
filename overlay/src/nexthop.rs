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

/// Fowler–Noll–Vo 1a, 64 bits (RFC 9923).
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
