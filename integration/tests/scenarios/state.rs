//! What the daemon says about itself, as seen from outside: `state.json`,
//! systemd, the health server, the exit status.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, SUBNET_ENV};
use integration::daemon::{Daemon, binary};
use integration::demo::Stack;
use integration::etcd::Security;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::{DaemonState, Phase};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

const ENDPOINT: &str = "--etcd-endpoints=http://10.99.0.1:2379";
/// Longest time for a daemon to hear of a change and to have acted on it.
const SOON: Duration = Duration::from_secs(40);

/// What systemd hears from a daemon.
struct Systemd {
    socket: UnixDatagram,
    path: String,
    _dir: tempfile::TempDir,
}

// === impl Systemd ===

impl Systemd {
    fn new() -> Result<Self> {
        // Beside all that a host has of its own.
        let dir = tempfile::Builder::new().prefix("flannel-it-").tempdir()?;
        let path = dir.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, _dir: dir })
    }

    /// What came since the last call.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut out = Vec::new();
        while let Ok(len) = self.socket.recv(&mut buffer) {
            out.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        out
    }
}

fn wait_phase(cluster: &Cluster, phase: Phase) -> Result<DaemonState> {
    poll_until(&format!("phase {phase:?}"), SOON, || {
        let state = cluster.node(0).state()?;
        ensure!(state.phase == phase, "{state:?}");
        Ok(state)
    })
}

/// Waits until `/metrics` of the first node has a good value for `series`.
fn wait_metric(
    cluster: &Cluster,
    series: &str,
    good: impl Fn(f64) -> bool,
) -> Result<f64> {
    let node = cluster.node(0);
    let daemon = node.daemon.as_ref().context("daemon")?;
    poll_until(series, SOON, || {
        let (status, body) = daemon.get(&node.host, "/metrics")?;
        ensure!(status == 200, "{status}: {body}");
        let value = body.lines().find_map(|line| {
            line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()
        });
        let value = value.with_context(|| body.clone())?;
        ensure!(good(value), "{body}");
        Ok(value)
    })
}

/// Ready, and nothing to be said any more.
fn wait_well(cluster: &Cluster) -> Result<()> {
    poll_until("the daemon to be well", SOON, || {
        let state = cluster.node(0).state()?;
        let well = state.phase == Phase::Ready && state.reason.is_empty();
        ensure!(well, "{state:?}");
        Ok(())
    })
}

/// The loop feeds the watchdog, also before it has anything to work with.
#[test]
fn the_watchdog_is_fed() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    let systemd = Systemd::new()?;
    let env =
        [("NOTIFY_SOCKET", systemd.path.as_str()), ("WATCHDOG_USEC", "200000")];
    let node = cluster.node_mut(0);
    let flags = ["--iface=eth0", ENDPOINT];
    node.daemon = Some(Daemon::start(&node.host, &flags, &env)?);
    let fed = || {
        let mut count = 0;
        poll_until("the watchdog to be fed", SOON, || {
            let heard = systemd.heard();
            count += heard.iter().filter(|m| m.contains("WATCHDOG=1")).count();
            ensure!(count >= 5, "{count} times");
            Ok(())
        })
    };
    fed()?;
    cluster.configure(&Stack::V4.net_conf())?;
    cluster.node_mut(0).wait_ready()?;
    systemd.heard();
    fed()
}

/// A systemd whose queue is full (its disk hangs, it is stopped) holds
/// nothing up, and hears the state when it reads again.
#[test]
fn a_systemd_that_does_not_listen_stops_nothing() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    let systemd = Systemd::new()?;
    let env = [
        ("NOTIFY_SOCKET", systemd.path.as_str()),
        // A beat each millisecond fills any queue before it is ready.
        ("WATCHDOG_USEC", "2000"),
    ];
    let node = cluster.node_mut(0);
    let flags = ["--iface=eth0", ENDPOINT];
    node.daemon = Some(Daemon::start(&node.host, &flags, &env)?);
    poll_until("the queue to be full", SOON, || {
        let log = cluster.node(0).log();
        ensure!(log.contains("systemd cannot be told"), "{log}");
        Ok(())
    })?;
    cluster.configure(&Stack::V4.net_conf())?;
    cluster.node_mut(0).wait_ready()?;
    let mut heard = Vec::new();
    poll_until("READY=1", SOON, || {
        heard.extend(systemd.heard());
        ensure!(heard.concat().contains("READY=1"), "{heard:?}");
        Ok(())
    })
}

