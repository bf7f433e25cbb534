//! The interface between nodes becomes another one while the daemon runs:
//! renamed, replaced under another name, made a bridge's port. Both families.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::host::Host;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;

const SOON: Duration = Duration::from_secs(20);

/// Two nodes with a pod each, the first's interface chosen by `how`.
struct Rig {
    cluster: Cluster,
    pods: [Pod; 2],
}

// === impl Rig ===

impl Rig {
    fn new(how: &[&str]) -> Result<Self> {
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
        cluster.start_one(0, how)?;
        cluster.start_one(1, &["--iface=eth0"])?;
        for node in &mut cluster.nodes {
            node.wait_ready()?;
        }
        cluster.wait_joined()?;
        let pods = [
            Pod::add(&cluster.node(0).host, "a")?,
            Pod::add(&cluster.node(1).host, "b")?,
        ];
        Ok(Self { cluster, pods })
    }

    fn host(&self) -> &Host {
        &self.cluster.node(0).host
    }

    /// Commands of `ip` on the first node.
    fn ip(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.host().ip(line).map(drop))
    }

    /// Waits until the pods reach each other, and all is quiet.
    fn reach(&mut self) -> Result<()> {
        self.cluster.node_mut(0).wait_ready()?;
        poll_until("the pods to reach each other", SOON, || {
            let [a, b] = &self.pods;
            for (from, n, to) in [(a, 0, b), (b, 1, a)] {
                for address in Stack::Dual.addresses(to)? {
                    from.ping(&self.cluster.node(n).host, &address)?;
                }
            }
            Ok(())
        })?;
        self.cluster.assert_settled()
    }

    /// Waits until both of these are published, by this node alone.
    fn published(&self, v4: &str, v6: &str) -> Result<()> {
        poll_until("the addresses to be published", SOON, || {
            let leases = self.cluster.leases()?;
            let value = format!(r#""PublicIP":"{v4}","PublicIPv6":"{v6}""#);
            let fits = leases.iter().any(|(_, v)| v.contains(&value));
            let log = self.cluster.node(0).log();
            ensure!(fits && leases.len() == 2, "{leases:?}\n{log}");
            Ok(())
        })
    }

    /// The tunnel's devices: their indexes, and what is under them.
    fn tunnels(&self) -> Result<Vec<(String, String)>> {
        ["flannel.1", "flannel-v6.1"]
            .iter()
            .map(|name| {
                let text =
                    self.host().ip(&format!("-d -o link show {name}"))?;
                let index = text.split(':').next().unwrap_or_default();
                let word = |key: &str| {
                    let mut words = text.split_whitespace();
                    words.find(|w| *w == key).and_then(|_| words.next())
                };
                let under = format!("{:?} {:?}", word("local"), word("dev"));
                Ok((index.to_owned(), under))
            })
            .collect()
    }
}

const RENAME: [&str; 5] = [
    "link set eth0 down",
    "link set eth0 name lan0",
    "link set lan0 up",
    "-6 addr add fd77::1/64 dev lan0 nodad",
    "route add default via 192.168.77.254",
];

/// As udev does it with an interface that is there already, or a person. The
/// device is the same: so are the tunnels, and the lease. Also where it was
/// chosen by the name that it does not have any more.
#[test]
fn a_renamed_interface_stays_the_underlay() -> Result<()> {
    for how in [&["--iface=eth0"][..], &[], &["--iface=192.168.77.1"]] {
        let mut rig = Rig::new(how)?;
        let before = rig.tunnels()?;
        rig.ip(&RENAME)?;
        rig.ip(&["-6 route add default via fd77::fe"])?;
        rig.reach()?;
        rig.published("192.168.77.1", "fd77::1")?;
        let log = rig.cluster.node(0).log();
        ensure!(log.contains("another one: interface lan0"), "{log}");
        let after = rig.tunnels()?;
        let wanted: Vec<_> = before
            .into_iter()
            .map(|(index, under)| (index, under.replace("eth0", "lan0")))
            .collect();
        assert_eq!(after, wanted, "{how:?}");
        // An address that it gets under its new name is noticed.
        rig.ip(&[
            "addr add 192.168.77.61/24 dev lan0",
            "addr del 192.168.77.1/24 dev lan0",
        ])?;
        if how.first() != Some(&"--iface=192.168.77.1") {
            continue;
        }
        // C-112: what was named by its address stays that.
        let gone = ["the published address 192.168.77.1 is no longer"];
        rig.cluster.node_mut(0).wait_not_ready(&gone)?;
        rig.ip(&["addr add 192.168.77.1/24 dev lan0"])?;
        rig.ip(&["route replace default via 192.168.77.254"])?;
        rig.reach()?;
    }
    Ok(())
}

