//! Traffic between pods of two nodes: the tunnel our daemon made, beside one
//! made by hand with `ip`. The packets' way is the kernel's in both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::report::{Quantity, Report, median};
use super::{FLAGS, net_conf};
use crate::cluster::Cluster;
use crate::host::Host;
use crate::pod::Pod;
use crate::underlay::{Underlay, Wiring};

const PORT: u16 = 5005;
const ROUNDS: usize = 15;
const BYTES: usize = 256 << 20;
const PINGS: usize = 2_000;
const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

/// A pod's namespace on a node, and its address.
struct End<'a> {
    host: &'a Host,
    netns: String,
    ip: String,
}

pub(super) fn run(report: &mut Report<'_>) -> Result<()> {
    let mut cluster = Cluster::new(Wiring::OneSegment, 2, &net_conf())?;
    cluster.start(&FLAGS)?;
    let pods = [0, 1].map(|n| Pod::add(&cluster.node(n).host, "pod"));
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    let ours: Vec<_> = cluster
        .nodes
        .iter()
        .zip(&pods)
        .map(|(node, pod)| {
            let (host, netns) = (&node.host, pod.netns.clone());
            Ok(End { host, netns, ip: pod.v4()? })
        })
        .collect::<Result<_>>()?;

    let underlay = Underlay::new(Wiring::OneSegment)?;
    let hosts = [by_hand(&underlay, 1)?, by_hand(&underlay, 2)?];
    let hand: Vec<_> = (1..)
        .zip(&hosts)
        .map(|(n, host)| End {
            host,
            netns: "/run/netns/pod".to_owned(),
            ip: format!("10.1.{n}.2"),
        })
        .collect();
    ensure!(ours.len() == 2 && hand.len() == 2, "two ends each");

    let (mut rates, mut times) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..=ROUNDS {
        for (n, ends) in [&ours, &hand].into_iter().enumerate() {
            let transfer = transfer(&ends[0], &ends[1])?;
            let rtt = round_trip(&ends[0], &ends[1])?;
            // The first round warms up.
            if round > 0 {
                rates[n].push(transfer);
                times[n].push(rtt);
            }
        }
    }
    let whose = "a vxlan made by hand";
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^52")]
    let [a, b] =
        rates.map(|r| Quantity::Rate(BYTES as f64 / median(&r).as_secs_f64()));
    report.row("pod to pod, TCP, bytes a second", a, b, whose);
    let [a, b] = times.map(|t| median(&t));
    report.row("pod to pod, UDP round trip, one core", a, b, whose);
    Ok(())
}

/// Node `n` of two with a pod, as the daemon and the plugin make them.
fn by_hand(underlay: &Underlay, n: u8) -> Result<Host> {
    let (host, other) = (Host::new(&format!("hand{n}"))?, 3 - n);
    let uplink = underlay.attach(&host, n)?;
    host.sysctl("net/ipv4/ip_forward", "1")?;
    for words in [
        format!(
            "link add vx0 address 02:00:00:00:00:0{n} mtu 1450 type vxlan \
             id 1 local {} dev eth0 dstport 8472 nolearning",
            uplink.v4
        ),
        format!("addr add 10.1.{n}.0/32 dev vx0"),
        "link set vx0 up".to_owned(),
        format!(
            "neigh add 10.1.{other}.0 lladdr 02:00:00:00:00:0{other} dev vx0"
        ),
        format!(
            "route add 10.1.{other}.0/24 via 10.1.{other}.0 dev vx0 onlink"
        ),
        "link add cni0 mtu 1450 type bridge".to_owned(),
        format!("addr add 10.1.{n}.1/24 dev cni0"),
        "link set cni0 up".to_owned(),
        "netns add pod".to_owned(),
        "link add veth0 mtu 1450 type veth peer name eth0 mtu 1450 netns pod"
            .to_owned(),
        "link set veth0 master cni0 up".to_owned(),
        format!("-n pod addr add 10.1.{n}.2/24 dev eth0"),
        "-n pod link set eth0 up".to_owned(),
        format!("-n pod route add default via 10.1.{n}.1"),
    ] {
        host.ip(&words)?;
    }
    // As kube-flannel's list asks for it.
    host.cmd(&["bridge", "link", "set", "dev", "veth0", "hairpin", "on"])?;
    let fdb = format!(
        "bridge fdb add 02:00:00:00:00:0{other} dev vx0 dst 192.168.77.{other}"
    );
    host.cmd(&fdb.split(' ').collect::<Vec<_>>())?;
    Ok(host)
}

/// The time from the first of [`BYTES`] to the last, at the receiver.
fn transfer(from: &End<'_>, to: &End<'_>) -> Result<Duration> {
    let target: SocketAddr = (to.ip.parse::<std::net::IpAddr>()?, PORT).into();
    let (ready, bound) = channel();
    let server = to.host.spawn_in(&to.netns, move || {
        let listener = TcpListener::bind(target)?;
        let _ = ready.send(());
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(LIMIT)?;
        let mut buffer = vec![0; 256 << 10];
        let (mut seen, mut start) = (0, None);
        loop {
            let n = stream.read(&mut buffer)?;
            let start = *start.get_or_insert_with(Instant::now);
            seen += n;
            if n == 0 || seen == BYTES {
                return std::io::Result::Ok((seen, start.elapsed()));
            }
        }
    })?;
    bound.recv().context("the server ended")?;
    let client = from.host.spawn_in(&from.netns, move || {
        let mut stream =
            TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
        stream.set_write_timeout(LIMIT)?;
        let buffer = vec![7; 128 << 10];
        for _ in 0..BYTES / buffer.len() {
            stream.write_all(&buffer)?;
        }
        std::io::Result::Ok(())
    })?;
    joined(client)??;
    let (seen, took) = joined(server)??;
    ensure!(seen == BYTES, "{seen} of {BYTES} bytes arrived");
    Ok(took)
}

/// The median time of small UDP packets there and back, both ends on one core:
/// waking another one costs more than the way itself.
fn round_trip(from: &End<'_>, to: &End<'_>) -> Result<Duration> {
    let target: SocketAddr = (to.ip.parse::<std::net::IpAddr>()?, PORT).into();
    let (ready, bound) = channel();
    let server = to.host.spawn_in(&to.netns, move || -> Result<()> {
        pin()?;
        let socket = UdpSocket::bind(target)?;
        socket.set_read_timeout(LIMIT)?;
        let _ = ready.send(());
        let mut word = [0; 8];
        for _ in 0..PINGS {
            let (n, back) = socket.recv_from(&mut word)?;
            socket.send_to(&word[..n], back)?;
        }
        Ok(())
    })?;
    bound.recv().context("the server ended")?;
    let client = from.host.spawn_in(&from.netns, move || -> Result<_> {
        pin()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(LIMIT)?;
        socket.connect(target)?;
        let (mut word, mut all) = ([0; 8], Vec::with_capacity(PINGS));
        for _ in 0..PINGS {
            let start = Instant::now();
            socket.send(&word)?;
            socket.recv(&mut word)?;
            all.push(start.elapsed());
        }
        all.sort();
        all.get(PINGS / 2).copied().context("no answer")
    })?;
    let took = joined(client)??;
    joined(server)??;
    Ok(took)
}

fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}
