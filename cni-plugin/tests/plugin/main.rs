//! The binary against the real kernel, run as a runtime runs it: each test on
//! a node of its own, made of namespaces that go with the test. Needs root,
//! and says so instead of skipping.

mod attach;
mod check;
mod delegates;
mod detach;
mod failures;
mod fixed;
mod loopback;
mod node;
mod options;
mod protocol;
mod upstream;
