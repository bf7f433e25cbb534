//! A small cluster for unit tests: this node is number 1, with 10.5.1.0/24
//! and fd00:5:0:1::/64 on eth0, index 2.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::{Backend, NetConf};
use ipam::{Family, PerFamily, Subnet};

use crate::{
    Caps, Facts, IfName, Key, Mac, Node, Plan, PlanError, Uplink, vxlan,
};

pub(crate) const V4: &str = r#"{"Network":"10.5.0.0/16",
    "Backend":{"Type":"vxlan"}}"#;
pub(crate) const V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,
    "IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL: &str = r#"{"EnableIPv6":true,
    "Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48",
    "Backend":{"Type":"vxlan"}}"#;

pub(crate) struct Cluster {
    pub conf: NetConf,
    pub node: Node,
    pub facts: Facts,
    pub leases: BTreeMap<SubnetKey, LeaseAttrs>,
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

/// `02:00:00:00:00:nn` for node `n`'s IPv4 device, `02:00:00:00:01:nn` for
/// the other.
pub(crate) fn mac(family: Family, n: u8) -> Mac {
    match family {
        Family::V4 => Mac([2, 0, 0, 0, 0, n]),
        Family::V6 => Mac([2, 0, 0, 0, 1, n]),
    }
}

pub(crate) fn public(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("192.168.64.{n}")),
        Family::V6 => ip(&format!("fd01::{n:x}")),
    }
}

pub(crate) fn subnet(family: Family, n: u8) -> Subnet {
    match family {
        Family::V4 => net(&format!("10.5.{n}.0/24")),
        Family::V6 => net(&format!("fd00:5:0:{n:x}::/64")),
    }
}

impl Cluster {
    /// A node alone, with a kernel that has nexthop objects.
    pub(crate) fn new(conf: &str) -> Self {
        let (conf, _) = NetConf::parse(conf).unwrap();
        let enabled = conf.enabled;
        Self {
            node: Node {
                key: SubnetKey::new(enabled.map(|f, ()| subnet(f, 1))).unwrap(),
                public: enabled.map(|f, ()| public(f, 1)),
            },
            facts: Facts {
                uplink: Uplink {
                    name: name("eth0"),
                    index: 2,
                    mtu: 1500,
                    addrs: Family::ALL.map(|f| public(f, 1)).into(),
                },
                macs: enabled.map(|f, ()| mac(f, 1)),
                direct: BTreeSet::new(),
                caps: Caps { nexthop_objects: true },
            },
            leases: BTreeMap::new(),
            conf,
        }
    }

    /// Peer `n`'s lease in the enabled families.
    pub(crate) fn lease(&self, n: u8) -> (SubnetKey, LeaseAttrs) {
        let each = self.conf.enabled;
        let public = each.map(|f, ()| public(f, n));
        let macs = each.map(|f, ()| mac(f, n));
        let attrs = vxlan::lease_attrs(&public, &macs, 1).unwrap();
        let key: PerFamily<_> = each.map(|f, ()| subnet(f, n));
        (SubnetKey::new(key).unwrap(), attrs)
    }

    pub(crate) fn with_peers(mut self, peers: &[u8]) -> Self {
        for n in peers {
            let (key, attrs) = self.lease(*n);
            self.leases.insert(key, attrs);
        }
        self
    }

    pub(crate) fn try_plan(&self) -> Result<Plan, PlanError> {
        let Backend::Vxlan(options) = &self.conf.backend else {
            panic!("not vxlan")
        };
        vxlan::plan(&self.node, &self.facts, &self.conf, options, &self.leases)
    }

    pub(crate) fn plan(&self) -> Plan {
        self.try_plan().unwrap()
    }
}

/// Every object of a plan, one per line, for comparison with what the spec
/// says it is.
pub(crate) fn spell(plan: &Plan) -> Vec<String> {
    let d = &plan.desired;
    let mut out = Vec::new();
    let mut line =
        |key: Key, value: String| out.push(format!("{key}: {value}"));
    for (name, link) in &d.links {
        line(Key::Link(*name), link.to_string());
    }
    for (link, addr) in &d.addrs {
        line(Key::Addr(*link, *addr), String::new());
    }
    for (key, fdb) in &d.fdb {
        line(Key::Fdb(*key), fdb.to_string());
    }
    for (key, neigh) in &d.neighs {
        line(Key::Neigh(*key), neigh.to_string());
    }
    for (id, nexthop) in &d.nexthops {
        line(Key::Nexthop(*id), nexthop.to_string());
    }
    for (key, route) in &d.routes {
        line(Key::Route(*key), route.to_string());
    }
    out
}
