//! Notifications about changes to links, addresses, routes, neighbours and
//! nexthop objects.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::addr::AddrInfo;
use crate::error::Error;
use crate::fdb::FdbInfo;
use crate::link::LinkInfo;
use crate::neigh::NeighInfo;
use crate::netns::NetNs;
use crate::nexthop::NexthopInfo;
use crate::route::RouteInfo;
use crate::socket::open_in;
use crate::wire::uapi::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELNEXTHOP, RTM_DELROUTE,
    RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWNEXTHOP, RTM_NEWROUTE,
    RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_NEXTHOP,
};
use crate::wire::{Malformed, Messages, RawMessage};
use crate::{addr, fdb, link, neigh, nexthop, route};

mod listener;

pub use listener::Waker;
pub(crate) use listener::{Heard, Listener};

const OBJECT: &str = "netlink monitor";

/// Room for unread notifications, in bytes: some 5,000 peers' worth of
/// changes at once.
const RECV_BUFFER: usize = 8 * 1024 * 1024;

/// Listens to one namespace's notifications.
#[derive(Debug)]
pub struct Monitor {
    listener: Listener,
    queue: VecDeque<Event>,
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One object was set or deleted.
    Object {
        /// Which, as it was after the change or before its deletion.
        object: Object,
        /// It is gone.
        deleted: bool,
        /// Port of the socket whose request caused it
        /// ([`Socket::port`](crate::Socket::port)). 0 when the kernel acted
        /// by itself, but also, whoever asked, for forwarding entries, IPv6
        /// addresses and most changes to links: a hint, no proof.
        port: u32,
    },
    /// Notifications were lost or could not be read: everything may have
    /// changed and has to be read again.
    Overrun,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A link.
    Link(Box<LinkInfo>),
    /// An address.
    Addr(AddrInfo),
    /// A route. IPv4 sends no event for routes that vanish with their link or
    /// nexthop object.
    Route(Box<RouteInfo>),
    /// A neighbour entry. A deleted one has lost its Ethernet address.
    Neigh(NeighInfo),
    /// A forwarding entry.
    Fdb(FdbInfo),
    /// A nexthop object.
    Nexthop(NexthopInfo),
}

/// A kind of notification to subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Links.
    Links,
    /// Addresses of both families.
    Addrs,
    /// Routes of both families.
    Routes,
    /// Neighbour and forwarding entries.
    Neighs,
    /// Nexthop objects. Kernels before 5.3 have none and send nothing.
    Nexthops,
}

// === impl Monitor ===

impl Monitor {
    /// Starts listening in the calling thread's namespace. Read the state
    /// after this, not before: nothing falls between then.
    ///
    /// # Errors
    /// [`Error::Socket`] when the system refuses the socket or its options.
    pub fn open(groups: &[Group]) -> Result<Self, Error> {
        Self::with_buffer(groups, RECV_BUFFER)
    }

    /// Starts listening in `namespace`.
    ///
    /// # Errors
    /// As [`Monitor::open`], or when the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs, groups: &[Group]) -> Result<Self, Error> {
        open_in(namespace, OBJECT, || Self::open(groups))
    }

    /// As [`Monitor::open`] with room for `bytes` of unread notifications.
    /// Without `CAP_NET_ADMIN` the system's limit (`net.core.rmem_max`)
    /// holds.
    ///
    /// # Errors
    /// As [`Monitor::open`].
    pub fn with_buffer(groups: &[Group], bytes: usize) -> Result<Self, Error> {
        let mut listener = Listener::open(OBJECT, NETLINK_ROUTE, bytes)?;
        for group in groups.iter().flat_map(|g| g.numbers()) {
            match listener.join(*group) {
                // A kernel without nexthop objects has no such group.
                Err(e)
                    if *group == RTNLGRP_NEXTHOP
                        && e.errno() == Some(Errno::EINVAL) => {}
                joined => joined?,
            }
        }
        Ok(Self { listener, queue: VecDeque::new() })
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
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            match self.listener.hear(deadline)? {
                Heard::Datagram(datagram) => read(datagram, &mut self.queue),
                Heard::Lost => self.queue.push_back(Event::Overrun),
                Heard::Nothing => return Ok(None),
            }
        }
    }
}

// === impl Group ===

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Links, Self::Addrs, Self::Routes, Self::Neighs, Self::Nexthops];

    const fn numbers(self) -> &'static [u32] {
        match self {
            Self::Links => &[RTNLGRP_LINK],
            Self::Addrs => &[RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR],
            Self::Routes => &[RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE],
            Self::Neighs => &[RTNLGRP_NEIGH],
            Self::Nexthops => &[RTNLGRP_NEXTHOP],
        }
    }
}

// === decoding ===

/// Appends a datagram's events.
pub(crate) fn read(datagram: &[u8], queue: &mut VecDeque<Event>) {
    for message in Messages::new(datagram) {
        match message.and_then(|m| event(&m)) {
            Ok(Some(event)) => queue.push_back(event),
            Ok(None) => {}
            Err(Malformed(_)) => queue.push_back(Event::Overrun),
        }
    }
}

/// `None`: nothing this crate reads, such as a bridge's port message.
fn event(message: &RawMessage<'_>) -> Result<Option<Event>, Malformed> {
    let object = match message.kind {
        RTM_NEWLINK | RTM_DELLINK => {
            link::decode(message)?.map(|l| Object::Link(Box::new(l)))
        }
        RTM_NEWADDR | RTM_DELADDR => addr::decode(message)?.map(Object::Addr),
        RTM_NEWROUTE | RTM_DELROUTE => {
            route::decode(message)?.map(|r| Object::Route(Box::new(r)))
        }
        RTM_NEWNEIGH | RTM_DELNEIGH => match neigh::decode(message)? {
            Some(neigh) => Some(Object::Neigh(neigh)),
            None => fdb::decode(message)?.map(Object::Fdb),
        },
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            nexthop::decode(message)?.map(Object::Nexthop)
        }
        _ => None,
    };
    let deleted = matches!(
        message.kind,
        RTM_DELLINK
            | RTM_DELADDR
            | RTM_DELROUTE
            | RTM_DELNEIGH
            | RTM_DELNEXTHOP
    );
    Ok(object.map(|object| Event::Object {
        object,
        deleted,
        port: message.port,
    }))
}

#[cfg(test)]
mod tests;
