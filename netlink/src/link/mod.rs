//! Links: reading them, and changes that apply to every kind. The kinds this
//! project creates are in [`vxlan`], [`bridge`] and [`veth`].

use nix::errno::Errno;

use crate::error::Error;
use crate::netns::NetNs;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::Message;
use crate::wire::uapi::{
    AF_INET, AF_UNSPEC, DEVCONF_ARP_NOTIFY, IFF_ALLMULTI, IFF_LOWER_UP,
    IFF_PROMISC, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE, IFLA_EXT_MASK, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INET_CONF,
    IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO,
    IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_TXQLEN,
    RTEXT_FILTER_SKIP_STATS, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK,
};

pub mod bridge;
mod decode;
pub mod ifb;
pub mod veth;
pub mod vxlan;

pub(crate) use decode::decode;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A network interface as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kernel's name of its kind (`vxlan`, `bridge`, `veth`); `None` for
    /// physical devices and the loopback.
    pub kind: Option<String>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub txqlen: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// All flags (`IFF_*`).
    pub flags: u32,
    /// Operational state.
    pub operstate: OperState,
    /// Index of the bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// Its alias (`ip link set alias`).
    pub alias: Option<String>,
    /// Index of the device it stands on, or of a veth's peer. Counted in the
    /// namespace `peer_netns` if that is set.
    pub peer: Option<u32>,
    /// The peer's namespace, as this namespace's number for it.
    pub peer_netns: Option<i32>,
    /// Whether it listens to IPv6 routers (`accept_ra`); `None` where it has
    /// no IPv6, as with an MTU below 1280.
    pub accept_ra: Option<u32>,
    /// Attributes of a vxlan device.
    pub vxlan: Option<vxlan::VxlanInfo>,
    /// Attributes of a bridge.
    pub bridge: Option<bridge::BridgeInfo>,
    /// Attributes of a bridge port.
    pub port: Option<bridge::PortInfo>,
}

/// Operational state of a link (RFC 2863, `IF_OPER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; the loopback and TUN devices are so for ever.
    Unknown,
    /// Cannot pass packets.
    Down,
    /// The link below is down.
    LowerLayerDown,
    /// Passes packets.
    Up,
    /// Another state, by number.
    Other(u8),
}

/// Which links to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Only those of this kind.
    pub kind: Option<&'a str>,
    /// Only ports of this bridge.
    pub master: Option<u32>,
}

/// Changes to one link; what is not called stays. Sent as one message, in
/// which the kernel sets a port's flags, the MTU, the address, the name, the master, the
/// flags in its own order. A refused one may leave some of them done.
#[derive(Clone, Debug)]
#[must_use = "build() makes the request"]
pub struct Set {
    index: u32,
    flags: u32,
    changed: u32,
    message: Vec<(u16, Value)>,
    namespace: Option<NetNs>,
}

#[derive(Clone, Debug)]
enum Value {
    U32(u32),
    Text(String),
    Mac(Mac),
    Port { hairpin: bool, isolated: bool },
    Inet(u16, u32),
}

// === reading ===

/// All links that pass the filter.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
pub fn list(
    socket: &mut Socket,
    filter: Filter<'_>,
) -> Result<Dump<LinkInfo>, Error> {
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
    message.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    if let Some(master) = filter.master {
        message.u32(IFLA_MASTER, master);
    }
    if let Some(kind) = filter.kind {
        message.nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, kind));
    }
    let dump = socket.dump(&Request::new("list links", message), decode)?;
    Ok(dump.filtered(|link| {
        filter.kind.is_none_or(|k| link.kind.as_deref() == Some(k))
            && filter.master.is_none_or(|m| link.master == Some(m))
    }))
}

/// The link of that name.
///
/// # Errors
/// [`Error::is_not_found`] when there is none.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<LinkInfo, Error> {
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
    message.str(IFLA_IFNAME, name);
    message.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    socket.get(&Request::new(format!("link {name}"), message), decode)
}

/// The link with that index.
///
/// # Errors
/// [`Error::is_not_found`] when there is none.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<LinkInfo, Error> {
    let object = format!("link with index {index}");
    if index == 0 {
        return Err(Error::Refused {
            object,
            errno: Errno::ENODEV,
            kernel: None,
        });
    }
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfo(index, 0, 0));
    message.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    socket.get(&Request::new(object, message), decode)
}

// === changing ===

/// Changes to the link with that index: `link::set(7).mtu(1450).up().build()`.
pub const fn set(index: u32) -> Set {
    Set { index, flags: 0, changed: 0, message: Vec::new(), namespace: None }
}

/// Changes to the link of that name: for one that is created in the same
/// window, whose index nobody knows yet. Its name cannot be changed.
pub fn set_named(name: &str) -> Set {
    set(0).with(IFLA_IFNAME, Value::Text(name.to_owned()))
}

/// Deletes the link with that index.
#[must_use]
pub fn delete(index: u32) -> Request {
    let message = Message::new(RTM_DELLINK, 0, &ifinfo(index, 0, 0));
    Request::new(format!("delete link with index {index}"), message)
}

/// Deletes the link of that name.
#[must_use]
pub fn delete_by_name(name: &str) -> Request {
    let mut message = Message::new(RTM_DELLINK, 0, &ifinfo(0, 0, 0));
    message.str(IFLA_IFNAME, name);
    Request::new(format!("delete link {name}"), message)
}