/// Nor does a log that nobody reads from its first line on, and what it holds
/// is there when somebody does.
#[test]
fn a_log_that_nobody_reads_stops_nothing() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 2, Security::default())?;
    cluster.configure(&Stack::V4.net_conf())?;
    let dir = tempfile::Builder::new().prefix("flannel-it-").tempdir()?;
    let fifo = dir.path().join("log");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut full = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&fifo)?;
    while full.write(&[b'\n'; 1024]).is_ok() {}
    let program = dir.path().join("flanneld");
    let flanneld = binary("flanneld")?;
    fs::write(
        &program,
        format!(
            "#!/bin/sh\nexec {} \"$@\" 2>{}\n",
            flanneld.display(),
            fifo.display()
        ),
    )?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;

    let flags = ["--iface=eth0", ENDPOINT];
    let node = cluster.node_mut(0);
    node.daemon =
        Some(Daemon::start_program(&program, &node.host, &flags, &[])?);
    node.wait_ready()?;
    cluster.start_one(1, &flags[..1])?;
    cluster.wait_joined()?;

    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.restart(&node.host, Signal::SIGTERM)?;
    let mut log = String::new();
    poll_until("the log", SOON, || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = full.read(&mut bytes) {
            log.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
        ensure!(log.contains("INFO ready"), "{log}");
        Ok(())
    })
}

/// A whole life: no store, no configuration, ready, asked to end.
#[test]
fn a_life_is_told_to_the_cni_plugin_and_to_systemd() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    cluster.etcd.child().kill();
    let systemd = Systemd::new()?;
    let node = cluster.node_mut(0);
    node.daemon = Some(Daemon::start(
        &node.host,
        &["--iface=eth0", ENDPOINT],
        &[("NOTIFY_SOCKET", &systemd.path)],
    )?);

    cluster.node_mut(0).wait_not_ready(&["Connection refused"])?;
    let state = wait_phase(&cluster, Phase::WaitingForStore)?;
    assert_eq!(state.version, DaemonState::VERSION);
    assert_eq!(state.subnet_file, SUBNET_ENV);
    let boot = cluster.node(0).host.read("/proc/sys/kernel/random/boot_id")?;
    assert_eq!(state.boot_id, boot.trim());
    assert!(state.since > 1_600_000_000, "{state:?}");
    assert!(state.reason.contains("Connection refused"), "{state:?}");

    cluster.etcd.start_again(cluster.underlay.middle())?;
    let state = wait_phase(&cluster, Phase::WaitingForConfig)?;
    assert!(state.reason.contains("does not exist in etcd"), "{state:?}");
    let mut heard = Vec::new();
    poll_until("systemd to hear the same", SOON, || {
        heard.extend(systemd.heard());
        for text in [
            "STATUS=starting: ",
            "STATUS=waiting for the store: cannot read the network config: ",
            "STATUS=waiting for the network configuration: key ",
        ] {
            ensure!(heard.iter().any(|h| h.starts_with(text)), "{heard:?}");
        }
        Ok(())
    })?;
    assert!(!heard.concat().contains("READY=1"), "{heard:?}");
    assert!(cluster.node(0).host.read(SUBNET_ENV).is_err());

    cluster.configure(&Stack::V4.net_conf())?;
    let mut heard = Vec::new();
    poll_until("READY=1", SOON, || {
        heard.extend(systemd.heard());
        ensure!(heard.concat().contains("READY=1"), "{heard:?}");
        Ok(())
    })?;
    // At that moment, not a little later.
    assert!(cluster.node(0).host.read(SUBNET_ENV).is_ok());
    wait_well(&cluster)?;
    cluster.node_mut(0).wait_ready()?;
    cluster.assert_settled()?;
    let text = cluster.node(0).host.read("/run/flannel/state.json")?;
    assert!(text.contains(r#""phase":"ready""#), "{text}");

    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.signal(Signal::SIGTERM)?;
    let status = daemon.child().wait(Duration::from_secs(30))?;
    assert_eq!(status.code(), Some(0), "{status}");
    let state = cluster.node(0).state()?;
    assert_eq!(state.phase, Phase::Stopping);
    assert!(state.reason.contains("stay connected"), "{state:?}");
    heard.extend(systemd.heard());
    let ready = heard.iter().filter(|h| h.contains("READY=1")).count();
    assert_eq!(ready, 1, "{heard:?}");
    assert_eq!(heard.last().map(|h| h.trim()), Some("STOPPING=1"), "{heard:?}");
    // What is in the kernel stays.
    let links = cluster.node(0).host.ip("-o link show up")?;
    assert!(links.contains("flannel.1"), "{links}");
    Ok(())
}

/// C-120, C-121: what each path answers, before and after.
#[test]
fn the_health_server_tells_alive_from_ready() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.node_mut(0).wait_not_ready(&["network configuration"])?;
    let get = |cluster: &Cluster, path: &str| -> Result<(u16, String)> {
        let node = cluster.node(0);
        node.daemon.as_ref().context("daemon")?.get(&node.host, path)
    };
    assert_eq!(
        get(&cluster, "/healthz")?,
        (200, "flanneld is running".to_owned())
    );
    assert_eq!(get(&cluster, "/metricsz")?.0, 404);
    cluster.configure(&Stack::V4.net_conf())?;
    cluster.node_mut(0).wait_ready()?;
    assert_eq!(
        get(&cluster, "/readyz")?,
        (200, "flanneld is ready".to_owned())
    );
    assert_eq!(
        get(&cluster, "/healthz")?,
        (200, "flanneld is running".to_owned())
    );
    assert_eq!(get(&cluster, "/")?.0, 404);

    // SIGINT is an order to end as well; then nobody answers.
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.signal(Signal::SIGINT)?;
    let status = daemon.child().wait(Duration::from_secs(30))?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(get(&cluster, "/healthz").is_err());
    Ok(())
}

