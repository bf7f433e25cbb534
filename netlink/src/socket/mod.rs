//! The blocking route-netlink socket: requests, windows of requests, dumps.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::Duration;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, NetlinkAddr, bind, getsockname, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::Error;
use crate::netns::NetNs;
use crate::request::Request;
use crate::wire::uapi::{NLM_F_ACK, NLM_F_DUMP, NLMSG_ERROR};
use crate::wire::{Malformed, Messages};

use answer::{Answer, answer};
use dump::{Attempt, DumpReader};

mod answer;
mod dump;
mod transaction;

pub(crate) use dump::Decode;
pub use dump::Dump;
pub(crate) use transaction::Transaction;

/// As many requests are on their way at a time. The kernel's answers to 256
/// of them overflow a default receive buffer (rust-ecosystem.md A.3, trap 6).
pub const WINDOW: usize = 128;
/// Bytes in one send; far below the default send buffer.
const WINDOW_BYTES: usize = 64 * 1024;
/// The kernel makes datagrams of at most 32 KiB when it dumps.
const RECV_BYTES: usize = 64 * 1024;
/// How long to wait for an answer. The kernel carries a request out inside
/// the sending call, so its answer is there when that returns.
const TIMEOUT: Duration = Duration::from_secs(10);
const LATE: &str = "no answer within 10 s";
const DROPPED: &str = "the kernel dropped answers: ENOBUFS";
/// Attempts at a dump that is not disturbed by changes.
const DUMP_ATTEMPTS: u32 = 10;

/// A `NETLINK_ROUTE` socket in one network namespace: the namespace its
/// opening thread was in, for as long as it lives. It can be used from any
/// thread, one at a time.
///
/// An answer that does not come within 10 s is an [`Error::Unknown`]. A
/// request is carried out inside the sending call, which waits without a limit
/// while another program holds the kernel's network lock.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    port: OnceLock<u32>,
    /// The last sequence number used.
    seq: u32,
    received: u64,
    buf: Vec<u8>,
    /// What is being sent: the next window is written over the last.
    out: Vec<u8>,
}

/// Opens `what` in `namespace`, where the calling thread is for as long as that
/// takes.
pub(crate) fn open_in<T>(
    namespace: &NetNs,
    what: &str,
    open: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    namespace.enter(open).map_err(|e| Error::Socket {
        object: format!("{what} in {}", namespace.name()),
        operation: "setns",
        source: io::Error::other(e),
    })?
}

// === impl Socket ===

