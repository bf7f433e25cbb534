//! This crate against the real kernel: each test in a network namespace of
//! its own. Needs root, and says so instead of skipping.

mod link;
mod ns;
