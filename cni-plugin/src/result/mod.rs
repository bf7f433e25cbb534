//! Results of ADD in every version (S-44..S-52).
//!
//! One form in memory, that of 1.1.0; [`CniResult::render`] and
//! [`CniResult::read`] turn it into and out of the others.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::net::IpAddr;

use ipam::gojson::Object;
use serde::Serialize;

use crate::cidr::Cidr;
use crate::protocol::CniError;

/// What ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CniResult {
    /// Links, the host's without a sandbox.
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses.
    pub(crate) ips: Vec<IpConfig>,
    /// Routes inside the container.
    pub(crate) routes: Vec<Route>,
    /// Name resolution.
    pub(crate) dns: Dns,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its link-layer address; empty when unknown.
    pub(crate) mac: String,
    /// Its MTU in bytes; 0 when not told (1.1.0).
    pub(crate) mtu: i64,
    /// CNI_NETNS as given, empty for the host.
    pub(crate) sandbox: String,
    /// A socket that stands for the link (1.1.0).
    pub(crate) socket_path: String,
    /// The PCI device behind the link (1.1.0).
    pub(crate) pci_id: String,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpConfig {
    /// Index into the interfaces; `None` when unknown (S-48).
    pub(crate) interface: Option<i64>,
    /// The address with its network's length.
    pub(crate) address: Cidr,
    /// The gateway of that network.
    pub(crate) gateway: Option<IpAddr>,
}

/// A route, its members in the order in which they are written (S-46).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Route {
    /// Destination.
    pub(crate) dst: Cidr,
    /// Gateway; `None` for that of the addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    /// Path MTU in bytes, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) mtu: i64,
    /// Advertised TCP MSS in bytes, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) advmss: i64,
    /// Metric, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) priority: i64,
    /// Table, `None` for main.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<i64>,
    /// Scope, `None` for universe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<i64>,
}

/// Name resolution (S-47).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dns {
    /// Servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) domain: String,
    /// Search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
}

// === impl Route ===

impl Route {
    /// A route to `dst` without anything else.
    pub(crate) const fn to(dst: Cidr) -> Self {
        Self {
            dst,
            gw: None,
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: None,
            scope: None,
        }
    }

    /// Reads a route of a configuration or a result.
    ///
    /// # Errors
    /// Code 7 for a member of the wrong type, or no destination.
    pub(crate) fn read(from: &Object<'_>) -> Result<Self, CniError> {
        read::route(from)
    }
}

// === impl Dns ===

impl Dns {
    /// Reads the `dns` member of a configuration or a result.
    ///
    /// # Errors
    /// Code 7 for a member of the wrong type.
    pub(crate) fn read(from: &Object<'_>) -> Result<Self, CniError> {
        Ok(Self {
            nameservers: from.strings("nameservers")?.unwrap_or_default(),
            domain: from.string("domain")?.unwrap_or_default(),
            search: from.strings("search")?.unwrap_or_default(),
            options: from.strings("options")?.unwrap_or_default(),
        })
    }

    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}
