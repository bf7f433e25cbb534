//! The network configuration: `net-conf.json`, or the `config` key in etcd.
//!
//! ```
//! use ipam::netconf::NetConf;
//!
//! let text = r#"{"Network": "10.3.0.0/16", "Backend": {"Type": "vxlan"}}"#;
//! let (conf, warnings) = NetConf::parse(text)?;
//! assert!(warnings.is_empty());
//! let range = conf.ranges()?.v4.unwrap();
//! assert_eq!(range.min.to_string(), "10.3.1.0/24");
//! # Ok::<(), ipam::netconf::ConfigError>(())
//! ```

use std::net::IpAddr;

use crate::gojson::{self, Object, Value};
use crate::{Family, PerFamily, Subnet};

pub mod backend;
mod ranges;
#[cfg(test)]
mod tests;
mod warning;

pub use backend::Backend;
pub use ranges::SubnetRange;
pub use warning::Warning;

/// A cluster's network configuration (N-10..N-23).
///
/// Values that cannot work are refused, also those that upstream takes and
/// fails on later (N-73).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// The enabled families (N-10, N-11): IPv4 unless switched off, IPv6
    /// when switched on. Never empty.
    pub enabled: PerFamily<()>,
    /// The networks given, of families that are not enabled too (N-23). A
    /// network of length 0 counts as not given (N-13, N-14).
    pub networks: PerFamily<Subnet>,
    /// nftables instead of iptables (N-12).
    pub nftables: bool,
    /// How packets get to the other nodes (N-21, N-22).
    pub backend: Backend,
    wishes: PerFamily<Wishes>,
}

/// What a configuration says about the subnets of one family (N-15..N-20);
/// the zero value of each stands for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    len: u64,
    min: Option<IpAddr>,
    max: Option<IpAddr>,
}

/// Why a network configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, a value of the wrong type, or one that cannot work.
    #[error(transparent)]
    Read(#[from] gojson::Error),
    /// A value that does not go together with the others.
    #[error("{field} is {value}, but must be {want}")]
    Value {
        /// The key.
        field: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        want: String,
    },
    /// A key that must be there.
    #[error("{field} is missing: {want}")]
    Missing {
        /// The key.
        field: String,
        /// What would be accepted.
        want: String,
    },
}

const KEYS: &[&str] = &[
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "Network",
    "IPv6Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
];

// === impl NetConf ===

impl NetConf {
    /// Reads a configuration, by Go's rules (N-1..N-4, [`gojson`]). This is
    /// all that Kubernetes mode needs (N-41); with etcd, [`Self::ranges`]
    /// comes on top. The warnings name keys that nobody reads.
    ///
    /// # Errors
    /// [`ConfigError`] names the key, its value and what would be accepted.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let conf = Object::parse(text)?;
        let mut warnings = warning::top_level(&conf, KEYS);

        let mut enabled = PerFamily::default();
        if conf.bool("EnableIPv4")?.unwrap_or(true) {
            enabled.set(Family::V4, Some(()));
        }
        if conf.bool("EnableIPv6")?.unwrap_or(false) {
            enabled.set(Family::V6, Some(()));
        }
        if enabled.is_empty() {
            return Err(ConfigError::Value {
                field: "EnableIPv4".to_owned(),
                value: "false".to_owned(),
                want: "true unless EnableIPv6 is true".to_owned(),
            });
        }

        let mut networks = PerFamily::default();
        let mut wishes = PerFamily::default();
        for family in Family::ALL {
            networks.set(family, network(&conf, family)?);
            let wish = Wishes {
                len: conf.uint(&field(family, "SubnetLen"))?.unwrap_or(0),
                min: address(&conf, family, "SubnetMin")?,
                max: address(&conf, family, "SubnetMax")?,
            };
            wishes.set(family, Some(wish));
        }

        let backend = match conf.raw("Backend") {
            None => Backend::default(),
            Some(value) => {
                let options = backend::object(&value)?;
                let backend = Backend::parse(&options, &enabled)?;
                warnings.extend(warning::backend(&options, &backend, KEYS));
                backend
            }
        };
        let nftables = conf.bool("EnableNFTables")?.unwrap_or(false);
        Ok((Self { enabled, networks, nftables, backend, wishes }, warnings))
    }

    /// Whether `family` is enabled.
    #[must_use]
    pub const fn is_enabled(&self, family: Family) -> bool {
        self.enabled.get(family).is_some()
    }

    /// From where the subnets of each enabled family are taken when etcd is
    /// the store: the defaults filled in and everything checked (N-30..N-39).
    ///
    /// # Errors
    /// [`ConfigError`] names the key, its value and what would be accepted.
    pub fn ranges(&self) -> Result<PerFamily<SubnetRange>, ConfigError> {
        let mut out = PerFamily::default();
        for family in self.enabled.families() {
            let wish = self.wishes.get(family).copied().unwrap_or_default();
            let network = self.networks.get(family).copied();
            out.set(family, Some(ranges::range(family, network, wish)?));
        }
        Ok(out)
    }
}

/// The key `name` for `family`.
fn field(family: Family, name: &str) -> String {
    match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("IPv6{name}"),
    }
}

/// Unlike elsewhere, `null` is an error here (N-2).
fn network(
    conf: &Object<'_>,
    family: Family,
) -> Result<Option<Subnet>, ConfigError> {
    let example = match family {
        Family::V4 => "10.244.0.0/16",
        Family::V6 => "fd00:10:244::/48",
    };
    let Some(value) = conf.raw(&field(family, "Network")) else {
        return Ok(None);
    };
    let wrong = |value: &Value<'_>| {
        value.mismatch(format!("an {family} network such as {example:?}"))
    };
    let text = value.string().map_err(|_| wrong(&value))?;
    match text.parse::<Subnet>() {
        Ok(net) if net.family() == family => Ok((net.len() > 0).then_some(net)),
        _ => Err(wrong(&value).into()),
    }
}

/// `0.0.0.0` and `::` stand for nothing (N-33, N-34, N-39).
fn address(
    conf: &Object<'_>,
    family: Family,
    name: &str,
) -> Result<Option<IpAddr>, ConfigError> {
    let Some(value) = conf.value(&field(family, name)) else {
        return Ok(None);
    };
    let wrong =
        || value.mismatch(format!("an {family} address without a length"));
    let text = value.string().map_err(|_| wrong())?;
    match text.parse::<IpAddr>() {
        Ok(addr) if Family::of(addr) == family => {
            Ok((!addr.is_unspecified()).then_some(addr))
        }
        _ => Err(wrong().into()),
    }
}
