//! Ethernet addresses as results and configurations have them.

use netlink::link::Mac;

/// `1e:db:69:3d:90:63`, or nothing.
pub(crate) fn text(mac: Option<Mac>) -> String {
    let Some(mac) = mac else { return String::new() };
    let digit = |n| char::from_digit(n, 16).unwrap_or_default();
    let mut out = String::with_capacity(17);
    for byte in mac.map(u32::from) {
        if !out.is_empty() {
            out.push(':');
        }
        out.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    out
}

/// Six bytes in hex with `:` or `-` between.
pub(crate) fn parse(text: &str) -> Option<Mac> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut out = [0; 6];
    let mut parts = text.split(separator);
    for (slot, part) in out.iter_mut().zip(&mut parts) {
        if part.len() != 2 || part.starts_with('+') {
            return None;
        }
        *slot = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(out).filter(|_| text.len() == 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(text(Some([2, 0, 0, 0, 0, 255])), "02:00:00:00:00:ff");
        assert_eq!(text(None), "");
        assert_eq!(parse("02-00-00-00-00-ff"), Some([2, 0, 0, 0, 0, 255]));
        for bad in
            ["02:00:00:00:00", "zz:00:00:00:00:00", "2:00:00:00:00:001", ""]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
