//! The chosen interface while the daemon runs: renamed, replaced, with other
//! addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipam::{Family, PerFamily};

use super::{HostView, InterfaceOptions, PathTo, SelectError, Uplink, select};

/// What the choice was made by is not there any more, and nothing else can be
/// in its place yet.
#[derive(Debug, thiserror::Error)]
#[error("{lost}: {why}")]
pub struct FollowError {
    /// What is not there.
    pub lost: Lost,
    /// Why nothing is in its place.
    pub why: Why,
}

// === impl FollowError ===

impl FollowError {
    /// Whether the interface is still there: what it carries for the other
    /// family goes on.
    #[must_use]
    pub const fn has_interface(&self) -> bool {
        !matches!(self.lost, Lost::Interface(_))
    }
}

/// What the choice was made by and is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The interface.
    #[error("interface {0} is gone")]
    Interface(String),
    /// An address that was published as its own.
    #[error("the published address {0} is no longer on this host")]
    Address(IpAddr),
    /// The same, but another interface has it.
    #[error("the published address {0} is on interface {1} by now")]
    Moved(IpAddr, String),
}

/// Why nothing is in its place.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// No interface fits now. Which there are is not said: pods' come and go.
    #[error("{}", .0.reasons())]
    Select(#[from] SelectError),
    /// Another interface would be chosen.
    #[error(
        "interface {0} is chosen unless what was there is back soon, as with \
         a renewed DHCP lease or a driver that is loaded anew"
    )]
    OtherInterface(String),
    /// Only addresses that are no replacement are left.
    #[error("only {0} is left on the interface, which others cannot reach")]
    LinkLocal(IpAddr),
}

// === impl Uplink ===

impl Uplink {
    /// The addresses that are published as the interface's own. One behind
    /// NAT is on no interface.
    fn own(&self) -> impl Iterator<Item = IpAddr> {
        let own =
            |(family, ip): &(_, &IpAddr)| self.addrs.get(*family) == Some(*ip);
        self.public.iter().filter(own).map(|(_, ip)| *ip)
    }

    /// Whether the interface, which has the addresses `there`, has all that
    /// are published as its own, and none of these is only until there is one
    /// that reaches beyond the link.
    #[must_use]
    pub fn is_whole(&self, there: &BTreeSet<IpAddr>) -> bool {
        self.own().all(|ip| there.contains(&ip) && !is_link_local(ip))
    }

    /// With the addresses of `now`, the same interface, for link-local ones
    /// that are published: of a start before the router has advertised itself.
    fn beyond_the_link(&mut self, now: &Self) {
        for family in Family::ALL {
            let own = self.addrs.get(family).copied();
            let new = now.addrs.get(family).copied();
            if own == self.public.get(family).copied()
                && own.is_some_and(is_link_local)
                && let Some(new) = new.filter(|ip| !is_link_local(*ip))
            {
                self.addrs.set(family, Some(new));
                self.public.set(family, now.public.get(family).copied());
            }
        }
    }

    /// The choice as it is by now. A device that was renamed stays the one,
    /// with whatever name, as long as it has its addresses: nothing changes
    /// for the tunnel, but that a link-local address gives way to one that
    /// others reach. Otherwise it is made anew. The time between two
    /// addresses, when the interface has none or a link-local one, is waited
    /// out, and `patience` with another interface, unless that has the
    /// addresses now.
    ///
    /// # Errors
    /// [`FollowError`]
    pub fn follow<E: fmt::Display>(
        &self,
        view: &HostView,
        options: &InterfaceOptions,
        patience: bool,
        lookup: impl FnOnce(IpAddr) -> Result<PathTo, E>,
    ) -> Result<Self, FollowError> {
        let enabled: PerFamily<()> = self.addrs.map(|_, _| ());
        let device = view.link(self.index);
        let lost = if let Some(device) = device {
            let Some(lost) = self.own().find(|ip| !device.has(*ip)) else {
                let name = overlay::IfName::new(&device.name);
                let name = name.unwrap_or(self.name);
                let mut same = Self { name, mtu: device.mtu, ..self.clone() };
                if self.own().any(is_link_local)
                    && let Ok(now) = select(view, options, enabled, lookup)
                    && now.index == self.index
                {
                    same.beyond_the_link(&now);
                }
                return Ok(same);
            };
            match view.owner(lost) {
                Some(other) => Lost::Moved(lost, other.name.clone()),
                None => Lost::Address(lost),
            }
        } else {
            Lost::Interface(self.name.to_string())
        };
        let failed = |why| FollowError { lost: lost.clone(), why };
        let new = select(view, options, enabled, lookup)
            .map_err(|e| failed(e.into()))?;
        let other = new.index != self.index && new.name != self.name;
        let along = self.own().all(|ip| new.own().any(|now| now == ip));
        if other && !along && patience {
            return Err(failed(Why::OtherInterface(new.name.to_string())));
        }
        let had = self.addrs.iter().any(|(_, ip)| is_link_local(*ip));
        let has =
            new.addrs.iter().map(|(_, ip)| *ip).find(|ip| is_link_local(*ip));
        match has.filter(|_| !had) {
            Some(ip) => Err(failed(Why::LinkLocal(ip))),
            None => Ok(new),
        }
    }
}

