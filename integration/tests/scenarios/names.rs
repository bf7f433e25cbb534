//! etcd by name, resolved by the static binary itself; and several endpoints
//! of which some are dead.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::cluster::Cluster;
use integration::demo::Stack;
use integration::etcd::{NAME, Security};
use integration::host::Host;
use integration::underlay::{STORE_V4, STORE_V6, Wiring};
use ipam::daemon_state::Phase;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

/// Where the name server listens.
const RESOLVER: &str = "10.99.0.53";
/// Where nothing is, behind the default gateway: what is sent there vanishes.
const NOWHERE: &str = "10.99.0.54";

/// A name server that knows [`NAME`] and nothing else.
struct Resolver {
    stop: Arc<AtomicBool>,
    asked: JoinHandle<std::io::Result<usize>>,
}

// === impl Resolver ===

impl Resolver {
    /// Starts one on `host` at [`RESOLVER`] that knows `addresses`.
    fn start(host: &Host, addresses: &[&str]) -> Result<Self> {
        host.ip(&format!("addr add {RESOLVER}/32 dev lo"))?;
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&stop);
        // A thread of the host's thread is in its namespaces.
        let asked = host.run(move || -> Result<_> {
            let socket = UdpSocket::bind((RESOLVER, 53))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(std::thread::spawn(move || {
                let (mut count, mut packet) = (0, [0; 512]);
                while !done.load(Ordering::SeqCst) {
                    let Ok((len, from)) = socket.recv_from(&mut packet) else {
                        continue;
                    };
                    if let Some(answer) = answer(&packet[..len], &addresses) {
                        socket.send_to(&answer, from)?;
                        count += 1;
                    }
                }
                Ok(count)
            }))
        })?;
        Ok(Self { stop, asked })
    }

    /// How many questions it answered.
    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        let count = self.asked.join();
        Ok(count.map_err(|_| anyhow::anyhow!("the name server panicked"))??)
    }
}

/// The answer to one question (RFC 1035 4.1): the addresses of its type for
/// [`NAME`], no such name otherwise.
fn answer(question: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut rest = question.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (len, tail) = rest.split_first()?;
        let (label, tail) = tail.split_at_checked(usize::from(*len))?;
        rest = tail;
        if label.is_empty() {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
    let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
    let asked = question.len() - rest.len() + 4;
    let known = labels.join(".") == NAME;
    let data: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|ip| match (kind, ip) {
            (1, IpAddr::V4(ip)) if known => Some(ip.octets().to_vec()),
            (28, IpAddr::V6(ip)) if known => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut out = question.get(..2)?.to_vec();
    // A response, recursion available; 3: there is no such name.
    out.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1]);
    out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    out.extend([0; 4]);
    out.extend(question.get(12..asked)?);
    for bytes in data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0]);
        out.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
        out.extend(bytes);
    }
    Some(out)
}

/// Gives `host` a file of its own at `path`, which must exist.
pub(crate) fn own_file(
    host: &Host,
    path: &'static str,
    text: &str,
) -> Result<()> {
    let file = format!("/run/own{}", path.replace('/', "-"));
    host.write(&file, text)?;
    host.run(move || {
        let none = None::<&str>;
        mount(Some(file.as_str()), path, none, MsFlags::MS_BIND, none)
    })
    .with_context(|| format!("on {}: an own {path}", host.name()))
}

fn resolv_conf(servers: &[&str]) -> String {
    servers.iter().map(|ip| format!("nameserver {ip}\n")).collect()
}

/// A node of a cluster whose etcd has TLS is ready within `limit`, with etcd
/// by name only.
fn ready_by_name(
    servers: &[&str],
    addresses: &[&str],
    limit: Duration,
) -> Result<()> {
    let tls = Security { tls: true, ..Security::default() };
    let mut cluster = Cluster::empty(Wiring::OneSegment, 1, tls)?;
    cluster.configure(&Stack::V4.net_conf())?;
    let resolver = Resolver::start(cluster.underlay.middle(), addresses)?;
    let host = &cluster.node(0).host;
    own_file(host, "/etc/resolv.conf", &resolv_conf(servers))?;
    own_file(host, "/etc/hosts", "127.0.0.1 localhost\n")?;

    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url_by_name());
    let start = Instant::now();
    cluster.start_one(0, &["--iface=eth0", &endpoint])?;
    cluster.node_mut(0).wait_ready()?;
    ensure!(
        start.elapsed() < limit,
        "it took {:?}:\n{}",
        start.elapsed(),
        cluster.node(0).log()
    );
    cluster.assert_settled()?;
    let url = cluster.etcd.url_by_name();
    let log = cluster.node(0).log();
    assert!(log.contains(&format!("connected to etcd at {url}")), "{log}");
    assert!(resolver.finish()? > 0, "nobody asked");
    Ok(())
}

/// The first name server listed is dead: the resolver asks all at once.
#[test]
fn a_dead_name_server_costs_nothing() -> Result<()> {
    ready_by_name(
        &[NOWHERE, RESOLVER],
        &[STORE_V4, STORE_V6],
        Duration::from_secs(10),
    )
}

