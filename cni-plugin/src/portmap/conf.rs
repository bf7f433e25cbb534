//! The configuration of type `portmap` (PM-1, PM-2, PM-4).

use std::net::IpAddr;

use ipam::gojson::{Object, Value};
use ipam::{Family, PerFamily};

use super::condition;
use crate::cidr::parse_ip;
use crate::protocol::CniError;

/// The bit of the mark when none is named.
const MARK_BIT: u32 = 13;

/// What the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conf {
    /// The backend, where it is named or follows from the rest.
    pub(super) backend: Option<Backend>,
    /// Masquerade what must come back through the node.
    pub(super) snat: bool,
    /// Masquerade all that comes through a mapped port.
    pub(super) masquerade_all: bool,
    /// The mark of packets to be masqueraded.
    pub(super) mark: u32,
    /// Somebody else's chain that marks, instead of ours (iptables).
    pub(super) mark_chain: Option<String>,
    /// Conditions on what is mapped, in the backend's words.
    pub(super) conditions: PerFamily<Vec<String>>,
    /// The ports.
    pub(super) mappings: Vec<Mapping>,
}

/// What carries the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// iptables and ip6tables.
    Iptables,
    /// nf_tables, in the kernel.
    Nftables,
}

/// One port of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// On the node; not 0.
    pub(super) host_port: u16,
    /// In the pod; not 0.
    pub(super) container_port: u16,
    /// The protocol.
    pub(super) protocol: Protocol,
    /// Only at this address of the node; `None` for all.
    pub(super) host_ip: Option<IpAddr>,
}

/// A protocol with ports; in the order of the names, as upstream's rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    /// SCTP
    Sctp,
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

// === impl Conf ===

impl Conf {
    /// Reads and judges it.
    ///
    /// # Errors
    /// Code 7.
    pub(super) fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let mut out = Self::read_parts(conf)?;
        out.mappings = mappings(conf)?;
        Ok(out)
    }

    fn read_parts(conf: &Object<'_>) -> Result<Self, CniError> {
        let mark_chain = conf.string("externalSetMarkChain")?;
        let mark_chain = mark_chain.filter(|chain| !chain.is_empty());
        let bit = conf.int("markMasqBit")?;
        if mark_chain.is_some() && bit.is_some() {
            return Err(CniError::config(
                "Cannot specify externalSetMarkChain and markMasqBit",
            ));
        }
        let bit = bit.map_or(Ok(MARK_BIT), |bit| {
            u32::try_from(bit).ok().filter(|bit| *bit < 32).ok_or_else(|| {
                CniError::config(format!(
                    "markMasqBit is {bit}, but MasqMarkBit must be between 0 \
                     and 31"
                ))
            })
        })?;
        let conditions = PerFamily {
            v4: conf.strings("conditionsV4")?.filter(|c| !c.is_empty()),
            v6: conf.strings("conditionsV6")?.filter(|c| !c.is_empty()),
        };
        let backend = backend(conf, &conditions, mark_chain.is_some())?;
        if backend == Some(Backend::Nftables) {
            for (family, words) in conditions.iter() {
                condition::parse(family, words)?;
            }
        }
        Ok(Self {
            backend,
            snat: conf.bool("snat")?.unwrap_or(true),
            masquerade_all: conf.bool("masqAll")?.unwrap_or_default(),
            mark: 1 << bit,
            mark_chain,
            conditions,
            mappings: Vec::new(),
        })
    }

    /// What DEL needs of it, whatever became of the rest: a configuration
    /// that is wrong now must not keep rules for ever. `None` where there is
    /// no port.
    pub(super) fn read_leniently(conf: &Object<'_>) -> Option<Self> {
        let runtime = conf.object("runtimeConfig").ok().flatten()?;
        let list = runtime.array("portMappings").ok().flatten()?;
        if list.is_empty() {
            return None;
        }
        let mut out = Self::read_parts(conf).unwrap_or_else(|_| Self {
            backend: None,
            snat: true,
            masquerade_all: false,
            mark: 1 << MARK_BIT,
            mark_chain: None,
            conditions: PerFamily::default(),
            mappings: Vec::new(),
        });
        let read = |v: &Value<'_>| mapping(&v.object()?);
        out.mappings = list.iter().filter_map(|v| read(v).ok()).collect();
        Some(out)
    }

    /// The mappings that have rules in `family` (PM-7).
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| {
            mapping.host_ip.is_none_or(|ip| Family::of(ip) == family)
        })
    }
}

fn backend(
    conf: &Object<'_>,
    conditions: &PerFamily<Vec<String>>,
    mark_chain: bool,
) -> Result<Option<Backend>, CniError> {
    let named = match conf.string("backend")?.as_deref() {
        None | Some("") => None,
        Some("iptables") => Some(Backend::Iptables),
        Some("nftables") => Some(Backend::Nftables),
        Some(other) => {
            return Err(CniError::config(format!(
                "unrecognized backend {other:?}: it must be iptables or \
                 nftables"
            )));
        }
    };
    let mut implied = Vec::new();
    for (family, words) in conditions.iter() {
        let key = match family {
            Family::V4 => "conditionsV4",
            Family::V6 => "conditionsV6",
        };
        let first = words.first().map(String::as_str).unwrap_or_default();
        let iptables = first.starts_with(['-', '!']);
        let of = if iptables { Backend::Iptables } else { Backend::Nftables };
        implied.push((key, of));
    }
    if mark_chain {
        implied.push(("externalSetMarkChain", Backend::Iptables));
    }
    let backend = named.or(implied.first().map(|(_, of)| *of));
    match implied.iter().find(|(_, of)| backend != Some(*of)) {
        None => Ok(backend),
        Some((key, of)) => {
            let name = |of| match of {
                Backend::Iptables => "iptables",
                Backend::Nftables => "nftables",
            };
            Err(CniError::config(format!(
                "{} backend was requested but configuration contains \
                 {}-specific options [{key}]",
                backend.map_or("another", name),
                name(*of),
            )))
        }
    }
}

fn mappings(conf: &Object<'_>) -> Result<Vec<Mapping>, CniError> {
    let Some(runtime) = conf.object("runtimeConfig")? else {
        return Ok(Vec::new());
    };
    let list = runtime.array("portMappings")?.unwrap_or_default();
    list.iter().map(|v| mapping(&v.object()?)).collect()
}

fn mapping(from: &Object<'_>) -> Result<Mapping, CniError> {
    let port = |key, what| -> Result<u16, CniError> {
        let number = from.int(key)?.unwrap_or_default();
        u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
            CniError::config(format!(
                "Invalid {what} port number: {number} (1 to 65535)"
            ))
        })
    };
    let protocol = from.string("protocol")?.unwrap_or_default();
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => {
            return Err(CniError::config(format!(
                "{} is {protocol:?}, but must be tcp, udp or sctp",
                from.path_of("protocol")
            )));
        }
    };
    let host_ip = from.string("hostIP")?.filter(|text| !text.is_empty());
    let host_ip = host_ip
        .map(|text| {
            parse_ip(&text).ok_or_else(|| {
                CniError::config(format!(
                    "{} is {text:?}, which is no address",
                    from.path_of("hostIP")
                ))
            })
        })
        .transpose()?;
    Ok(Mapping {
        host_port: port("hostPort", "host")?,
        container_port: port("containerPort", "container")?,
        protocol,
        host_ip,
    })
}

// === impl Mapping ===

impl Mapping {
    /// The address of the node it is limited to.
    pub(super) fn at(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

// === impl Protocol ===

impl Protocol {
    /// Its name in rules.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Its number (IANA).
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Sctp => 132,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}
