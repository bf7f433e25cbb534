//! What this host looks like from the outside of the overlay: which interface
//! carries traffic between nodes, and under which addresses others reach us.
//!
//! [`select`] and [`direct`] are pure functions; [`read`] and [`path_to`] ask
//! the kernel for what they need.

mod direct;
mod follow;
mod host;
mod select;
mod view;

pub use direct::direct;
pub use follow::{FollowError, Lost, Why};
pub use host::{path_if_any, path_to, read};
pub use select::{Candidate, SelectError, Uplink, select};
pub use view::{Address, DefaultRoute, End, Hop, HostView, Link, PathTo};

use std::net::IpAddr;

use ipam::PerFamily;
use regex::Regex;

/// What the user said about the interface (C-8…C-13).
#[derive(Clone, Debug, Default)]
pub struct InterfaceOptions {
    /// Interfaces by name or by IP, in order of preference.
    pub names: Vec<String>,
    /// Expressions for addresses or names, tried after `names`.
    pub patterns: Vec<Regex>,
    /// An address to be reached, tried last.
    pub can_reach: Option<IpAddr>,
    /// Addresses to publish instead of the interface's own.
    pub public: PerFamily<IpAddr>,
}
