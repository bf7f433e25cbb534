//! A cluster of few nodes with few values, so that they collide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::backend::VxlanOptions;
use ipam::netconf::{Backend, NetConf};
use ipam::{Family, PerFamily, Subnet};
use overlay::sim::Kernel;
use overlay::{
    Addr, Caps, Facts, IfName, Mac, Nexthop, Node, Observed, Plan, Route,
    RouteKey, Uplink, vxlan,
};
use proptest::prelude::*;

pub(crate) const PEERS: u8 = 4;

/// Everything that a pass depends on besides the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) conf: Conf,
    pub(crate) leases: BTreeMap<u8, Lease>,
    pub(crate) direct: BTreeSet<u8>,
    pub(crate) caps: Caps,
    /// Which of two Ethernet addresses the node's devices have.
    pub(crate) mac: bool,
    pub(crate) subnet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conf {
    pub(crate) families: Families,
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) mtu: Option<u32>,
    pub(crate) gbp: bool,
    pub(crate) learning: bool,
    pub(crate) direct_routing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Dual,
}

/// A peer's lease; few values, so that peers collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) public: u8,
    pub(crate) mac: u8,
    pub(crate) families: Families,
}

pub(crate) fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

pub(crate) fn subnet(family: Family, n: u8) -> Subnet {
    match family {
        Family::V4 => net(&format!("10.244.{n}.0/24")),
        Family::V6 => net(&format!("fd00:244:0:{n}::/64")),
    }
}

pub(crate) fn public(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("192.168.0.{n}")),
        Family::V6 => ip(&format!("fd01::{n}")),
    }
}

pub(crate) fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

pub(crate) fn uplink() -> IfName {
    name("eth0")
}

pub(crate) fn kernel() -> Kernel {
    let addrs = [
        Addr::new(public(Family::V4, 100), 24),
        Addr::new(public(Family::V6, 100), 64),
    ];
    let mut kernel = Kernel::with_uplink(uplink(), 1500, &addrs);
    for (key, route) in bystanders().routes {
        kernel.set_route(key, route).unwrap();
    }
    for (id, nexthop) in bystanders().nexthops {
        kernel.set_nexthop(id, nexthop).unwrap();
    }
    kernel
}

/// Things of others that must survive everything.
pub(crate) fn bystanders() -> Observed {
    let route = |gateway: &str, ours| Route {
        gateway: Some(ip(gateway)),
        link: Some(uplink()),
        onlink: false,
        nexthop: None,
        ours,
    };
    let mut out = Observed::default();
    // a default route, one into our network that nobody leases, one of
    // another daemon of ours on this host
    for (dst, gateway, ours) in [
        ("0.0.0.0/0", "192.168.0.1", false),
        ("10.244.200.0/24", "192.168.0.7", false),
        ("10.99.1.0/24", "192.168.0.8", true),
    ] {
        out.routes.insert(RouteKey::new(net(dst)), route(gateway, ours));
    }
    // a nexthop in our range where one of ours would be
    let id = overlay::nexthop::id(name("flannel.1"), ip("10.244.4.0"));
    let foreign = Nexthop {
        link: Some(uplink()),
        gateway: Some(ip("192.168.0.9")),
        onlink: false,
        ours: false,
    };
    out.nexthops.insert(id, foreign);
    out
}

impl Families {
    pub(crate) fn list(self) -> Vec<Family> {
        match self {
            Self::V4 => vec![Family::V4],
            Self::V6 => vec![Family::V6],
            Self::Dual => Family::ALL.to_vec(),
        }
    }

    pub(crate) fn each<T>(
        self,
        mut value: impl FnMut(Family) -> T,
    ) -> PerFamily<T> {
        self.list().into_iter().map(|f| (f, value(f))).collect()
    }
}

