//! flanneld

pub mod cli;
pub mod facts;
pub mod files;
pub mod health;
pub mod logging;
pub mod notify;
