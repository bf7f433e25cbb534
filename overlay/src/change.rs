//! What to do to the kernel, one object at a time.

use std::fmt;

use crate::{
    Addr, Fdb, FdbKey, IfName, Key, Link, LinkKind, Neigh, NeighKey, Nexthop,
    Route, RouteKey, Vxlan,
};

/// One change to one object, with what was there before.
///
/// Every change is idempotent: it has succeeded when the object is as wanted
/// afterwards, whoever made it so. Creating an address that exists and
/// deleting what is not there are successes; `Set…` is create-or-replace,
/// but for routes. An IPv6 gateway to which a route of another device leads
/// is no obstacle.
///
/// A node that starts among thousands of peers makes thousands at once, where
/// nothing was there: so that is kept apart where it is large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates a device, including its Ethernet address and, last, up. On it
    /// `accept_ra` is switched off first (B-24).
    CreateLink {
        /// Its name.
        name: IfName,
        /// What to create.
        after: Link,
    },
    /// Deletes the device of that name and creates it anew: it differs in
    /// something that a live device cannot change.
    ReplaceLink {
        /// Its name.
        name: IfName,
        /// What was there.
        before: Box<Link>,
        /// What to create.
        after: Link,
    },
    /// Changes MTU, Ethernet address, the underlay's interface and address,
    /// learning, up and master as far as they differ.
    ModifyLink {
        /// Its name.
        name: IfName,
        /// What was there; the same but for those.
        before: Box<Link>,
        /// What it becomes.
        after: Link,
    },
    /// Deletes a device, with all that stands on it.
    DeleteLink {
        /// Its name.
        name: IfName,
        /// What was there.
        before: Link,
    },
    /// Adds an address.
    AddAddr {
        /// The device.
        link: IfName,
        /// The address.
        addr: Addr,
    },
    /// Deletes an address.
    DeleteAddr {
        /// The device.
        link: IfName,
        /// The address.
        addr: Addr,
    },
    /// Creates or replaces a permanent forwarding entry.
    SetFdb {
        /// Which one.
        key: FdbKey,
        /// What was there.
        before: Option<Fdb>,
        /// What it becomes.
        after: Fdb,
    },
    /// Deletes a forwarding entry.
    DeleteFdb {
        /// Which one.
        key: FdbKey,
        /// What was there.
        before: Fdb,
    },
    /// Creates or replaces a permanent neighbour entry.
    SetNeigh {
        /// Which one.
        key: NeighKey,
        /// What was there.
        before: Option<Neigh>,
        /// What it becomes.
        after: Neigh,
    },
    /// Deletes a neighbour entry.
    DeleteNeigh {
        /// Which one.
        key: NeighKey,
        /// What was there.
        before: Neigh,
    },
    /// Creates or replaces a nexthop object.
    SetNexthop {
        /// Its id.
        id: u32,
        /// What was there.
        before: Option<Box<Nexthop>>,
        /// What it becomes.
        after: Nexthop,
    },
    /// Deletes a nexthop object.
    DeleteNexthop {
        /// Its id.
        id: u32,
        /// What was there.
        before: Nexthop,
    },
    /// Replaces the route that was there, or creates one and fails if there
    /// is one after all: what was not observed is not overwritten. With a
    /// nexthop id, only that is sent.
    SetRoute {
        /// Which one.
        key: RouteKey,
        /// What was there.
        before: Option<Box<Route>>,
        /// What it becomes.
        after: Route,
    },
    /// Deletes a route.
    DeleteRoute {
        /// Which one.
        key: RouteKey,
        /// What was there.
        before: Route,
    },
}

// === impl Change ===

