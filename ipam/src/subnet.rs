//! A subnet of either family and the arithmetic on it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::Family;

/// A network in CIDR form whose host bits are zero.
///
/// Ordered by family, base address, then length.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNetwork);

/// Why a text or a pair of address and length is not a subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// The text has no `address/length` form.
    #[error("{0:?} is not an address followed by /length")]
    Text(String),
    /// The length is beyond 32 or 128.
    #[error("prefix length {1} is too long for {0}")]
    Length(IpAddr, u8),
}

// === impl Subnet ===

impl Subnet {
    /// The network of `len` bits that holds `addr`; host bits are dropped.
    ///
    /// # Errors
    /// [`SubnetError::Length`] when `len` exceeds the family's length.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, SubnetError> {
        let net = IpNetwork::new(addr, len)
            .map_err(|_| SubnetError::Length(addr, len))?;
        IpNetwork::new(net.network(), len)
            .map(Self)
            .map_err(|_| SubnetError::Length(addr, len))
    }

    /// The single-address network of `addr` (`/32` or `/128`).
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self(addr.into())
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.0 {
            IpNetwork::V4(_) => Family::V4,
            IpNetwork::V6(_) => Family::V6,
        }
    }

    /// The network's own address: all host bits zero.
    #[must_use]
    pub fn base(&self) -> IpAddr {
        self.0.ip()
    }

    /// The prefix length in bits.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a prefix length, not a count"
    )]
    pub fn len(&self) -> u8 {
        self.0.prefix()
    }

    /// The address after the base: what the pods' gateway gets (F-3).
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.family().addr(self.base_bits().wrapping_add(1))
    }

    /// The last address: the broadcast address in IPv4.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.family().addr(self.base_bits() | self.host_mask())
    }

    /// Whether `addr` lies inside. Never across families.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.contains(addr)
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.contains(other.base())
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The `n`th network of the same length after this one; `None` past the
    /// end of the address space.
    #[must_use]
    pub fn nth(&self, n: u128) -> Option<Self> {
        let host_bits = u32::from(self.family().bits() - self.len());
        let step = n.checked_mul(
            1u128.checked_shl(host_bits).or((n == 0).then_some(0))?,
        )?;
        let bits = self.base_bits().checked_add(step)?;
        if self.family() == Family::V4 && bits > u128::from(u32::MAX) {
            return None;
        }
        Self::new(self.family().addr(bits), self.len()).ok()
    }

    /// The base address as a number.
    #[must_use]
    pub fn base_bits(&self) -> u128 {
        addr_bits(self.base())
    }

    fn host_mask(&self) -> u128 {
        let host_bits = u32::from(self.family().bits() - self.len());
        1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1)
    }
}

/// `addr` as one big-endian number.
#[must_use]
pub(crate) const fn addr_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_bits() as u128,
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.len())
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let bad = || SubnetError::Text(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(bad)?;
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(addr, len.parse().map_err(|_| bad())?)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_dropped() {
        assert_eq!(net("10.3.4.5/16").to_string(), "10.3.0.0/16");
        assert_eq!(net("fd00:1::5/64").to_string(), "fd00:1::/64");
    }

    #[test]
    fn steps_stop_at_the_end_of_the_address_space() {
        assert_eq!(net("10.3.0.0/24").nth(2), Some(net("10.3.2.0/24")));
        assert_eq!(net("255.255.255.0/24").nth(1), None);
        assert_eq!(net("ffff:ffff:ffff:ffff::/64").nth(1), None);
        assert_eq!(net("0.0.0.0/0").nth(0), Some(net("0.0.0.0/0")));
        assert_eq!(net("::/0").nth(0), Some(net("::/0")));
        assert_eq!(net("::/0").nth(1), None);
    }

    #[test]
    fn overlap_is_symmetric_and_never_crosses_families() {
        assert!(net("10.0.0.0/8").overlaps(&net("10.3.0.0/24")));
        assert!(net("10.3.0.0/24").overlaps(&net("10.0.0.0/8")));
        assert!(!net("10.3.0.0/24").overlaps(&net("10.3.1.0/24")));
        assert!(!net("0.0.0.0/0").overlaps(&net("::/0")));
    }

    #[test]
    fn first_and_last_address() {
        assert_eq!(net("10.3.1.0/24").gateway().to_string(), "10.3.1.1");
        assert_eq!(net("10.3.1.0/24").last().to_string(), "10.3.1.255");
        assert_eq!(net("fd00::/64").gateway().to_string(), "fd00::1");
        assert_eq!(net("::/0").last(), IpAddr::from([0xff; 16]));
    }

    #[test]
    fn bad_text_is_named() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
