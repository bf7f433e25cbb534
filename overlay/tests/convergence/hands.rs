//! What others do to the kernel.

use ipam::Family;
use overlay::sim::{Errno, Kernel};
use overlay::{
    Addr, Fdb, FdbKey, Link, LinkKind, Neigh, NeighKey, Nexthop, Route,
    RouteKey, Vxlan, vxlan,
};
use proptest::prelude::*;

use crate::inputs::{
    Conf, PEERS, bystanders, family, mac, public, subnet, uplink,
};

/// What somebody else does to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hand {
    DeleteLink(Family),
    /// A device of our name and another kind.
    Squat(Family),
    /// A vxlan device with our tunnel's identity under a former name of ours.
    Clash(Family),
    Down(Family),
    Up(Family),
    Bounce(Family),
    Mtu(Family),
    Mac(Family),
    Learning(Family),
    /// Into a bridge or VRF.
    Enslave(Family),
    UplinkBounce,
    AddAddr(Family, u8),
    DeleteAddrs(Family),
    Fdb(Family, u8, u8, bool, bool),
    DeleteFdb(Family, u8),
    Neigh(Family, u8, u8, bool),
    DeleteNeigh(Family, u8),
    Nexthop(Family, u8, bool),
    DeleteNexthop(Family, u8),
    Reroute(Family, u8, bool),
    /// Upstream's daemon replaces the route by its own.
    Upstream(Family, u8),
    DeleteRoute(Family, u8),
    /// The same router, but by way of our device, or not onlink.
    Bend(Family, u8, bool),
}

impl Hand {
    /// Does it; the kernel refuses what it refuses.
    pub(crate) fn reach(
        self,
        conf: Conf,
        kernel: &mut Kernel,
    ) -> Result<(), Errno> {
        let vni = conf.vni;
        let named = |family, vni| vxlan::device_name(family, vni).unwrap();
        let dev = |family| named(family, vni);
        let index = kernel.index(uplink()).unwrap();
        let base = |family, n| subnet(family, n).base();
        let nexthop_id =
            |family, n| overlay::nexthop::id(dev(family), base(family, n));
        match self {
            Hand::DeleteLink(family) => kernel.delete_link(dev(family)),
            Hand::Squat(family) => {
                let _ = kernel.delete_link(dev(family));
                let kind = LinkKind::Other("dummy".to_owned());
                let link = Link {
                    kind,
                    mac: mac(99),
                    mtu: 1500,
                    up: true,
                    master: None,
                };
                kernel.add_link(dev(family), link)
            }
            Hand::Clash(family) => {
                kernel.delete_link(dev(family))?;
                let kind = LinkKind::Vxlan(Vxlan {
                    vni,
                    parent: index,
                    local: public(family, 100),
                    port: conf.port,
                    learning: false,
                    gbp: false,
                });
                let other = named(family, 3 - vni);
                let link = Link {
                    kind,
                    mac: mac(99),
                    mtu: 1400,
                    up: true,
                    master: None,
                };
                kernel.add_link(other, link)
            }
            Hand::Down(family) => kernel.set_up(dev(family), false),
            Hand::Up(family) => kernel.set_up(dev(family), true),
            Hand::Bounce(family) => {
                kernel.set_up(dev(family), false)?;
                kernel.set_up(dev(family), true)
            }
            Hand::Mtu(family) => kernel.set_mtu(dev(family), 1290),
            Hand::Mac(family) => kernel.set_mac(dev(family), mac(98)),
            Hand::Learning(family) => kernel.set_learning(dev(family), true),
            Hand::Enslave(family) => kernel.set_master(dev(family), Some(7)),
            Hand::UplinkBounce => {
                kernel.set_up(uplink(), false)?;
                kernel.set_up(uplink(), true)?;
                let addr = Addr::new(public(Family::V6, 100), 64);
                kernel.add_addr(uplink(), addr)?;
                for (key, route) in bystanders().routes {
                    kernel.set_route(key, route)?;
                }
                for (id, nexthop) in bystanders().nexthops {
                    kernel.set_nexthop(id, nexthop)?;
                }
                Ok(())
            }
            Hand::AddAddr(family, n) => {
                let addr = Addr::new(base(family, n), family.bits());
                kernel.add_addr(dev(family), addr)
            }
            Hand::DeleteAddrs(family) => {
                let all = kernel.everything().addrs;
                let link = dev(family);
                for (_, addr) in all.iter().filter(|(l, _)| *l == link) {
                    kernel.delete_addr(link, *addr)?;
                }
                Ok(())
            }
            Hand::Fdb(family, n, to, permanent, odd) => kernel.set_fdb(
                FdbKey { link: dev(family), mac: mac(n) },
                Fdb { dst: public(family, to), permanent, odd },
            ),
            Hand::DeleteFdb(family, n) => {
                kernel.delete_fdb(FdbKey { link: dev(family), mac: mac(n) })
            }
            Hand::Neigh(family, n, to, permanent) => kernel.set_neigh(
                NeighKey { link: dev(family), ip: base(family, n) },
                Neigh { mac: mac(to), permanent },
            ),
            Hand::DeleteNeigh(family, n) => {
                let ip = base(family, n);
                kernel.delete_neigh(NeighKey { link: dev(family), ip })
            }
            Hand::Nexthop(family, n, ours) => kernel.set_nexthop(
                nexthop_id(family, n),
                Nexthop {
                    link: Some(dev(family)),
                    gateway: Some(base(family, 77)),
                    onlink: true,
                    ours,
                },
            ),
            Hand::DeleteNexthop(family, n) => {
                kernel.delete_nexthop(nexthop_id(family, n))
            }
            Hand::Reroute(family, n, ours) => kernel.set_route(
                RouteKey::new(subnet(family, n)),
                Route {
                    gateway: Some(public(family, 66)),
                    link: Some(uplink()),
                    onlink: false,
                    nexthop: None,
                    ours,
                },
            ),
            Hand::Upstream(family, n) => kernel.set_route(
                RouteKey::new(subnet(family, n)),
                Route {
                    gateway: Some(base(family, n)),
                    link: Some(dev(family)),
                    onlink: true,
                    nexthop: None,
                    ours: false,
                },
            ),
            Hand::Bend(family, n, onlink) => {
                let all = kernel.everything().links;
                match all.get(&dev(family)).map(|link| &link.kind) {
                    Some(LinkKind::Vxlan(_)) => {}
                    // an address on a device of theirs stays in the way
                    _ => return Err(Errno::NoDevice),
                }
                let net = Addr::new(base(family, n), 24);
                let gateway = match onlink {
                    true => public(family, n),
                    false => base(family, n),
                };
                if !onlink {
                    kernel.add_addr(dev(family), net)?;
                }
                kernel.set_route(
                    RouteKey::new(subnet(family, n)),
                    Route {
                        gateway: Some(gateway),
                        link: Some(dev(family)),
                        onlink,
                        nexthop: None,
                        ours: true,
                    },
                )
            }
            Hand::DeleteRoute(family, n) => {
                kernel.delete_route(RouteKey::new(subnet(family, n)))
            }
        }
    }
}

