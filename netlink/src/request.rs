use std::fmt;

use crate::fdb;
use crate::link::Mac;
use crate::neigh::NeighSpec;
use crate::netns::NetNs;
use crate::nexthop::NexthopSpec;
use crate::route::RouteSpec;
use crate::wire::Message;
use crate::wire::uapi::NLM_F_REQUEST;

/// One change to the kernel, ready to be sent: the encoded message and the
/// object's name for error messages. Made by the constructors of `link`,
/// `addr`, `route`, `nexthop`, `neigh` and `fdb`; sent by
/// [`Socket::request`](crate::Socket::request) and
/// [`Socket::batch`](crate::Socket::batch).
#[derive(Clone)]
pub struct Request {
    object: Object,
    message: Vec<u8>,
    /// Namespaces whose descriptor the message holds: open until it is sent.
    _namespaces: Vec<NetNs>,
}

/// What a request is about. A pass makes thousands of requests for peers, of
/// which hardly one fails: only that one is put into words. Each of these has
/// its verb.
#[derive(Clone)]
pub(crate) enum Object {
    Text(String),
    Fdb(&'static str, u32, Mac),
    Neigh(&'static str, NeighSpec),
    Nexthop(&'static str, NexthopSpec),
    Route(&'static str, RouteSpec),
}

// === impl Object ===

impl From<String> for Object {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Object {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Fdb(verb, index, mac) => {
                f.write_str(&fdb::describe(verb, *index, *mac))
            }
            Self::Neigh(verb, NeighSpec { index, ip, .. }) => {
                write!(f, "{verb} neighbour {ip} on link {index}")
            }
            Self::Nexthop(verb, NexthopSpec { id, oif, gateway, .. }) => {
                write!(f, "{verb} nexthop {id} via {gateway} on link {oif}")
            }
            Self::Route(verb, spec) => {
                write!(f, "{verb} route {}", spec.describe())
            }
        }
    }
}

// === impl Request ===

impl Request {
    pub(crate) fn new(object: impl Into<Object>, message: Message) -> Self {
        Self {
            object: object.into(),
            message: message.finish(),
            _namespaces: Vec::new(),
        }
    }

    /// The same with a namespace its message refers to.
    pub(crate) fn holding(mut self, namespace: Option<&NetNs>) -> Self {
        self._namespaces.extend(namespace.cloned());
        self
    }

    /// What is asked for, with the object's identity.
    #[must_use]
    pub fn object(&self) -> String {
        self.object.to_string()
    }

    /// The message as it is sent, but for sequence number and the request for
    /// an acknowledgement.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// A request of any kind: message type and flags of `struct nlmsghdr`,
    /// and all that follows it. For programs that must send another program's
    /// exact bytes, such as tests that play upstream's daemon.
    #[must_use]
    pub fn raw(
        object: impl Into<String>,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Self {
        Self::new(object.into(), Message::new(kind, flags, body))
    }

    /// Appends the message with this sequence number and these flags added.
    pub(crate) fn append_to(&self, buf: &mut Vec<u8>, seq: u32, flags: u16) {
        let start = buf.len();
        buf.extend_from_slice(&self.message);
        buf.resize(buf.len().next_multiple_of(4), 0);
        let len = u32::try_from(self.message.len()).unwrap_or(u32::MAX);
        let own = crate::wire::u16_at(&self.message, 6).unwrap_or_default();
        let flags = own | flags | NLM_F_REQUEST;
        for (at, bytes) in [
            (0, &len.to_ne_bytes()[..]),
            (6, &flags.to_ne_bytes()[..]),
            (8, &seq.to_ne_bytes()[..]),
        ] {
            let at = start + at;
            if let Some(place) = buf.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("object", &self.object())
            .field("bytes", &self.message.len())
            .finish()
    }
}
