//! What each fuzz target does with its input: reads it, and checks what must
//! hold of anything that was read. A target fails by panicking.
//!
//! | target | reads | holds |
//! |---|---|---|
//! | [`net_conf`] | `net-conf.json` | ranges lie in their network; spelling does not matter |
//! | [`lease_key`] | keys in etcd | one text per key; nothing that upstream refuses (E-3) |
//! | [`lease_value`] | values in etcd | what is written is read back the same; a `VtepMAC` is one a device can have |
//! | [`subnet_env`] | `subnet.env` | both readers agree on what we write |
//! | [`gojson`] | any JSON | the grammar is `serde_json`'s, text is kept |
//! | [`netlink`] | the kernel's datagrams | what is written is read back the same |
//! | [`nft`] | the kernel's datagrams about rules | the same |
//! | [`cni`] | stdin of the CNI plugin, results, `CNI_ARGS` | an answer is JSON; what is derived is too |
//! | [`state_json`] | `state.json` | what is written is read back the same |
//! | [`state_dir`] | the files in `--state-dir` | the same |
//! | [`cli`] | flags and variables | both say the same; no password in a message |
//!
//! `fuzz/run` builds and runs them; `corpus/<target>` holds inputs that each
//! reach something new.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a fuzz target reports by panicking"
)]

mod cli;
mod cni;
mod gojson;
mod kept;
mod lease;
mod netconf;
mod netlink;
mod subnet_env;

pub use cli::cli;
pub use cni::cni;
pub use gojson::gojson;
pub use kept::{state_dir, state_json};
pub use lease::{lease_key, lease_value};
pub use netconf::net_conf;
pub use netlink::{netlink, nft};
pub use subnet_env::subnet_env;

use std::borrow::Cow;

/// As text, the way every reader takes it in.
fn text(data: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(data)
}
