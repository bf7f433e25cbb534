//! The etcd store (section 3 of the behaviour reference): two steps, as the
//! own lease's attributes need the configuration's backend.
//!
//! ```no_run
//! # async fn f(config: flanneld::store::etcd::EtcdConfig,
//! #   params: impl Fn(&flanneld::store::etcd::Config)
//! #     -> flanneld::own_lease::Params)
//! # -> Result<(), flanneld::store::etcd::SetupError> {
//! use flanneld::store::etcd::Etcd;
//!
//! let (etcd, status) = Etcd::new(config)?;
//! let config = etcd.config().await;
//! let mut store = etcd.run(params(&config), config.text.clone());
//! while let Some(event) = store.events.recv().await {
//!     // …
//! }
//! # drop(status);
//! # Ok(())
//! # }
//! ```

mod client;
mod config;
mod endpoint;
mod error;
mod exec;
mod random;
mod run;
mod tls;
mod watch;

pub use client::{Credentials, EtcdConfig, SetupError};
pub use config::Config;
pub use endpoint::{Endpoint, EndpointError, Keys};
pub use error::Error;
pub use run::{Etcd, Store};
pub use tls::{TlsError, TlsFiles};
