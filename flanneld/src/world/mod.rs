//! The kernel's links, addresses, routes, neighbours, forwarding entries and
//! nexthop objects as an [`overlay::World`].

mod apply;
pub mod iptables;
pub mod nft;
mod observe;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam::Subnet;
use netlink::{Socket, addr, link};
use overlay::{Change, IfName, Mac, Observed, Scope, Uplink, World};

use crate::repairs::Repair;

/// The number by which our routes and nexthop objects are known
/// (`RTA_PROTOCOL`, `NHA`'s `nh_protocol`). Not assigned to anybody.
const PROTOCOL: u8 = 241;
/// `RTPROT_KERNEL`: routes that the kernel makes by itself.
pub(crate) const PROTOCOL_KERNEL: u8 = 2;
/// `RTPROT_RA`: those that its neighbour discovery makes.
const PROTOCOL_RA: u8 = 9;

/// One network namespace's kernel state.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    nexthop_objects: bool,
    /// Indexes of the devices seen in this pass.
    indexes: BTreeMap<IfName, u32>,
    /// Blackhole routes with our number that the last look at everything met,
    /// with their metrics.
    blackholes: BTreeSet<(Subnet, u32)>,
    /// Destinations to which a route was refused because there is one: the
    /// next look at them does not rely on look-ups.
    taken: BTreeSet<Subnet>,
    /// Devices of ours that were deleted under another name.
    renamed: Vec<Repair>,
}

/// Why the kernel could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel's or the socket's answer.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The device that the object stands on is not there.
    #[error("device {0} is not there")]
    NoDevice(IfName),
    /// A route is in the way that no daemon of flannel's has made: the
    /// kernel's own to a network that this node is on, a blackhole, ….
    #[error(
        "another route to {0} is there, and is not overwritten: see `ip route \
         show {0}`; remove it if it is not needed"
    )]
    RouteTaken(Subnet),
    /// Another device has the tunnel's VNI.
    #[error(
        "device {holder} has VNI {vni} on port {port} already: remove it if it \
         is not needed, or give one of the two another VNI"
    )]
    VniTaken {
        /// The device.
        holder: String,
        /// The VNI.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// The change asks for something that this world cannot make.
    #[error("a device of this kind cannot be made: {0}")]
    Kind(String),
}

// === impl Kernel ===

impl Kernel {
    /// Opens the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open() -> Result<Self, KernelError> {
        let mut socket = Socket::open()?;
        let nexthop_objects = netlink::nexthop::supported(&mut socket)?;
        Ok(Self {
            socket,
            nexthop_objects,
            indexes: BTreeMap::new(),
            blackholes: BTreeSet::new(),
            taken: BTreeSet::new(),
            renamed: Vec::new(),
        })
    }

    /// Whether the kernel has nexthop objects (Linux 5.3).
    #[must_use]
    pub const fn nexthop_objects(&self) -> bool {
        self.nexthop_objects
    }

    /// Which devices of ours have been deleted since the last call because
    /// somebody had renamed them, and their tunnels were needed.
    pub fn take_renamed(&mut self) -> Vec<Repair> {
        std::mem::take(&mut self.renamed)
    }

    /// The port by which notifications name this world's own changes.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The socket, to look at what is not the overlay's.
    pub const fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The underlay interface of that index as it is now, with all addresses
    /// of this host: a peer that publishes one of them is no other node. And
    /// the addresses that are its own. `None` when it is gone.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn uplink(
        &mut self,
        index: u32,
    ) -> Result<Option<(Uplink, BTreeSet<IpAddr>)>, KernelError> {
        let info = match link::by_index(&mut self.socket, index) {
            Ok(info) => info,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let Some(name) = IfName::new(&info.name) else { return Ok(None) };
        let all = addr::list(&mut self.socket, None, None)?.complete()?;
        let own = all.iter().filter(|a| a.index == index);
        let own = own.map(|a| a.ip).collect();
        let addrs = all.into_iter().map(|a| a.ip).collect();
        Ok(Some((Uplink { name, index, mtu: info.mtu, addrs }, own)))
    }

    /// The Ethernet address of the vxlan device `name`, if there is one.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn vxlan_mac(
        &mut self,
        name: IfName,
    ) -> Result<Option<Mac>, KernelError> {
        match link::by_name(&mut self.socket, name.as_str()) {
            Ok(info) => Ok(info.vxlan.and(info.mac).map(Mac)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl World for Kernel {
    type Scope = Scope;
    type Observed = Observed;
    type Change = Change;
    type Error = KernelError;

    fn observe(&mut self, scope: &Scope) -> Result<Observed, KernelError> {
        observe::observe(self, scope)
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), KernelError>> {
        apply::apply(self, changes)
    }
}
