//! Who hears whom.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netlink::NetNs;

const PORT: u16 = 4000;
/// How often it is tried before nothing can be expected any more.
const TRIES: usize = 100;
/// For how long an answer is waited each time.
const PAUSE: Duration = Duration::from_millis(200);

/// A place from which datagrams are sent and where they arrive.
#[derive(Debug)]
pub(crate) struct Place {
    ip: IpAddr,
    socket: UdpSocket,
}

// === impl Place ===

impl Place {
    /// The address `ip` in that namespace, or in the node's own.
    pub(crate) fn new(netns: Option<&NetNs>, ip: IpAddr) -> Self {
        let bind = || UdpSocket::bind((ip, PORT)).expect("bind");
        let socket = match netns {
            Some(netns) => netns.enter(bind).expect("enter"),
            None => bind(),
        };
        socket.set_read_timeout(Some(PAUSE)).unwrap();
        Self { ip, socket }
    }

    /// Sends one datagram; whether anybody gets it is another matter.
    fn send(&self, to: &Self, text: &[u8]) {
        // nobody may have answered who has the address
        let _ = self.socket.send_to(text, (to.ip, PORT));
    }

    /// The next datagram, if one comes.
    fn next(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buf = [0; 64];
        let (len, from) = self.socket.recv_from(&mut buf).ok()?;
        Some((buf[..len].to_vec(), from))
    }

    /// Whether `to` hears this place.
    pub(crate) fn reaches(&self, to: &Self) -> bool {
        (0..TRIES).any(|_| {
            self.send(to, b"hear");
            to.next().is_some_and(|(_, from)| from.ip() == self.ip)
        })
    }

    /// Asserts that `to` does not hear this place, though it hears `other`,
    /// which sends after it each time.
    pub(crate) fn is_apart_from(&self, to: &Self, other: &Self) {
        for _ in 0..5 {
            self.send(to, b"apart");
            let heard = (0..TRIES).any(|_| {
                other.send(to, b"hear");
                to.next().is_some_and(|(text, from)| {
                    let from = from.ip();
                    assert_ne!(text, b"apart", "{from} is heard by {}", to.ip);
                    from == other.ip
                })
            });
            assert!(heard, "{} does not hear {}", to.ip, other.ip);
        }
    }
}
