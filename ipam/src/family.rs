//! The address family as a value, so that one code path serves both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An IP address family.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A value for each family that has one: at most one for IPv4, at most one
/// for IPv6. The single way in which dual stack is written in this project.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
)]
pub struct PerFamily<T> {
    /// The IPv4 value.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub v4: Option<T>,
    /// The IPv6 value.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub v6: Option<T>,
}

fn none<T>() -> Option<T> {
    None
}

// === impl Family ===

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `addr`.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Length of an address in bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// `0.0.0.0` or `::`.
    #[must_use]
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The address whose bits, read as one big-endian number, are `bits`.
    /// Bits beyond the family's length are dropped.
    #[must_use]
    pub const fn addr(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

// === impl PerFamily ===

impl<T> Default for PerFamily<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> PerFamily<T> {
    /// A value for `family` only.
    pub fn one(family: Family, value: T) -> Self {
        let mut out = Self::default();
        out.set(family, Some(value));
        out
    }

    /// Runs `f` for each family and keeps what it returns.
    pub fn from_fn(mut f: impl FnMut(Family) -> Option<T>) -> Self {
        Self { v4: f(Family::V4), v6: f(Family::V6) }
    }

    /// The value of `family`, if there is one.
    pub const fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Replaces the value of `family`.
    pub fn set(&mut self, family: Family, value: Option<T>) {
        match family {
            Family::V4 => self.v4 = value,
            Family::V6 => self.v6 = value,
        }
    }

    /// The values there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().filter_map(|f| Some((f, self.get(f)?)))
    }

    /// The families that have a value, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.iter().map(|(f, _)| f)
    }

    /// The same families with other values.
    pub fn map<U>(self, mut f: impl FnMut(Family, T) -> U) -> PerFamily<U> {
        PerFamily {
            v4: self.v4.map(|v| f(Family::V4, v)),
            v6: self.v6.map(|v| f(Family::V6, v)),
        }
    }

    /// Whether neither family has a value.
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

impl<T> FromIterator<(Family, T)> for PerFamily<T> {
    fn from_iter<I: IntoIterator<Item = (Family, T)>>(iter: I) -> Self {
        let mut out = Self::default();
        for (family, value) in iter {
            out.set(family, Some(value));
        }
        out
    }
}
