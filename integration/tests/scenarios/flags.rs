//! Flags that nothing else needs, each seen to do what it says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::daemon::{HEALTH_PORT, http_get};
use integration::demo::Stack;
use integration::poll::poll_until;
use integration::underlay::{STORE_V4, Wiring};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(60);

fn one(flags: &[&str]) -> Result<Cluster> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::Dual.net_conf())?;
    cluster.start(flags)?;
    Ok(cluster)
}

fn restart(cluster: &mut Cluster, flags: &[&str]) -> Result<()> {
    let daemon = cluster.node_mut(0).daemon.as_mut().context("daemon")?;
    daemon.stop(Signal::SIGTERM)?;
    cluster.start(flags)
}

/// `--iface-can-reach` (C-111): in either family, not by the default route.
#[test]
fn the_interface_that_leads_to_an_address_is_taken() -> Result<()> {
    let mut cluster = one(&[])?;
    for line in [
        "link add wan0 type veth peer name wan1",
        "addr add 203.0.113.2/24 dev wan0",
        "addr add fd03::2/64 dev wan0 nodad",
        "link set wan0 up",
        "link set wan1 up",
        "route add 198.51.100.0/24 via 203.0.113.1",
        "-6 route add fd04::/64 via fd03::1",
    ] {
        cluster.node(0).host.ip(line)?;
    }
    let wan = ("wan0", ["203.0.113.2", "fd03::2"]);
    let eth = ("eth0", ["192.168.77.1", "fd77::1"]);
    for (to, (device, addresses)) in
        [("198.51.100.9", wan), (STORE_V4, eth), ("fd04::9", wan)]
    {
        let flag = format!("--iface-can-reach={to}");
        restart(&mut cluster, &[flag.as_str()])?;
        let host = &cluster.node(0).host;
        let leases = cluster.leases()?;
        for (tunnel, ip) in
            ["flannel.1", "flannel-v6.1"].into_iter().zip(addresses)
        {
            let link = host.ip(&format!("-d -o link show {tunnel}"))?;
            let under = format!("local {ip} dev {device} ");
            ensure!(link.contains(&under), "{to}: {link}");
            let [(_, lease)] = leases.as_slice() else {
                anyhow::bail!("{leases:?}")
            };
            ensure!(lease.contains(&format!("\"{ip}\"")), "{to}: {lease}");
        }
        cluster.assert_settled()?;
    }
    Ok(())
}

/// `--subnet-lease-renew-margin`: a lease of a day is written again when so
/// much of it is left. A margin of a day but a minute shows that in a minute;
/// the other node's is an hour.
#[test]
fn a_lease_is_renewed_when_the_margin_is_left() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start_one(0, &["--subnet-lease-renew-margin=1439"])?;
    cluster.start_one(1, &[])?;
    for node in &mut cluster.nodes {
        node.wait_ready()?;
    }
    let leases = cluster.leases()?;
    let revision = |n: usize| -> Result<(u64, String)> {
        let ip = format!("\"{}\"", cluster.node(n).uplink.v4);
        let key = leases.iter().find(|(_, value)| value.contains(&ip));
        let (key, _) = key.with_context(|| format!("{leases:?}"))?;
        let text = cluster.ctl(&["get", key, "-w", "fields"])?;
        let field = |name: &str| {
            let mut lines = text.lines();
            let found = lines
                .find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
            found.with_context(|| text.clone())
        };
        Ok((field("ModRevision")?.parse()?, field("Value")?.to_owned()))
    };
    let before = [revision(0)?, revision(1)?];
    let renewed = poll_until("a renewal", 3 * SOON, || {
        let now = revision(0)?;
        ensure!(now.0 > before[0].0, "still of revision {}", now.0);
        Ok(now)
    })
    .with_context(|| cluster.node(0).log())?;
    assert_eq!(renewed.1, before[0].1, "the same lease");
    assert_eq!(revision(1)?, before[1]);
    Ok(())
}

/// `--healthz-ip`: there, and nowhere else.
#[test]
fn the_health_server_listens_where_it_is_told_to() -> Result<()> {
    let mut cluster = one(&[])?;
    let all = ["127.0.0.1", "::1", "192.168.77.1", "fd77::1"];
    for (flag, listens) in [
        ("", vec!["127.0.0.1", "192.168.77.1"]),
        ("127.0.0.1", vec!["127.0.0.1"]),
        ("localhost", vec!["127.0.0.1"]),
        ("::1", vec!["::1"]),
        ("192.168.77.1", vec!["192.168.77.1"]),
        ("fd77::1", vec!["fd77::1"]),
    ] {
        let daemon = cluster.node_mut(0).daemon.as_mut().context("daemon")?;
        daemon.stop(Signal::SIGTERM)?;
        let flag = format!("--healthz-ip={flag}");
        cluster.start_one(0, &[flag.as_str()])?;
        let get = |ip: &str| -> Result<(u16, String)> {
            let addr = SocketAddr::new(ip.parse::<IpAddr>()?, HEALTH_PORT);
            let host = &cluster.node(0).host;
            host.run(move || http_get(addr, "/readyz"))
        };
        for ip in &listens {
            poll_until(&format!("{flag}: an answer at {ip}"), SOON, || {
                let (status, body) = get(ip)?;
                ensure!(status == 200, "{status}: {body}");
                Ok(())
            })
            .with_context(|| cluster.node(0).log())?;
        }
        for ip in all.iter().filter(|ip| !listens.contains(ip)) {
            // every address but those of IPv4 and of both, see the first
            let whole = flag.ends_with('=');
            let got = get(ip);
            assert!(got.is_err() || whole, "{flag}: {ip} answers {got:?}");
        }
    }
    Ok(())
}

/// `--state-dir`: what a restart needs is there and nowhere else, and enough
/// for one without a store.
#[test]
fn what_is_remembered_is_in_the_state_directory() -> Result<()> {
    const DIR: &str = "/run/remembered";
    let flag = format!("--state-dir={DIR}");
    let mut cluster = one(&[flag.as_str()])?;
    let subnets = cluster.node(0).subnets()?;
    let (base, _) = subnets[0].split_once('/').context("a subnet")?;
    let host = &cluster.node(0).host;
    poll_until("the lease on disk", SOON, || {
        let file = format!("{DIR}/run-flannel-subnet.env.json");
        let text = host.read(&file)?;
        ensure!(text.contains(base), "{text}");
        Ok(())
    })?;
    let usual = host.cmd(&["find", "/var/lib", "-path", "*/flannel*"])?;
    assert_eq!(usual, "");
    let node = cluster.node_mut(0);
    node.daemon.as_mut().context("daemon")?.stop(Signal::SIGTERM)?;
    node.host.cmd(&["rm", "-r", "/run/flannel"])?;
    cluster.etcd.child().kill();
    let node = cluster.node_mut(0);
    node.daemon.as_mut().context("daemon")?.start_again(&node.host)?;
    node.wait_ready()?;
    let reason = node.state()?.reason;
    ensure!(reason.contains("as etcd has not answered yet"), "{reason}");
    assert_eq!(node.subnets()?, subnets);
    Ok(())
}
