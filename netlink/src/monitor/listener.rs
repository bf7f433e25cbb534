//! A socket that only listens, and what wakes who waits for it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use crate::error::Error;
use crate::socket::receive;

/// A netlink socket that is sent notifications.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: netlink_sys::Socket,
    wake: Arc<EventFd>,
    buf: Vec<u8>,
    object: &'static str,
}

/// What a listener heard.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// Messages.
    Datagram(&'a [u8]),
    /// The kernel dropped messages.
    Lost,
    /// Nothing: it was woken, or it is late.
    Nothing,
}

/// Ends a monitor's `next` in another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

// === impl Listener ===

impl Listener {
    /// Opens the socket with room for `bytes` of unread notifications.
    pub(crate) fn open(
        object: &'static str,
        protocol: isize,
        bytes: usize,
    ) -> Result<Self, Error> {
        let mut inner = netlink_sys::Socket::new(protocol)
            .map_err(|source| failed(object, "socket", source))?;
        if setsockopt(&inner, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(&inner, sockopt::RcvBuf, &bytes)
                .map_err(|e| failed(object, "setsockopt", e.into()))?;
        }
        inner.bind_auto().map_err(|source| failed(object, "bind", source))?;
        let wake =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|e| failed(object, "eventfd", e.into()))?;
        Ok(Self { inner, wake: Arc::new(wake), buf: Vec::new(), object })
    }

    /// Subscribes to a group of notifications.
    pub(crate) fn join(&mut self, group: u32) -> Result<(), Error> {
        self.inner
            .add_membership(group)
            .map_err(|source| failed(self.object, "subscribe", source))
    }

    pub(crate) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// The next datagram; waits for it until `deadline`, `None` for ever.
    pub(crate) fn hear(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Heard<'_>, Error> {
        loop {
            match receive(&self.inner, &mut self.buf, MsgFlags::MSG_DONTWAIT) {
                Ok(()) => return Ok(Heard::Datagram(&self.buf)),
                Err(Errno::EAGAIN) => {
                    if !self.wait(deadline)? {
                        return Ok(Heard::Nothing);
                    }
                }
                Err(Errno::ENOBUFS | Errno::EMSGSIZE) => {
                    return Ok(Heard::Lost);
                }
                Err(errno) => {
                    return Err(failed(self.object, "recv", errno.into()));
                }
            }
        }
    }

    /// Waits until there is something to read: `false` when woken or late.
    fn wait(&self, deadline: Option<Instant>) -> Result<bool, Error> {
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left =
                        deadline.saturating_duration_since(Instant::now());
                    // Rounded up, lest it spins through the last millisecond.
                    let ms = left.as_micros().div_ceil(1000);
                    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [
                PollFd::new(self.inner.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    return Err(failed(self.object, "poll", errno.into()));
                }
                Ok(_) => {}
            }
            let [events, wake] = fds.map(|fd| fd.any().unwrap_or(true));
            if wake {
                // Resets the counter; it is not empty, so nothing can fail.
                let _ = self.wake.read();
                return Ok(false);
            }
            if events {
                return Ok(true);
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(false);
            }
        }
    }
}

// === impl Waker ===

impl Waker {
    /// Makes the present or the next `next` of the monitor that has no event
    /// waiting return `None`.
    pub fn wake(&self) {
        // Full means that it is being woken already.
        let _ = self.0.write(1);
    }
}

fn failed(
    object: &str,
    operation: &'static str,
    source: std::io::Error,
) -> Error {
    Error::Socket { object: object.to_owned(), operation, source }
}