/// `struct ifinfomsg`: the flags and which of them are meant.
pub(crate) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    let fields = [0u32, index, flags, change];
    for (place, field) in header.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    debug_assert_eq!(header.first(), Some(&AF_UNSPEC));
    header
}

// === impl LinkInfo ===

impl LinkInfo {
    /// The link below is there (`IFF_LOWER_UP`): a cable, a veth's other end
    /// being up.
    #[must_use]
    pub const fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    /// Somebody has made it promiscuous by its flags.
    #[must_use]
    pub const fn is_promiscuous(&self) -> bool {
        self.flags & IFF_PROMISC != 0
    }

    /// Somebody has made it take all multicast by its flags.
    #[must_use]
    pub const fn takes_all_multicast(&self) -> bool {
        self.flags & IFF_ALLMULTI != 0
    }
}

// === impl Set ===

impl Set {
    /// Administratively up.
    pub const fn up(self) -> Self {
        self.flag(IFF_UP, true)
    }

    /// Administratively down.
    pub const fn down(self) -> Self {
        self.flag(IFF_UP, false)
    }

    /// Promiscuous: takes frames for any address. The kernel counts who wants
    /// it; this is one of them.
    pub const fn promiscuous(self, on: bool) -> Self {
        self.flag(IFF_PROMISC, on)
    }

    /// Takes frames for any group. Counted as well.
    pub const fn all_multicast(self, on: bool) -> Self {
        self.flag(IFF_ALLMULTI, on)
    }

    const fn flag(mut self, flag: u32, on: bool) -> Self {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
        self.changed |= flag;
        self
    }

    /// MTU in bytes.
    pub fn mtu(self, mtu: u32) -> Self {
        self.with(IFLA_MTU, Value::U32(mtu))
    }

    /// Ethernet address.
    pub fn mac(self, mac: Mac) -> Self {
        self.with(IFLA_ADDRESS, Value::Mac(mac))
    }

    /// Makes it a port of the bridge with that index; `None` takes it out.
    pub fn master(self, bridge: Option<u32>) -> Self {
        self.with(IFLA_MASTER, Value::U32(bridge.unwrap_or(0)))
    }

    /// Alias: a text of at most 255 bytes. An empty one removes it.
    pub fn alias(self, alias: &str) -> Self {
        self.with(IFLA_IFALIAS, Value::Text(alias.to_owned()))
    }

    /// The flags of a bridge port: `hairpin` lets frames leave by the port
    /// they came in by, `isolated` keeps them from other isolated ports. The
    /// link must be a port already.
    pub fn port(self, hairpin: bool, isolated: bool) -> Self {
        self.with(IFLA_LINKINFO, Value::Port { hairpin, isolated })
    }

    /// Makes the kernel announce the link's IPv4 addresses when it comes up or
    /// gets another Ethernet address (`arp_notify`). In a message that also
    /// sets it up this comes after.
    pub fn arp_notify(self) -> Self {
        self.with(IFLA_AF_SPEC, Value::Inet(DEVCONF_ARP_NOTIFY, 1))
    }

    /// Transmit queue length in packets.
    pub fn txqlen(self, packets: u32) -> Self {
        self.with(IFLA_TXQLEN, Value::U32(packets))
    }

    /// Another name. Most kernels want the link down for it.
    pub fn name(self, name: &str) -> Self {
        self.with(IFLA_IFNAME, Value::Text(name.to_owned()))
    }

    /// Moves it to another namespace, where it is down and has another index.
    pub fn namespace(mut self, namespace: &NetNs) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// The request.
    #[must_use]
    pub fn build(self) -> Request {
        let header = ifinfo(self.index, self.flags, self.changed);
        // RTM_NEWLINK without CREATE: a port's flags in RTM_SETLINK would be
        // accepted and ignored (rust-ecosystem.md A.3, trap 2).
        let mut message = Message::new(RTM_NEWLINK, 0, &header);
        for (attr, value) in &self.message {
            match value {
                Value::U32(value) => message.u32(*attr, *value),
                Value::Text(value) => message.str(*attr, value),
                Value::Mac(value) => message.bytes(*attr, value),
                Value::Inet(number, value) => message.nest(*attr, |m| {
                    m.nest(AF_INET.into(), |m| {
                        m.nest(IFLA_INET_CONF, |m| m.u32(*number, *value));
                    });
                }),
                Value::Port { hairpin, isolated } => message.nest(*attr, |m| {
                    m.str(IFLA_INFO_SLAVE_KIND, "bridge");
                    m.nest(IFLA_INFO_SLAVE_DATA, |m| {
                        m.u8(IFLA_BRPORT_MODE, (*hairpin).into());
                        m.u8(IFLA_BRPORT_ISOLATED, (*isolated).into());
                    });
                }),
            }
        }
        if let Some(namespace) = &self.namespace {
            message.u32(IFLA_NET_NS_FD, namespace.fd_number());
        }
        let object = match self.message.first() {
            Some((IFLA_IFNAME, Value::Text(name))) if self.index == 0 => {
                format!("change link {name}")
            }
            _ => format!("change link with index {}", self.index),
        };
        Request::new(object, message).holding(self.namespace.as_ref())
    }

    fn with(mut self, attr: u16, value: Value) -> Self {
        self.message.push((attr, value));
        self
    }
}