/// `/metrics` tells of lease, peers, passes, a repair, and a store that goes
/// away.
#[test]
fn what_happens_is_measured() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    wait_well(&cluster)?;
    cluster.assert_settled()?;
    wait_metric(&cluster, "flannel_ready", |v| v == 1.0)?;
    wait_metric(&cluster, "flannel_lease_held", |v| v == 1.0)?;
    wait_metric(&cluster, "flannel_peers", |v| v == 1.0)?;
    wait_metric(&cluster, "flannel_store_up", |v| v == 1.0)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    // E-30: a day.
    wait_metric(&cluster, "flannel_lease_expiry_timestamp_seconds", |v| {
        (v - now - 86_400.0).abs() < 120.0
    })?;
    wait_metric(&cluster, r#"flannel_passes_total{result="complete"}"#, |v| {
        v > 0.0
    })?;
    // The tunnel device of its own and the way to the peer.
    for kind in ["link", "route", "fdb", "neighbour"] {
        let name = format!("flannel_changes_total{{kind=\"{kind}\"}}");
        wait_metric(&cluster, &name, |v| v > 0.0)?;
    }
    let events = "flannel_event_to_kernel_seconds_count";
    let before = wait_metric(&cluster, events, |v| v > 0.0)?;

    let peer = cluster.node(1).env("FLANNEL_SUBNET")?;
    let peer: ipam::Subnet = peer.parse()?;
    let peer = format!("{}/{}", peer.base(), peer.len());
    cluster.node(0).host.ip(&format!("route del {peer}"))?;
    let repairs = r#"flannel_repairs_total{kind="route",cause="missing"}"#;
    wait_metric(&cluster, repairs, |v| v == 1.0)?;
    wait_metric(&cluster, events, |v| v > before)?;

    let errors = "flannel_store_errors_total";
    let before = wait_metric(&cluster, errors, |_| true)?;
    cluster.etcd.child().kill();
    wait_metric(&cluster, "flannel_store_up", |v| v == 0.0)?;
    wait_metric(&cluster, errors, |v| v > before)?;
    // The node does without it.
    wait_metric(&cluster, "flannel_ready", |v| v == 1.0)?;
    wait_metric(&cluster, "flannel_lease_held", |v| v == 1.0).map(drop)
}

/// The store going away changes nothing for the node: it stays ready, and
/// says in the log what it cannot reach.
#[test]
fn a_store_that_goes_away_leaves_the_node_ready() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let routes = cluster.node(0).host.ip("route")?;
    let from = cluster.node(0).log().len();
    cluster.etcd.child().kill();
    let daemon = cluster.node(0).daemon.as_ref().context("daemon")?;
    daemon.wait_log("WARN", from, SOON)?;
    cluster.node_mut(0).wait_ready()?;
    cluster.assert_settled()?;
    let state = cluster.node(0).state()?;
    assert_eq!(state.phase, Phase::Ready);
    assert!(state.reason.contains("10.99.0.1:2379"), "{state:?}");
    assert_eq!(cluster.node(0).host.ip("route")?, routes);

    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    // What happens from now on is heard again.
    let n = cluster.add_node()?;
    cluster.start_one(n, &["--iface=eth0"])?;
    cluster.node_mut(n).wait_ready()?;
    cluster.wait_joined()?;
    cluster.assert_settled()
}

