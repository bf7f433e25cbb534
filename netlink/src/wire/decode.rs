use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{HEADER, aligned, uapi::NLA_TYPE_MASK};

/// Received bytes that are not what they should be; says which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawMessage<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Port of the socket whose request led to the message; 0 is the kernel
    /// itself.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram. Ends after the first malformed one.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a>(&'a [u8]);

/// The attributes in a stretch of bytes, as (type without flags, value).
/// Ends after the first malformed one.
#[derive(Clone, Debug)]
pub(crate) struct Attrs<'a>(&'a [u8]);

// === impl Messages ===

impl<'a> Messages<'a> {
    pub(crate) const fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }

    fn take(&mut self) -> Result<RawMessage<'a>, Malformed> {
        const WHAT: Malformed = Malformed("netlink header");
        let buf = std::mem::take(&mut self.0);
        let len = usize::try_from(u32_at(buf, 0).ok_or(WHAT)?);
        let len = len.map_err(|_| WHAT)?;
        let message = RawMessage {
            kind: u16_at(buf, 4).ok_or(WHAT)?,
            flags: u16_at(buf, 6).ok_or(WHAT)?,
            seq: u32_at(buf, 8).ok_or(WHAT)?,
            port: u32_at(buf, 12).ok_or(WHAT)?,
            payload: buf.get(HEADER..len).ok_or(WHAT)?,
        };
        self.0 = buf.get(aligned(len)..).unwrap_or_default();
        Ok(message)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<RawMessage<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.take())
    }
}

// === impl Attrs ===

impl<'a> Attrs<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The attributes after a fixed header of `header` bytes.
    pub(crate) fn after(
        payload: &'a [u8],
        header: usize,
    ) -> Result<Self, Malformed> {
        payload
            .get(aligned(header)..)
            .or_else(|| (payload.len() == header).then_some(&[][..]))
            .map(Self)
            .ok_or(Malformed("fixed header"))
    }

    fn take(&mut self) -> Result<(u16, &'a [u8]), Malformed> {
        const WHAT: Malformed = Malformed("attribute header");
        let buf = std::mem::take(&mut self.0);
        let len = usize::from(u16_at(buf, 0).ok_or(WHAT)?);
        let kind = u16_at(buf, 2).ok_or(WHAT)? & NLA_TYPE_MASK;
        let value = buf.get(4..len).ok_or(WHAT)?;
        self.0 = buf.get(aligned(len)..).unwrap_or_default();
        Ok((kind, value))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.take())
    }
}

// === values ===

/// `N` bytes at `at`; `None` when there are fewer.
pub(crate) fn bytes_at<const N: usize>(
    buf: &[u8],
    at: usize,
) -> Option<[u8; N]> {
    buf.get(at..)?.first_chunk().copied()
}

pub(crate) fn u8_at(buf: &[u8], at: usize) -> Option<u8> {
    buf.get(at).copied()
}

pub(crate) fn u16_at(buf: &[u8], at: usize) -> Option<u16> {
    bytes_at(buf, at).map(u16::from_ne_bytes)
}

pub(crate) fn u16_be_at(buf: &[u8], at: usize) -> Option<u16> {
    bytes_at(buf, at).map(u16::from_be_bytes)
}

pub(crate) fn u32_at(buf: &[u8], at: usize) -> Option<u32> {
    bytes_at(buf, at).map(u32::from_ne_bytes)
}

pub(crate) fn u32_be_at(buf: &[u8], at: usize) -> Option<u32> {
    bytes_at(buf, at).map(u32::from_be_bytes)
}

pub(crate) fn u64_be_at(buf: &[u8], at: usize) -> Option<u64> {
    bytes_at(buf, at).map(u64::from_be_bytes)
}

pub(crate) fn u64_ne_at(buf: &[u8], at: usize) -> Option<u64> {
    bytes_at(buf, at).map(u64::from_ne_bytes)
}

pub(crate) fn i32_at(buf: &[u8], at: usize) -> Option<i32> {
    bytes_at(buf, at).map(i32::from_ne_bytes)
}

/// A text up to its zero byte; bytes that are not UTF-8 are replaced.
pub(crate) fn string(value: &[u8]) -> String {
    let text = value.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An address of 4 or 16 bytes.
pub(crate) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => bytes_at(value, 0).map(|b: [u8; 4]| Ipv4Addr::from(b).into()),
        16 => bytes_at(value, 0).map(|b: [u8; 16]| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// An Ethernet address; `None` for link-layer addresses of other lengths.
pub(crate) fn mac(value: &[u8]) -> Option<[u8; 6]> {
    value.try_into().ok()
}