impl Conf {
    pub(crate) fn parsed(&self) -> (NetConf, VxlanOptions) {
        let (v4, v6) = match self.families {
            Families::V4 => (true, false),
            Families::V6 => (false, true),
            Families::Dual => (true, true),
        };
        let mtu = self.mtu.map_or(String::new(), |m| format!(r#","MTU":{m}"#));
        let Self { vni, port, gbp, learning, direct_routing, .. } = self;
        let text = format!(
            r#"{{"EnableIPv4":{v4},"EnableIPv6":{v6},
                "Network":"10.244.0.0/16","IPv6Network":"fd00:244::/48",
                "Backend":{{"Type":"vxlan","VNI":{vni},"Port":{port},
                "GBP":{gbp},"Learning":{learning},
                "DirectRouting":{direct_routing}{mtu}}}}}"#
        );
        let (conf, _) = NetConf::parse(&text).unwrap();
        let Backend::Vxlan(options) = conf.backend else { panic!("{text}") };
        (conf, options)
    }
}

impl Lease {
    pub(crate) fn attrs(&self) -> LeaseAttrs {
        let public = self.families.each(|f| public(f, self.public));
        let macs = self.families.each(|_| mac(self.mac));
        vxlan::lease_attrs(&public, &macs, 1).unwrap()
    }
}

impl Inputs {
    pub(crate) fn table(&self) -> BTreeMap<SubnetKey, LeaseAttrs> {
        let lease = |(n, lease): (&u8, &Lease)| {
            let key = lease.families.each(|f| subnet(f, *n));
            (SubnetKey::new(key).unwrap(), lease.attrs())
        };
        self.leases.iter().map(lease).collect()
    }

    pub(crate) fn plan(&self, kernel: &Kernel) -> Plan {
        let (conf, options) = self.conf.parsed();
        let own = if self.subnet { 101 } else { 102 };
        let own_mac = if self.mac { 101 } else { 102 };
        let node = Node {
            key: SubnetKey::new(self.conf.families.each(|f| subnet(f, own)))
                .unwrap(),
            public: self.conf.families.each(|f| public(f, 100)),
        };
        let direct = self.direct.iter();
        let facts = Facts {
            uplink: Uplink {
                name: uplink(),
                index: kernel.index(uplink()).unwrap(),
                mtu: 1500,
                addrs: Family::ALL.map(|f| public(f, 100)).into(),
            },
            macs: self.conf.families.each(|_| mac(own_mac)),
            direct: direct
                .flat_map(|n| Family::ALL.map(|f| public(f, *n)))
                .collect(),
            caps: self.caps,
        };
        vxlan::plan(&node, &facts, &conf, &options, &self.table()).unwrap()
    }
}

pub(crate) fn families() -> impl Strategy<Value = Families> {
    prop_oneof![
        3 => Just(Families::Dual),
        1 => Just(Families::V4),
        1 => Just(Families::V6),
    ]
}

pub(crate) fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

pub(crate) fn lease() -> impl Strategy<Value = Lease> {
    (1..=PEERS, 1..=PEERS, families())
        .prop_map(|(public, mac, families)| Lease { public, mac, families })
}

pub(crate) fn conf() -> impl Strategy<Value = Conf> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let vni = prop_oneof![4 => Just(1), 1 => Just(2)];
    let port = prop_oneof![4 => Just(8472), 1 => Just(4789)];
    let mtu = prop_oneof![Just(None), Just(Some(1400)), Just(Some(9000))];
    (families(), vni, port, mtu, flags).prop_map(
        |(families, vni, port, mtu, (gbp, learning, direct_routing))| Conf {
            families,
            vni,
            port,
            mtu,
            gbp,
            learning,
            direct_routing,
        },
    )
}

pub(crate) fn inputs() -> impl Strategy<Value = Inputs> {
    (conf(), any::<bool>()).prop_map(|(conf, nexthop_objects)| Inputs {
        conf,
        leases: BTreeMap::new(),
        direct: BTreeSet::new(),
        caps: Caps { nexthop_objects },
        mac: true,
        subnet: true,
    })
}
