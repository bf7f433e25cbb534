//! A kernel in memory: the simulated twin of the rtnetlink world.
//!
//! It keeps what a real one keeps of links, addresses, forwarding entries,
//! neighbours, nexthop objects and main-table routes, and drops what a real
//! one drops (each rule was looked at on Linux 6.18): a device that goes down
//! loses its routes, nexthops, neighbours and IPv6 addresses, but not its
//! permanent forwarding entries; the last IPv4 address takes the plain routes
//! and neighbours with it; a new Ethernet address takes the neighbours; a
//! nexthop object takes its routes; and most of this without notification.
//!
//! Tests reach in as foreign hands through the methods of [`Kernel`], make
//! changes fail with [`Sim::faults`], and read notifications.

use std::collections::{BTreeSet, VecDeque};

use ipam::Subnet;

use crate::{
    Change, IfName, Key, LinkKind, Observed, Route, RouteKey, Scope, World,
};

mod kernel;
mod path;
#[cfg(test)]
mod tests;

pub use kernel::{Errno, Kernel};
pub use path::Path;

/// The simulated world: a kernel, and what goes wrong on the way to it.
#[derive(Clone, Debug, Default)]
pub struct Sim {
    /// The kernel, for foreign hands and assertions.
    pub kernel: Kernel,
    /// What happens to the next changes, one each; none when empty.
    pub faults: VecDeque<Fault>,
    /// How many of the next looks are interrupted.
    pub interrupted: u32,
    /// Every change that was sent, whatever became of it.
    pub log: Vec<Change>,
}

/// What goes wrong with one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The kernel refuses it.
    Refused(Errno),
    /// The request never arrived, and nobody says so.
    LostRequest,
    /// It was done, but the answer was lost.
    LostAck,
}

/// Why a look or a change failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// The kernel's answer.
    #[error(transparent)]
    Kernel(#[from] Errno),
    /// No answer: it may have been done or not.
    #[error("the answer was lost: outcome unknown")]
    Unknown,
    /// The dump was interrupted.
    #[error("the dump was interrupted")]
    Interrupted,
}

// === impl Sim ===

impl Sim {
    /// A world over this kernel in which nothing goes wrong.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, ..Self::default() }
    }

    /// The objects that notifications have named since the last call.
    pub fn take_notifications(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.kernel.notified)
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), SimError> {
        self.log.push(change.clone());
        let fault = self.faults.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Refused(errno) => return Err(errno.into()),
            Fault::LostRequest => return Err(SimError::Unknown),
            Fault::None | Fault::LostAck => {}
        }
        // a daemon does not listen to its own echo
        let notified = std::mem::take(&mut self.kernel.notified);
        let mut outcome = apply(&mut self.kernel, change);
        if outcome == Err(Errno::Invalid) {
            outcome = with_help(&mut self.kernel, change);
        }
        self.kernel.notified = notified;
        if fault == Fault::LostAck {
            return Err(SimError::Unknown);
        }
        Ok(outcome?)
    }
}

impl World for Sim {
    type Scope = Scope;
    type Observed = Observed;
    type Change = Change;
    type Error = SimError;

