//! The key of a lease: its subnets as text.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Family, PerFamily, Subnet};

#[cfg(test)]
mod tests;

/// The subnets of one lease, at least one and at most one per family; the
/// last segment of the lease's key in etcd (E-2):
///
/// | families | text |
/// |---|---|
/// | IPv4 | `10.5.52.0-24` |
/// | both | `10.12.13.0-24&fd00:12:13::-56` |
/// | IPv6 | `0.0.0.0-0&fd00:0:0:1::-64` |
///
/// Text and value correspond one to one: only the text that [`Display`] (and
/// upstream) writes is read as a key. Upstream also reads keys with host
/// bits, which it keeps, and such with leading zeros or anything before the
/// address, beside which it then writes another; here these are
/// [`KeyError::Spelling`], which names what they occupy.
///
/// Ordered by IPv4 subnet (none first), then IPv6 subnet.
///
/// [`Display`]: fmt::Display
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct SubnetKey(PerFamily<Subnet>);

/// Why something is not the key of a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text names no subnet (E-3).
    #[error(
        "{0:?} is not a subnet key; one looks like 10.5.52.0-24, \
         10.5.52.0-24&fd00:5:52::-64 or 0.0.0.0-0&fd00:5:52::-64"
    )]
    NotASubnet(String),
    /// The text names subnets, but in another way than they are written.
    #[error("subnet key {text:?} must be written {key}: rename it")]
    Spelling {
        /// The text.
        text: String,
        /// What it means.
        key: SubnetKey,
    },
    /// No subnet of either family.
    #[error("a lease needs a subnet of at least one family")]
    Empty,
    /// A subnet that has no key: its length is 0 or that of one address, it
    /// stands in the other family's place, or it is IPv4-mapped IPv6.
    #[error(
        "{0} cannot be leased: it must be an IPv4 subnet of length 1 to 31 \
         or a true IPv6 subnet of length 1 to 127"
    )]
    Unusable(Subnet),
}

// === impl SubnetKey ===

impl SubnetKey {
    /// The key of these subnets.
    ///
    /// # Errors
    /// [`KeyError::Empty`], or [`KeyError::Unusable`] for a subnet that
    /// upstream would refuse to read (E-3) or read as something else.
    pub fn new(subnets: PerFamily<Subnet>) -> Result<Self, KeyError> {
        if subnets.is_empty() {
            return Err(KeyError::Empty);
        }
        for (family, subnet) in subnets.iter() {
            // 0 is how a missing family is written; the full length does not
            // fit into the bits upstream parses it into
            let length_fits = (1..family.bits()).contains(&subnet.len());
            let mapped = match subnet.base() {
                IpAddr::V4(_) => false,
                IpAddr::V6(base) => base.to_ipv4_mapped().is_some(),
            };
            if subnet.family() != family || !length_fits || mapped {
                return Err(KeyError::Unusable(*subnet));
            }
        }
        Ok(Self(subnets))
    }

    /// Reads a key, given whole (`/coreos.com/network/subnets/10.5.52.0-24`)
    /// or from after its last slash.
    ///
    /// # Errors
    /// [`KeyError::NotASubnet`] or [`KeyError::Spelling`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let segment = text.rsplit('/').next().unwrap_or(text);
        let key = read_loosely(segment)
            .ok_or_else(|| KeyError::NotASubnet(excerpt(text)))?;
        if is_spelled(&key, segment) {
            Ok(key)
        } else {
            Err(KeyError::Spelling { text: excerpt(text), key })
        }
    }

    /// The subnets.
    #[must_use]
    pub const fn subnets(&self) -> &PerFamily<Subnet> {
        &self.0
    }

    /// The subnet of `family`, if the lease has one.
    #[must_use]
    pub const fn get(&self, family: Family) -> Option<Subnet> {
        self.0.get(family).copied()
    }

    /// Whether the two share an address in either family. A family that one
    /// of them lacks has nothing to share (W-10).
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|(family, subnet)| {
            other.get(family).is_some_and(|o| o.overlaps(subnet))
        })
    }
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.v4 {
            Some(v4) => write!(f, "{}-{}", v4.base(), v4.len())?,
            None => f.write_str("0.0.0.0-0")?,
        }
        match &self.0.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.base(), v6.len()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SubnetKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SubnetKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<SubnetKey> for String {
    fn from(key: SubnetKey) -> Self {
        key.to_string()
    }
}

/// What upstream's parser finds at the end of `segment` (E-3), host bits
/// dropped. `None` where it finds nothing, or something that is no key here.
fn read_loosely(segment: &str) -> Option<SubnetKey> {
    let (head, v6) = match split_v6(segment) {
        Some((head, v6)) => (head, Some(v6)),
        None => (segment, None),
    };
    let (addr, len) = head.rsplit_once('-')?;
    let v4 = subnet(Family::V4, last_quad(addr), len)?;
    let v6 = match v6 {
        Some((addr, len)) => Some(subnet(Family::V6, addr, len)?),
        None => None,
    };
    let v4 = (v4.len() > 0).then_some(v4);
    SubnetKey::new(PerFamily { v4, v6 }).ok()
}

/// Splits `<head>&<address>-<length>`, if the end has that form: lower-case
/// hexadecimal digits and colons, then decimal digits.
fn split_v6(segment: &str) -> Option<(&str, (&str, &str))> {
    let (head, tail) = segment.rsplit_once('&')?;
    let (addr, len) = tail.rsplit_once('-')?;
    let addr_chars = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b':');
    (!addr.is_empty() && addr.bytes().all(addr_chars) && is_digits(len))
        .then_some((head, (addr, len)))
}

/// The last four parts of the digits and dots at the end of `text`: the
/// pattern is not anchored at its start.
fn last_quad(text: &str) -> &str {
    let junk = text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let run = text.strip_prefix(junk).unwrap_or(text);
    match run.rmatch_indices('.').nth(3) {
        Some((dot, _)) => run.get(dot + 1..).unwrap_or(run),
        None => run,
    }
}

/// The subnet with these texts for address and length, if they are of
/// `family` and the length is shorter than an address.
fn subnet(family: Family, addr: &str, len: &str) -> Option<Subnet> {
    let addr: IpAddr = addr.parse().ok()?;
    if Family::of(addr) != family || !is_digits(len) {
        return None;
    }
    let len = len.parse().ok().filter(|len| *len < family.bits())?;
    Subnet::new(addr, len).ok()
}

/// Whether `key` is written `text`. Every key of the store is read, thousands
/// at a start: nothing is written down for it.
fn is_spelled(key: &SubnetKey, text: &str) -> bool {
    struct Rest<'a>(&'a str);
    impl fmt::Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(text);
    write!(rest, "{key}").is_ok() && rest.0.is_empty()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Enough of a foreign key to recognise it; etcd allows megabytes.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut out: String = text.chars().take(SHOWN).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}
