//! The interface between nodes becomes another one while the daemon runs:
//! renamed, replaced under another name, made a bridge's port. Both families.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::host::Host;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// What is gone has 30 s to come back.
const PATIENCE: Duration = Duration::from_secs(50);

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
        poll_until("the addresses to be published", PATIENCE, || {
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

/// Chosen by the default route, or by an expression that fits both: after a
/// while where the addresses are others, at once where they are the same.
#[test]
fn an_interface_that_is_replaced_by_another_is_followed() -> Result<()> {
    for (how, place) in [(&[][..], 9), (&["--iface-regex=^(eth0|wan0)$"], 1)] {
        let mut rig = Rig::new(how)?;
        rig.ip(&["link del eth0"])?;
        rig.cluster
            .node_mut(0)
            .wait_not_ready(&["interface eth0 is gone: no interface found"])?;
        let host = &rig.cluster.node(0).host;
        rig.cluster.underlay.attach_as(host, 9, place)?;
        let v6 = format!("fd77::{place}");
        let v4 = format!("192.168.77.{place}");
        rig.ip(&[
            "link set eth0 down",
            "link set eth0 name wan0",
            "link set wan0 up",
            &format!("-6 addr replace {v6}/64 dev wan0 nodad"),
            "route replace default via 192.168.77.254",
            "-6 route replace default via fd77::fe",
        ])?;
        rig.published(&v4, &v6)?;
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

/// Of two families one loses its address: the other's peers come and go as
/// ever, and the node says what is missing.
#[test]
fn a_family_without_its_address_leaves_the_other() -> Result<()> {
    let mut rig = Rig::new(&["--iface=eth0"])?;
    rig.ip(&["-6 addr del fd77::1/64 dev eth0"])?;
    let gone = ["the published address fd77::1 is no longer on this host"];
    rig.cluster.node_mut(0).wait_not_ready(&gone)?;
    // A peer that comes.
    let new = rig.cluster.add_node()?;
    rig.cluster.start_one(new, &["--iface=eth0"])?;
    rig.cluster.node_mut(new).wait_ready()?;
    rig.cluster.wait_joined()?;
    let to = Pod::add(&rig.cluster.node(new).host, "c")?;
    poll_until("the new peer's pod", SOON, || {
        let v4 = &Stack::V4.addresses(&to)?.concat();
        rig.pods[0].ping(rig.host(), v4)
    })?;
    // One that goes.
    let (subnet, key) = {
        let node = rig.cluster.node(new);
        let subnets = node.subnets()?;
        let subnet = subnets.first().cloned().unwrap_or_default();
        let leases = rig.cluster.leases()?;
        let base = subnet.replace('/', "-");
        let key = leases.into_iter().find(|(key, _)| key.contains(&base));
        (subnet, key.map(|(key, _)| key).unwrap_or_default())
    };
    let daemon = rig.cluster.node_mut(new).daemon.as_mut();
    daemon.map_or(Ok(()), |daemon| daemon.stop(Signal::SIGTERM))?;
    rig.cluster.node_mut(new).daemon = None;
    rig.cluster.ctl(&["del", &key])?;
    poll_until("the peer's route to be gone", SOON, || {
        let routes = rig.host().ip(&format!("route show {subnet}"))?;
        ensure!(routes.is_empty(), "{routes}\n{}", rig.cluster.node(0).log());
        Ok(())
    })?;
    rig.cluster.node_mut(0).wait_not_ready(&gone)?;
    rig.ip(&["-6 addr add fd77::1/64 dev eth0 nodad"])?;
    rig.reach()
}

/// A driver that is loaded anew takes its interface away for a moment.
#[test]
fn an_interface_that_is_back_soon_stays_the_underlay() -> Result<()> {
    let mut rig = Rig::new(&[])?;
    rig.ip(&[
        "link add eth1 type bridge",
        "link set eth1 up",
        "addr add 10.99.0.1/24 dev eth1",
        "-6 addr add fd99::1/64 dev eth1 nodad",
        "route add default via 10.99.0.254 dev eth1 metric 4000",
        "-6 route add default via fd99::fe dev eth1 metric 4000",
        "link del eth0",
    ])?;
    let waits = ["interface eth0 is gone: interface eth1 is chosen unless"];
    rig.cluster.node_mut(0).wait_not_ready(&waits)?;
    rig.cluster.underlay.attach_as(rig.host(), 9, 1)?;
    rig.published("192.168.77.1", "fd77::1")?;
    rig.reach()?;
    for (_, under) in rig.tunnels()? {
        ensure!(under.contains("eth0"), "{under}");
    }
    let log = rig.cluster.node(0).log();
    ensure!(!log.contains("interface eth1 (MTU"), "{log}");
    Ok(())
}

/// A start before the router has advertised itself.
#[test]
fn a_global_address_follows_a_link_local_one() -> Result<()> {
    let mut rig = Rig::new(&["--iface=eth0"])?;
    let node = rig.cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.stop(Signal::SIGTERM)?;
    node.host.ip("-6 addr del fd77::1/64 dev eth0")?;
    poll_until("a link-local address", SOON, || {
        let all = node.host.ip("-6 -br addr show dev eth0 -tentative")?;
        ensure!(all.contains("fe80::"), "{all}");
        Ok(())
    })?;
    rig.cluster.start_one(0, &["--iface=eth0"])?;
    rig.cluster.node_mut(0).wait_ready()?;
    let leases = rig.cluster.leases()?;
    ensure!(leases.iter().any(|(_, v)| v.contains("fe80::")), "{leases:?}");
    rig.ip(&["-6 addr add fd77::1/64 dev eth0 nodad"])?;
    rig.published("192.168.77.1", "fd77::1")?;
    rig.reach()
}
