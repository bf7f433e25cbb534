//! The byte level of netlink: writing one message, taking received bytes
//! apart. Lengths and numbers are in host byte order unless said otherwise.

use std::net::IpAddr;

use ipam::Family;

mod decode;
mod encode;
#[cfg(test)]
mod tests;
pub(crate) mod uapi;

pub(crate) use decode::{
    Attrs, Malformed, Messages, RawMessage, i32_at, ip, mac, string, u8_at,
    u16_at, u16_be_at, u32_at, u32_be_at, u64_be_at, u64_ne_at,
};
pub(crate) use encode::{HEADER, Message};

/// Attribute and message alignment.
const ALIGN: usize = 4;

/// `AF_INET` or `AF_INET6`.
pub(crate) const fn af(family: Family) -> u8 {
    match family {
        Family::V4 => uapi::AF_INET,
        Family::V6 => uapi::AF_INET6,
    }
}

/// [`af`] of an address.
pub(crate) const fn af_of(ip: IpAddr) -> u8 {
    af(Family::of(ip))
}

/// The family of an `AF_` number; `None` for those without IP addresses.
pub(crate) const fn family(af: u8) -> Option<Family> {
    match af {
        uapi::AF_INET => Some(Family::V4),
        uapi::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

/// `len` rounded up to the alignment.
const fn aligned(len: usize) -> usize {
    len.saturating_add(ALIGN - 1) & !(ALIGN - 1)
}
