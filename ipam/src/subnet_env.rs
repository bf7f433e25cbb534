//! `subnet.env`, by which flanneld tells the CNI plugin and everybody else
//! what this node's subnet is (section 7 of the spec).
//!
//! It is written in one way and read in two: [`Previous`] as flanneld reads
//! it back at the next start, [`PluginEnv`] as the CNI plugin does.

use std::fmt::Write as _;

use crate::{Family, PerFamily, Subnet};

mod plugin;
mod previous;
#[cfg(test)]
mod tests;

pub use plugin::{PluginEnv, PluginEnvError};
pub use previous::Previous;

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// Each enabled family's networks.
    pub families: PerFamily<Networks>,
    /// MTU for the pods, in bytes (F-6).
    pub mtu: u32,
    /// Whether flanneld masquerades, so that the plugin must not (F-7).
    pub ip_masq: bool,
}

/// What the file says about one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    /// The cluster's network (F-2, F-4).
    pub network: Subnet,
    /// The node's subnet (F-3, F-5).
    pub subnet: Subnet,
}

// === impl SubnetEnv ===

impl SubnetEnv {
    /// The file's bytes (F-1..F-10), valid for `sh` too (F-15). A subnet is
    /// written by its second address, the pods' gateway.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (family, nets) in self.families.iter() {
            let Keys { network, subnet } = Keys::of(family);
            let Networks { network: n, subnet: s } = nets;
            // writing to a string cannot fail
            let _ = writeln!(out, "{network}={n}");
            let _ = writeln!(out, "{subnet}={}/{}", s.gateway(), s.len());
        }
        let _ = writeln!(out, "{MTU}={}", self.mtu);
        let _ = writeln!(out, "{IP_MASQ}={}", self.ip_masq);
        out
    }
}

const MTU: &str = "FLANNEL_MTU";
const IP_MASQ: &str = "FLANNEL_IPMASQ";

/// The names of one family's variables.
struct Keys {
    network: &'static str,
    subnet: &'static str,
}

// === impl Keys ===

impl Keys {
    const fn of(family: Family) -> Self {
        match family {
            Family::V4 => {
                Self { network: "FLANNEL_NETWORK", subnet: "FLANNEL_SUBNET" }
            }
            Family::V6 => Self {
                network: "FLANNEL_IPV6_NETWORK",
                subnet: "FLANNEL_IPV6_SUBNET",
            },
        }
    }
}

/// A network of this very family; host bits are dropped.
fn cidr(text: &str, family: Family) -> Option<Subnet> {
    text.parse().ok().filter(|net: &Subnet| net.family() == family)
}
