//! Reading results of any version.

use std::net::IpAddr;

use ipam::gojson::{Object, Value};

use super::{CniResult, Dns, Interface, IpConfig, Route};
use crate::cidr::{Cidr, parse_ip};
use crate::protocol::{CniError, Layout, Version, code};

// === impl CniResult ===

impl CniResult {
    /// Reads a result; where it names no version it has `version` (S-49).
    ///
    /// # Errors
    /// Code 6 for another version than the published ones, code 7 for a
    /// member of the wrong type.
    pub(crate) fn read(
        from: &Object<'_>,
        version: Version,
    ) -> Result<Self, CniError> {
        match own_version(from)?.unwrap_or(version).layout() {
            Layout::PerFamily => per_family(from),
            Layout::Numbered | Layout::Current => lists(from),
        }
    }

    /// Reads the `prevResult` of a configuration of `version`; its own
    /// version must be of the same family (S-51).
    ///
    /// # Errors
    /// As [`CniResult::read`], and code 7 for another family.
    pub(crate) fn previous(
        conf: &Object<'_>,
        version: Version,
    ) -> Result<Option<Self>, CniError> {
        let Some(from) = conf.object("prevResult")? else {
            return Ok(None);
        };
        let own = own_version(&from)?.unwrap_or(version);
        if own.layout() != version.layout() {
            return Err(CniError::config(format!(
                "prevResult has cniVersion {}, which has another form than \
                 the configuration's {}",
                own.as_str(),
                version.as_str()
            )));
        }
        Self::read(&from, version).map(Some)
    }
}

fn own_version(from: &Object<'_>) -> Result<Option<Version>, CniError> {
    let text = from.text("cniVersion")?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    Version::parse(&text).map(Some).ok_or_else(|| {
        CniError::new(
            code::DECODE,
            format!(
                "result has cniVersion {text:?}, but must have one of {}",
                Version::list()
            ),
        )
    })
}

fn lists(from: &Object<'_>) -> Result<CniResult, CniError> {
    Ok(CniResult {
        interfaces: each(from, "interfaces", interface)?,
        ips: each(from, "ips", ip_config)?,
        routes: each(from, "routes", route)?,
        dns: dns(from)?,
    })
}

fn per_family(from: &Object<'_>) -> Result<CniResult, CniError> {
    let mut out = CniResult { dns: dns(from)?, ..CniResult::default() };
    for key in ["ip4", "ip6"] {
        let Some(ip) = from.object(key)? else { continue };
        let (address, gateway) = (cidr(&ip, "ip")?, addr(&ip, "gateway")?);
        out.ips.push(IpConfig { interface: None, address, gateway });
        out.routes.extend(each(&ip, "routes", route)?);
    }
    Ok(out)
}

fn dns(from: &Object<'_>) -> Result<Dns, CniError> {
    match from.object("dns")? {
        Some(dns) => Dns::read(&dns),
        None => Ok(Dns::default()),
    }
}

fn interface(from: &Object<'_>) -> Result<Interface, CniError> {
    let text = |key| from.string(key).map(Option::unwrap_or_default);
    Ok(Interface {
        name: text("name")?,
        mac: text("mac")?,
        mtu: from.int("mtu")?.unwrap_or_default(),
        sandbox: text("sandbox")?,
        socket_path: text("socketPath")?,
        pci_id: text("pciID")?,
    })
}

fn ip_config(from: &Object<'_>) -> Result<IpConfig, CniError> {
    Ok(IpConfig {
        interface: from.int("interface")?,
        address: cidr(from, "address")?,
        gateway: addr(from, "gateway")?,
    })
}

pub(super) fn route(from: &Object<'_>) -> Result<Route, CniError> {
    Ok(Route {
        dst: cidr(from, "dst")?,
        gw: addr(from, "gw")?,
        mtu: from.int("mtu")?.unwrap_or_default(),
        advmss: from.int("advmss")?.unwrap_or_default(),
        priority: from.int("priority")?.unwrap_or_default(),
        table: from.int("table")?,
        scope: from.int("scope")?,
    })
}

fn each<T>(
    from: &Object<'_>,
    key: &str,
    read: impl Fn(&Object<'_>) -> Result<T, CniError>,
) -> Result<Vec<T>, CniError> {
    let values = from.array(key)?.unwrap_or_default();
    let one = |v: &Value<'_>| read(&v.object()?);
    values.iter().map(one).collect()
}

fn cidr(from: &Object<'_>, key: &str) -> Result<Cidr, CniError> {
    let text = from.text(key)?.unwrap_or_default();
    text.parse()
        .map_err(|e| CniError::config(format!("{}: {e}", from.path_of(key))))
}

/// An address; an empty text is none.
fn addr(from: &Object<'_>, key: &str) -> Result<Option<IpAddr>, CniError> {
    match from.text(key)?.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => parse_ip(&text).map(Some).ok_or_else(|| {
            CniError::config(format!(
                "{}: invalid IP address: {text}",
                from.path_of(key)
            ))
        }),
    }
}
