//! The kernel boundary of the node's programs: everything they ask of Linux
//! networking goes through here, blocking, one thread and one socket at a
//! time.
//!
//! | module | what |
//! |---|---|
//! | [`Socket`] | route netlink: requests, windows of requests, dumps |
//! | [`Request`], [`Error`] | one change; why it failed, in the kernel's words |
//! | [`link`] | links: read, change, delete; [`vxlan`](link::vxlan), [`bridge`](link::bridge), [`veth`](link::veth), [`ifb`](link::ifb) |
//! | [`addr`] | addresses on links |
//! | [`route`] | routes and look-ups |
//! | [`rule`] | which table a route is looked for in |
//! | [`nexthop`] | nexthop objects |
//! | [`neigh`], [`fdb`] | neighbour entries, forwarding entries of vxlan devices |
//! | [`monitor`] | notifications, with overruns told |
//! | [`nft`] | nf_tables: atomic batches, reading, notifications |
//! | [`nsid`] | the numbers by which links tell where their other end is |
//! | [`NetNs`] | network namespaces: open, compare, enter |
//! | [`sysctl`] | settings under `/proc/sys` |
//! | [`netconf`] | those of them that netlink tells faster |
//! | [`vlan`] | VLANs of bridge ports |
//! | [`tc`] | limits on the rate of a link |
//! | [`conntrack`] | connections that are tracked |
//! | [`program`] | `iptables` and its kin, which alone know their tables |
//!
//! A change is made in two steps, so that many can go in one system call:
//! a constructor such as [`route::replace`] encodes a [`Request`],
//! [`Socket::request`] or [`Socket::batch`] sends it. Reading is one step:
//! [`route::list`] returns a [`Dump`], which knows whether it is complete.
//!
//! Messages are encoded and decoded in this crate rather than with
//! `netlink-packet-route`, for three reasons: that crate refuses a whole
//! message when one attribute of it is not as it expects, also one nobody
//! here reads, which would hold up every deletion on a node with one odd
//! link; it has no nexthop objects; and of a link's hundred attributes this
//! crate reads a dozen. The tests read every message written here with it.
#![forbid(unsafe_code)]

pub mod addr;
pub mod conntrack;
mod error;
pub mod fdb;
#[doc(hidden)]
pub mod fuzz;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod netconf;
mod netns;
pub mod nexthop;
pub mod nft;
pub mod nsid;
#[cfg(test)]
mod packet_tests;
pub mod program;
mod request;
pub mod route;
pub mod rule;
mod socket;
pub mod sysctl;
pub mod tc;
pub mod vlan;
mod wire;

pub use error::{Error, is_transient};
pub use netns::{NetNs, NetNsError};
pub use nix::errno::Errno;
pub use request::Request;
pub use socket::{Dump, Socket, WINDOW};
