//! This crate against the real kernel: each test in a network namespace of
//! its own. Needs root, and says so instead of skipping.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod addr;
mod batch;
mod conntrack;
mod link;
mod monitor;
mod neigh;
mod netns;
mod nexthop;
mod nft;
mod ns;
mod nsid;
mod route;
mod rule;
mod sysctl;
mod tc;
mod upstream;
mod veth;
