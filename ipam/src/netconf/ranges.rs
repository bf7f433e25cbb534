//! From where subnets are taken, when etcd is the store (N-30..N-39).

use std::net::IpAddr;

use super::{ConfigError, Wishes, field};
use crate::{Family, Subnet};

/// The subnets of one family that nodes may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetRange {
    /// The cluster's network.
    pub network: Subnet,
    /// The length of each subnet, in bits: at least two more than the
    /// network's, at most two less than an address's.
    pub len: u8,
    /// The first subnet that may be given out.
    pub min: Subnet,
    /// The last subnet that may be given out; not before `min`.
    pub max: Subnet,
}

// === impl SubnetRange ===

impl SubnetRange {
    /// Whether a node may have `subnet`: of the right length, and neither
    /// before the first nor behind the last (E-22, E-23).
    #[must_use]
    pub fn accepts(&self, subnet: &Subnet) -> bool {
        // subnets are ordered by family, then by address
        subnet.len() == self.len && (self.min..=self.max).contains(subnet)
    }
}

/// The checked range of one enabled family.
pub(super) fn range(
    family: Family,
    network: Option<Subnet>,
    wish: Wishes,
) -> Result<SubnetRange, ConfigError> {
    let Some(network) = network else {
        return Err(ConfigError::Missing {
            field: field(family, "Network"),
            want: format!(
                "an {family} network longer than /0 is needed while \
                 Enable{} is true",
                match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                }
            ),
        });
    };
    let len = subnet_len(network, wish.len)?;
    let first = at(network.base(), len)?;
    let min = match wish.min {
        Some(addr) => aligned(network, len, "SubnetMin", addr)?,
        // the network's first subnet is never used by default (N-33)
        None => first.nth(1).unwrap_or(first),
    };
    let max = match wish.max {
        Some(addr) => aligned(network, len, "SubnetMax", addr)?,
        None => at(network.last(), len)?,
    };
    if min > max {
        return Err(ConfigError::Value {
            field: field(family, "SubnetMin"),
            value: min.base().to_string(),
            want: format!(
                "no more than {}, which is {}",
                field(family, "SubnetMax"),
                max.base()
            ),
        });
    }
    Ok(SubnetRange { network, len, min, max })
}

fn subnet_len(network: Subnet, wish: u64) -> Result<u8, ConfigError> {
    let family = network.family();
    // four subnets at least, of four addresses at least
    let (shortest, longest) = (network.len() + 2, family.bits() - 2);
    if shortest > longest {
        return Err(ConfigError::Value {
            field: field(family, "Network"),
            value: network.to_string(),
            want: format!("/{} or larger", longest - 2),
        });
    }
    let usual = match family {
        Family::V4 => 24,
        Family::V6 => 64,
    };
    match u8::try_from(wish) {
        Ok(0) => Ok(usual.max(shortest)),
        Ok(len) if (shortest..=longest).contains(&len) => Ok(len),
        _ => Err(ConfigError::Value {
            field: field(family, "SubnetLen"),
            value: wish.to_string(),
            want: format!(
                "from {shortest} (four subnets in {network}) to {longest}"
            ),
        }),
    }
}

fn aligned(
    network: Subnet,
    len: u8,
    name: &str,
    addr: IpAddr,
) -> Result<Subnet, ConfigError> {
    let subnet = at(addr, len)?;
    let want = if !network.contains(addr) {
        format!("inside {}, which is {network}", {
            field(network.family(), "Network")
        })
    } else if subnet.base() != addr {
        format!("the first address of a /{len}, such as {}", subnet.base())
    } else {
        return Ok(subnet);
    };
    Err(ConfigError::Value {
        field: field(network.family(), name),
        value: addr.to_string(),
        want,
    })
}

/// The subnet of `len` bits around `addr`. Never fails: the length has been
/// checked.
fn at(addr: IpAddr, len: u8) -> Result<Subnet, ConfigError> {
    Subnet::new(addr, len).map_err(|error| ConfigError::Value {
        field: field(Family::of(addr), "SubnetLen"),
        value: len.to_string(),
        want: error.to_string(),
    })
}
