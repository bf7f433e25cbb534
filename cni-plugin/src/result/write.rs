//! Writing results, byte for byte as the reference library does (S-44..S-48).

use std::net::IpAddr;

use ipam::Family;
use serde::Serialize;
use serde_json::Value;

use super::{CniResult, Dns, Interface, IpConfig, Route};
use crate::cidr::Cidr;
use crate::protocol::{CniError, Layout, Version, code, pretty};

#[derive(Serialize)]
struct Lists<'a> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<WrittenInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WrittenIp>,
    #[serde(skip_serializing_if = "<[Route]>::is_empty")]
    routes: &'a [Route],
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a Dns>,
}

#[derive(Serialize)]
struct Families<'a> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<FamilyIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<FamilyIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct FamilyIp {
    ip: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

#[derive(Serialize)]
struct WrittenInterface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "super::is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox: &'a str,
    #[serde(rename = "socketPath", skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    #[serde(rename = "pciID", skip_serializing_if = "str::is_empty")]
    pci_id: &'a str,
}

#[derive(Serialize)]
struct WrittenIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

// === impl CniResult ===

impl CniResult {
    /// The result in the form of `version`, as it goes to stdout.
    ///
    /// # Errors
    /// Code 6 when the form of 0.1.0 and 0.2.0 cannot hold it: it needs an
    /// address (S-50).
    pub(crate) fn render(&self, version: Version) -> Result<String, CniError> {
        match version.layout() {
            Layout::PerFamily => Ok(pretty(&self.families(version)?)),
            Layout::Numbered => Ok(pretty(&self.lists(version))),
            Layout::Current => Ok(pretty(&self.value(version))),
        }
    }

    /// The result in the form of 1.x, keys sorted.
    pub(crate) fn value(&self, version: Version) -> Value {
        // a `Value`'s objects are sorted maps; nothing in here can fail
        serde_json::to_value(self.lists(version)).unwrap_or_default()
    }

    fn lists(&self, version: Version) -> Lists<'_> {
        let current = version.layout() == Layout::Current;
        let interface = |i| WrittenInterface::new(i, current);
        let ip = |i| WrittenIp::new(i, current);
        Lists {
            version: version.as_str(),
            interfaces: self.interfaces.iter().map(interface).collect(),
            ips: self.ips.iter().map(ip).collect(),
            routes: &self.routes,
            dns: Some(&self.dns).filter(|dns| !(current && dns.is_empty())),
        }
    }

    fn families(&self, version: Version) -> Result<Families<'_>, CniError> {
        let of = |family| {
            let ip = self.ips.iter().find(|i| i.address.family() == family)?;
            let routes = self.routes.iter();
            let routes = routes.filter(|r| r.dst.family() == family);
            Some(FamilyIp {
                ip: ip.address,
                gateway: ip.gateway,
                // all that 0.2.0 has (S-46)
                routes: routes
                    .map(|r| Route { gw: r.gw, ..Route::to(r.dst) })
                    .collect(),
            })
        };
        let (ip4, ip6) = (of(Family::V4), of(Family::V6));
        if ip4.is_none() && ip6.is_none() {
            return Err(CniError::new(
                code::DECODE,
                "cannot convert: no valid IP addresses",
            )
            .details(format!(
                "a result of cniVersion {} needs an address",
                version.as_str()
            )));
        }
        Ok(Families { version: version.as_str(), ip4, ip6, dns: &self.dns })
    }
}

// === impl WrittenInterface ===

impl<'a> WrittenInterface<'a> {
    /// Before 1.0.0 only name, MAC and sandbox exist (S-50).
    fn new(from: &'a Interface, current: bool) -> Self {
        let only = |text: &'a String| if current { text.as_str() } else { "" };
        Self {
            name: &from.name,
            mac: &from.mac,
            mtu: if current { from.mtu } else { 0 },
            sandbox: &from.sandbox,
            socket_path: only(&from.socket_path),
            pci_id: only(&from.pci_id),
        }
    }
}

// === impl WrittenIp ===

impl WrittenIp {
    fn new(from: &IpConfig, current: bool) -> Self {
        let version = match from.address.family() {
            Family::V4 => "4",
            Family::V6 => "6",
        };
        Self {
            version: (!current).then_some(version),
            interface: from.interface,
            address: from.address,
            gateway: from.gateway,
        }
    }
}
