//! The machine against a small etcd in memory, in simulated time. The ledger
//! is part of the game: it is what feeds the machine in the daemon.

mod outage;
mod races;
mod sim;
mod single;
