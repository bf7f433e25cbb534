//! What other programs and people do to a node's kernel.

use anyhow::Result;
use serde_json::Value;

use super::Rng;
use crate::cluster::SUBNET_ENV;
use crate::host::Host;

/// A family's tunnel device and tables.
struct Device {
    name: &'static str,
    /// The family, to `ip`.
    switch: &'static str,
    /// An address and a route that have no business there.
    address: &'static str,
    route: &'static str,
    /// The end of a tunnel to nobody.
    end: &'static str,
    iptables: &'static str,
    /// The family's table, to `nft`.
    table: &'static str,
}

const DEVICES: [Device; 2] = [
    Device {
        name: "flannel.1",
        switch: "-4",
        address: "10.244.249.9/32",
        route: "10.244.250.0/24",
        end: "192.168.77.200",
        iptables: "iptables",
        table: "ip flannel-ipv4",
    },
    Device {
        name: "flannel-v6.1",
        switch: "-6",
        address: "fd00:244:0:f9::9/128",
        route: "fd00:244:0:fa::/64",
        end: "fd77::c8",
        iptables: "ip6tables",
        table: "ip6 flannel-ipv6",
    },
];

/// How many things can be done.
pub(super) const KINDS: usize = 24;

/// How many of them pods do not notice.
const HARMLESS: usize = 22;

/// Does one thing that no pod needs in order to come or go, and says what.
/// What is not there to be touched is not.
///
/// # Errors
/// When a list cannot be read.
pub(super) fn touch(host: &Host, rng: &mut Rng) -> Result<String> {
    let (kind, family) = (rng.below(HARMLESS), rng.below(DEVICES.len()));
    touch_by(host, kind, family, rng.next())
}

/// Does the thing of that number, to that family, to one of its objects.
///
/// # Errors
/// When a list cannot be read.
pub(super) fn touch_by(
    host: &Host,
    kind: usize,
    family: usize,
    which: u64,
) -> Result<String> {
    let Device { name, switch, address, route, end, iptables, table } =
        &DEVICES[family];
    let one = |what: &str, fields: &[&str]| -> Result<String> {
        some(host, which, &format!("{what} show dev {name}"), fields)
    };
    let commands = match kind {
        0 => {
            let dst = one(&format!("ip -j {switch} route"), &["dst"])?;
            // A route by a nexthop object is not found by its device.
            vec![format!("ip {switch} route del {dst}")]
        }
        1 => objects(
            host,
            &format!("ip -j {switch} route show dev {name}"),
            &["dst"],
        )?
        .iter()
        .map(|dst| format!("ip {switch} route del {dst}"))
        .collect(),
        2 => {
            let ip = one(&format!("ip -j {switch} neigh"), &["dst"])?;
            vec![format!("ip {switch} neigh del {ip} dev {name}")]
        }
        3 => vec![format!("ip {switch} neigh flush dev {name} nud permanent")],
        4 => {
            let entry = one("bridge -j fdb", &["mac", "dst"])?;
            let entry = entry.replace(' ', &format!(" dev {name} dst "));
            vec![format!("bridge fdb del {entry}")]
        }
        5 => vec![format!("ip nexthop flush dev {name}")],
        6 => vec![format!("ip {switch} addr flush dev {name} scope global")],
        7 => vec![format!("ip {switch} addr add {address} dev {name}")],
        8 => vec![format!("ip link set {name} down")],
        9 => vec![format!("ip link del {name}")],
        10 => vec![format!("ip link set {name} mtu 1300")],
        11 => vec![format!("ip link set {name} address 02:00:00:00:00:99")],
        12 => vec![format!("ip {switch} route add {route} dev {name}")],
        13 => vec![format!(
            "bridge fdb append 02:00:00:00:00:77 dev {name} dst {end}"
        )],
        14 => vec![
            format!("ip link set {name} down"),
            format!("ip link set {name} name gone{}", which % 10_000),
        ],
        15 => vec![
            format!("ip link del {name}"),
            format!("ip link add {name} type bridge"),
        ],
        16 => vec![
            format!("ip link set {name} down"),
            format!("ip link set {name} up"),
        ],
        17 => vec!["nft flush ruleset".to_owned()],
        18 => vec![
            format!("{iptables} -w -t nat -F"),
            format!("nft flush table {table}"),
        ],
        19 => vec![
            format!("{iptables} -w -F"),
            format!("nft delete table {table}"),
        ],
        20 => vec![
            format!("{iptables} -w -t nat -D FLANNEL-POSTRTG 3"),
            format!("nft delete chain {table} postrtg"),
            format!("nft flush chain {table} postrtg"),
        ],
        21 => vec![
            format!("{iptables} -w -t nat -I FLANNEL-POSTRTG -j ACCEPT"),
            format!("nft insert rule {table} postrtg accept"),
        ],
        22 => vec![format!("rm -f {SUBNET_ENV}")],
        _ => vec![format!(
            "sed -i s/^FLANNEL_MTU=.*/FLANNEL_MTU=9/ {SUBNET_ENV}"
        )],
    };
    let mut said = Vec::new();
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        let out = host.output(&words)?;
        // Whether the object is there depends on what came before.
        said.push(match out.status.success() {
            true => command,
            false => format!(
                "{command} ({})",
                String::from_utf8_lossy(&out.stderr).trim()
            ),
        });
    }
    Ok(said.join("; "))
}

/// These fields of one of the objects that `command` lists, or something that
/// is not there.
fn some(
    host: &Host,
    which: u64,
    command: &str,
    fields: &[&str],
) -> Result<String> {
    let texts = objects(host, command, fields)?;
    let count = u64::try_from(texts.len()).unwrap_or(1).max(1);
    let place = usize::try_from(which % count).unwrap_or_default();
    Ok(texts.get(place).cloned().unwrap_or_else(|| "nothing".to_owned()))
}

/// These fields of the objects that `command` lists as JSON, without those
/// that the kernel makes by itself.
fn objects(host: &Host, command: &str, fields: &[&str]) -> Result<Vec<String>> {
    let words: Vec<_> = command.split_whitespace().collect();
    let out = host.output(&words)?;
    let list: Vec<Value> =
        serde_json::from_slice(&out.stdout).unwrap_or_default();
    let texts = list
        .iter()
        .filter(|object| object["protocol"] != "kernel")
        .filter_map(|object| {
            let values: Option<Vec<_>> =
                fields.iter().map(|f| object[*f].as_str()).collect();
            values.map(|values| values.join(" "))
        });
    Ok(texts.collect())
}