/// A port that nobody listens on answers at once, with an error.
#[test]
fn a_host_without_a_name_server_on_it_does_not_matter() -> Result<()> {
    ready_by_name(&[STORE_V4, RESOLVER], &[STORE_V4], Duration::from_secs(10))
}

/// A name that stands for several addresses, of which all but one are dead.
#[test]
fn every_address_of_a_name_is_tried() -> Result<()> {
    ready_by_name(
        &[RESOLVER],
        &["fd99::dead", NOWHERE, STORE_V4],
        Duration::from_secs(25),
    )
}

/// A name that nobody knows yet: the daemon says which, and goes on once it
/// is there (here: in `/etc/hosts`).
#[test]
fn an_unknown_name_is_told_and_waited_for() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    let resolver = Resolver::start(cluster.underlay.middle(), &[])?;
    let host = &cluster.node(0).host;
    own_file(host, "/etc/resolv.conf", &resolv_conf(&[RESOLVER]))?;
    own_file(host, "/etc/hosts", "127.0.0.1 localhost\n")?;
    let endpoint = "--etcd-endpoints=http://etcd.nowhere.test:2379";
    cluster.start_one(0, &["--iface=eth0", endpoint])?;
    cluster.node_mut(0).wait_not_ready(&[
        "http://etcd.nowhere.test:2379: ",
        "the endpoint's host name cannot be resolved",
    ])?;
    assert_eq!(cluster.node(0).state()?.phase, Phase::WaitingForStore);
    let hosts = format!("{STORE_V4} etcd.nowhere.test\n");
    cluster.node(0).host.write("/etc/hosts", &hosts)?;
    cluster.node_mut(0).wait_ready()?;
    assert!(resolver.finish()? > 0, "nobody asked");
    cluster.assert_settled()
}

/// A name server that never answers keeps nobody from ending the daemon.
#[test]
fn a_silent_name_server_does_not_hold_up_the_end() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    let host = &cluster.node(0).host;
    own_file(host, "/etc/resolv.conf", &resolv_conf(&[NOWHERE]))?;
    own_file(host, "/etc/hosts", "127.0.0.1 localhost\n")?;
    let endpoint = "--etcd-endpoints=http://etcd.nowhere.test:2379";
    cluster.start_one(0, &["--iface=eth0", endpoint])?;
    cluster.node_mut(0).wait_not_ready(&[
        "waiting for the store: asking etcd at http://etcd.nowhere.test:2379",
    ])?;
    let node = cluster.node_mut(0);
    let daemon = node.daemon.as_mut().context("daemon")?;
    daemon.signal(Signal::SIGTERM)?;
    let status = daemon.child().wait(Duration::from_secs(8))?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(node.state()?.phase, Phase::Stopping);
    Ok(())
}

/// Each kind of dead member in front of the one that lives: nothing listens,
/// no way there, packets vanish, and one that accepts and then says nothing.
#[test]
fn dead_endpoints_cost_a_moment() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 4, &Stack::V4.net_conf())?;
    let middle = cluster.underlay.middle();
    middle.ip("addr add 10.99.0.60/32 dev lo")?;
    let _frozen = middle
        .run(|| std::net::TcpListener::bind(("10.99.0.60", 2390)))
        .context("a member that says nothing")?;
    let dead = BTreeMap::from([
        ("nothing listens", "http://10.99.0.1:2399".to_owned()),
        ("no way there", "http://198.51.100.1:2379".to_owned()),
        ("packets vanish", format!("http://{NOWHERE}:2379")),
        ("says nothing", "http://10.99.0.60:2390".to_owned()),
    ]);
    let all: Vec<_> = dead.values().map(String::as_str).collect();
    let endpoints =
        format!("--etcd-endpoints={},{}", all.join(","), cluster.etcd.url());
    let start = Instant::now();
    // Which one a daemon tries first is up to chance: several daemons.
    for n in 0..cluster.nodes.len() {
        cluster.node(n).host.ip("route add unreachable 198.51.100.0/24")?;
        cluster.start_one(n, &["--iface=eth0", &endpoints])?;
    }
    for n in 0..cluster.nodes.len() {
        cluster.node_mut(n).wait_ready()?;
    }
    ensure!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    cluster.wait_joined()?;
    cluster.assert_settled()
}

/// With none alive each one is named with its own reason.
#[test]
fn each_dead_endpoint_is_named_with_its_reason() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.node(0).host.ip("route add unreachable 198.51.100.0/24")?;
    let endpoints = "--etcd-endpoints=\
                     http://10.99.0.1:2399,http://198.51.100.1:2379";
    cluster.start_one(0, &["--iface=eth0", endpoints])?;
    let said = cluster.node_mut(0).wait_not_ready(&[
        "http://10.99.0.1:2399: ",
        "Connection refused",
        "http://198.51.100.1:2379: ",
    ])?;
    let (_, second) =
        said.split_once("http://198.51.100.1").context("order")?;
    assert!(second.contains("unreachable"), "{said}");
    Ok(())
}
