//! The choice of the interface that carries traffic between nodes
//! (C-110…C-118).

use std::fmt;
use std::net::IpAddr;

use ipam::{Family, PerFamily};
use overlay::IfName;
use regex::Regex;

use super::{End, HostView, InterfaceOptions, Link, PathTo};

/// The chosen interface.
///
/// Both addresses are of this one interface, each of its own family: the
/// addresses of two interfaces are never mixed (W-32), nor is an address ever
/// filed under the other family (W-31).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: IfName,
    /// MTU in bytes, not 0 (C-117).
    pub mtu: u32,
    /// The interface's own address of each enabled family.
    pub addrs: PerFamily<IpAddr>,
    /// What is published to the other nodes for each enabled family (C-118).
    pub public: PerFamily<IpAddr>,
}

/// No interface fits. The message lists what was tried, what there is and
/// what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectError {
    /// Each candidate with the reason it was not taken.
    pub tried: Vec<(Candidate, String)>,
    /// All interfaces with their addresses.
    pub interfaces: String,
}

/// One way to find an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// `--iface`
    Name(String),
    /// `--public-ip`, `--public-ipv6`: whatever interface owns it.
    Public(IpAddr),
    /// `--iface-regex`
    Pattern(String),
    /// `--iface-can-reach`
    CanReach(IpAddr),
    /// Nothing was said.
    DefaultRoute,
}

/// An interface to be examined, with the address that led to it.
struct Found<'a> {
    link: &'a Link,
    address: Option<IpAddr>,
}

/// Chooses the interface for the `enabled` families.
///
/// Without any option: the interface that owns the published IPv4 address if
/// one is given, else the published IPv6 address, else the one of the default
/// route (C-110). Otherwise names, then patterns, then the address to reach;
/// the first that leads to an interface with a fit address for every enabled
/// family is taken (C-111).
///
/// `lookup` is the kernel's route lookup; it is asked only for
/// `--iface-can-reach`.
///
/// # Errors
/// [`SelectError`] when no candidate leads to an interface.
pub fn select<E: fmt::Display>(
    view: &HostView,
    options: &InterfaceOptions,
    enabled: PerFamily<()>,
    lookup: impl FnOnce(IpAddr) -> Result<PathTo, E>,
) -> Result<Uplink, SelectError> {
    let chooser = Chooser { view, public: options.public, enabled };
    let mut tried = Vec::new();
    let mut attempt = |candidate: Candidate, found: Result<Uplink, String>| {
        found.map_err(|reason| tried.push((candidate, reason))).ok()
    };

    let nothing_said = options.names.is_empty()
        && options.patterns.is_empty()
        && options.can_reach.is_none();
    let chosen = if nothing_said {
        match options.public.iter().next() {
            Some((_, ip)) => {
                attempt(Candidate::Public(*ip), chooser.by_ip(*ip))
            }
            None => {
                attempt(Candidate::DefaultRoute, chooser.by_default_route())
            }
        }
    } else {
        options
            .names
            .iter()
            .find_map(|name| {
                attempt(Candidate::Name(name.clone()), chooser.by_name(name))
            })
            .or_else(|| {
                options.patterns.iter().find_map(|pattern| {
                    attempt(
                        Candidate::Pattern(pattern.to_string()),
                        chooser.by_pattern(pattern),
                    )
                })
            })
            .or_else(|| {
                let ip = options.can_reach?;
                let path = lookup(ip).map_err(|e| e.to_string());
                attempt(
                    Candidate::CanReach(ip),
                    path.and_then(|path| chooser.by_path(ip, path)),
                )
            })
    };
    chosen.ok_or_else(|| SelectError { tried, interfaces: view.summary() })
}

/// What every way of choosing needs.
struct Chooser<'a> {
    view: &'a HostView,
    public: PerFamily<IpAddr>,
    enabled: PerFamily<()>,
}

// === impl Chooser ===

