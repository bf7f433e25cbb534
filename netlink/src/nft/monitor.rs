use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::TableId;
use super::read;
use super::uapi::{NEWGEN, NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES};
use crate::error::Error;
use crate::monitor::{Heard, Listener, Waker};
use crate::netns::NetNs;
use crate::socket::open_in;
use crate::wire::{Malformed, Messages, RawMessage};

const OBJECT: &str = "nf_tables monitor";

/// Room for unread notifications, in bytes: some thousand rules' worth. Each
/// new rule is told in full.
const RECV_BUFFER: usize = 4 * 1024 * 1024;

/// Listens to the changes to one namespace's nf_tables, whoever makes them;
/// also iptables does where it is built on nf_tables.
#[derive(Debug)]
pub struct Monitor {
    listener: Listener,
    reader: Reader,
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A batch was carried out.
    Changed(Change),
    /// Notifications were lost or could not be read: everything may have
    /// changed and has to be read again.
    Overrun,
}

/// A batch that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The tables in which something was made, changed or deleted. Whoever
    /// writes "delete what may be there, then make it" is told of here also
    /// when all is as before.
    pub tables: BTreeSet<TableId>,
    /// Port of the socket that sent it
    /// ([`NftSocket::port`](super::NftSocket::port)).
    pub port: u32,
    /// The namespace's generation from then on.
    pub generation: u32,
    /// The process that sent it, where the kernel knows.
    pub process: Option<Process>,
}

/// The process that sent a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, of the thread that sent the batch.
    pub pid: u32,
    /// Its name, such as `nft`, `iptables` or `firewalld`.
    pub name: String,
}

/// Puts changes together from messages.
#[derive(Debug, Default)]
struct Reader {
    /// Tables of a batch whose end is not yet told.
    tables: BTreeSet<TableId>,
    queue: VecDeque<Event>,
}

// === impl Monitor ===

impl Monitor {
    /// Starts listening in the calling thread's namespace. Read the state
    /// after this, not before: nothing falls between then.
    ///
    /// # Errors
    /// [`Error::Socket`] when the system refuses the socket or its options,
    /// such as to one without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, Error> {
        Self::with_buffer(RECV_BUFFER)
    }

    /// Starts listening in `namespace`.
    ///
    /// # Errors
    /// As [`Monitor::open`], or when the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs) -> Result<Self, Error> {
        open_in(namespace, OBJECT, Self::open)
    }

    /// As [`Monitor::open`] with room for `bytes` of unread notifications.
    ///
    /// # Errors
    /// As [`Monitor::open`].
    pub fn with_buffer(bytes: usize) -> Result<Self, Error> {
        let mut listener = Listener::open(OBJECT, NETLINK_NETFILTER, bytes)?;
        listener.join(NFNLGRP_NFTABLES)?;
        Ok(Self { listener, reader: Reader::default() })
    }

    /// What wakes this monitor from other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.listener.waker()
    }

    /// The next event. `None` after `timeout` (`None` waits for ever) or a
    /// [`Waker::wake`].
    ///
    /// # Errors
    /// [`Error::Socket`] when the socket fails for good.
    pub fn next(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<Event>, Error> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(event) = self.reader.queue.pop_front() {
                return Ok(Some(event));
            }
            match self.listener.hear(deadline)? {
                Heard::Datagram(datagram) => self.reader.datagram(datagram),
                Heard::Lost => self.reader.lost(),
                Heard::Nothing => return Ok(None),
            }
        }
    }
}

// === impl Reader ===

impl Reader {
    fn datagram(&mut self, datagram: &[u8]) {
        for message in Messages::new(datagram) {
            if let Err(Malformed(_)) = message.and_then(|m| self.message(&m)) {
                self.lost();
            }
        }
    }

    fn message(&mut self, message: &RawMessage<'_>) -> Result<(), Malformed> {
        const SUBSYSTEM: u16 = NFNL_SUBSYS_NFTABLES << 8;
        if message.kind == NEWGEN {
            if let Some(generation) = read::generation(message)? {
                let process =
                    generation.process.map(|(pid, name)| Process { pid, name });
                self.queue.push_back(Event::Changed(Change {
                    tables: std::mem::take(&mut self.tables),
                    port: message.port,
                    generation: generation.id,
                    process,
                }));
            }
        } else if message.kind & 0xff00 == SUBSYSTEM {
            // Every kind of object names its table alike.
            self.tables.extend(read::table_of(message)?);
        }
        Ok(())
    }

    fn lost(&mut self) {
        self.tables.clear();
        self.queue.push_back(Event::Overrun);
    }
}

#[cfg(test)]
mod tests;
