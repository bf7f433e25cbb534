//! The binary against the real kernel, run as a runtime runs it: each test on
//! a node of its own, made of namespaces that go with the test. Needs root,
//! and says so instead of skipping.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "the helpers of a test may stop at the first surprise, as tests may"
)]

mod attach;
mod bandwidth;
mod bandwidth_traffic;
mod beside_go;
mod bridge;
mod bridge_versions;
mod check;
mod deadlines;
mod delegates;
mod detach;
mod failures;
mod firewall;
mod fixed;
mod heal;
mod hostlocal;
mod killed;
mod killed_chain;
mod loopback;
mod neighbours;
mod node;
mod options;
mod portmap;
mod portmap_owned;
mod protocol;
mod ptp;
mod sbr;
mod soak;
mod tuning;
mod upstream;