    fn observe(&mut self, scope: &Scope) -> Result<Observed, SimError> {
        if self.interrupted > 0 {
            self.interrupted -= 1;
            return Err(SimError::Interrupted);
        }
        Ok(match scope {
            Scope::Full(claim) => {
                let mut all = self.kernel.everything();
                let ours = |link: &IfName| claim.links.contains(link);
                all.links.retain(|name, _| ours(name));
                all.addrs.retain(|(link, _)| ours(link));
                all.fdb.retain(|key, _| ours(&key.link));
                all.neighs.retain(|key, _| ours(&key.link));
                all.routes.retain(|key, route| {
                    route.ours
                        || route.link.as_ref().is_some_and(ours)
                        || claim.networks.iter().any(|n| n.covers(&key.dst))
                });
                all
            }
            Scope::Keys(keys) => {
                let mut all = self.kernel.everything();
                all.links.retain(|name, _| keys.contains(&Key::Link(*name)));
                all.addrs.retain(|(l, a)| keys.contains(&Key::Addr(*l, *a)));
                all.fdb.retain(|key, _| keys.contains(&Key::Fdb(*key)));
                all.neighs.retain(|key, _| keys.contains(&Key::Neigh(*key)));
                all.nexthops.retain(|id, _| keys.contains(&Key::Nexthop(*id)));
                all.routes.retain(|key, _| keys.contains(&Key::Route(*key)));
                all
            }
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), SimError>> {
        changes.iter().map(|change| self.apply_one(change)).collect()
    }
}

/// The change again, with a way to its gateway while it is carried out.
fn with_help(kernel: &mut Kernel, change: &Change) -> Result<(), Errno> {
    let (gateway, link) = if let Change::SetNexthop { after, .. } = change {
        (after.gateway, after.link)
    } else if let Change::SetRoute { after, .. } = change {
        (after.gateway, after.link)
    } else {
        (None, None)
    };
    let gateway = gateway.filter(|ip| ip.is_ipv6()).ok_or(Errno::Invalid)?;
    let dst = Subnet::new(gateway, 128).map_err(|_| Errno::Invalid)?;
    let key = RouteKey::new(dst);
    let gateway = None;
    let way = Route { gateway, link, onlink: false, nexthop: None, ours: true };
    let added = !kernel.has_route(key) && kernel.set_route(key, way).is_ok();
    let outcome = apply(kernel, change);
    if added {
        kernel.delete_route(key)?;
    }
    outcome
}

/// Turns one change into requests, as the world over the real kernel does.
fn apply(kernel: &mut Kernel, change: &Change) -> Result<(), Errno> {
    let gone = |outcome: Result<(), Errno>| match outcome {
        Err(Errno::NotFound | Errno::NoDevice | Errno::NoAddress) => Ok(()),
        other => other,
    };
    match change.clone() {
        Change::CreateLink { name, after } => kernel.add_link(name, after),
        Change::ReplaceLink { name, after, .. } => {
            gone(kernel.delete_link(name))?;
            kernel.add_link(name, after)
        }
        Change::ModifyLink { name, before, after } => {
            if before.mac != after.mac {
                kernel.set_mac(name, after.mac)?;
            }
            if before.mtu != after.mtu {
                kernel.set_mtu(name, after.mtu)?;
            }
            kernel.set_master(name, after.master)?;
            if let LinkKind::Vxlan(vxlan) = after.kind {
                kernel.set_underlay(name, vxlan.parent, vxlan.local)?;
                kernel.set_learning(name, vxlan.learning)?;
            }
            kernel.set_up(name, after.up)
        }
        Change::DeleteLink { name, .. } => gone(kernel.delete_link(name)),
        Change::AddAddr { link, addr } => match kernel.add_addr(link, addr) {
            Err(Errno::Exists) => Ok(()),
            other => other,
        },
        Change::DeleteAddr { link, addr } => {
            gone(kernel.delete_addr(link, addr))
        }
        Change::SetFdb { key, after, .. } => kernel.set_fdb(key, after),
        Change::DeleteFdb { key, .. } => gone(kernel.delete_fdb(key)),
        Change::SetNeigh { key, after, .. } => kernel.set_neigh(key, after),
        Change::DeleteNeigh { key, .. } => gone(kernel.delete_neigh(key)),
        Change::SetNexthop { id, after, .. } => kernel.set_nexthop(id, after),
        Change::DeleteNexthop { id, .. } => gone(kernel.delete_nexthop(id)),
        Change::SetRoute { key, before: None, .. } if kernel.has_route(key) => {
            Err(Errno::Exists)
        }
        Change::SetRoute { key, after, .. } => kernel.set_route(key, after),
        Change::DeleteRoute { key, .. } => gone(kernel.delete_route(key)),
    }
}
