//! The chosen interface while the daemon runs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipam::PerFamily;

use super::{HostView, InterfaceOptions, PathTo, SelectError, Uplink, select};

/// An address that was published is gone, and no other can be in its place.
#[derive(Debug, thiserror::Error)]
#[error("the published address {address} is no longer on this host: {why}")]
pub struct FollowError {
    /// The address.
    pub address: IpAddr,
    /// Why there is no other.
    pub why: Why,
}

/// Why no other address is published instead.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// No interface fits now.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Another interface would be chosen: that takes a new start.
    #[error("by now {0} would be chosen; restart flanneld to move there")]
    OtherInterface(String),
    /// Only addresses that are no replacement are left.
    #[error("only {0} is left on the interface, which others cannot reach")]
    LinkLocal(IpAddr),
}

// === impl Uplink ===

impl Uplink {
    /// An address that was published as the interface's own, but is none of
    /// the `host`'s any more. One behind NAT never was.
    #[must_use]
    pub fn lost(&self, host: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let own =
            |(family, ip): &(_, &IpAddr)| self.addrs.get(*family) == Some(*ip);
        let mut published = self.public.iter().filter(own).map(|(_, ip)| *ip);
        published.find(|ip| !host.contains(ip))
    }

    /// The choice made anew after `address` was [lost](Self::lost): the same
    /// interface with what it has now. The time between two addresses, when
    /// it has none or a link-local one, is waited out.
    ///
    /// # Errors
    /// [`FollowError`]
    pub fn follow<E: fmt::Display>(
        &self,
        address: IpAddr,
        view: &HostView,
        options: &InterfaceOptions,
        lookup: impl FnOnce(IpAddr) -> Result<PathTo, E>,
    ) -> Result<Self, FollowError> {
        let failed = |why| FollowError { address, why };
        let enabled: PerFamily<()> = self.addrs.map(|_, _| ());
        let new = select(view, options, enabled, lookup)
            .map_err(|e| failed(e.into()))?;
        if new.name != self.name {
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

    fn view(addrs: &[&str]) -> HostView {
        let address = |text: &&str| Address {
            ip: addr(text),
            permanent: true,
            temporary: false,
            unfit: false,
        };
        let link = |index, name: &str, addrs: &[&str]| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            addrs: addrs.iter().map(address).collect(),
        };
        HostView {
            links: vec![
                link(2, "eth0", addrs),
                link(3, "eth1", &["10.9.0.1", "fd09::1"]),
            ],
            defaults: PerFamily::default(),
        }
    }

    /// eth0 or, in want of it, eth1.
    fn options() -> InterfaceOptions {
        InterfaceOptions {
            names: vec!["eth0".into(), "eth1".into()],
            ..InterfaceOptions::default()
        }
    }

    const DUAL: PerFamily<()> = PerFamily { v4: Some(()), v6: Some(()) };

    fn choose(addrs: &[&str]) -> Uplink {
        let nowhere = |_| Err("nowhere");
        select(&view(addrs), &options(), DUAL, nowhere).unwrap()
    }

    fn follow(now: &[&str]) -> Result<String, String> {
        let uplink = choose(&["10.0.0.1", "fd00::1"]);
        let view = view(now);
        let host = view.links.iter().flat_map(|l| &l.addrs).map(|a| a.ip);
        let Some(gone) = uplink.lost(&host.collect()) else {
            return Ok("as before".into());
        };
        uplink
            .follow(gone, &view, &options(), |_| Err("nowhere"))
            .map(|new| format!("{:?} {:?}", new.public.v4, new.public.v6))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_changes_while_the_addresses_are_there() {
        let now = ["10.0.0.9", "10.0.0.1", "fd00::9", "fd00::1", "fe80::1"];
        assert_eq!(follow(&now).unwrap(), "as before");
        // behind NAT what is published is on no interface anyway
        let mut nat = choose(&["10.0.0.1", "fd00::1"]);
        nat.public.v4 = Some(addr("203.0.113.7"));
        assert_eq!(nat.lost(&[addr("fd00::1")].into()), None);
    }

    #[test]
    fn a_new_address_of_the_interface_is_taken() {
        assert_eq!(
            follow(&["10.0.0.9", "fd00::1"]).unwrap(),
            "Some(10.0.0.9) Some(fd00::1)"
        );
    }

    #[test]
    fn what_lies_between_two_addresses_is_waited_out() {
        let error = follow(&["10.0.0.1", "fe80::1"]).unwrap_err();
        assert!(error.contains("fd00::1 is no longer"), "{error}");
        assert!(error.contains("only fe80::1 is left"), "{error}");
        // no IPv6 at all, so that the other interface would be the choice
        let error = follow(&["10.0.0.1"]).unwrap_err();
        assert!(error.contains("eth1 would be chosen; restart"), "{error}");
    }
}
