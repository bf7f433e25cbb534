//! Scenarios on real parts, one test binary.
mod harness;
