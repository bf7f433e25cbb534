//! Veth pairs: two links, each the other's cable end.

use super::{Mac, ifinfo};
use crate::netns::NetNs;
use crate::request::Request;
use crate::wire::Message;
use crate::wire::uapi::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES, IFLA_TXQLEN, NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK,
    VETH_INFO_PEER,
};

/// A veth pair to create: this end in the socket's namespace, the other where
/// [`VethSpec::peer_namespace`] says.
#[derive(Clone, Debug)]
pub struct VethSpec {
    /// This end.
    pub end: VethEnd,
    /// Index of the bridge this end becomes a port of.
    pub master: Option<u32>,
    /// This end is created administratively up.
    pub up: bool,
    /// The other end. It cannot be created up: the kernel answers `ENOTCONN`.
    pub peer: VethEnd,
    /// Where the other end is created; `None` is the socket's namespace.
    pub peer_namespace: Option<NetNs>,
}

/// One end of a veth pair to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: String,
    /// MTU in bytes; `None` is 1500.
    pub mtu: Option<u32>,
    /// Its Ethernet address; `None` is a random one.
    pub mac: Option<Mac>,
    /// Transmit queue length in packets; `None` is 1000.
    pub txqlen: Option<u32>,
    /// How many queues it can have in each direction. `None` is as many as the
    /// machine can have processors (since Linux 5.16), each of them with a
    /// folder in sysfs that is made and taken away again: the kernel uses one
    /// of them until it is told otherwise (`ethtool --set-channels`).
    pub queues: Option<u32>,
}

/// Creates the pair in one message; refused (`EEXIST`) when one of the names
/// is taken. The alias cannot be set here (the kernel ignores it): use
/// [`set`](super::set).
#[must_use]
pub fn add(spec: &VethSpec) -> Request {
    let flags = if spec.up { IFF_UP } else { 0 };
    let mut message = Message::new(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &ifinfo(0, flags, flags),
    );
    spec.end.write(&mut message);
    if let Some(master) = spec.master {
        message.u32(IFLA_MASTER, master);
    }
    message.nest(IFLA_LINKINFO, |m| {
        m.str(IFLA_INFO_KIND, "veth");
        m.nest(IFLA_INFO_DATA, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&ifinfo(0, 0, 0));
                spec.peer.write(m);
                if let Some(namespace) = &spec.peer_namespace {
                    m.u32(IFLA_NET_NS_FD, namespace.fd_number());
                }
            });
        });
    });
    let place = spec
        .peer_namespace
        .as_ref()
        .map(|ns| format!(" in {}", ns.name()))
        .unwrap_or_default();
    let object = format!(
        "create veth pair {} and {}{place}",
        spec.end.name, spec.peer.name
    );
    Request::new(object, message).holding(spec.peer_namespace.as_ref())
}

// === impl VethEnd ===

impl VethEnd {
    fn write(&self, m: &mut Message) {
        m.str(IFLA_IFNAME, &self.name);
        if let Some(mtu) = self.mtu {
            m.u32(IFLA_MTU, mtu);
        }
        if let Some(mac) = self.mac {
            m.bytes(IFLA_ADDRESS, &mac);
        }
        if let Some(txqlen) = self.txqlen {
            m.u32(IFLA_TXQLEN, txqlen);
        }
        if let Some(queues) = self.queues {
            m.u32(IFLA_NUM_TX_QUEUES, queues);
            m.u32(IFLA_NUM_RX_QUEUES, queues);
        }
    }
}
