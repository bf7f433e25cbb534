//! Which subnet a node has: kept whatever is lost, taken from nobody, given
//! to nobody else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Node, SUBNET_ENV};
use integration::demo::Stack;
use integration::kernel;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::Phase;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SUBNETS: &str = "/coreos.com/network/subnets/";
/// Longest time for a daemon to hear of a change and to have acted on it.
const SOON: Duration = Duration::from_secs(40);

/// The key of a node's lease (E-2).
fn key(node: &Node) -> Result<String> {
    let mut subnets = node.subnets()?;
    if subnets.iter().all(|subnet| subnet.contains(':')) {
        subnets.insert(0, "0.0.0.0/0".to_owned());
    }
    Ok(format!("{SUBNETS}{}", subnets.join("&").replace('/', "-")))
}

/// The value of a key and the etcd lease it hangs on, 0 for none.
fn entry(cluster: &Cluster, key: &str) -> Result<(String, u64)> {
    let text = cluster.ctl(&["get", "-w", "json", key])?;
    let json: Value = serde_json::from_str(&text)?;
    let kv = json["kvs"].get(0).with_context(|| format!("no key {key}"))?;
    let value = cluster.ctl(&["get", "--print-value-only", key])?;
    Ok((value.trim_end().to_owned(), kv["lease"].as_u64().unwrap_or(0)))
}

/// What a node at `public` would publish.
fn lease_of(public: &str) -> String {
    json!({
        "PublicIP": public,
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": { "VNI": 1, "VtepMAC": "02:00:00:00:99:01" },
    })
    .to_string()
}

/// A configuration that gives out no subnet from 10.244.100.0 on.
fn half() -> Value {
    let mut conf = Stack::V4.net_conf();
    conf["SubnetMax"] = json!("10.244.99.0");
    conf
}

fn pid(cluster: &mut Cluster, n: usize) -> Result<u32> {
    let daemon = cluster.node_mut(n).daemon.as_mut().context("no daemon")?;
    Ok(daemon.child().pid())
}

/// Waits until a daemon that had logged `from` bytes has heard of the lease
/// at `key`, as it is again or now.
fn hears(node: &Node, key: &str, from: usize) -> Result<()> {
    let line = format!("peer {}", key.trim_start_matches(SUBNETS));
    let what = format!("{} to hear of {line}", node.host.name());
    poll_until(&what, SOON, || {
        let log = node.log();
        let new = log.get(from..).unwrap_or_default();
        ensure!(new.lines().any(|l| l.ends_with(&line)), "{new}");
        Ok(())
    })
}

/// Stops the daemon of node `n`, does `meanwhile`, starts it again and waits
/// until it is ready.
fn restarted(
    cluster: &mut Cluster,
    n: usize,
    meanwhile: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let mut daemon = cluster.node_mut(n).daemon.take().context("no daemon")?;
    daemon.stop(Signal::SIGTERM)?;
    meanwhile(cluster)?;
    let node = cluster.node_mut(n);
    daemon.start_again(&node.host)?;
    node.daemon = Some(daemon);
    node.wait_ready()
}

/// E-22, E-23: by the public address, by subnet.env, with and without what
/// the daemon remembers itself.
#[test]
fn a_node_keeps_its_subnet_whatever_is_lost() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let before = cluster.node(0).subnets()?;
    let key = key(cluster.node(0))?;
    for (lease, file, memory) in [
        (true, false, false),
        (true, false, true),
        (false, true, false),
        (false, true, true),
    ] {
        restarted(&mut cluster, 0, |cluster| {
            let host = &cluster.node(0).host;
            if lease {
                assert_eq!(cluster.ctl(&["del", &key])?, "1\n");
            }
            if file {
                host.cmd(&["rm", SUBNET_ENV])?;
            }
            if memory {
                host.cmd(&["rm", "-r", "/var/lib/flannel"])?;
            }
            Ok(())
        })?;
        let lost = format!("lease {lease}, file {file}, memory {memory}");
        assert_eq!(cluster.node(0).subnets()?, before, "{lost}");
        assert_eq!(cluster.leases()?.len(), 1, "{lost}");
        assert_ne!(entry(&cluster, &key)?.1, 0, "{lost}: a lease expires");
    }
    cluster.assert_settled()
}

