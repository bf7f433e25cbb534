//! An address with a prefix length, host bits kept (S-33).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipam::pool::{RangeError, parse_cidr};
use ipam::{Family, Subnet};
use serde::{Serialize, Serializer};

/// `10.9.0.2/24`: an address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cidr {
    /// The address, host bits included; never an IPv4-mapped one.
    pub(crate) ip: IpAddr,
    /// The prefix length in bits, at most the family's.
    pub(crate) len: u8,
}

// === impl Cidr ===

impl Cidr {
    /// The default route's destination.
    pub(crate) const fn any(family: Family) -> Self {
        Self { ip: family.unspecified(), len: 0 }
    }

    /// The family.
    pub(crate) const fn family(&self) -> Family {
        Family::of(self.ip)
    }

    /// The network it lies in; `None` when the length is too long.
    pub(crate) fn network(&self) -> Option<Subnet> {
        Subnet::new(self.ip, self.len).ok()
    }

    /// Whether this is the destination of a default route.
    pub(crate) fn is_any(&self) -> bool {
        *self == Self::any(self.family())
    }
}

impl FromStr for Cidr {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (ip, len) = parse_cidr(text)?;
        Ok(Self { ip, len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Reads an address as Go does: an IPv4-mapped one is IPv4 (S-33).
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CT-45
    #[test]
    fn texts() {
        for (text, out) in [
            ("10.1.2.3/16", "10.1.2.3/16"),
            ("fd00::5/64", "fd00::5/64"),
            ("::ffff:10.0.0.1/120", "10.0.0.1/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), out);
        }
        for text in
            ["10.1.2.3", "10.1.2.3/33", "10.1.2.3/", "x/8", "10.1.2.3/+8"]
        {
            let error = text.parse::<Cidr>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("invalid CIDR address: {text}")
            );
        }
    }

    #[test]
    fn default_route() {
        assert!("::/0".parse::<Cidr>().unwrap().is_any());
        assert!(!"::1/0".parse::<Cidr>().unwrap().is_any());
        assert!(!"0.0.0.0/1".parse::<Cidr>().unwrap().is_any());
    }
}
