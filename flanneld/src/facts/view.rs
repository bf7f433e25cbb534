//! A snapshot of the host's links, addresses and default routes.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipam::{Family, PerFamily};

/// What the kernel has, as far as choosing an interface needs it.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    /// All links, in order of their index.
    pub links: Vec<Link>,
    /// The default routes of the main table (no destination, or one of
    /// length 0), unicast only, the preferred one first.
    pub defaults: PerFamily<Vec<DefaultRoute>>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, in the kernel's order.
    pub addrs: Vec<Address>,
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Not limited in time (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// A privacy address (IPv6), or one behind another of the same network
    /// (IPv4: "secondary", the same bit).
    pub temporary: bool,
    /// Not to be used for new traffic: deprecated, or a duplicate of another
    /// host's.
    pub unfit: bool,
}

/// A default route: one hop, or several when it is multipath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Its hops in the kernel's order.
    pub hops: Vec<Hop>,
}

/// One way a default route can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the outgoing link; `None` when the kernel names none.
    pub link: Option<u32>,
    /// Usable now: neither `RTNH_F_DEAD` nor `RTNH_F_LINKDOWN`.
    pub alive: bool,
}

/// The kernel's answer to "how would you reach this address".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTo {
    /// Index of the outgoing link.
    pub link: Option<u32>,
    /// The source address it would use.
    pub source: Option<IpAddr>,
    /// Through a router.
    pub gateway: bool,
    /// Over one of several hops.
    pub multipath: bool,
    /// What becomes of packets to there.
    pub end: End,
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Out of an interface.
    Onward,
    /// To this host itself.
    Here,
    /// Nowhere: the route says "unreachable", "prohibit" or the like.
    Nowhere,
}

// === impl HostView ===

impl HostView {
    /// The link of that index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The first link that has `ip`.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<&Link> {
        self.links.iter().find(|link| link.has(ip))
    }

    /// Every interface with its addresses, for messages (C-113).
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = String::new();
        for link in &self.links {
            let comma = if out.is_empty() { "" } else { ", " };
            let addrs: Vec<String> =
                link.addrs.iter().map(|a| a.ip.to_string()).collect();
            let addrs = if addrs.is_empty() {
                "no address".to_owned()
            } else {
                addrs.join(" ")
            };
            // Writing to a String cannot fail.
            let _ = write!(out, "{comma}{} [{addrs}]", link.name);
        }
        if out.is_empty() { "none".to_owned() } else { out }
    }
}

// === impl Link ===

impl Link {
    /// Whether `ip` is on it.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addrs.iter().any(|addr| addr.ip == ip)
    }

    /// The addresses of `family` that other nodes can be given, best first
    /// (C-116): global before link-local, permanent before passing,
    /// lasting before temporary, then in the kernel's order.
    #[must_use]
    pub fn candidates(&self, family: Family) -> Vec<IpAddr> {
        let mut fit: Vec<&Address> = self
            .addrs
            .iter()
            .filter(|a| Family::of(a.ip) == family && !a.unfit)
            .filter(|a| is_global(a.ip) || is_link_local(a.ip))
            .collect();
        fit.sort_by_key(|a| (is_link_local(a.ip), !a.permanent, a.temporary));
        fit.into_iter().map(|a| a.ip).collect()
    }
}

/// Unicast beyond this host and link; private networks included.
fn is_global(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || is_link_local(ip)
        || broadcast)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
