//! The file as the CNI plugin reads it (F-14, FL-5).

use super::{IP_MASQ, Keys, MTU, cidr};
use crate::{Family, PerFamily, Subnet};

/// What the CNI plugin takes from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginEnv {
    /// Every network of the cluster, IPv4 first, none twice; not empty.
    pub networks: Vec<Subnet>,
    /// The node's subnets; at least one.
    pub subnets: PerFamily<Subnet>,
    /// MTU for the pods, in bytes.
    pub mtu: u32,
    /// Whether flanneld masquerades.
    pub ip_masq: bool,
}

/// Why the CNI plugin cannot use the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginEnvError {
    /// Not all that is needed is there. Upstream's text.
    #[error("{file} is missing {}", keys.join(", "))]
    Missing {
        /// The file's path.
        file: String,
        /// The names, in upstream's order.
        keys: Vec<&'static str>,
    },
    /// A known name without `=`, on which upstream's plugin crashes.
    #[error(
        "{file}, line {line}: {key} has no value; restart flanneld on this \
         node, which writes the file anew"
    )]
    NoValue {
        /// The file's path.
        file: String,
        /// From 1.
        line: usize,
        /// The variable.
        key: &'static str,
    },
    /// A value that cannot be used.
    #[error("{file}, line {line}: {key} is {value:?}, but must be {want}")]
    Value {
        /// The file's path.
        file: String,
        /// From 1.
        line: usize,
        /// The variable.
        key: &'static str,
        /// The value, or the member of a list.
        value: String,
        /// What would be accepted.
        want: String,
    },
}

/// Every name, in the order of the error for missing ones.
const NAMES: [&str; 6] = [
    Keys::of(Family::V4).network,
    Keys::of(Family::V6).network,
    Keys::of(Family::V4).subnet,
    Keys::of(Family::V6).subnet,
    MTU,
    IP_MASQ,
];

// === impl PluginEnv ===

impl PluginEnv {
    /// Reads the text of the file at path `file` (which only the errors
    /// name). Names are exact, nothing is trimmed, unknown lines are
    /// ignored, of repeated ones the last counts.
    ///
    /// # Errors
    /// [`PluginEnvError`]: something needed is missing or unreadable.
    pub fn parse(file: &str, text: &str) -> Result<Self, PluginEnvError> {
        let mut networks = PerFamily::<Vec<Subnet>>::default();
        let mut subnets = PerFamily::default();
        let (mut mtu, mut ip_masq) = (None, None);
        for (number, line) in text.lines().enumerate() {
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (line, None),
            };
            let Some(key) = NAMES.into_iter().find(|name| *name == key) else {
                continue;
            };
            let at = Position { file, line: number + 1, key };
            let value = value.ok_or_else(|| at.no_value())?;
            match key {
                MTU => mtu = Some(at.mtu(value)?),
                IP_MASQ => ip_masq = Some(value == "true"),
                _ => {
                    for family in Family::ALL {
                        let keys = Keys::of(family);
                        if key == keys.network {
                            networks.set(family, Some(at.list(value, family)?));
                        } else if key == keys.subnet {
                            subnets.set(family, Some(at.cidr(value, family)?));
                        }
                    }
                }
            }
        }
        let keys = NAMES
            .into_iter()
            .filter(|name| match *name {
                MTU => mtu.is_none(),
                IP_MASQ => ip_masq.is_none(),
                name if name.ends_with("_NETWORK") => networks.is_empty(),
                _ => subnets.is_empty(),
            })
            .collect::<Vec<_>>();
        match (mtu, ip_masq) {
            (Some(mtu), Some(ip_masq)) if keys.is_empty() => Ok(Self {
                networks: networks
                    .iter()
                    .flat_map(|(_, nets)| nets)
                    .copied()
                    .collect(),
                subnets,
                mtu,
                ip_masq,
            }),
            _ => Err(PluginEnvError::Missing { file: file.to_owned(), keys }),
        }
    }
}

/// Where a value stands.
struct Position<'a> {
    file: &'a str,
    line: usize,
    key: &'static str,
}

// === impl Position ===

impl Position<'_> {
    fn list(
        &self,
        list: &str,
        family: Family,
    ) -> Result<Vec<Subnet>, PluginEnvError> {
        let mut out = Vec::new();
        for member in list.split(',') {
            let net = self.cidr(member, family)?;
            if !out.contains(&net) {
                out.push(net);
            }
        }
        Ok(out)
    }

    fn cidr(
        &self,
        text: &str,
        family: Family,
    ) -> Result<Subnet, PluginEnvError> {
        cidr(text, family).ok_or_else(|| {
            self.wrong(text, format!("an {family} address and /length"))
        })
    }

    fn mtu(&self, text: &str) -> Result<u32, PluginEnvError> {
        // `parse` alone would take a sign
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| {
            self.wrong(text, "a whole number of bytes".to_owned())
        })
    }

    fn no_value(&self) -> PluginEnvError {
        let (file, line, key) = (self.file.to_owned(), self.line, self.key);
        PluginEnvError::NoValue { file, line, key }
    }

    fn wrong(&self, value: &str, want: String) -> PluginEnvError {
        let (file, line, key) = (self.file.to_owned(), self.line, self.key);
        PluginEnvError::Value { file, line, key, value: value.into(), want }
    }
}
