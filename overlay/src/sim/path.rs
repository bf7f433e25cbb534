//! Where a packet goes.

use std::net::IpAddr;

use crate::{FdbKey, IfName, LinkKind, NeighKey};

use super::Kernel;

/// The way a packet to a pod leaves the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Through a tunnel device to the node with that published address.
    Tunnel {
        /// The device.
        link: IfName,
        /// The other node.
        to: IpAddr,
    },
    /// Without a tunnel, to that router.
    Plain {
        /// The device.
        link: IfName,
        /// The router.
        to: IpAddr,
    },
}

impl Kernel {
    /// Follows a packet to `dst`: the longest matching route with the lowest
    /// metric, then on a vxlan device neighbour and forwarding entry. `None`
    /// where it would be lost, is for this node, or goes where only somebody
    /// else's settings of a device say.
    #[must_use]
    pub fn path(&self, dst: IpAddr) -> Option<Path> {
        let all = self.everything();
        let (_, route) = all
            .routes
            .iter()
            .filter(|(key, _)| key.dst.contains(dst))
            .max_by_key(|(key, _)| (key.dst.len(), u32::MAX - key.metric))?;
        let link = route.link?;
        let gateway = route.gateway.unwrap_or(dst);
        let device = all.links.get(&link).filter(|device| device.up)?;
        if device.master.is_some() {
            return None;
        }
        match &device.kind {
            LinkKind::Vxlan(_) => {
                let neigh = all.neighs.get(&NeighKey { link, ip: gateway })?;
                let fdb = all.fdb.get(&FdbKey { link, mac: neigh.mac })?;
                (!fdb.odd).then_some(Path::Tunnel { link, to: fdb.dst })
            }
            LinkKind::Other(_) => Some(Path::Plain { link, to: gateway }),
        }
    }
}