/// Chosen by the default route, or by an expression that fits both.
#[test]
fn an_interface_that_is_replaced_by_another_is_followed() -> Result<()> {
    for how in [&[][..], &["--iface-regex=^(eth0|wan0)$"]] {
        let mut rig = Rig::new(how)?;
        rig.ip(&["link del eth0"])?;
        rig.cluster
            .node_mut(0)
            .wait_not_ready(&["interface eth0 is gone: no interface found"])?;
        // Node 9's place, so that the addresses are others, and another name.
        let host = &rig.cluster.node(0).host;
        rig.cluster.underlay.attach(host, 9)?;
        rig.ip(&[
            "link set eth0 down",
            "link set eth0 name wan0",
            "link set wan0 up",
            "-6 addr replace fd77::9/64 dev wan0 nodad",
            "route replace default via 192.168.77.254",
            "-6 route replace default via fd77::fe",
        ])?;
        rig.published("192.168.77.9", "fd77::9")?;
        rig.reach()?;
        for (_, under) in rig.tunnels()? {
            ensure!(under.contains("wan0"), "{under}");
        }
    }
    Ok(())
}

/// A bridge is put over the interface, and takes its addresses: the tunnels
/// go on over the bridge, and are not made anew for that.
#[test]
fn addresses_that_move_onto_a_bridge_are_followed() -> Result<()> {
    let mut rig = Rig::new(&[])?;
    let before = rig.tunnels()?;
    rig.ip(&[
        "link add br0 type bridge",
        "link set br0 up",
        "link set eth0 master br0",
        "addr del 192.168.77.1/24 dev eth0",
        "addr add 192.168.77.1/24 dev br0",
        "-6 addr del fd77::1/64 dev eth0",
        "-6 addr add fd77::1/64 dev br0 nodad",
        "route replace default via 192.168.77.254 dev br0",
        "-6 route replace default via fd77::fe dev br0",
    ])?;
    poll_until("the tunnels to be on the bridge", SOON, || {
        let after = rig.tunnels()?;
        let wanted: Vec<_> = before
            .iter()
            .map(|(index, under)| (index.clone(), under.replace("eth0", "br0")))
            .collect();
        ensure!(after == wanted, "{after:?}\n{}", rig.cluster.node(0).log());
        Ok(())
    })?;
    rig.published("192.168.77.1", "fd77::1")?;
    rig.reach()
}

/// An own address that is another one: published, and no tunnel made anew.
#[test]
fn another_address_leaves_the_tunnels_as_they_are() -> Result<()> {
    let mut rig = Rig::new(&["--iface-regex=^eth"])?;
    let before = rig.tunnels()?;
    rig.ip(&[
        "addr add 192.168.77.71/24 dev eth0",
        "-6 addr add fd77::71/64 dev eth0 nodad",
        "-6 addr del fd77::1/64 dev eth0",
        "addr del 192.168.77.1/24 dev eth0",
    ])?;
    // the kernel takes a network's other addresses along, unless told not to
    let _ = rig.host().ip("addr add 192.168.77.71/24 dev eth0");
    rig.ip(&["route replace default via 192.168.77.254"])?;
    rig.published("192.168.77.71", "fd77::71")?;
    rig.reach()?;
    let after = rig.tunnels()?;
    let wanted: Vec<_> = before
        .into_iter()
        .map(|(index, under)| {
            let under = under.replace("192.168.77.1", "192.168.77.71");
            (index, under.replace("fd77::1", "fd77::71"))
        })
        .collect();
    assert_eq!(after, wanted);
    Ok(())
}
