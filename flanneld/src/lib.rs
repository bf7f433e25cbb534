//! The node daemon. `main.rs` is the way through it; ARCHITECTURE.md says how
//! the parts hang together.

pub mod busy;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod facts;
pub mod files;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod monitor;
pub mod notify;
pub mod own_lease;
pub mod pace;
pub mod pass;
pub mod recent;
pub mod reconcile;
pub mod repairs;
pub mod report;
pub mod rules;
pub mod stop;
pub mod store;
#[cfg(test)]
mod testing;
pub mod worker;
pub mod world;