/// The only subnet there is goes to another node: the daemon is without one
/// until that node gives it back.
#[test]
fn a_node_without_its_subnet_says_so() -> Result<()> {
    let conf = json!({
        "Network": "10.244.0.0/22",
        "SubnetMin": "10.244.2.0",
        "SubnetMax": "10.244.2.0",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf)?;
    cluster.start(&["--iface=eth0"])?;
    let env = cluster.node(0).host.read(SUBNET_ENV)?;
    let key = "/coreos.com/network/subnets/10.244.2.0-24";
    let theirs = json!({
        "PublicIP": "192.168.77.99",
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": { "VNI": 1, "VtepMAC": "02:00:00:00:99:01" },
    });
    cluster.ctl(&["put", key, &theirs.to_string()])?;
    let state = wait_phase(&cluster, Phase::LeaseLost)?;
    let why = "lease 10.244.2.0-24 is lost: the node at 192.168.77.99 has \
               taken it";
    assert!(state.reason.contains(why), "{state:?}");
    cluster.node_mut(0).wait_not_ready(&["without its subnet: ", why])?;
    // Pods that run keep what they have.
    assert_eq!(cluster.node(0).host.read(SUBNET_ENV)?, env);
    let shown = cluster.node(0).host.ip("-o -4 addr show dev flannel.1")?;
    assert!(shown.contains("inet 10.244.2.0/32"), "{shown}");

    assert_eq!(cluster.ctl(&["del", key])?, "1\n");
    cluster.node_mut(0).wait_ready()?;
    wait_well(&cluster)?;
    assert_eq!(cluster.node(0).host.read(SUBNET_ENV)?, env);
    cluster.assert_settled()
}

/// A start that waits for a disk says so, ends when it is told to, and goes on
/// when the disk answers.
#[test]
fn a_start_that_waits_for_a_disk_says_so() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    let host = &cluster.node(0).host;
    host.cmd(&["mkdir", "/run/flannel"])?;
    host.cmd(&["mkfifo", SUBNET_ENV])?;
    cluster.start_one(0, &["--iface=eth0"])?;
    let said = "the disk of --subnet-file has not answered for";
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.wait_log(said, 0, 3 * SOON)?;
    daemon.wait_not_ready(&node.host, &[said])?;
    daemon.stop(Signal::SIGTERM)?;

    daemon.start_again(&node.host)?;
    // opening it waits for the daemon to do so
    let answer = format!("exec 3>{SUBNET_ENV}; rm {SUBNET_ENV}; exec 3>&-");
    node.host.cmd(&["timeout", "60", "sh", "-c", &answer])?;
    node.wait_ready()?;
    assert_eq!(node.subnets()?.len(), 1);
    cluster.assert_settled()
}

/// A pipe in place of the subnet file stands for one whose disk hangs: who
/// opens it waits for ever. Nobody else does.
#[test]
fn a_subnet_file_that_hangs_stops_nothing_else() -> Result<()> {
    let conf = json!({
        "Network": "10.244.0.0/16",
        "SubnetMax": "10.244.90.0",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf)?;
    cluster.start(&["--iface=eth0"])?;
    let host = &cluster.node(0).host;
    let pipe = "/run/flannel/pipe";
    host.cmd(&["mkfifo", pipe])?;
    host.cmd(&["mv", pipe, SUBNET_ENV])?;
    cluster.node_mut(0).wait_not_ready(&["waiting for its disk"])?;

    let theirs = json!({
        "PublicIP": "192.168.77.99",
        "PublicIPv6": null,
        "BackendType": "vxlan",
        "BackendData": { "VNI": 1, "VtepMAC": "02:00:00:00:99:01" },
    });
    let lease = "/coreos.com/network/subnets/10.244.99.0-24";
    cluster.ctl(&["put", lease, &theirs.to_string()])?;
    poll_until("the peer's route", SOON, || {
        let routes = cluster.node(0).host.ip("route")?;
        ensure!(routes.contains("10.244.99.0/24"), "{routes}");
        Ok(())
    })?;
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.signal(Signal::SIGTERM)?;
    let status = daemon.child().wait(Duration::from_secs(30))?;
    assert_eq!(status.code(), Some(0), "{status}");
    Ok(())
}

/// A pass that cannot do all it should is not ready, says why, and is tried
/// again.
#[test]
fn a_pass_that_fails_is_degraded() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::Dual.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    // Too little is left for IPv6 in the tunnel.
    cluster.node(0).host.ip("link set eth0 mtu 1290")?;
    let state = wait_phase(&cluster, Phase::Degraded)?;
    assert!(state.reason.contains("an MTU of 1290"), "{state:?}");
    cluster.node_mut(0).wait_not_ready(&["degraded: ", "an MTU of 1290"])?;

    cluster.node(0).host.ip("link set eth0 mtu 1500")?;
    cluster.node_mut(0).wait_ready()?;
    wait_well(&cluster)?;
    cluster.assert_settled()
}
