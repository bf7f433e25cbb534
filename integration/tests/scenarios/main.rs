//! Scenarios on real parts: namespaces as nodes and pods, a real etcd, the
//! static release binaries. One test binary.
#![expect(
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod adoption;
mod chaos;
mod demo;
mod direct;
mod drift;
mod flags;
mod harness;
mod libcni;
mod membership;
mod names;
mod node_faults;
mod refusals;
mod restart;
mod rules;
mod runtimes;
mod security;
mod state;
mod store_faults;
mod subnets;
mod traffic;
mod underlay;
mod underlay_moves;
mod upstream;