/// Q-56: a subnet that the configuration does not give out any more is given
/// back.
#[test]
fn a_subnet_of_another_configuration_is_given_back() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let old = key(cluster.node(0))?;
    restarted(&mut cluster, 0, |cluster| {
        let conf =
            r#"{"Network": "10.66.0.0/16", "Backend": {"Type": "vxlan"}}"#;
        cluster.ctl(&["put", "/coreos.com/network/config", conf]).map(drop)
    })?;
    let new = key(cluster.node(0))?;
    assert!(new.starts_with(&format!("{SUBNETS}10.66.")), "{new}");
    let keys: Vec<_> = cluster.leases()?.into_iter().map(|(k, _)| k).collect();
    assert_eq!(keys, [new]);
    let log = cluster.node(0).log();
    let name = old.trim_start_matches(SUBNETS);
    assert!(log.contains(&format!("own lease {name} is deleted")), "{log}");
    cluster.assert_settled()
}

/// Ten daemons that start at once want the ten subnets that there are, of
/// both families: each gets one of each.
#[test]
fn daemons_that_race_get_different_subnets() -> Result<()> {
    const NODES: u8 = 10;
    let conf = json!({
        "Network": "10.244.0.0/16",
        "SubnetMin": "10.244.1.0",
        "SubnetMax": "10.244.10.0",
        "EnableIPv6": true,
        "IPv6Network": "fd00:244::/48",
        "IPv6SubnetMin": "fd00:244:0:1::",
        "IPv6SubnetMax": "fd00:244:0:a::",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, NODES, &conf)?;
    cluster.start(&["--iface=eth0"])?;
    let mut all = BTreeSet::new();
    for node in &cluster.nodes {
        all.extend(node.subnets()?);
    }
    assert_eq!(all.len(), 2 * usize::from(NODES), "{all:?}");
    let keys: BTreeSet<_> =
        cluster.leases()?.into_iter().map(|(key, _)| key).collect();
    let held: BTreeSet<_> =
        cluster.nodes.iter().map(key).collect::<Result<_>>()?;
    assert_eq!(keys, held, "every lease is somebody's, and the other way");
    cluster.assert_settled()
}

/// Upstream's key form has room for one IPv6-only node (W-9); ours tells them
/// apart. These have no IPv4 at all, etcd's address included.
#[test]
fn ipv6_only_nodes_get_different_subnets() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 3, &Stack::V6.net_conf())?;
    for node in &cluster.nodes {
        node.host.ip("-4 addr flush dev eth0")?;
    }
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url_v6());
    cluster.start(&[&endpoint])?;
    let held: BTreeSet<_> =
        cluster.nodes.iter().map(key).collect::<Result<_>>()?;
    assert_eq!(held.len(), 3, "{held:?}");
    let leases = cluster.leases()?;
    assert_eq!(leases.len(), 3, "{leases:?}");
    for (n, node) in cluster.nodes.iter().enumerate() {
        let (value, _) = entry(&cluster, &key(node)?)?;
        assert!(value.contains(&node.uplink.v6), "node {n}: {value}");
    }
    cluster.assert_settled()
}

