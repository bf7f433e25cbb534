use std::net::IpAddr;

use super::{af_of, aligned, uapi::NLA_F_NESTED};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// A netlink message being written. Attributes come after the fixed header
/// of the message's type, in the order of the calls.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    buf: Vec<u8>,
}

// === impl Message ===

impl Message {
    /// A message of type `kind` whose fixed header is `body`. The sequence
    /// number and the port are left 0.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut buf = Vec::with_capacity(128);
        let ([k, l], [f, g]) = (kind.to_ne_bytes(), flags.to_ne_bytes());
        let header = [0, 0, 0, 0, k, l, f, g, 0, 0, 0, 0, 0, 0, 0, 0];
        buf.extend_from_slice(&header);
        buf.extend_from_slice(body);
        let mut message = Self { buf };
        message.pad();
        message
    }

    /// An attribute with these bytes.
    pub(crate) fn bytes(&mut self, attr: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        let ([k, l], [a, b]) = (len.to_ne_bytes(), attr.to_ne_bytes());
        self.buf.extend_from_slice(&[k, l, a, b]);
        self.buf.extend_from_slice(value);
        self.pad();
    }

    /// An attribute without a value.
    pub(crate) fn flag(&mut self, attr: u16) {
        self.bytes(attr, &[]);
    }

    pub(crate) fn u8(&mut self, attr: u16, value: u8) {
        self.bytes(attr, &[value]);
    }

    pub(crate) fn u16_be(&mut self, attr: u16, value: u16) {
        self.bytes(attr, &value.to_be_bytes());
    }

    pub(crate) fn u32_be(&mut self, attr: u16, value: u32) {
        self.bytes(attr, &value.to_be_bytes());
    }

    pub(crate) fn u64_be(&mut self, attr: u16, value: u64) {
        self.bytes(attr, &value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, attr: u16, value: u32) {
        self.bytes(attr, &value.to_ne_bytes());
    }

    /// A text with its closing zero byte.
    pub(crate) fn str(&mut self, attr: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(attr, &bytes);
    }

    /// An address in network byte order.
    pub(crate) fn ip(&mut self, attr: u16, value: IpAddr) {
        match value {
            IpAddr::V4(ip) => self.bytes(attr, &ip.octets()),
            IpAddr::V6(ip) => self.bytes(attr, &ip.octets()),
        }
    }

    /// `struct rtvia`: a gateway of another family than the route's.
    pub(crate) fn via(&mut self, attr: u16, value: IpAddr) {
        let mut bytes = u16::from(af_of(value)).to_ne_bytes().to_vec();
        match value {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
        self.bytes(attr, &bytes);
    }

    /// An attribute that holds what `fill` writes.
    pub(crate) fn nest(&mut self, attr: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.buf.len();
        self.bytes(attr | NLA_F_NESTED, &[]);
        fill(self);
        let len = self.buf.len().saturating_sub(start);
        let len = u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes();
        self.patch(start, &len);
    }

    /// Raw bytes inside the current attribute: a fixed header in a nest.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.pad();
    }

    /// The finished message.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        self.patch(0, &len.to_ne_bytes());
        self.buf
    }

    fn pad(&mut self) {
        self.buf.resize(aligned(self.buf.len()), 0);
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buf.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}
