//! What goes between two pods, and how fast.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ipam::Family;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::host::Host;

const PORT: u16 = 5005;
const BYTES: u32 = 256 << 20;
const PINGS: usize = 2_000;
const PACKETS: u32 = 60_000;
/// In each packet: with IPv4 its frame has 64 bytes.
const PAYLOAD: usize = 18;
/// What all of them take in a receiver's queue, as the kernel counts.
const QUEUE: usize = 64 << 20;
const LIMIT: Option<Duration> = Some(Duration::from_secs(10));
/// Nothing more comes after this.
const OVER: Option<Duration> = Some(Duration::from_millis(300));

/// A pod's namespace on a node, and its address.
pub(super) struct End<'a> {
    pub(super) host: &'a Host,
    pub(super) netns: String,
    pub(super) ip: IpAddr,
}

impl End<'_> {
    fn target(&self) -> SocketAddr {
        (self.ip, PORT).into()
    }

    /// A socket there that talks to `target`.
    fn unbound(target: SocketAddr) -> std::io::Result<UdpSocket> {
        let own = Family::of(target.ip()).unspecified();
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect(target)?;
        Ok(socket)
    }
}

/// Bytes a second over TCP, from the first to the last at the receiver.
pub(super) fn transfer(from: &End<'_>, to: &End<'_>) -> Result<f64> {
    let target = to.target();
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
            seen += u32::try_from(n).unwrap_or(u32::MAX);
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
        for _ in 0..BYTES / (128 << 10) {
            stream.write_all(&buffer)?;
        }
        std::io::Result::Ok(())
    })?;
    joined(client)??;
    let (seen, took) = joined(server)??;
    ensure!(seen == BYTES, "{seen} of {BYTES} bytes arrived");
    Ok(f64::from(BYTES) / took.as_secs_f64())
}

/// The median time of small UDP packets there and back, both ends on one core:
/// waking another one costs more than the way itself.
pub(super) fn round_trip(from: &End<'_>, to: &End<'_>) -> Result<Duration> {
    let target = to.target();
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
        let socket = End::unbound(target)?;
        socket.set_read_timeout(LIMIT)?;
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

/// Small packets a second, one system call each, from the first to the last
/// at the receiver.
pub(super) fn packets(from: &End<'_>, to: &End<'_>) -> Result<f64> {
    let target = to.target();
    let (ready, bound) = channel();
    let server = to.host.spawn_in(&to.netns, move || -> Result<_> {
        let socket = UdpSocket::bind(target)?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
        socket.set_read_timeout(LIMIT)?;
        let _ = ready.send(());
        let mut word = [0; PAYLOAD];
        socket.recv(&mut word)?;
        let start = Instant::now();
        socket.set_read_timeout(OVER)?;
        let (mut seen, mut last) = (1, start);
        while seen < PACKETS && socket.recv(&mut word).is_ok() {
            (seen, last) = (seen + 1, Instant::now());
        }
        Ok((seen, last.duration_since(start)))
    })?;
    bound.recv().context("the server ended")?;
    let client = from.host.spawn_in(&from.netns, move || -> Result<()> {
        let socket = End::unbound(target)?;
        for _ in 0..PACKETS {
            socket.send(&[7; PAYLOAD])?;
        }
        Ok(())
    })?;
    joined(client)??;
    let (seen, took) = joined(server)??;
    ensure!(seen > PACKETS / 2, "{seen} of {PACKETS} packets arrived");
    Ok(f64::from(seen) / took.as_secs_f64())
}

fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))
}
