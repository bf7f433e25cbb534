//! The etcd store against a real etcd: one server per test, on loopback, in
//! a temporary directory. Needs `etcd`; a test without it fails.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "the helpers of a test may stop at the first surprise, as tests may"
)]

mod acquire;
mod another;
mod auth;
mod certs;
mod config;
mod connect;
mod etcd;
mod follow;
mod node;
mod own;
mod proxy;
mod stranger;
mod tls;