const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Address, Link};

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u32, name: &str, addrs: &[&str]) -> Link {
        let address = |text: &&str| Address {
            ip: addr(text),
            permanent: true,
            temporary: false,
            unfit: false,
        };
        Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            addrs: addrs.iter().map(address).collect(),
        }
    }

    fn view(links: &[Link]) -> HostView {
        HostView { links: links.to_vec(), defaults: PerFamily::default() }
    }

    /// eth0 or, in want of it, eth1.
    fn options() -> InterfaceOptions {
        InterfaceOptions {
            names: vec!["eth0".into(), "eth1".into()],
            ..InterfaceOptions::default()
        }
    }

    const DUAL: PerFamily<()> = PerFamily { v4: Some(()), v6: Some(()) };
    const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];

    /// What was chosen when eth0 had [`OWN`].
    fn chosen() -> Uplink {
        let view = view(&[link(2, "eth0", &OWN)]);
        select(&view, &options(), DUAL, |_| Err("nowhere")).unwrap()
    }

    fn follow_by(
        uplink: &Uplink,
        links: &[Link],
        patience: bool,
    ) -> Result<String, String> {
        uplink
            .follow(&view(links), &options(), patience, |_| Err("nowhere"))
            .map(|new| {
                let ips: Vec<_> =
                    new.public.iter().map(|(_, ip)| ip.to_string()).collect();
                format!("{} {} {}", new.index, new.name, ips.join(" "))
            })
            .map_err(|e| e.to_string())
    }

    fn follow(links: &[Link]) -> Result<String, String> {
        follow_by(&chosen(), links, true)
    }

    fn eth1() -> Link {
        link(3, "eth1", &["10.9.0.1", "fd09::1"])
    }

    #[test]
    fn nothing_changes_while_the_addresses_are_there() {
        let now = ["10.0.0.9", "10.0.0.1", "fd00::9", "fd00::1", "fe80::1"];
        let there = now.map(addr).into();
        assert!(chosen().is_whole(&there));
        assert!(!chosen().is_whole(&[addr("10.0.0.1")].into()));
        let as_before = Ok("2 eth0 10.0.0.1 fd00::1".to_owned());
        assert_eq!(follow(&[link(2, "eth0", &now), eth1()]), as_before);
        // behind NAT what is published is on no interface anyway
        let mut nat = chosen();
        nat.public.v4 = Some(addr("203.0.113.7"));
        assert!(nat.is_whole(&[addr("fd00::1")].into()));
    }

    #[test]
    fn a_renamed_device_is_still_the_one() {
        let renamed = link(2, "lan0", &OWN);
        let other = link(4, "eth0", &["10.9.0.1", "fd09::1"]);
        let same = Ok("2 lan0 10.0.0.1 fd00::1".to_owned());
        assert_eq!(follow(std::slice::from_ref(&renamed)), same);
        assert_eq!(follow(&[renamed, other]), same, "not by its name");
    }

    #[test]
    fn a_new_address_of_the_interface_is_taken() {
        let now = link(2, "eth0", &["10.0.0.9", "fd00::1"]);
        let new = Ok("2 eth0 10.0.0.9 fd00::1".to_owned());
        assert_eq!(follow(&[now, eth1()]), new);
        let again = link(7, "eth0", &["10.0.0.9", "fd00::1"]);
        let new = Ok("7 eth0 10.0.0.9 fd00::1".to_owned());
        assert_eq!(follow(&[eth1(), again]), new);
    }

    #[test]
    fn another_interface_is_taken_when_the_old_one_is_gone() {
        let new = Ok("3 eth1 10.9.0.1 fd09::1".to_owned());
        assert_eq!(follow_by(&chosen(), &[eth1()], false), new);
        // a driver may be loaded anew
        let error = follow(&[eth1()]).unwrap_err();
        assert!(error.contains("interface eth1 is chosen unless"), "{error}");
        let heir = Ok("3 eth1 10.0.0.1 fd00::1".to_owned());
        assert_eq!(follow(&[link(3, "eth1", &OWN)]), heir);
        let again = [eth1(), link(7, "eth0", &OWN)];
        assert_eq!(follow(&again), Ok("7 eth0 10.0.0.1 fd00::1".to_owned()));
        let error = follow(&[link(4, "lan0", &OWN)]).unwrap_err();
        assert!(error.starts_with("interface eth0 is gone: no int"), "{error}");
        // while it lasts, pods that come and go make it no other error
        let beside_a_pod =
            |name: &str| follow(&[link(4, "lan0", &OWN), link(9, name, &[])]);
        assert_eq!(beside_a_pod("veth1"), Err(error.clone()));
        assert_eq!(beside_a_pod("veth2"), Err(error));
    }

    #[test]
    fn addresses_that_move_are_followed() {
        let port = link(2, "eth0", &[]);
        let bridge = link(5, "eth1", &OWN);
        let new = Ok("5 eth1 10.0.0.1 fd00::1".to_owned());
        assert_eq!(follow(&[port.clone(), bridge]), new);
        let unnamed = link(5, "br0", &OWN);
        let error = follow(&[port, unnamed]).unwrap_err();
        assert!(error.contains("10.0.0.1 is on interface br0"), "{error}");
    }

    #[test]
    fn what_lies_between_two_addresses_is_waited_out() {
        let half = link(2, "eth0", &["10.0.0.1", "fe80::1"]);
        let error = follow(&[half, eth1()]).unwrap_err();
        assert!(error.contains("fd00::1 is no longer"), "{error}");
        assert!(error.contains("only fe80::1 is left"), "{error}");
        // no IPv6 at all, so that the other interface would be the choice
        let none = [link(2, "eth0", &["10.0.0.1"]), eth1()];
        let error = follow(&none).unwrap_err();
        assert!(error.contains("interface eth1 is chosen unless"), "{error}");
        let new = Ok("3 eth1 10.9.0.1 fd09::1".to_owned());
        assert_eq!(follow_by(&chosen(), &none, false), new);
    }

    /// A start before the router has advertised itself.
    #[test]
    fn a_link_local_address_gives_way() {
        let early = ["10.0.0.1", "fe80::1"];
        let view = view(&[link(2, "eth0", &early)]);
        let uplink =
            select(&view, &options(), DUAL, |_| Err("nowhere")).unwrap();
        assert!(!uplink.is_whole(&early.map(addr).into()));
        let by = |links: &[Link]| follow_by(&uplink, links, true);
        let same = Ok("2 eth0 10.0.0.1 fe80::1".to_owned());
        assert_eq!(by(&[link(2, "eth0", &early), eth1()]), same);
        // the other family's stays the one it is
        let now = ["10.0.0.9", "10.0.0.1", "fe80::1", "fd00::1"];
        let new = Ok("2 eth0 10.0.0.1 fd00::1".to_owned());
        assert_eq!(by(&[link(2, "eth0", &now)]), new);
    }

    /// C-12, C-110: what the user has said is not followed elsewhere.
    #[test]
    fn an_address_that_was_given_stays() {
        let options = InterfaceOptions {
            public: PerFamily { v4: Some(addr("10.0.0.1")), v6: None },
            ..InterfaceOptions::default()
        };
        let follow = |links: &[Link]| {
            let found = chosen()
                .follow(&view(links), &options, false, |_| Err("nowhere"));
            found.map(|new| new.index).map_err(|e| e.to_string())
        };
        let error = follow(&[eth1()]).unwrap_err();
        assert!(error.contains("no interface has the address"), "{error}");
        assert_eq!(follow(&[eth1(), link(9, "lan0", &OWN)]), Ok(9));
    }
}
