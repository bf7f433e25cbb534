//! flanneld

pub mod cli;
pub mod clock;
pub mod facts;
pub mod files;
pub mod health;
pub mod logging;
pub mod notify;
pub mod own_lease;
pub mod store;
