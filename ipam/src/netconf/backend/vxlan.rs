//! Options of `vxlan` (N-50..N-57).

use super::read;
use crate::PerFamily;
use crate::gojson::{Error, Object};

/// Options of `vxlan`. `MacPrefix` and `Name` are Windows' only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    /// The network's identifier and the suffix of the device's name; 24 bit
    /// (N-50).
    pub vni: u32,
    /// UDP port, never 0 (N-51).
    pub port: u16,
    /// MTU of the underlay in bytes; that of the underlay interface when not
    /// given (N-52).
    pub mtu: Option<u32>,
    /// Group based policy (N-53).
    pub gbp: bool,
    /// The device learns MAC addresses from packets (N-54).
    pub learning: bool,
    /// No tunnel to peers on the same layer 2 network (N-55).
    pub direct_routing: bool,
}

// === impl VxlanOptions ===

impl VxlanOptions {
    /// The port when none is given: the kernel's, not IANA's 4789.
    pub const PORT: u16 = 8472;

    const MAX_VNI: u32 = (1 << 24) - 1;

    pub(super) fn parse(
        o: &Object<'_>,
        enabled: &PerFamily<()>,
    ) -> Result<Self, Error> {
        // Upstream counts the headers of an outer IPv4 packet only (W-20):
        // what works there is no error. The planner knows better.
        let overhead = |_| 50;
        let port = read::number(o, "Port", 0..=u16::MAX)?;
        Ok(Self {
            vni: read::number(o, "VNI", 0..=Self::MAX_VNI)?.unwrap_or(1),
            port: port.filter(|p| *p != 0).unwrap_or(Self::PORT),
            mtu: read::mtu(o, enabled, overhead)?,
            gbp: read::flag(o, "GBP")?,
            learning: read::flag(o, "Learning")?,
            direct_routing: read::flag(o, "DirectRouting")?,
        })
    }
}

impl Default for VxlanOptions {
    fn default() -> Self {
        Self {
            vni: 1,
            port: Self::PORT,
            mtu: None,
            gbp: false,
            learning: false,
            direct_routing: false,
        }
    }
}
