//! Names the kernel gives to devices: interface names and Ethernet addresses.

use std::fmt;

/// A network interface name: 1 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName {
    len: u8,
    bytes: [u8; 15],
}

/// An Ethernet address. Written lower-case with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

// === impl IfName ===

impl IfName {
    /// The name `text`, if it is one the kernel would take (1 to 15 bytes, no
    /// slash, no white space).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text
                .bytes()
                .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace());
        if !fits {
            return None;
        }
        let mut bytes = [0; 15];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { len: u8::try_from(text.len()).ok()?, bytes })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..usize::from(self.len))
            .and_then(|b| std::str::from_utf8(b).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Mac ===

impl Mac {
    /// Reads an address in any form that Go's `net.ParseMAC` takes for six
    /// bytes (E-17): `02:00:5e:10:00:01`, `02-00-5E-10-00-01` or
    /// `0200.5e10.0001`, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (separator, group) = match text.as_bytes().get(2)? {
            b':' => (':', 2),
            b'-' => ('-', 2),
            _ => ('.', 4),
        };
        let (mut bits, mut digits) = (0u64, 0);
        for part in text.split(separator) {
            if part.len() != group || digits == 12 {
                return None;
            }
            for c in part.chars() {
                bits = bits << 4 | u64::from(c.to_digit(16)?);
            }
            digits += group;
        }
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        (digits == 12).then_some(Self(bytes))
    }

    /// Whether it can be one device's address: neither zero nor a group's.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Turns any six bytes into an address that a node may give itself:
    /// locally administered, not a group's (B-22).
    #[must_use]
    pub const fn local(mut bytes: [u8; 6]) -> Self {
        let [first, ..] = &mut bytes;
        *first = *first & !1 | 2;
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "flannel-v6.10000"] {
            assert_eq!(IfName::new(bad), None, "{bad}");
        }
        assert_eq!(IfName::new("flannel-v6.1000").unwrap().as_str().len(), 15);
    }

    #[test]
    fn macs_in_each_form_of_go_e_17() {
        let mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0xff]);
        for text in ["02:00:5e:10:00:ff", "02-00-5E-10-00-FF", "0200.5e10.00fF"]
        {
            assert_eq!(Mac::parse(text), Some(mac), "{text}");
        }
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in [
            "",
            "2:0:5e:10:0:ff",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:00",
            "02:00-5e:10:00:ff",
            "02005e1000ff",
            "0200.5e10",
            "02:00:5e:10:00:fg",
            "02:00:5e:10:00:+f",
            "02:00:00:00:fe:80:00:00",
        ] {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn local_macs_are_local_and_unicast_b_22() {
        for bytes in [[0; 6], [0xff; 6], [1, 2, 3, 4, 5, 6]] {
            let mac = Mac::local(bytes);
            assert_eq!(mac.0[0] & 3, 2);
            assert!(mac.is_unicast());
        }
        assert!(!Mac([0; 6]).is_unicast());
        assert!(!Mac([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }
}
