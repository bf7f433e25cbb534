//! The objects and the kernel's own rules about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::{Family, Subnet};

use crate::{
    Addr, Fdb, FdbKey, IfName, Key, Link, LinkKind, Mac, Neigh, NeighKey,
    Nexthop, Observed, Route, RouteKey, nexthop, vxlan,
};

/// What the kernel answers when it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Errno {
    /// `EEXIST`
    #[error("file exists (EEXIST)")]
    Exists,
    /// `ENOENT`, `ESRCH`
    #[error("no such entry (ENOENT)")]
    NotFound,
    /// `ENODEV`
    #[error("no such device (ENODEV)")]
    NoDevice,
    /// `EADDRNOTAVAIL`
    #[error("cannot assign requested address (EADDRNOTAVAIL)")]
    NoAddress,
    /// `ENETDOWN`
    #[error("network is down (ENETDOWN)")]
    Down,
    /// `ENETUNREACH`
    #[error("network is unreachable (ENETUNREACH)")]
    Unreachable,
    /// `EINVAL`
    #[error("invalid argument (EINVAL)")]
    Invalid,
    /// `EOPNOTSUPP`, `EAFNOSUPPORT`
    #[error("operation not supported (EOPNOTSUPP)")]
    Unsupported,
    /// `ENOBUFS`
    #[error("no buffer space available (ENOBUFS)")]
    NoBuffers,
}

/// The state. Its methods are single requests by whoever likes; they leave
/// notifications.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    links: BTreeMap<IfName, Device>,
    addrs: BTreeSet<(IfName, Addr)>,
    fdb: BTreeMap<FdbKey, Fdb>,
    neighs: BTreeMap<NeighKey, Neigh>,
    nexthops: BTreeMap<u32, Nexthop>,
    routes: BTreeMap<RouteKey, Route>,
    last_index: u32,
    pub(super) notified: BTreeSet<Key>,
    /// Notifications are lost while this is set.
    pub deaf: bool,
}

#[derive(Clone, Debug)]
struct Device {
    index: u32,
    link: Link,
}

// === impl Kernel ===

impl Kernel {
    /// A kernel with an underlay interface that is up and has these
    /// addresses, prefix length included.
    #[must_use]
    pub fn with_uplink(name: IfName, mtu: u32, addrs: &[Addr]) -> Self {
        let mut out = Self::default();
        let kind = LinkKind::Other(String::new());
        let link =
            Link { kind, mac: Mac::default(), mtu, up: true, master: None };
        out.insert_link(name, link);
        out.addrs.extend(addrs.iter().map(|addr| (name, *addr)));
        out.notified.clear();
        out
    }

    /// All there is, as a dump shows it.
    #[must_use]
    pub fn everything(&self) -> Observed {
        let link = |(name, dev): (&IfName, &Device)| (*name, dev.link.clone());
        let route =
            |(key, route): (&RouteKey, &Route)| (*key, self.resolved(*route));
        Observed {
            links: self.links.iter().map(link).collect(),
            addrs: self.addrs.clone(),
            fdb: self.fdb.clone(),
            neighs: self.neighs.clone(),
            nexthops: self
                .nexthops
                .iter()
                .filter(|(id, _)| nexthop::is_ours(**id))
                .map(|(id, nexthop)| (*id, *nexthop))
                .collect(),
            routes: self.routes.iter().map(route).collect(),
        }
    }

    /// The index of a device.
    #[must_use]
    pub fn index(&self, name: IfName) -> Option<u32> {
        self.links.get(&name).map(|dev| dev.index)
    }

    /// Creates a device, up if it says so.
    ///
    /// # Errors
    /// The name or the tunnel is taken, the parent is not there.
    pub fn add_link(
        &mut self,
        name: IfName,
        mut link: Link,
    ) -> Result<(), Errno> {
        if self.links.contains_key(&name) {
            return Err(Errno::Exists);
        }
        if let Some(limit) = self.mtu_limit(&link)? {
            link.mtu = link.mtu.min(limit);
        }
        if let LinkKind::Vxlan(new) = &link.kind {
            let same = |dev: &Device| match &dev.link.kind {
                LinkKind::Vxlan(old) => {
                    (old.vni, old.port) == (new.vni, new.port)
                        && Family::of(old.local) == Family::of(new.local)
                }
                LinkKind::Other(_) => false,
            };
            if self.links.values().any(same) {
                return Err(Errno::Exists);
            }
        }
        self.insert_link(name, link);
        Ok(())
    }

