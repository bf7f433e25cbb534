//! A steady stream of datagrams that counts what is lost, and a TCP transfer.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::host::Host;
use crate::pod::Pod;

const PORT: u16 = 5005;
/// Between two datagrams of a stream.
const PAUSE: Duration = Duration::from_millis(1);
/// So much of a stream may come late, at once.
const BURST: Duration = Duration::from_millis(20);

/// A pod on its node.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The node.
    pub node: &'a Host,
    /// The pod.
    pub pod: &'a Pod,
}

/// What a probe saw.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Datagrams sent.
    pub sent: usize,
    /// Runs of sequence numbers that never arrived.
    pub lost: Vec<std::ops::Range<u32>>,
    /// Packets that the machine has dropped meanwhile, of anybody's, because
    /// none of its processors came to them (`softnet_stat`). All namespaces
    /// share these queues: a busy machine fills them, whatever the daemons do.
    pub dropped: u64,
}

/// A running stream of 1,000 datagrams a second between two pods.
#[derive(Debug)]
pub struct Probe {
    dropped: u64,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<std::io::Result<u32>>,
    receiver: JoinHandle<std::io::Result<BTreeSet<u32>>>,
}

// === impl Probe ===

impl Probe {
    /// Starts one from `from` to the address `to` of `at`.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn start(from: At<'_>, at: At<'_>, to: &str) -> Result<Self> {
        let ip: IpAddr = to.parse()?;
        let target = SocketAddr::new(ip, PORT);
        let dropped = dropped()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, bound) = std::sync::mpsc::channel();
        let done = Arc::clone(&stop);
        let receiver = at.pod.spawn(
            at.node,
            move || -> std::io::Result<BTreeSet<u32>> {
                let socket = UdpSocket::bind(target);
                let _ = ready.send(());
                let socket = socket?;
                // A receiver that waits its turn on a busy machine loses
                // nothing: one datagram takes some 800 bytes here.
                setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
                socket.set_read_timeout(Some(Duration::from_millis(300)))?;
                let (mut seen, mut word) = (BTreeSet::new(), [0; 4]);
                loop {
                    match socket.recv(&mut word) {
                        Ok(_) => {
                            seen.insert(u32::from_be_bytes(word));
                        }
                        // Quiet after the sender stopped: all that will come came.
                        Err(_) if done.load(Ordering::SeqCst) => {
                            return Ok(seen);
                        }
                        Err(_) => {}
                    }
                }
            },
        )?;
        bound.recv().context("the receiver ended")?;
        let done = Arc::clone(&stop);
        let sender =
            from.pod.spawn(from.node, move || -> std::io::Result<u32> {
                let socket = UdpSocket::bind(match ip {
                    IpAddr::V4(_) => "0.0.0.0:0",
                    IpAddr::V6(_) => "[::]:0",
                })?;
                let (mut due, mut sent) = (Instant::now(), 0u32);
                while !done.load(Ordering::SeqCst) {
                    // A route that is missing for a moment is a lost datagram,
                    // not the end of the probe.
                    let _ = socket.send_to(&sent.to_be_bytes(), target);
                    sent += 1;
                    // What a busy machine puts off comes in small bursts.
                    let now = Instant::now();
                    due = (due + PAUSE).max(now - BURST);
                    std::thread::sleep(due.saturating_duration_since(now));
                }
                Ok(sent)
            })?;
        Ok(Self { dropped, stop, sender, receiver })
    }

    /// Ends it and makes sure that none of at least `least` was lost. How many
    /// they were.
    ///
    /// # Errors
    /// When one was that the machine did not drop by itself, or a socket
    /// failed.
    pub fn assert_whole(self, least: usize) -> Result<usize> {
        let seen = self.finish()?;
        ensure!(seen.sent >= least, "the probe hardly ran: {seen:?}");
        let lost: u64 = seen.lost.iter().map(|run| run.len() as u64).sum();
        ensure!(lost <= seen.dropped, "lost: {seen:?}");
        if lost > 0 {
            eprintln!("the machine itself was too busy: {seen:?}");
        }
        Ok(seen.sent)
    }

    /// Ends it and counts.
    ///
    /// # Errors
    /// When a socket failed.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        let seen = self
            .receiver
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))??;
        let mut lost: Vec<std::ops::Range<u32>> = Vec::new();
        for n in (0..sent).filter(|n| !seen.contains(n)) {
            match lost.last_mut() {
                Some(run) if run.end == n => run.end += 1,
                _ => lost.push(n..n + 1),
            }
        }
        let dropped = dropped()?.saturating_sub(self.dropped);
        Ok(Seen { sent: sent as usize, lost, dropped })
    }
}

/// The second column of each processor's line, in hexadecimal.
fn dropped() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/softnet_stat")?;
    text.lines()
        .map(|line| {
            let column = line.split_whitespace().nth(1).context("a column")?;
            Ok(u64::from_str_radix(column, 16)?)
        })
        .sum()
}

/// Transfers `bytes` over TCP and checks that all arrived.
///
/// # Errors
/// When the connection fails or the count differs.
pub fn transfer(from: At<'_>, at: At<'_>, to: &str, bytes: u64) -> Result<()> {
    let target = SocketAddr::new(to.parse()?, PORT);
    let (ready, bound) = std::sync::mpsc::channel();
    let server = at.pod.spawn(at.node, move || -> std::io::Result<u64> {
        let listener = TcpListener::bind(target);
        let _ = ready.send(());
        let (mut stream, _) = listener?.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        std::io::copy(&mut stream, &mut std::io::sink())
    })?;
    bound.recv().context("the server ended")?;
    let client =
        from.pod.spawn(from.node, move || -> std::io::Result<u64> {
            let mut stream =
                TcpStream::connect_timeout(&target, Duration::from_secs(10))?;
            stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            let sent = std::io::copy(
                &mut std::io::repeat(7).take(bytes),
                &mut stream,
            )?;
            stream.flush()?;
            Ok(sent)
        })?;
    let sent = client
        .join()
        .map_err(|_| anyhow!("the client panicked"))?
        .context("client")?;
    let seen = server
        .join()
        .map_err(|_| anyhow!("the server panicked"))?
        .context("server")?;
    ensure!(
        sent == bytes && seen == bytes,
        "sent {sent} and received {seen} of {bytes} bytes"
    );
    Ok(())
}
