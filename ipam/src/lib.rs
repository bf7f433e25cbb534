//! What a flannel cluster agrees on, without any I/O: the network
//! configuration, subnets, leases, the choice of a subnet, and the files a
//! node's parts hand to each other. [`pool`] and [`file`](mod@file) alone touch the
//! disk.
#![forbid(unsafe_code)]

pub mod choose;
pub mod daemon_state;
mod family;
pub mod file;
pub mod gojson;
pub mod lease;
pub mod netconf;
pub mod pool;
mod secret;
mod subnet;
pub mod subnet_env;

pub use family::{Family, PerFamily};
pub use secret::Secret;
pub use subnet::{Subnet, SubnetError};
