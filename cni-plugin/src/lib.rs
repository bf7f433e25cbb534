//! The CNI plugin: one static binary that answers to several names, blocking,
//! in one process. What it is asked is in the name it is called by, the
//! environment and stdin; its answer goes to stdout (S-1).
//!
//! `protocol` reads the call and prints the answer, `result` knows the forms
//! of all versions, `plugins` lists who answers to which name. `bridge` and
//! `hostlocal` are also what `flannel` delegates to in this process; `exec`
//! runs other delegates. `install` makes the names. `portmap` and its like
//! follow in the chain; `hashed` makes the names of their rules, `xtables`
//! runs iptables for them.
#![forbid(unsafe_code)]

mod alive;
mod bandwidth;
mod bridge;
mod cidr;
mod exec;
mod files;
mod firewall;
mod flannel;
#[doc(hidden)]
pub mod fuzz;
mod hashed;
mod hostlocal;
mod install;
mod loopback;
mod mac;
mod masquerade;
mod nftables;
mod owner;
mod plugins;
mod portmap;
mod protocol;
mod ptp;
mod result;
mod sbr;
mod tuning;
mod xtables;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// What the program does, from its arguments, environment and stdin.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    // a runtime gives no arguments and always says a command
    if args.first().is_some_and(|first| first == "install")
        && std::env::var_os("CNI_COMMAND").is_none()
    {
        return install::main(args.get(1..).unwrap_or_default());
    }
    let name = Path::new(&called)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match plugins::find(&name) {
        Some(plugin) => protocol::serve(plugin),
        None => plugins::unknown(&name).print(),
    }
}