impl Chooser<'_> {
    fn by_name(&self, name: &str) -> Result<Uplink, String> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return self.by_ip(ip.to_canonical());
        }
        let link = self
            .view
            .links
            .iter()
            .find(|link| link.name == name)
            .ok_or("no interface has that name")?;
        self.uplink(Found { link, address: None })
    }

    fn by_ip(&self, ip: IpAddr) -> Result<Uplink, String> {
        let link = self
            .view
            .owner(ip)
            .ok_or_else(|| format!("no interface has the address {ip}"))?;
        self.uplink(Found { link, address: Some(ip) })
    }

    /// Addresses first, over all interfaces; names only if none matched
    /// (C-113).
    fn by_pattern(&self, pattern: &Regex) -> Result<Uplink, String> {
        let mut reason = None;
        for link in &self.view.links {
            let matched = PerFamily::from_fn(|family| {
                link.candidates(family)
                    .into_iter()
                    .find(|ip| pattern.is_match(&ip.to_string()))
            });
            if self.enabled.families().all(|f| matched.get(f).is_some()) {
                match self.take(link, matched) {
                    Ok(uplink) => return Ok(uplink),
                    Err(why) => reason = Some(why),
                }
            }
        }
        for link in &self.view.links {
            if pattern.is_match(&link.name) {
                match self.uplink(Found { link, address: None }) {
                    Ok(uplink) => return Ok(uplink),
                    Err(why) => reason = Some(why),
                }
            }
        }
        Err(reason.unwrap_or_else(|| {
            "matches no interface's name, and no interface's address of \
             every enabled family"
                .to_owned()
        }))
    }

    fn by_path(&self, to: IpAddr, path: PathTo) -> Result<Uplink, String> {
        match path.end {
            End::Onward => {}
            End::Here => return self.by_ip(to),
            End::Nowhere => return Err("no route goes there".to_owned()),
        }
        let link = path
            .link
            .and_then(|index| self.view.link(index))
            .ok_or("the kernel names no interface on the way there")?;
        self.uplink(Found { link, address: path.source })
    }

    /// The interface of the best default route that every enabled family has
    /// one on (C-115). Each hop of a multipath route counts, in order; a hop
    /// that works now goes before one that does not.
    fn by_default_route(&self) -> Result<Uplink, String> {
        let mut common: Option<Vec<u32>> = None;
        for family in self.enabled.families() {
            let here = self.default_links(family);
            if here.is_empty() {
                return Err(format!(
                    "the main table has no {family} default route over an \
                     interface"
                ));
            }
            common = Some(match common {
                None => here,
                Some(before) => {
                    before.into_iter().filter(|i| here.contains(i)).collect()
                }
            });
        }
        let common = common.unwrap_or_default();
        if common.is_empty() {
            return Err(
                "the IPv4 and the IPv6 default route go over different \
                 interfaces"
                    .to_owned(),
            );
        }
        let mut reason = None;
        for index in common {
            let Some(link) = self.view.link(index) else { continue };
            match self.uplink(Found { link, address: None }) {
                Ok(uplink) => return Ok(uplink),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or_else(|| "its interface is gone".to_owned()))
    }

    /// The links of the default routes, the ones that work now first.
    fn default_links(&self, family: Family) -> Vec<u32> {
        let routes = self.view.defaults.get(family).into_iter().flatten();
        let mut hops: Vec<(bool, u32)> = routes
            .flat_map(|route| &route.hops)
            .filter_map(|hop| {
                let index = hop.link?;
                let up = self.view.link(index).is_some_and(|link| link.up);
                Some((!(up && hop.alive), index))
            })
            .collect();
        hops.sort_by_key(|(down, _)| *down);
        hops.into_iter().map(|(_, index)| index).collect()
    }

    /// Completes the addresses of a found interface: the one that led to it
    /// for its family, a published one that is on it for its own, the
    /// preferred one otherwise (C-112, C-116).
    fn uplink(&self, found: Found<'_>) -> Result<Uplink, String> {
        let Found { link, address } = found;
        let led = address.map(|ip| PerFamily::one(Family::of(ip), ip));
        let mut addrs = PerFamily::default();
        for family in self.enabled.families() {
            let led = led.as_ref().and_then(|led| led.get(family)).copied();
            let published = match self.public.get(family).copied() {
                Some(ip) if address.is_some() && led.is_none() => {
                    self.published_on(link, ip)?
                }
                _ => None,
            };
            let preferred = || link.candidates(family).into_iter().next();
            let ip = led.or(published).or_else(preferred).ok_or_else(|| {
                format!(
                    "interface {} has no usable {family} address",
                    link.name
                )
            })?;
            addrs.set(family, Some(ip));
        }
        self.take(link, addrs)
    }

    /// An interface chosen by the address of one family must own the
    /// published address of the other, if this host owns that at all (C-112);
    /// behind NAT it does not.
    fn published_on(
        &self,
        link: &Link,
        ip: IpAddr,
    ) -> Result<Option<IpAddr>, String> {
        if link.has(ip) {
            return Ok(Some(ip));
        }
        match self.view.owner(ip) {
            None => Ok(None),
            Some(other) => Err(format!(
                "the published address {ip} is on interface {}, not on {}",
                other.name, link.name
            )),
        }
    }

    fn take(
        &self,
        link: &Link,
        addrs: PerFamily<IpAddr>,
    ) -> Result<Uplink, String> {
        if link.mtu == 0 {
            return Err(format!("interface {} has an MTU of 0", link.name));
        }
        let name = IfName::new(&link.name)
            .ok_or_else(|| format!("{:?} is no interface name", link.name))?;
        let only_enabled = |set: PerFamily<IpAddr>| {
            PerFamily::from_fn(|f| {
                self.enabled.get(f).and_then(|()| set.get(f)).copied()
            })
        };
        let addrs = only_enabled(addrs);
        let public = PerFamily::from_fn(|f| {
            let own = addrs.get(f)?;
            Some(*self.public.get(f).unwrap_or(own))
        });
        Ok(Uplink { index: link.index, name, mtu: link.mtu, addrs, public })
    }
}

// === impl Uplink ===

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} (MTU {})", self.name, self.mtu)?;
        for (what, set) in
            [("own address", &self.addrs), ("published", &self.public)]
        {
            let ips: Vec<_> =
                set.iter().map(|(_, ip)| ip.to_string()).collect();
            write!(f, ", {what} {}", ips.join(", "))?;
        }
        Ok(())
    }
}

// === impl Candidate ===

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "--iface={name}"),
            Self::Public(ip @ IpAddr::V4(_)) => write!(f, "--public-ip={ip}"),
            Self::Public(ip @ IpAddr::V6(_)) => {
                write!(f, "--public-ipv6={ip}")
            }
            Self::Pattern(regex) => write!(f, "--iface-regex={regex}"),
            Self::CanReach(ip) => write!(f, "--iface-can-reach={ip}"),
            Self::DefaultRoute => f.write_str("default route"),
        }
    }
}

// === impl SelectError ===

impl SelectError {
    /// The message without the list of interfaces.
    pub(super) fn reasons(&self) -> String {
        let each = |(candidate, reason): &(Candidate, String)| {
            format!("{candidate}: {reason}")
        };
        let tried: Vec<_> = self.tried.iter().map(each).collect();
        format!(
            "no interface found for traffic between nodes: {}",
            tried.join("; ")
        )
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; interfaces of this host: {}; name one with --iface",
            self.reasons(),
            self.interfaces
        )
    }
}

impl std::error::Error for SelectError {}

#[cfg(test)]
mod tests;
