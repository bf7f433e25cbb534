//! What this version cannot do, said in one line instead of pretended.
//!
//! A flag that asks for a function which is absent refuses the start; one
//! that only tunes such a function, or the form of log lines, gets a note.

use ipam::netconf::{Backend, NetConf};
use overlay::vxlan;

use super::flags::Flags;
use super::options::Note;

/// The backend types of this version, as the net-conf names them.
pub const BACKENDS: [&str; 1] = ["vxlan"];

/// Whether this version can do what a network configuration asks for, as far
/// as that depends on nothing else.
///
/// # Errors
/// What it cannot, and what to write instead.
pub fn netconf(conf: &NetConf) -> Result<(), String> {
    let backend = conf.backend.type_name();
    if !BACKENDS.contains(&backend) {
        return Err(format!(
            "Backend.Type is {backend}, which this version does not have: \
             set it to {}",
            BACKENDS.join(" or ")
        ));
    }
    if let Backend::Vxlan(options) = &conf.backend {
        for family in conf.enabled.families() {
            vxlan::device_name(family, options.vni)
                .map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// The flags that ask for what is absent, one line each.
pub(super) fn flags(flags: &Flags) -> Vec<String> {
    let mut absent = Vec::new();
    let mut check = |asked: bool, flag: &str, what: &str| {
        if asked {
            absent.push(format!("--{flag}: this version {what}"));
        }
    };
    let no_kube = "has no Kubernetes mode; it takes subnets from etcd";
    check(flags.kube_subnet_mgr, "kube-subnet-mgr", no_kube);
    check(!flags.kube_api_url.is_empty(), "kube-api-url", no_kube);
    check(
        flags.kube_annotation_prefix != "flannel.alpha.coreos.com",
        "kube-annotation-prefix",
        no_kube,
    );
    check(!flags.kubeconfig_file.is_empty(), "kubeconfig-file", no_kube);
    check(
        flags.net_config_path != "/etc/kube-flannel/net-conf.json",
        "net-config-path",
        "has no Kubernetes mode; the network configuration is read from etcd",
    );
    check(
        !flags.set_node_network_unavailable,
        "set-node-network-unavailable=false",
        no_kube,
    );
    absent
}

/// Notes on flags that are accepted without having their upstream effect.
pub(super) fn flag_notes(flags: &Flags) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |said: bool, text: &str| {
        if said {
            notes.push(Note::Info(text.to_owned()));
        }
    };
    note(
        !flags.vmodule.is_empty(),
        "--vmodule has no effect: verbosity is set for the whole program by -v",
    );
    note(
        !matches!(flags.log_backtrace_at.as_str(), ":0" | ""),
        "--log_backtrace_at has no effect: log lines carry no stack traces",
    );
    notes
}
