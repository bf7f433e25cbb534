//! Real container runtimes, each started by its test: what they do beyond the
//! protocol (R-1 … R-19), our plugin must live with. `integration/setup run`
//! unpacks them; without them these tests fail.
//!
//! Not here, and why:
//!
//! - CRI-O, cri-dockerd, Nomad: in no Debian release, and no registry can be
//!   asked. What CRI-O does apart from the others (CHECK right after ADD, GC
//!   at its start, DEL with the kept list) the scenarios of `libcni` do.
//! - A containerd that calls STATUS (R-10): Debian's predates it; `libcni`.
//! - rootless podman: it does not use CNI.

mod cnitool;
mod containerd;
mod hostport;
mod podman;
mod reboot;

use anyhow::Result;
use integration::cluster::SUBNET_ENV;
use integration::host::Host;
use integration::runtimes::prepare;

/// kube-flannel's list, as it is shipped (R-19).
const LIST: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    { "type": "flannel",
      "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}"#;

/// Ours, for runtimes of all ages: those here read only what they know of it.
const SHIPPED: &str = include_str!("../../../cni-plugin/10-flannel.conflist");

/// A node as a daemon leaves it, prepared for a runtime with `list`.
fn prepared(name: &str, list: &str) -> Result<Host> {
    let host = Host::new(name)?;
    prepare(&host, list)?;
    write_env(&host)?;
    Ok(host)
}

fn write_env(host: &Host) -> Result<()> {
    host.write(
        SUBNET_ENV,
        "FLANNEL_NETWORK=10.244.0.0/16\n\
         FLANNEL_SUBNET=10.244.5.1/24\n\
         FLANNEL_IPV6_NETWORK=fd00:244::/48\n\
         FLANNEL_IPV6_SUBNET=fd00:244:0:5::1/64\n\
         FLANNEL_MTU=1400\n\
         FLANNEL_IPMASQ=true\n",
    )
}

/// The addresses that are reserved.
fn reserved(host: &Host, network: &str) -> Result<Vec<String>> {
    let folder = format!("/var/lib/cni/networks/{network}");
    let names = host.run(move || -> std::io::Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?;
        entries
            .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect()
    })?;
    let is_address = |n: &String| n.parse::<std::net::IpAddr>().is_ok();
    let mut out: Vec<String> = names.into_iter().filter(is_address).collect();
    out.sort();
    Ok(out)
}
