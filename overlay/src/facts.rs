//! What a planner must know of the node besides configuration and leases.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam::PerFamily;
use ipam::lease::SubnetKey;

use crate::{IfName, Mac};

/// The node as seen by its daemon, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The underlay interface.
    pub uplink: Uplink,
    /// The Ethernet address each family's tunnel device has or is to have.
    /// An existing device's own, else a remembered one, else a new random
    /// one (B-22, B-23); it must not change while the lease says otherwise.
    pub macs: PerFamily<Mac>,
    /// Which peers' published addresses the node reaches without a router
    /// (B-4). Only asked for with `DirectRouting`.
    pub direct: BTreeSet<IpAddr>,
    /// What the kernel can do.
    pub caps: Caps,
}

/// The underlay interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: IfName,
    /// Its index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// All addresses of the host, not of this interface alone. A peer that
    /// publishes one of them is no other node.
    pub addrs: BTreeSet<IpAddr>,
}

/// Abilities of the running kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Nexthop objects (Linux 5.3).
    pub nexthop_objects: bool,
}

/// This node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its subnets: the lease it holds.
    pub key: SubnetKey,
    /// The addresses it publishes.
    pub public: PerFamily<IpAddr>,
}