/// The operator deletes the lease of a running node: it takes the same again,
/// in the same process, and the peers find it.
#[test]
fn a_deleted_lease_is_taken_again() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let (before, process) = (cluster.node(0).subnets()?, pid(&mut cluster, 0)?);
    let key = key(cluster.node(0))?;
    let (value, lease) = entry(&cluster, &key)?;
    let heard = cluster.node(1).log().len();
    assert_eq!(cluster.ctl(&["del", &key])?, "1\n");
    let again = poll_until("the lease to be taken again", SOON, || {
        entry(&cluster, &key)
    })?;
    assert_eq!(again.0, value);
    assert!(again.1 != 0 && again.1 != lease, "{again:?}");
    cluster.node_mut(0).wait_ready()?;
    hears(cluster.node(1), &key, heard)?;
    cluster.wait_joined()?;
    assert_eq!(cluster.node(0).subnets()?, before);
    assert_eq!(pid(&mut cluster, 0)?, process);
    let log = cluster.node(0).log();
    assert!(log.contains("it was deleted from the store"), "{log}");
    cluster.assert_settled()
}

/// Fencing: another node has written its lease over ours. It keeps it; the
/// node says so and takes another subnet.
#[test]
fn a_lease_that_another_node_took_is_left_to_it() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let (before, process) = (cluster.node(0).subnets()?, pid(&mut cluster, 0)?);
    let taken = key(cluster.node(0))?;
    let theirs = lease_of("192.168.77.99");
    let heard = cluster.node(1).log().len();
    cluster.ctl(&["put", &taken, &theirs])?;
    poll_until("another subnet", SOON, || {
        ensure!(cluster.node(0).subnets()? != before, "still {before:?}");
        Ok(())
    })?;
    cluster.node_mut(0).wait_ready()?;
    hears(cluster.node(1), &key(cluster.node(0))?, heard)?;
    cluster.wait_joined()?;
    assert_eq!(entry(&cluster, &taken)?.0, theirs, "nothing was overwritten");
    assert_ne!(entry(&cluster, &key(cluster.node(0))?)?.1, 0);
    assert_eq!(pid(&mut cluster, 0)?, process);
    let log = cluster.node(0).log();
    let name = taken.trim_start_matches(SUBNETS);
    let line =
        format!("lease {name} is lost: the node at 192.168.77.99 has taken it");
    assert!(log.contains(&line), "{log}");
    // What the kernel has follows: the device's address too.
    let own = cluster.node(0).subnets()?.concat();
    let own = own.split('/').next().unwrap_or_default();
    let shown = cluster.node(0).host.ip("-o -4 addr show dev flannel.1")?;
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains(&format!("inet {own}/32")), "{shown}");
    cluster.assert_settled()
}

/// W-6: a key without an etcd lease and with this node's address is its own,
/// and stays without one. One that does not fit the configuration is told,
/// and left alone.
#[test]
fn a_reservation_is_used_and_stays_one() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::V4.net_conf())?;
    let bare =
        |ip: &str| json!({ "PublicIP": ip, "PublicIPv6": null }).to_string();
    let mine = format!("{SUBNETS}10.244.77.0-24");
    let unfit = format!("{SUBNETS}10.99.77.0-24");
    let (first, second) =
        (bare(&cluster.node(0).uplink.v4), bare(&cluster.node(1).uplink.v4));
    cluster.ctl(&["put", &mine, &first])?;
    cluster.ctl(&["put", &unfit, &second])?;
    cluster.start(&["--iface=eth0"])?;
    for _ in 0..2 {
        assert_eq!(cluster.node(0).subnets()?, ["10.244.77.0/24"]);
        let (value, lease) = entry(&cluster, &mine)?;
        assert_eq!(lease, 0, "it would expire");
        assert!(value.contains("\"BackendType\":\"vxlan\""), "{value}");
        restarted(&mut cluster, 0, |_| Ok(()))?;
    }
    assert_eq!(entry(&cluster, &unfit)?, (second, 0));
    let log = cluster.node(1).log();
    let line = "reservation 10.99.77.0-24 for this node is not used: ";
    assert_eq!(log.matches(line).count(), 1, "{log}");
    cluster.wait_joined()?;
    cluster.assert_settled()
}

