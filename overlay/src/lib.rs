//! What a node's kernel should hold, and how to get there: plan → diff →
//! ordered changes. Pure: no I/O, no clock, no netlink types.
//!
//! `plan(node, facts, config, leases) -> Desired`, then
//! `diff(&Desired, &Observed) -> Vec<Change>`; a [`World`] observes and
//! applies.
#![forbid(unsafe_code)]

mod state;

pub use state::{
    Addr, Desired, Fdb, FdbKey, IfName, Key, Link, LinkKind, Mac, Neigh,
    NeighKey, Nexthop, Observed, Route, RouteKey, Vxlan,
};
