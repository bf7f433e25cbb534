//! The CNI plugin: one static binary that answers to several names, blocking,
//! in one process. What it is asked is in the name it is called by, the
//! environment and stdin; its answer goes to stdout (S-1).
//!
//! `protocol` reads the call and prints the answer, `result` knows the forms
//! of all versions, `flannel` and `loopback` are the plugins, `bridge` and
//! `hostlocal` what `flannel` delegates to in this process, `exec` runs other
//! delegates.
#![forbid(unsafe_code)]

mod bridge;
mod cidr;
mod exec;
mod flannel;
mod hostlocal;
mod loopback;
mod protocol;
mod result;

use std::path::Path;
use std::process::ExitCode;

use protocol::{Answer, CniError, Plugin, Version};

/// The plugins, by the names this binary answers to.
const PLUGINS: [&dyn Plugin; 2] = [&flannel::Flannel, &loopback::Loopback];

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match PLUGINS.into_iter().find(|plugin| plugin.name() == name) {
        Some(plugin) => protocol::serve(plugin),
        None => unknown(&name).print(),
    }
}

fn unknown(name: &str) -> Answer {
    let names = PLUGINS.map(|plugin| plugin.name()).join(", ");
    let error = CniError::config(format!(
        "called as {name:?}, but this binary answers to: {names}"
    ))
    .details("install it, or a link to it, under one of these names");
    Answer::failed(&error, Version::NEWEST)
}
