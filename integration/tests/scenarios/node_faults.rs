//! What happens to the node itself, not to its kernel nor to the store: a
//! copied disk, a removed lock, a second signal, a peer that the kernel
//! refuses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::daemon::{HEALTH_PORT, run_to_end};
use integration::demo::Stack;
use integration::host::Host;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::Phase;
use nix::sys::signal::Signal;

use crate::names::own_file;

const SOON: Duration = Duration::from_secs(40);

/// P30: node 2 is started from a copy of node 1's disk. It gets a lease and
/// Ethernet addresses of its own, and node 1 keeps its.
#[test]
fn a_copied_disk_does_not_take_over_the_original() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    for (n, id) in [(0, "11111111"), (1, "22222222")] {
        own_file(&cluster.node(n).host, "/etc/machine-id", id)?;
    }
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.node_mut(0).wait_ready()?;
    let file = "/var/lib/flannel/run-flannel-subnet.env.json";
    let [original, copy] = [0, 1].map(|n| &cluster.node(n).host);
    let text = original.read(file)?;
    ensure!(text.contains("11111111"), "{text}");
    copy.write(file, &text)?;
    let mac = |host: &Host| host.ip("-br link show flannel.1");
    let before = (cluster.leases()?, mac(original)?);

    cluster.start_one(1, &["--iface=eth0"])?;
    cluster.node_mut(1).wait_ready()?;
    cluster.wait_joined()?;
    let log = cluster.node(1).log();
    let said = "json is ignored: it is another machine's";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    let leases = cluster.leases()?;
    ensure!(leases.len() == 2 && leases.contains(&before.0[0]), "{leases:?}");
    let hosts = [0, 1].map(|n| &cluster.node(n).host);
    assert_eq!(mac(hosts[0])?, before.1);
    assert_ne!(mac(hosts[1])?, before.1);
    let text = hosts[1].read(file)?;
    ensure!(text.contains("22222222") && !text.contains("11111111"), "{text}");

    // Its own state is its own.
    let before = cluster.leases()?;
    let from = cluster.node(1).log().len();
    let node = cluster.node_mut(1);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.restart(&node.host, Signal::SIGKILL)?;
    node.wait_ready()?;
    let log = node.log();
    let log = log.get(from..).unwrap_or(&log);
    ensure!(!log.contains(said), "{log}");
    let keys = |l: &[(String, String)]| -> Vec<String> {
        l.iter().map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(keys(&cluster.leases()?), keys(&before));
    cluster.assert_settled()
}

/// Whoever starts after the lock was removed would not meet it.
#[test]
fn a_removed_lock_is_made_anew() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    let node = cluster.node(0);
    let lock = "/run/flannel/subnet.env.lock";
    let before = node.host.read(lock)?;
    for damage in ["rm /run/flannel/subnet.env.lock", "rm -r /run/flannel"] {
        // The daemon may be faster than `rm`.
        node.host.cmd(&["sh", "-c", &format!("{damage} || true")])?;
        poll_until("the lock to be back", SOON, || {
            let now = node.host.read(lock)?;
            ensure!(now == before, "{now}");
            Ok(())
        })
        .with_context(|| node.log())?;
        let ended = run_to_end(&node.host, &[&endpoint], &[])?;
        ensure!(ended.code == Some(1), "{ended:?}");
        ensure!(ended.text.contains("another flanneld (pid "), "{ended:?}");
        // The new directory is watched by now.
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster.assert_settled()
}

/// C-85: the first signal ends the daemon in good order, which a client of
/// the health port may hold up for 3 s; the second ends it at once.
#[test]
fn a_second_signal_ends_it_at_once() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    // One that is slow with its request, for longer than this test waits.
    let _client = node.host.run(|| {
        let mut client = TcpStream::connect(("127.0.0.1", HEALTH_PORT))?;
        let whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(whole)?;
        // The server knows this client then.
        client.read_exact(&mut [0; 16])?;
        client.write_all(&whole[..20])?;
        std::io::Result::Ok(client)
    })?;
    daemon.signal(Signal::SIGSTOP)?;
    daemon.signal(Signal::SIGTERM)?;
    daemon.signal(Signal::SIGINT)?;
    daemon.signal(Signal::SIGCONT)?;
    let status = daemon.child().wait(SOON)?;
    let log = daemon.log();
    ensure!(matches!(status.code(), Some(130 | 143)), "{status}: {log}");
    ensure!(log.contains(" again: ending at once"), "{log}");
    node.daemon = None;
    // Nothing is lost by that.
    cluster.start(&["--iface=eth0"])?;
    cluster.assert_settled()
}

/// W-1: a peer whose route the kernel refuses is said, counted and tried
/// again; the node is ready for all others.
#[test]
fn a_refused_peer_does_not_make_the_node_unready() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 3, &Stack::V4.net_conf())?;
    cluster.start_one(1, &["--iface=eth0"])?;
    cluster.node_mut(1).wait_ready()?;
    let refused = cluster.node(1).subnets()?.concat();
    // Somebody's own, which no daemon of flannel's makes.
    let host = &cluster.node(0).host;
    host.ip(&format!("route add blackhole {refused}"))?;
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.start_one(2, &["--iface=eth0"])?;
    cluster.node_mut(2).wait_ready()?;
    cluster.node_mut(0).wait_ready()?;
    let text = format!("1 peer refused: set route {refused}");
    let node = cluster.node(0);
    let daemon = node.daemon.as_ref().context("daemon")?;
    daemon.wait_log(&format!("can be reached: {text}"), 0, SOON)?;
    poll_until("the reason", SOON, || {
        let (status, body) = daemon.get(&node.host, "/readyz")?;
        ensure!(status == 200 && body.contains(&text), "{body}");
        let state = node.state()?;
        ensure!(state.phase == Phase::Ready, "{state:?}");
        ensure!(state.reason.contains(&text), "{state:?}");
        let (_, metrics) = daemon.get(&node.host, "/metrics")?;
        ensure!(metrics.contains("\nflannel_peers_refused 1\n"), "{metrics}");
        ensure!(metrics.contains("\nflannel_ready 1\n"), "{metrics}");
        Ok(())
    })
    .with_context(|| node.log())?;
    let pods = [
        Pod::add(&cluster.node(0).host, "a")?,
        Pod::add(&cluster.node(2).host, "c")?,
    ];
    for to in Stack::V4.addresses(&pods[1])? {
        pods[0].ping(&cluster.node(0).host, &to)?;
    }
    // Not a line for each attempt.
    std::thread::sleep(Duration::from_secs(4));
    let log = cluster.node(0).log();
    assert_eq!(log.matches("not all peers can be reached").count(), 1, "{log}");
    assert!(!log.contains("a pass failed"), "{log}");

    let host = &cluster.node(0).host;
    host.ip(&format!("route del blackhole {refused}"))?;
    let limit = Duration::from_secs(30);
    let daemon = cluster.node(0).daemon.as_ref().context("daemon")?;
    daemon.wait_log("the kernel has taken all peers again", 0, limit)?;
    cluster.wait_joined()?;
    poll_until("nothing to be said", SOON, || {
        let state = cluster.node(0).state()?;
        ensure!(state.reason.is_empty(), "{state:?}");
        Ok(())
    })?;
    cluster.assert_settled()
}