impl Socket {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] when the system refuses the socket or its options.
    pub fn open() -> Result<Self, Error> {
        Self::open_for("netlink socket", NETLINK_ROUTE)
    }

    /// A `NETLINK_NETFILTER` socket in the calling thread's namespace.
    pub(crate) fn open_netfilter(object: &str) -> Result<Self, Error> {
        Self::open_for(object, NETLINK_NETFILTER)
    }

    /// A socket in `namespace`. The calling thread is in there for some
    /// microseconds; the socket stays.
    ///
    /// # Errors
    /// As [`Socket::open`], or when the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs) -> Result<Self, Error> {
        let object = format!("netlink socket in {}", namespace.name());
        open_in(namespace, "netlink socket", || {
            Self::open_for(&object, NETLINK_ROUTE)
        })
    }

    /// As [`Socket::open`] with room for `bytes` of unread answers. The
    /// default is the system's (`net.core.rmem_default`), which is enough.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn with_buffer(bytes: usize) -> Result<Self, Error> {
        let socket = Self::open()?;
        setsockopt(&socket.inner, sockopt::RcvBuf, &bytes).map_err(|e| {
            Error::Socket {
                object: "netlink socket".to_owned(),
                operation: "setsockopt",
                source: e.into(),
            }
        })?;
        Ok(socket)
    }

    fn open_for(object: &str, protocol: isize) -> Result<Self, Error> {
        let failed = |operation| {
            move |source| Error::Socket {
                object: object.to_owned(),
                operation,
                source,
            }
        };
        let inner =
            netlink_sys::Socket::new(protocol).map_err(failed("socket"))?;
        // Kernels before 4.12 and 4.20 know these options not: there the
        // errors have no text and dumps are not filtered by the kernel.
        for option in [
            netlink_sys::Socket::set_ext_ack,
            netlink_sys::Socket::set_cap_ack,
            netlink_sys::Socket::set_netlink_get_strict_chk,
        ] {
            match option(&inner, true) {
                Err(e) if e.raw_os_error() != Some(ENOPROTOOPT) => {
                    return Err(failed("setsockopt")(e));
                }
                _ => {}
            }
        }
        let timeout = TimeVal::seconds(TIMEOUT.as_secs().cast_signed());
        setsockopt(&inner, sockopt::ReceiveTimeout, &timeout)
            .map_err(|e| failed("setsockopt")(e.into()))?;
        Ok(Self {
            inner,
            port: OnceLock::new(),
            seq: 0,
            received: 0,
            buf: Vec::with_capacity(RECV_BYTES),
            out: Vec::new(),
        })
    }

    /// The port number by which the kernel names this socket in the events
    /// its changes cause; `u32::MAX`, which is nobody's (0 is the kernel's own),
    /// if it tells none.
    ///
    /// A socket has one from its first request on, or from when it is asked
    /// for here: most are not.
    #[must_use]
    pub fn port(&self) -> u32 {
        *self.port.get_or_init(|| {
            let fd = self.inner.as_raw_fd();
            let known = || getsockname::<NetlinkAddr>(fd).map(|a| a.pid());
            if let Ok(port @ 1..) = known() {
                return port;
            }
            let _ = bind(fd, &NetlinkAddr::new(0, 0));
            known().ok().filter(|port| *port != 0).unwrap_or(u32::MAX)
        })
    }

    /// Bytes received so far: what looking at the kernel costs.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// What the kernel answered, or [`Error::Unknown`].
    pub fn request(&mut self, request: &Request) -> Result<(), Error> {
        let mut results = self.window(std::slice::from_ref(request));
        results.pop().unwrap_or(Ok(()))
    }

    /// Sends the requests in order, many to a system call, and returns the
    /// outcome of each. A refused request does not stop those after it.
    ///
    /// Only the last one of each window asks for an acknowledgement: the
    /// kernel works through a window in order and reports every failure, so a
    /// request without a failure before the window's acknowledgement has
    /// succeeded. When the kernel had to drop a report (`ENOBUFS`), those
    /// without an answer are [`Error::Unknown`].
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest
                .iter()
                .take(WINDOW)
                .take_while(|r| {
                    bytes += r.message().len();
                    bytes <= WINDOW_BYTES
                })
                .count();
            let (window, after) = rest.split_at(fitting.max(1).min(rest.len()));
            results.extend(self.window(window));
            rest = after;
        }
        results
    }

    /// At most [`WINDOW`] requests in one send.
    fn window(&mut self, requests: &[Request]) -> Vec<Result<(), Error>> {
        let first = self.next_seqs(requests.len());
        self.out.clear();
        for (i, request) in requests.iter().enumerate() {
            let last = i + 1 == requests.len();
            let flags = if last { NLM_F_ACK } else { 0 };
            request.append_to(&mut self.out, seq_at(first, i), flags);
        }
        if let Err(source) = self.send(&self.out) {
            // Nothing was carried out: the kernel copies the whole datagram
            // before it looks at the first message.
            return requests
                .iter()
                .map(|r| {
                    Err(Error::Socket {
                        object: r.object(),
                        operation: "send",
                        source: clone_io(&source),
                    })
                })
                .collect();
        }
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        let lost = self.collect_answers(first, &mut answers).err();
        requests
            .iter()
            .zip(answers)
            .map(|(request, answer)| match (answer, lost) {
                (Some(Ok(())), _) | (None, None) => Ok(()),
                (Some(Err((errno, kernel))), _) => Err(Error::Refused {
                    object: request.object(),
                    errno,
                    kernel,
                }),
                (None, Some(reason)) => {
                    Err(Error::Unknown { object: request.object(), reason })
                }
            })
            .collect()
    }

    /// Fills in what the kernel says about the requests numbered from
    /// `first`, until the last one's answer. `Err` says how answers got lost.
    fn collect_answers(
        &mut self,
        first: u32,
        answers: &mut [Option<Answer>],
    ) -> Result<(), &'static str> {
        let mut lost = None;
        while answers.last().is_some_and(Option::is_none) {
            // After a loss, what is still queued is all that will come.
            let flags = match lost {
                Some(_) => MsgFlags::MSG_DONTWAIT,
                None => MsgFlags::empty(),
            };
            match self.receive(flags) {
                Ok(()) => {}
                Err(Errno::ENOBUFS) => {
                    lost = Some(DROPPED);
                    continue;
                }
                Err(Errno::EAGAIN) => {
                    return Err(lost.unwrap_or(LATE));
                }
                Err(_) => return Err("the netlink socket failed"),
            }
            for message in Messages::new(&self.buf) {
                let Ok(message) = message else {
                    lost = Some("a malformed answer");
                    break;
                };
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                // Answers to requests given up before have other numbers.
                let at = message.seq.wrapping_sub(first);
                let place =
                    usize::try_from(at).ok().and_then(|at| answers.get_mut(at));
                match (place, answer(&message)) {
                    (Some(place), Ok(answer)) => *place = Some(answer),
                    (Some(_), Err(_)) => lost = Some("a malformed answer"),
                    (None, _) => {}
                }
            }
        }
        lost.map_or(Ok(()), Err)
    }

    /// Sends a query for one object and decodes the answer.
    pub(crate) fn get<T>(
        &mut self,
        query: &Request,
        decode: Decode<T>,
    ) -> Result<T, Error> {
        let object = || query.object();
        let seq = self.next_seqs(1);
        let mut out = Vec::with_capacity(128);
        query.append_to(&mut out, seq, 0);
        self.send(&out).map_err(|source| Error::Socket {
            object: object(),
            operation: "send",
            source,
        })?;
        loop {
            self.receive(MsgFlags::empty())
                .map_err(|errno| read_error(object(), errno))?;
            for message in Messages::new(&self.buf) {
                let result = match message {
                    Ok(message) if message.seq != seq => continue,
                    Ok(message) if message.kind == NLMSG_ERROR => {
                        match answer(&message) {
                            Ok(Err((errno, kernel))) => {
                                return Err(Error::Refused {
                                    object: object(),
                                    errno,
                                    kernel,
                                });
                            }
                            Ok(Ok(())) => Err(Malformed("empty answer")),
                            Err(e) => Err(e),
                        }
                    }
                    Ok(message) => decode(&message).and_then(|found| {
                        found.ok_or(Malformed("answer of another kind"))
                    }),
                    Err(e) => Err(e),
                };
                return result.map_err(|e| Error::Undecodable {
                    object: object(),
                    count: 1,
                    reason: e.to_string(),
                });
            }
        }
    }

    /// Sends a query for many objects and decodes them all. Starts again when
    /// the kernel says that they changed meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        query: &Request,
        decode: Decode<T>,
    ) -> Result<Dump<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let result = self.dump_once(query, decode);
            if result.is_err() {
                self.drain();
            }
            match result? {
                Attempt::Complete(dump) => return Ok(dump),
                Attempt::Interrupted => {}
            }
        }
        Err(Error::Interrupted {
            object: query.object(),
            attempts: DUMP_ATTEMPTS,
        })
    }

    fn dump_once<T>(
        &mut self,
        query: &Request,
        decode: Decode<T>,
    ) -> Result<Attempt<T>, Error> {
        let seq = self.next_seqs(1);
        let mut out = Vec::with_capacity(128);
        query.append_to(&mut out, seq, NLM_F_DUMP);
        self.send(&out).map_err(|source| Error::Socket {
            object: query.object(),
            operation: "send",
            source,
        })?;
        let object = query.object();
        let mut reader = DumpReader::new(&object, seq, decode);
        loop {
            self.receive(MsgFlags::empty())
                .map_err(|errno| read_error(object.clone(), errno))?;
            if let Some(attempt) = reader.datagram(&self.buf)? {
                return Ok(attempt);
            }
        }
    }

    /// Throws away what is queued, so that a dump that was given up ends.
    fn drain(&mut self) {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(()) | Err(Errno::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.inner.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads one datagram of the kernel's into `buf`.
    fn receive(&mut self, flags: MsgFlags) -> Result<(), Errno> {
        receive(&self.inner, &mut self.buf, flags)?;
        let len = u64::try_from(self.buf.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(len);
        Ok(())
    }

    /// The first of `count` fresh sequence numbers in a row. 0 is left to
    /// events.
    fn next_seqs(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if self.seq > u32::MAX - count - 1 {
            self.seq = 0;
        }
        let first = self.seq + 1;
        self.seq += count;
        first
    }
}

// === receiving ===

/// `ENOPROTOOPT` as the system reports it.
const ENOPROTOOPT: i32 = Errno::ENOPROTOOPT as i32;

/// Reads one datagram that comes from the kernel.
pub(crate) fn receive(
    socket: &netlink_sys::Socket,
    buf: &mut Vec<u8>,
    flags: MsgFlags,
) -> Result<(), Errno> {
    let flags = (flags | MsgFlags::MSG_TRUNC).bits();
    loop {
        buf.clear();
        buf.reserve(RECV_BYTES);
        let room = buf.capacity();
        match socket.recv_from(buf, flags) {
            // A datagram cut short must not pass for a whole one.
            Ok((len, _)) if len > room => return Err(Errno::EMSGSIZE),
            Ok((_, from)) if from.port_number() == 0 => return Ok(()),
            // Another process may send to us: not the kernel's word.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Errno::from_raw(e.raw_os_error().unwrap_or(0)));
            }
        }
    }
}

fn read_error(object: String, errno: Errno) -> Error {
    let lost = |reason| Error::Unknown { object: object.clone(), reason };
    if errno == Errno::EAGAIN {
        lost(LATE)
    } else if errno == Errno::ENOBUFS {
        lost(DROPPED)
    } else {
        let source = errno.into();
        Error::Socket { object, operation: "recv", source }
    }
}

fn seq_at(first: u32, i: usize) -> u32 {
    first.wrapping_add(u32::try_from(i).unwrap_or(u32::MAX))
}

fn clone_io(e: &io::Error) -> io::Error {
    e.raw_os_error()
        .map_or_else(|| e.kind().into(), io::Error::from_raw_os_error)
}
