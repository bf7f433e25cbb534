//! Passes over the real kernel: each test in a network namespace of its own.
//! Needs root.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests stop at the first surprise"
)]

mod direct;
mod passes;
mod repairs;
mod rules;
mod support;
