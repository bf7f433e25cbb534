//! The value of a lease: how its node is reached.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::gojson::{self, Object};
use crate::{Family, PerFamily};

#[cfg(test)]
mod tests;

/// Backends whose names are not kept once for each of thousands of leases.
const COMMON: [&str; 3] = ["vxlan", "host-gw", "wireguard"];

/// What a node publishes about itself beside its subnets (E-10..E-17).
///
/// Two values are equal when everything about them is: any difference is a
/// change for the peers (W-3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseAttrs {
    /// The node's underlay addresses. Never `0.0.0.0` or `::`, which is how
    /// a missing one may be written.
    pub public: PerFamily<IpAddr>,
    /// The backend, as in the net-conf's `Type` but lower-case. Empty for
    /// `udp`, `alloc` and `tencent-vpc` (E-15).
    pub backend_type: Cow<'static, str>,
    /// What the backend publishes for each family.
    pub data: PerFamily<BackendData>,
}

/// A JSON value in Go's compact spelling (E-10). Order of keys and spelling
/// of numbers are those of its writer; equality is equality of the text. A
/// clone shares it.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendData(Arc<str>);

// === impl LeaseAttrs ===

impl LeaseAttrs {
    /// The value as upstream writes it, byte for byte (E-10..E-16).
    #[must_use]
    pub fn encode(&self) -> String {
        let public_ip = self.public.v4.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let mut out = format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":"#);
        match self.public.v6 {
            Some(ip) => out.push_str(&format!(r#""{ip}""#)),
            None => out.push_str("null"),
        }
        let mut field = |name: &str, json: &str| {
            out.push_str(&format!(r#","{name}":{json}"#));
        };
        if !self.backend_type.is_empty() {
            let text = serde_json::Value::from(&*self.backend_type);
            field("BackendType", &gojson::compact(&text.to_string()));
        }
        if let Some(data) = &self.data.v4 {
            field("BackendData", data.as_str());
        }
        if let Some(data) = &self.data.v6 {
            field("BackendV6Data", data.as_str());
        }
        out.push('}');
        out
    }

    /// Reads a value as upstream does (E-17) and tolerates what a mixed
    /// cluster may hold (appendix D.5): every key may be missing, `null`
    /// backend data is none, `0.0.0.0` and `::` are no address, and neither
    /// is IPv4 as `PublicIPv6`, which upstream takes for one.
    ///
    /// # Errors
    /// [`gojson::Error`] when the value is not JSON or a known key holds
    /// what it cannot; `null` and `""` are no `PublicIP`.
    pub fn decode(value: &[u8]) -> Result<Self, gojson::Error> {
        let text = String::from_utf8_lossy(value);
        let object = Object::parse(&text)?;
        let data = |name| {
            let value = object.raw(name).filter(|value| !value.is_null());
            value.map(|value| BackendData(value.compact().into()))
        };
        let public = |family, name| match object.raw(name) {
            // null is as good as nothing for the second address only
            Some(value) if family == Family::V4 || !value.is_null() => {
                address(family, &value)
            }
            _ => Ok(None),
        };
        Ok(Self {
            public: PerFamily {
                v4: public(Family::V4, "PublicIP")?,
                v6: public(Family::V6, "PublicIPv6")?,
            },
            backend_type: object.text("BackendType")?.map_or(
                Cow::Borrowed(""),
                |name| match COMMON.iter().find(|common| **common == name) {
                    Some(common) => Cow::Borrowed(*common),
                    None => Cow::Owned(name.into_owned()),
                },
            ),
            data: PerFamily {
                v4: data("BackendData"),
                v6: data("BackendV6Data"),
            },
        })
    }
}

/// The address of `family` that `value` holds; `None` for the unspecified
/// one, and for IPv4 that stands for IPv6: nobody can be reached there.
fn address(
    family: Family,
    value: &gojson::Value<'_>,
) -> Result<Option<IpAddr>, gojson::Error> {
    let ip = value.text()?.parse().map(|ip: IpAddr| ip.to_canonical());
    match (family, ip) {
        (Family::V6, Ok(IpAddr::V4(_))) => Ok(None),
        (_, Ok(ip)) if Family::of(ip) == family => {
            Ok((!ip.is_unspecified()).then_some(ip))
        }
        _ => Err(value.mismatch(format!("an {family} address"))),
    }
}

// === impl BackendData ===

impl BackendData {
    /// The data `value` stands for; a struct's fields keep their order.
    ///
    /// # Errors
    /// Whatever `value`'s own `Serialize` fails with.
    pub fn new<T: Serialize + ?Sized>(
        value: &T,
    ) -> Result<Self, serde_json::Error> {
        gojson::to_string(value).map(|text| Self(text.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackendData {
    type Err = gojson::Error;

    /// Any JSON text, which is brought into Go's compact spelling.
    fn from_str(json: &str) -> Result<Self, gojson::Error> {
        Ok(Self(gojson::parse(json)?.compact().into()))
    }
}

impl fmt::Debug for BackendData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
