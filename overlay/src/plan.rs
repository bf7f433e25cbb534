//! What a planner returns.

use std::fmt;
use std::net::IpAddr;

use ipam::lease::SubnetKey;
use ipam::{Family, Subnet};

use crate::{Desired, Mac};

/// What a node should hold for one set of leases, and what the pods need to
/// know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The objects.
    pub desired: Desired,
    /// MTU of the pods in bytes, `FLANNEL_MTU`: what fits the device of every
    /// enabled family.
    pub mtu: u32,
    /// Peers that are left out, wholly or in one family, in the order of
    /// their keys.
    pub skipped: Vec<Skipped>,
    /// What a person should know although it works, one sentence each.
    pub warnings: Vec<String>,
}

/// A peer that is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Its lease.
    pub key: SubnetKey,
    /// In which family; `None` for all.
    pub family: Option<Family>,
    /// Why.
    pub reason: SkipReason,
}

/// Why a peer is left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// It runs another backend (B-3); empty where none is named.
    OtherBackend(String),
    /// It publishes no address in a family it has a subnet in.
    NoPublicAddress,
    /// It has not published its device's address yet: no data, `null`, or an
    /// empty MAC as a Windows node first does (B-32, X-1).
    NoMac,
    /// Its data is not what this backend publishes.
    BadData(String),
    /// It publishes an address of this node: a former lease of this node, or
    /// two nodes took the same interface (P23).
    OwnAddress(IpAddr),
    /// Its device has the Ethernet address of this node's.
    OwnMac(Mac),
    /// Its subnet overlaps this node's.
    OwnSubnet(Subnet),
    /// Its subnet is one of multicast or loopback addresses, or begins at
    /// the unspecified one.
    NotUnicast,
    /// Its subnet is outside our networks and holds the address of a node.
    NodeInside(IpAddr),
    /// Another lease has a subnet with the same base address, elsewhere.
    SubnetTaken(SubnetKey),
    /// Another lease has the same Ethernet address with another published
    /// address.
    MacTaken(Mac, SubnetKey),
}

/// Why there is no plan at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A family is enabled, but the lease has no subnet in it (B-26).
    #[error(
        "{0} is enabled, but this node's lease {1} has no {0} subnet; \
         it needs a lease with one"
    )]
    NoSubnet(Family, SubnetKey),
    /// A family is enabled, but the node has no address in it.
    #[error(
        "{0} is enabled, but this node has no {0} address to publish; give \
         the interface one, or choose another interface"
    )]
    NoPublicAddress(Family),
    /// No Ethernet address was chosen for a family's device.
    #[error("no Ethernet address is known for the {0} tunnel device")]
    NoMac(Family),
    /// The device cannot be named after the VNI.
    #[error(
        "VNI {vni} makes the device name {name}, which is longer than the \
         kernel's 15 characters; the VNI may have up to 7 digits for IPv4 \
         and up to 4 for IPv6"
    )]
    Name {
        /// The VNI.
        vni: u32,
        /// The name.
        name: String,
    },
    /// Nothing, or too little, is left of the MTU.
    #[error(
        "an MTU of {outer} leaves {inner} bytes inside the {family} tunnel, \
         less than the {least} that {family} needs; raise the backend's MTU \
         option or the interface's MTU"
    )]
    Mtu {
        /// The family.
        family: Family,
        /// MTU outside.
        outer: u32,
        /// What is left inside.
        inner: u32,
        /// What the family needs.
        least: u32,
    },
}

// === impl Skipped ===

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {} is left out", self.key)?;
        if let Some(family) = self.family {
            write!(f, " in {family}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

// === impl SkipReason ===

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherBackend(name) if name.is_empty() => {
                f.write_str("it names no backend")
            }
            Self::OtherBackend(name) => write!(f, "its backend is {name}"),
            Self::NoPublicAddress => f.write_str("it publishes no address"),
            Self::NoMac => {
                f.write_str("it has published no device address yet")
            }
            Self::BadData(what) => {
                write!(f, "its backend data cannot be used: {what}")
            }
            Self::OwnAddress(ip) => write!(
                f,
                "it publishes {ip}, an address of this node; if it is another \
                 node, give that one's daemon the right interface"
            ),
            Self::OwnMac(mac) => write!(
                f,
                "its device has this node's Ethernet address {mac}; remove \
                 the copied state directory on one of the two"
            ),
            Self::OwnSubnet(subnet) => {
                write!(f, "it overlaps this node's subnet {subnet}")
            }
            Self::NotUnicast => {
                f.write_str("no pod can have an address in its subnet")
            }
            Self::NodeInside(ip) => write!(
                f,
                "its subnet is outside the flannel network and holds {ip}, \
                 the address of a node: traffic between nodes would end up \
                 in the tunnel; delete the lease"
            ),
            Self::SubnetTaken(key) => {
                write!(f, "lease {key} has the same subnet and leads elsewhere")
            }
            Self::MacTaken(mac, key) => write!(
                f,
                "lease {key} has the same Ethernet address {mac} behind \
                 another published address"
            ),
        }
    }
}