/// W-1: what cannot be read hides only itself, and is reported once. Upstream
/// stops hearing of leases.
#[test]
fn entries_that_cannot_be_read_disturb_nobody() -> Result<()> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, &half())?;
    cluster.start(&["--iface=eth0"])?;
    let bad = [
        ("hello", "world"),
        ("10.244.300.0-24", "{}"),
        ("10.244.200.0-24", "{\"PublicIP\": "),
        ("10.244.201.0-24", "{\"PublicIP\": 7}"),
        ("10.244.202.0-24/x", "{}"),
    ];
    for _ in 0..2 {
        for (key, value) in bad {
            cluster.ctl(&["put", &format!("{SUBNETS}{key}"), value])?;
        }
    }
    // Also a key beside the leases is none (E-4).
    cluster.ctl(&["put", "/coreos.com/network/subnetsX", "x"])?;
    // Who comes later and who starts again sees them in the first list.
    let n = cluster.add_node()?;
    cluster.start_one(n, &["--iface=eth0"])?;
    cluster.node_mut(n).wait_ready()?;
    restarted(&mut cluster, 1, |_| Ok(()))?;
    cluster.wait_joined()?;
    cluster.assert_settled()?;
    for (n, starts) in [(0, 1), (1, 2), (n, 1)] {
        let log = cluster.node(n).log();
        for (key, _) in bad {
            let text = format!("entry \"{key}\" below the leases is skipped");
            assert_eq!(log.matches(&text).count(), starts, "{key}: {log}");
        }
        assert!(!log.contains("subnetsX"), "{log}");
        assert_eq!(cluster.node(n).state()?.phase, Phase::Ready);
    }
    Ok(())
}

/// Q-58: an entry on an etcd lease of some seconds is a peer until it ends.
#[test]
fn a_lease_that_ends_takes_its_objects_along() -> Result<()> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &half())?;
    cluster.start(&["--iface=eth0"])?;
    let before = kernel::overlay(&cluster.node(0).host)?;
    // "lease 1234abcd granted with TTL(10s)"
    let granted = cluster.ctl(&["lease", "grant", "10"])?;
    let id = granted.split(' ').nth(1).context("no lease")?;
    let option = format!("--lease={id}");
    let name = format!("{SUBNETS}10.244.250.0-24");
    cluster.ctl(&["put", &option, &name, &lease_of("192.168.77.99")])?;
    let routes = || cluster.node(0).host.ip("route");
    poll_until("the peer's route", SOON, || {
        let routes = routes()?;
        ensure!(routes.contains("10.244.250.0/24"), "{routes}");
        let fdb = cluster.node(0).host.cmd(&["bridge", "fdb", "show"])?;
        ensure!(fdb.contains("02:00:00:00:99:01 dev flannel.1"), "{fdb}");
        Ok(())
    })?;
    poll_until("all of it to go", SOON, || {
        let now = kernel::overlay(&cluster.node(0).host)?;
        ensure!(now == before, "before:\n{before}\nnow:\n{now}");
        Ok(())
    })?;
    cluster.assert_settled()
}

/// Q-21: with an interface that holds `FLANNEL_SUBNET` on each node, they
/// ping each other from it.
#[test]
fn nodes_ping_from_the_address_in_subnet_env() -> Result<()> {
    let mut cluster = Cluster::new(Wiring::Routed, 2, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let mut own = Vec::new();
    for node in &cluster.nodes {
        let address = node.env("FLANNEL_SUBNET")?;
        // Upstream's test has a dummy; this kernel has none.
        node.host.ip("link add own0 type bridge")?;
        node.host.ip(&format!("addr add {address} dev own0"))?;
        node.host.ip("link set own0 up")?;
        own.push(address.split('/').next().unwrap_or_default().to_owned());
    }
    for (from, to) in [(0, 1), (1, 0)] {
        cluster.node(from).host.cmd(&[
            "ping", "-n", "-q", "-i", "0.1", "-W", "2", "-c", "3", "-I",
            &own[from], &own[to],
        ])?;
    }
    cluster.assert_settled()
}
