//! What a node's kernel should hold, and how to get there: plan → diff →
//! ordered changes. Pure: no I/O, no clock, no netlink types.
//!
//! A pass is: a planner makes [`Desired`] out of the node, facts, the
//! configuration and the leases; a [`World`] observes; [`diff()`] says what
//! to change; the world applies.
#![forbid(unsafe_code)]

mod change;
mod diff;
mod facts;
mod ident;
pub mod nexthop;
mod plan;
pub mod rules;
pub mod sim;
mod state;
#[cfg(test)]
mod testing;
pub mod vxlan;
mod world;

pub use change::Change;
pub use diff::diff;
pub use facts::{Caps, Facts, Node, Uplink};
pub use ident::{IfName, Mac};
pub use plan::{Plan, PlanError, SkipReason, Skipped};
pub use state::{
    Addr, Desired, Fdb, FdbKey, Key, Link, LinkKind, Neigh, NeighKey, Nexthop,
    Observed, Route, RouteKey, Vxlan,
};
pub use world::{Claim, Scope, World};