impl Change {
    /// The object it is about.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::CreateLink { name, .. }
            | Self::ReplaceLink { name, .. }
            | Self::ModifyLink { name, .. }
            | Self::DeleteLink { name, .. } => Key::Link(*name),
            Self::AddAddr { link, addr } | Self::DeleteAddr { link, addr } => {
                Key::Addr(*link, *addr)
            }
            Self::SetFdb { key, .. } | Self::DeleteFdb { key, .. } => {
                Key::Fdb(*key)
            }
            Self::SetNeigh { key, .. } | Self::DeleteNeigh { key, .. } => {
                Key::Neigh(*key)
            }
            Self::SetNexthop { id, .. } | Self::DeleteNexthop { id, .. } => {
                Key::Nexthop(*id)
            }
            Self::SetRoute { key, .. } | Self::DeleteRoute { key, .. } => {
                Key::Route(*key)
            }
        }
    }

    /// Whether the object is gone afterwards.
    #[must_use]
    pub const fn is_removal(&self) -> bool {
        match self {
            Self::DeleteLink { .. }
            | Self::DeleteAddr { .. }
            | Self::DeleteFdb { .. }
            | Self::DeleteNeigh { .. }
            | Self::DeleteNexthop { .. }
            | Self::DeleteRoute { .. } => true,
            Self::CreateLink { .. }
            | Self::ReplaceLink { .. }
            | Self::ModifyLink { .. }
            | Self::AddAddr { .. }
            | Self::SetFdb { .. }
            | Self::SetNeigh { .. }
            | Self::SetNexthop { .. }
            | Self::SetRoute { .. } => false,
        }
    }

    /// Whether nothing that is there becomes another or goes: an object is
    /// added, or a device of ours made as it was made before.
    #[must_use]
    pub const fn is_addition(&self) -> bool {
        match self {
            Self::CreateLink { .. }
            | Self::ReplaceLink { .. }
            | Self::ModifyLink { .. }
            | Self::AddAddr { .. } => true,
            Self::SetFdb { before, .. } => before.is_none(),
            Self::SetNeigh { before, .. } => before.is_none(),
            Self::SetNexthop { before, .. } => before.is_none(),
            Self::SetRoute { before, .. } => before.is_none(),
            Self::DeleteLink { .. }
            | Self::DeleteAddr { .. }
            | Self::DeleteFdb { .. }
            | Self::DeleteNeigh { .. }
            | Self::DeleteNexthop { .. }
            | Self::DeleteRoute { .. } => false,
        }
    }

    /// What a person should know of it, if anything: a device of ours by name,
    /// but of another shape, is deleted.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Self::ReplaceLink { name, before, after } = self else {
            return None;
        };
        Some(format!(
            "{name} is flannel's by name but was {}; it is deleted and \
             created anew as {}",
            before.kind, after.kind
        ))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        match self {
            Self::CreateLink { after, .. } => {
                write!(f, "create {key}: {after}")
            }
            Self::ReplaceLink { before, after, .. } => {
                write!(f, "recreate {key}: {after} (was {before})")
            }
            Self::ModifyLink { before, after, .. } => {
                write!(f, "change {key}: {after} (was {before})")
            }
            Self::DeleteLink { before, .. } => {
                write!(f, "delete {key} (was {before})")
            }
            Self::AddAddr { .. } => write!(f, "add {key}"),
            Self::DeleteAddr { .. } => write!(f, "delete {key}"),
            Self::SetFdb { before, after, .. } => {
                set(f, key, before.as_ref(), after)
            }
            Self::SetNeigh { before, after, .. } => {
                set(f, key, before.as_ref(), after)
            }
            Self::SetNexthop { before, after, .. } => {
                set(f, key, before.as_deref(), after)
            }
            Self::SetRoute { before, after, .. } => {
                set(f, key, before.as_deref(), after)
            }
            Self::DeleteFdb { before, .. } => {
                write!(f, "delete {key} (was {before})")
            }
            Self::DeleteNeigh { before, .. } => {
                write!(f, "delete {key} (was {before})")
            }
            Self::DeleteNexthop { before, .. } => {
                write!(f, "delete {key} (was {before})")
            }
            Self::DeleteRoute { before, .. } => {
                write!(f, "delete {key} (was {before})")
            }
        }
    }
}

fn set(
    f: &mut fmt::Formatter<'_>,
    key: Key,
    before: Option<&impl fmt::Display>,
    after: &impl fmt::Display,
) -> fmt::Result {
    write!(f, "set {key}: {after}")?;
    match before {
        Some(before) => write!(f, " (was {before})"),
        None => Ok(()),
    }
}

// === how objects read in a log line ===

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.up { "up" } else { "down" };
        let Self { kind, mac, mtu, master, .. } = self;
        write!(f, "{kind}, mac {mac}, mtu {mtu}, {state}")?;
        match master {
            Some(index) => write!(f, ", belonging to link {index}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan(vxlan) => vxlan.fmt(f),
            Self::Other(kind) if kind.is_empty() => {
                f.write_str("a physical device")
            }
            Self::Other(kind) => write!(f, "a device of kind {kind}"),
        }
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vni, parent, local, port, learning, gbp } = self;
        write!(f, "vxlan {vni} from {local} port {port} over link {parent}")?;
        if *learning {
            f.write_str(" learning")?;
        }
        if *gbp {
            f.write_str(" gbp")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let learned = if self.permanent { "" } else { ", learned" };
        let odd = match self.odd {
            true => ", by a port, VNI or device of its own",
            false => "",
        };
        write!(f, "{}{learned}{odd}", self.dst)
    }
}

impl fmt::Display for Neigh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.permanent { "" } else { ", not permanent" };
        write!(f, "{}{kind}", self.mac)
    }
}

impl fmt::Display for Nexthop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        via(f, self.gateway, self.link, self.onlink)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        via(f, self.gateway, self.link, self.onlink)?;
        match self.nexthop {
            Some(id) => write!(f, " nexthop {id}"),
            None => Ok(()),
        }
    }
}

fn via(
    f: &mut fmt::Formatter<'_>,
    gateway: Option<std::net::IpAddr>,
    link: Option<IfName>,
    onlink: bool,
) -> fmt::Result {
    match (gateway, link) {
        (Some(gateway), Some(link)) => write!(f, "via {gateway} on {link}")?,
        (Some(gateway), None) => write!(f, "via {gateway}")?,
        (None, Some(link)) => write!(f, "on {link}")?,
        (None, None) => f.write_str("elsewhere")?,
    }
    f.write_str(if onlink { " onlink" } else { "" })
}