    /// Deletes a device with all that stands on it, tunnels over it included.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete_link(&mut self, name: IfName) -> Result<(), Errno> {
        let gone = self.links.remove(&name).ok_or(Errno::NoDevice)?;
        self.flush(name);
        self.addrs.retain(|(link, _)| *link != name);
        self.fdb.retain(|key, _| key.link != name);
        self.notify(Key::Link(name));
        let over: Vec<_> = self
            .links
            .iter()
            .filter(|(_, dev)| parent(&dev.link) == Some(gone.index))
            .map(|(name, _)| *name)
            .collect();
        for name in over {
            self.delete_link(name)?;
        }
        Ok(())
    }

    /// Sets a device up or down.
    ///
    /// # Errors
    /// It is not there.
    pub fn set_up(&mut self, name: IfName, up: bool) -> Result<(), Errno> {
        let dev = self.device(name)?;
        if dev.link.up == up {
            return Ok(());
        }
        dev.link.up = up;
        if !up {
            self.flush(name);
            self.addrs.retain(|(link, addr)| {
                *link != name || addr.family() == Family::V4
            });
            self.fdb.retain(|key, fdb| key.link != name || fdb.permanent);
        }
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Sets a device's MTU.
    ///
    /// # Errors
    /// It is not there, or its parent is too narrow.
    pub fn set_mtu(&mut self, name: IfName, mtu: u32) -> Result<(), Errno> {
        let link = self.device(name)?.link.clone();
        if self.mtu_limit(&link)?.is_some_and(|limit| mtu > limit) {
            return Err(Errno::Invalid);
        }
        self.device(name)?.link.mtu = mtu;
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Sets a device's Ethernet address, which drops its neighbours.
    ///
    /// # Errors
    /// It is not there.
    pub fn set_mac(&mut self, name: IfName, mac: Mac) -> Result<(), Errno> {
        self.device(name)?.link.mac = mac;
        self.drop_neighs(name, None);
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Gives a device to a master, or takes it from there: it goes down and
    /// up, as with a VRF.
    ///
    /// # Errors
    /// It is not there.
    pub fn set_master(
        &mut self,
        name: IfName,
        master: Option<u32>,
    ) -> Result<(), Errno> {
        let dev = self.device(name)?;
        if dev.link.master == master {
            return Ok(());
        }
        dev.link.master = master;
        if dev.link.up {
            self.set_up(name, false)?;
            self.set_up(name, true)?;
        }
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Sets a vxlan device's learning flag.
    ///
    /// # Errors
    /// It is not there, or no vxlan device.
    pub fn set_learning(
        &mut self,
        name: IfName,
        on: bool,
    ) -> Result<(), Errno> {
        let LinkKind::Vxlan(vxlan) = &mut self.device(name)?.link.kind else {
            return Err(Errno::Unsupported);
        };
        vxlan.learning = on;
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Changes the interface and the source address of a vxlan device's outer
    /// packets.
    ///
    /// # Errors
    /// It is not there, no vxlan device, or of the other family.
    pub fn set_underlay(
        &mut self,
        name: IfName,
        parent: u32,
        local: IpAddr,
    ) -> Result<(), Errno> {
        let LinkKind::Vxlan(vxlan) = &mut self.device(name)?.link.kind else {
            return Err(Errno::Unsupported);
        };
        if Family::of(vxlan.local) != Family::of(local) {
            return Err(Errno::Unsupported);
        }
        (vxlan.parent, vxlan.local) = (parent, local);
        self.notify(Key::Link(name));
        Ok(())
    }

    /// Adds an address.
    ///
    /// # Errors
    /// It is there already, or the device is not.
    pub fn add_addr(&mut self, link: IfName, addr: Addr) -> Result<(), Errno> {
        self.device(link)?;
        if !self.addrs.insert((link, addr)) {
            return Err(Errno::Exists);
        }
        self.notify(Key::Addr(link, addr));
        Ok(())
    }

    /// Deletes an address. The last IPv4 one switches IPv4 off on the
    /// device, which drops neighbours and plain routes.
    ///
    /// # Errors
    /// It or the device is not there.
    pub fn delete_addr(
        &mut self,
        link: IfName,
        addr: Addr,
    ) -> Result<(), Errno> {
        self.device(link)?;
        if !self.addrs.remove(&(link, addr)) {
            return Err(Errno::NoAddress);
        }
        let v4 =
            |(l, a): &(IfName, Addr)| *l == link && a.family() == Family::V4;
        if addr.family() == Family::V4 && !self.addrs.iter().any(v4) {
            self.drop_neighs(link, Some(Family::V4));
            self.routes.retain(|key, route| {
                key.dst.family() == Family::V6
                    || route.nexthop.is_some()
                    || route.link != Some(link)
            });
        }
        self.notify(Key::Addr(link, addr));
        Ok(())
    }

    /// Creates or replaces a forwarding entry.
    ///
    /// # Errors
    /// The device is not there, is no vxlan device or of the other family.
    pub fn set_fdb(&mut self, key: FdbKey, fdb: Fdb) -> Result<(), Errno> {
        match &self.device(key.link)?.link.kind {
            LinkKind::Vxlan(vxlan)
                if Family::of(vxlan.local) == Family::of(fdb.dst) => {}
            LinkKind::Vxlan(_) | LinkKind::Other(_) => {
                return Err(Errno::Unsupported);
            }
        }
        self.fdb.insert(key, fdb);
        self.notify(Key::Fdb(key));
        Ok(())
    }

    /// Deletes a forwarding entry.
    ///
    /// # Errors
    /// It or the device is not there.
    pub fn delete_fdb(&mut self, key: FdbKey) -> Result<(), Errno> {
        self.device(key.link)?;
        self.fdb.remove(&key).ok_or(Errno::NotFound)?;
        self.notify(Key::Fdb(key));
        Ok(())
    }

    /// Creates or replaces a neighbour; possible on a device that is down.
    ///
    /// # Errors
    /// The device is not there.
    pub fn set_neigh(
        &mut self,
        key: NeighKey,
        neigh: Neigh,
    ) -> Result<(), Errno> {
        self.device(key.link)?;
        self.neighs.insert(key, neigh);
        self.notify(Key::Neigh(key));
        Ok(())
    }

    /// Deletes a neighbour.
    ///
    /// # Errors
    /// It or the device is not there.
    pub fn delete_neigh(&mut self, key: NeighKey) -> Result<(), Errno> {
        self.device(key.link)?;
        self.neighs.remove(&key).ok_or(Errno::NotFound)?;
        self.notify(Key::Neigh(key));
        Ok(())
    }

    /// Creates or replaces a nexthop object; routes that point to it follow.
    ///
    /// # Errors
    /// The device is not there or down, the gateway is ours or out of reach.
    pub fn set_nexthop(&mut self, id: u32, new: Nexthop) -> Result<(), Errno> {
        let link = new.link.ok_or(Errno::Unsupported)?;
        self.check_way(link, new.gateway, new.onlink)?;
        self.nexthops.insert(id, new);
        self.notify(Key::Nexthop(id));
        Ok(())
    }

    /// Deletes a nexthop object with the routes that point to it, of which
    /// IPv4 does not tell.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete_nexthop(&mut self, id: u32) -> Result<(), Errno> {
        self.nexthops.remove(&id).ok_or(Errno::NotFound)?;
        self.drop_routes(|route| route.nexthop == Some(id));
        self.notify(Key::Nexthop(id));
        Ok(())
    }

    /// Whether there is a route of that key.
    pub(super) fn has_route(&self, key: RouteKey) -> bool {
        self.routes.contains_key(&key)
    }

    /// Creates or replaces a route. With a nexthop id nothing else counts.
    ///
    /// # Errors
    /// The nexthop object or device is not there, the device is down, the
    /// gateway is ours or out of reach.
    pub fn set_route(
        &mut self,
        key: RouteKey,
        mut new: Route,
    ) -> Result<(), Errno> {
        if let Some(id) = new.nexthop {
            if !self.nexthops.contains_key(&id) {
                return Err(Errno::Invalid);
            }
            new = Route { gateway: None, link: None, onlink: false, ..new };
        } else {
            let link = match (new.link, new.gateway) {
                (Some(link), _) => link,
                (None, Some(gateway)) => {
                    self.towards(gateway).ok_or(Errno::Unreachable)?
                }
                (None, None) => return Err(Errno::NoDevice),
            };
            self.check_way(link, new.gateway, new.onlink)?;
            new.link = Some(link);
        }
        self.routes.insert(key, new);
        self.notify(Key::Route(key));
        Ok(())
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete_route(&mut self, key: RouteKey) -> Result<(), Errno> {
        self.routes.remove(&key).ok_or(Errno::NotFound)?;
        self.notify(Key::Route(key));
        Ok(())
    }

    /// The route with what its nexthop object says.
    pub(super) fn resolved(&self, route: Route) -> Route {
        match route.nexthop.and_then(|id| self.nexthops.get(&id)) {
            Some(Nexthop { link, gateway, onlink, .. }) => Route {
                link: *link,
                gateway: *gateway,
                onlink: *onlink,
                ..route
            },
            None => route,
        }
    }

    /// The device that is up and has a network with `ip` in it.
    pub(super) fn towards(&self, ip: IpAddr) -> Option<IfName> {
        let near = |(link, addr): &&(IfName, Addr)| {
            let up = self.links.get(link).is_some_and(|dev| dev.link.up);
            let net = Subnet::new(addr.ip, addr.len);
            up && net.is_ok_and(|net| net.contains(ip))
        };
        self.addrs.iter().find(near).map(|(link, _)| *link)
    }

    fn insert_link(&mut self, name: IfName, link: Link) {
        self.last_index += 1;
        self.links.insert(name, Device { index: self.last_index, link });
        self.notify(Key::Link(name));
    }

    fn device(&mut self, name: IfName) -> Result<&mut Device, Errno> {
        self.links.get_mut(&name).ok_or(Errno::NoDevice)
    }

    /// How wide a tunnel's parent lets it be.
    fn mtu_limit(&self, link: &Link) -> Result<Option<u32>, Errno> {
        let LinkKind::Vxlan(new) = &link.kind else { return Ok(None) };
        if new.parent == 0 {
            return Ok(None);
        }
        let below = self
            .links
            .values()
            .find(|dev| dev.index == new.parent)
            .ok_or(Errno::NoDevice)?;
        let overhead = vxlan::overhead(Family::of(new.local));
        Ok(Some(below.link.mtu.saturating_sub(overhead)))
    }

    fn check_way(
        &self,
        link: IfName,
        gateway: Option<IpAddr>,
        onlink: bool,
    ) -> Result<(), Errno> {
        let dev = self.links.get(&link).ok_or(Errno::NoDevice)?;
        if !dev.link.up {
            return Err(Errno::Down);
        }
        let Some(gateway) = gateway else { return Ok(()) };
        if self.addrs.iter().any(|(_, addr)| addr.ip == gateway) {
            return Err(Errno::Invalid);
        }
        if !onlink && self.towards(gateway) != Some(link) {
            return Err(Errno::Unreachable);
        }
        if Family::of(gateway) == Family::V6
            && self.routed(gateway).is_some_and(|by| by != link)
        {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    /// The device by which a route leads to `ip`, the default route aside.
    fn routed(&self, ip: IpAddr) -> Option<IfName> {
        let all = self.routes.iter().filter(|(key, _)| key.dst.len() > 0);
        let (_, route) = all
            .filter(|(key, _)| key.dst.contains(ip))
            .max_by_key(|(key, _)| (key.dst.len(), u32::MAX - key.metric))?;
        self.resolved(*route).link
    }

    /// What a device loses when it goes down.
    fn flush(&mut self, name: IfName) {
        self.drop_neighs(name, None);
        let on_it = |nexthop: &Nexthop| nexthop.link == Some(name);
        let gone: BTreeSet<_> = self
            .nexthops
            .iter()
            .filter(|(_, nexthop)| on_it(nexthop))
            .map(|(id, _)| *id)
            .collect();
        // no notification: the kernel sends none for these
        self.nexthops.retain(|id, _| !gone.contains(id));
        self.drop_routes(|route| {
            route.link == Some(name)
                || route.nexthop.is_some_and(|id| gone.contains(&id))
        });
    }

    /// Drops routes; only IPv6 tells.
    fn drop_routes(&mut self, gone: impl Fn(&Route) -> bool) {
        let dropped: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| gone(route))
            .map(|(key, _)| *key)
            .collect();
        for key in dropped {
            self.routes.remove(&key);
            if key.dst.family() == Family::V6 {
                self.notify(Key::Route(key));
            }
        }
    }

    fn drop_neighs(&mut self, link: IfName, family: Option<Family>) {
        let gone: Vec<_> = self
            .neighs
            .keys()
            .filter(|key| {
                key.link == link
                    && family.is_none_or(|f| f == Family::of(key.ip))
            })
            .copied()
            .collect();
        for key in gone {
            self.neighs.remove(&key);
            self.notify(Key::Neigh(key));
        }
    }

    fn notify(&mut self, key: Key) {
        if !self.deaf {
            self.notified.insert(key);
        }
    }
}

fn parent(link: &Link) -> Option<u32> {
    match &link.kind {
        LinkKind::Vxlan(vxlan) => (vxlan.parent != 0).then_some(vxlan.parent),
        LinkKind::Other(_) => None,
    }
}