pub(crate) fn hand() -> impl Strategy<Value = Hand> {
    let peer = 1..=PEERS + 1;
    prop_oneof![
        family().prop_map(Hand::DeleteLink),
        family().prop_map(Hand::Squat),
        family().prop_map(Hand::Clash),
        family().prop_map(Hand::Down),
        family().prop_map(Hand::Up),
        family().prop_map(Hand::Bounce),
        family().prop_map(Hand::Mtu),
        family().prop_map(Hand::Mac),
        family().prop_map(Hand::Learning),
        family().prop_map(Hand::Enslave),
        Just(Hand::UplinkBounce),
        (family(), 50..53u8).prop_map(|(f, n)| Hand::AddAddr(f, n)),
        family().prop_map(Hand::DeleteAddrs),
        (family(), peer.clone(), peer.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(f, n, to, p, odd)| Hand::Fdb(f, n, to, p, odd)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::DeleteFdb(f, n)),
        (family(), peer.clone(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, to, p)| Hand::Neigh(f, n, to, p)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::DeleteNeigh(f, n)),
        (family(), 1..PEERS, any::<bool>())
            .prop_map(|(f, n, o)| Hand::Nexthop(f, n, o)),
        (family(), 1..PEERS).prop_map(|(f, n)| Hand::DeleteNexthop(f, n)),
        (family(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, o)| Hand::Reroute(f, n, o)),
        (family(), peer.clone()).prop_map(|(f, n)| Hand::Upstream(f, n)),
        (family(), peer.clone(), any::<bool>())
            .prop_map(|(f, n, o)| Hand::Bend(f, n, o)),
        (family(), peer).prop_map(|(f, n)| Hand::DeleteRoute(f, n)),
    ]
}
