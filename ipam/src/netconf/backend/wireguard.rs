//! Options of `wireguard` (N-60..N-65).

use super::read;
use crate::gojson::{Error, Object};
use crate::{PerFamily, Secret};

/// Options of `wireguard`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardOptions {
    /// UDP port of the IPv4 (or only) device (N-60).
    pub port: u16,
    /// UDP port of the IPv6 device of mode `separate` (N-61).
    pub port_v6: u16,
    /// MTU of the underlay in bytes; that of the underlay interface when not
    /// given (N-62).
    pub mtu: Option<u32>,
    /// Preshared key for all peers (N-63).
    pub psk: Option<Secret<[u8; 32]>>,
    /// Seconds between keepalives, 0 for none (N-64).
    pub keepalive: u16,
    /// Which devices there are, and which addresses they talk to (N-65).
    pub mode: WireguardMode,
}

/// `Mode` of `wireguard` (N-65, B-61, B-65).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireguardMode {
    /// One device for each family.
    #[default]
    Separate,
    /// One device; the peer's address is chosen.
    Auto,
    /// One device, talking over IPv4.
    Ipv4,
    /// One device, talking over IPv6.
    Ipv6,
}

// === impl WireguardOptions ===

impl WireguardOptions {
    pub(super) fn parse(
        o: &Object<'_>,
        enabled: &PerFamily<()>,
    ) -> Result<Self, Error> {
        let port = |key| read::number(o, key, 1..=u16::MAX);
        let out = Self {
            port: port("ListenPort")?.unwrap_or(51820),
            port_v6: port("ListenPortV6")?.unwrap_or(51821),
            // outer headers of IPv6, whatever the outer family is (B-69)
            mtu: read::mtu(o, enabled, |_| 80)?,
            psk: psk(o)?,
            keepalive: read::number(
                o,
                "PersistentKeepaliveInterval",
                0..=u16::MAX,
            )?
            .unwrap_or(0),
            mode: WireguardMode::parse(o)?,
        };
        let two_devices = out.mode == WireguardMode::Separate
            && enabled.families().count() == 2;
        if two_devices && out.port == out.port_v6 {
            return Err(Error::Type {
                path: o.path_of("ListenPortV6"),
                got: out.port_v6.to_string(),
                want: "another port than ListenPort: each of the two \
                       devices needs its own"
                    .to_owned(),
            });
        }
        Ok(out)
    }
}

impl Default for WireguardOptions {
    fn default() -> Self {
        Self {
            port: 51820,
            port_v6: 51821,
            mtu: None,
            psk: None,
            keepalive: 0,
            mode: WireguardMode::default(),
        }
    }
}

// === impl WireguardMode ===

impl WireguardMode {
    fn parse(o: &Object<'_>) -> Result<Self, Error> {
        let Some(value) = o.value("Mode") else { return Ok(Self::default()) };
        Ok(match value.string()?.as_str() {
            "separate" => Self::Separate,
            "auto" => Self::Auto,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            _ => {
                return Err(value.mismatch(
                    "one of separate, auto, ipv4, ipv6 (in lower case)",
                ));
            }
        })
    }
}

fn psk(o: &Object<'_>) -> Result<Option<Secret<[u8; 32]>>, Error> {
    let want = "a key as `wg genpsk` prints it: base64 of 32 bytes";
    let Some(text) = read::secret(o, "PSK", want)? else { return Ok(None) };
    let text: String =
        text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match base64_key(&text) {
        Some(key) => Ok(Some(Secret::new(key))),
        None => Err(read::bad_secret(o, "PSK", want)),
    }
}

/// 32 bytes from padded standard base64 (RFC 4648 section 4).
fn base64_key(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_suffix('=')?;
    if digits.len() != 43 {
        return None;
    }
    let mut bytes = Vec::with_capacity(32);
    let (mut bits, mut held) = (0u32, 0u32);
    for digit in digits.bytes() {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes.try_into().ok()
}
