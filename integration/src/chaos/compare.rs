//! What the store says beside what every kernel holds: the leases as
//! `etcdctl` prints them, taken apart here, and the kernel's objects as
//! iproute2 prints them. None of our own readers has a part in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::host::Host;

/// One family's words.
struct Words {
    /// The tunnel device.
    device: &'static str,
    /// `ip`'s switch.
    switch: &'static str,
    /// Length of a single address.
    bits: u8,
    /// The device's MTU on an underlay of 1500.
    mtu: u32,
    /// Where a vxlan device's own address stands.
    local: &'static str,
    /// The keys of a lease's value.
    public: &'static str,
    data: &'static str,
    /// The variable in `subnet.env`.
    env: &'static str,
    /// The settings of IPv6 that the device needs.
    settings: &'static [(&'static str, u8)],
}

const FAMILIES: [Words; 2] = [
    Words {
        device: "flannel.1",
        switch: "-4",
        bits: 32,
        mtu: 1450,
        local: "local",
        public: "PublicIP",
        data: "BackendData",
        env: "FLANNEL_SUBNET",
        settings: &[("accept_ra", 0)],
    },
    Words {
        device: "flannel-v6.1",
        switch: "-6",
        bits: 128,
        mtu: 1430,
        local: "local6",
        public: "PublicIPv6",
        data: "BackendV6Data",
        env: "FLANNEL_IPV6_SUBNET",
        settings: &[("accept_ra", 0), ("disable_ipv6", 0)],
    },
];

/// A lease in one family.
#[derive(Clone, Debug)]
struct Side {
    base: String,
    len: u8,
    public: String,
    mac: String,
}

/// A lease of both families, by the node's IPv4 address.
type Leases = BTreeMap<String, [Side; 2]>;

/// Checks that each of `nodes` (indices) holds exactly one lease, that there
/// is no other but the `garbage` keys, and that each of these nodes' kernel
/// holds what the leases say and nothing else.
///
/// # Errors
/// With every difference.
pub(super) fn check(
    cluster: &Cluster,
    nodes: &[usize],
    garbage: &BTreeSet<String>,
) -> Result<()> {
    let leases = leases(cluster, garbage)?;
    let holders: BTreeSet<_> = leases.keys().map(String::as_str).collect();
    let running: BTreeSet<_> =
        nodes.iter().map(|n| cluster.node(*n).uplink.v4.as_str()).collect();
    ensure!(holders == running, "{holders:?} hold leases, not {running:?}");
    for family in 0..FAMILIES.len() {
        let bases: BTreeSet<_> =
            leases.values().map(|sides| &sides[family].base).collect();
        ensure!(bases.len() == leases.len(), "a subnet is held twice");
    }
    let mut found = Vec::new();
    for node in nodes.iter().map(|n| cluster.node(*n)) {
        let want = wanted(node, &leases)?;
        let have = held(&node.host)?;
        let name = node.host.name();
        let missing = want.difference(&have).map(|o| format!("lacks {o}"));
        let excess = have.difference(&want).map(|o| format!("holds {o}"));
        found.extend(missing.chain(excess).map(|o| format!("{name} {o}")));
    }
    ensure!(found.is_empty(), "differences:\n{}", found.join("\n"));
    Ok(())
}

fn leases(cluster: &Cluster, garbage: &BTreeSet<String>) -> Result<Leases> {
    let mut out = Leases::new();
    for (key, value) in cluster.leases()? {
        if garbage.contains(&key) {
            continue;
        }
        let lease = lease(&key, &value)
            .with_context(|| format!("lease {key} = {value}"))?;
        let node = lease[0].public.clone();
        if let Some(other) = out.insert(node, lease) {
            bail!("a node holds {key} and {other:?}");
        }
    }
    Ok(out)
}

fn lease(key: &str, value: &str) -> Result<[Side; 2]> {
    let subnets = key.rsplit('/').next().context("no segment")?;
    let (v4, v6) = subnets.split_once('&').context("not both families")?;
    let value: Value = serde_json::from_str(value)?;
    ensure!(value["BackendType"] == "vxlan", "not of vxlan");
    let side = |subnet: &str, words: &Words| -> Result<Side> {
        let (base, len) = subnet.rsplit_once('-').context("no length")?;
        let text = |value: &Value| {
            value.as_str().map(str::to_owned).context("no text")
        };
        Ok(Side {
            base: base.to_owned(),
            len: len.parse()?,
            public: text(&value[words.public])?,
            mac: text(&value[words.data]["VtepMAC"])?,
        })
    };
    let [a, b] = &FAMILIES;
    Ok([side(v4, a)?, side(v6, b)?])
}

/// What the node's kernel should hold.
fn wanted(node: &Node, leases: &Leases) -> Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    let (mtu, name) = (node.env("FLANNEL_MTU")?, node.host.name());
    ensure!(mtu == "1430", "{name}: subnet.env gives pods an MTU of {mtu}");
    for (public, sides) in leases {
        for (words, side) in FAMILIES.iter().zip(sides) {
            let Words { device, bits, mtu, .. } = words;
            let Side { base, len, public: end, mac } = side;
            if *public == node.uplink.v4 {
                out.insert(format!(
                    "{device}: vxlan 1 from {end}, {mac}, mtu {mtu}, up"
                ));
                out.insert(format!("{device}: address {base}/{bits}"));
                for (setting, value) in words.settings {
                    out.insert(format!("{device}: {setting} {value}"));
                }
                let env = node.env(words.env)?;
                let (gateway, _) = env.rsplit_once('/').context("env")?;
                ensure!(
                    env.ends_with(&format!("/{len}"))
                        && gateway.starts_with(base.trim_end_matches('0')),
                    "{}: subnet.env says {env}, the store {base}/{len}",
                    node.host.name()
                );
            } else {
                out.insert(format!("{device}: route {base}/{len} via {base}"));
                out.insert(format!("{device}: neighbour {base} at {mac}"));
                out.insert(format!("{device}: {mac} behind {end}"));
            }
        }
    }
    Ok(out)
}

/// What it does hold on the tunnel devices.
fn held(host: &Host) -> Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for words in &FAMILIES {
        let Words { device, switch, .. } = words;
        let ip = |what: &str| -> Result<Vec<Value>> {
            let text = host.ip(&format!("-j {what}"))?;
            parse(&text)
        };
        // `ip` fails for a device that is not there.
        if !host.ip("link")?.contains(&format!(" {device}: ")) {
            continue;
        }
        for link in ip(&format!("-d link show dev {device}"))? {
            let data = &link["linkinfo"]["info_data"];
            let flags = list(&link["flags"]);
            let up = flags.iter().any(|f| *f == "UP");
            out.insert(format!(
                "{device}: {} {} from {}, {}, mtu {}, {}",
                text(&link["linkinfo"]["info_kind"]),
                data["id"],
                text(&data[words.local]),
                text(&link["address"]),
                link["mtu"],
                if up { "up" } else { "down" }
            ));
        }
        for link in ip(&format!("{switch} addr show dev {device}"))? {
            for a in list(&link["addr_info"]) {
                let local = text(&a["local"]);
                if !local.starts_with("fe80:") {
                    out.insert(format!(
                        "{device}: address {local}/{}",
                        a["prefixlen"]
                    ));
                }
            }
        }
        for (setting, _) in words.settings {
            let path = format!("net/ipv6/conf/{device}/{setting}");
            let value = host.cmd(&["sysctl", "-n", &path])?;
            out.insert(format!("{device}: {setting} {}", value.trim()));
        }
        let routes =
            ip(&format!("{switch} route show table main dev {device}"))?;
        for route in routes.iter().filter(|r| r["protocol"] != "kernel") {
            out.insert(format!(
                "{device}: route {} via {}",
                text(&route["dst"]),
                text(&route["gateway"])
            ));
        }
        for n in ip(&format!("{switch} neigh show dev {device} nud permanent"))?
        {
            out.insert(format!(
                "{device}: neighbour {} at {}",
                text(&n["dst"]),
                text(&n["lladdr"])
            ));
        }
        let fdb = host.cmd(&["bridge", "-j", "fdb", "show", "dev", device])?;
        for entry in parse(&fdb)? {
            out.insert(format!(
                "{device}: {} behind {}",
                text(&entry["mac"]),
                text(&entry["dst"])
            ));
        }
    }
    Ok(out)
}

fn parse(text: &str) -> Result<Vec<Value>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).with_context(|| text.to_owned())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("nothing")
}

/// The traffic rules of nftables and of both iptables, as their own programs
/// print them, with the node's own subnets by another name. Chains may stand
/// in any order.
///
/// # Errors
/// When there are none.
pub(super) fn rules(node: &Node) -> Result<String> {
    let mut lines = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let mut table = "";
        let text = node.host.cmd(&[program])?;
        for line in text.lines() {
            if line.starts_with('*') {
                table = line;
            } else if let Some(rule) = line.strip_prefix("-A ") {
                lines.push(format!("{program} {table} {rule}"));
            }
        }
    }
    // Stable: a chain's rules keep their order.
    lines.sort_by_key(|line| {
        line.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>()
    });
    let tables = node.host.cmd(&["nft", "list", "tables"])?;
    let mut tables: Vec<_> =
        tables.lines().filter(|table| table.contains("flannel")).collect();
    tables.sort_unstable();
    for table in tables {
        let mut words = vec!["nft", "list"];
        words.extend(table.split(' '));
        lines.push(node.host.cmd(&words)?);
    }
    ensure!(!lines.is_empty(), "{} has no traffic rules", node.host.name());
    let mut text = lines.join("\n");
    for subnet in node.subnets()? {
        text = text.replace(&subnet, "OWN");
    }
    Ok(text)
}
