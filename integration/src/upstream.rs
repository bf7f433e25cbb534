//! What upstream's daemon sends to the kernel, message for message: written
//! down from the specification (B-1, B-20..B-37), not made with our own
//! encoder.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink::{Request, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTPROT_BOOT: u8 = 3;
const RT_TABLE_MAIN: u8 = 254;

/// A tunnel device as upstream makes it for one family.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// `flannel.1` or `flannel-v6.1`.
    pub name: &'static str,
    /// VXLAN id.
    pub vni: u32,
    /// Index of the underlay interface.
    pub parent: u32,
    /// The published address.
    pub local: IpAddr,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Requested MTU.
    pub mtu: u32,
}

/// A peer in one family.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The subnet.
    pub subnet: ipam::Subnet,
    /// The published address.
    pub public: IpAddr,
    /// Its device's Ethernet address.
    pub mac: [u8; 6],
}

/// A message under construction: what follows its header.
struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

// === impl Device ===

impl Device {
    /// Creates the device (B-21).
    ///
    /// # Errors
    /// The kernel's, among them that it exists already (B-23).
    pub fn create(&self, socket: &mut Socket) -> Result<()> {
        let mut data = Message::attributes();
        data.attr(1, &self.vni.to_ne_bytes());
        data.attr(3, &self.parent.to_ne_bytes());
        match self.local {
            IpAddr::V4(ip) => data.attr(4, &ip.octets()),
            IpAddr::V6(ip) => data.attr(17, &ip.octets()),
        }
        // ttl, tos, learning, proxy, rsc, l2miss, l3miss, zero checksums.
        for kind in [5, 6, 7, 11, 12, 13, 14, 19, 20] {
            data.attr(kind, &[0]);
        }
        let mut info = Message::attributes();
        info.attr(1, b"vxlan");
        info.attr(2, &data.body);
        let mut m =
            Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &[0; 16]);
        m.attr(3, &zero_terminated(self.name));
        m.attr(4, &self.mtu.to_ne_bytes());
        m.attr(13, &0u32.to_ne_bytes());
        m.attr(1, &self.mac);
        m.attr(18, &info.body);
        m.send(socket, "upstream: create the device")
    }

    /// Gives the device its address and sets it up (B-25).
    ///
    /// # Errors
    /// The kernel's.
    pub fn configure(
        &self,
        socket: &mut Socket,
        index: u32,
        own: ipam::Subnet,
    ) -> Result<()> {
        let (family, octets) = family_and_octets(own.base());
        let mut header = vec![family, host_len(own.base()), 0, 0];
        header.extend(index.to_ne_bytes());
        let mut m =
            Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header);
        m.attr(2, &octets);
        m.attr(1, &octets);
        m.send(socket, "upstream: add the tunnel address")?;

        let mut header = vec![0; 4];
        header.extend(index.to_ne_bytes());
        header.extend(IFF_UP.to_ne_bytes());
        header.extend(IFF_UP.to_ne_bytes());
        Message::new(RTM_SETLINK, 0, &header)
            .send(socket, "upstream: set the device up")
    }
}

// === impl Peer ===

impl Peer {
    /// Adds the peer: neighbour, forwarding entry, route (B-28).
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, socket: &mut Socket, index: u32) -> Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.neighbour(RTM_NEWNEIGH, flags, index)
            .send(socket, "upstream: add a neighbour")?;
        self.forwarding(RTM_NEWNEIGH, flags, index, NUD_PERMANENT)
            .send(socket, "upstream: add a forwarding entry")?;
        self.route(RTM_NEWROUTE, flags, index, RTPROT_BOOT, RTN_UNICAST)
            .send(socket, "upstream: replace a route")
    }

    /// Removes it (B-33, B-37).
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, socket: &mut Socket, index: u32) -> Result<()> {
        self.neighbour(RTM_DELNEIGH, 0, index)
            .send(socket, "upstream: delete a neighbour")?;
        self.forwarding(RTM_DELNEIGH, 0, index, 0)
            .send(socket, "upstream: delete a forwarding entry")?;
        self.route(RTM_DELROUTE, 0, index, 0, 0)
            .send(socket, "upstream: delete a route")
    }

    fn neighbour(&self, kind: u16, flags: u16, index: u32) -> Message {
        let (family, octets) = family_and_octets(self.subnet.base());
        let header = neighbour_header(family, index, NUD_PERMANENT, 0);
        let mut m = Message::new(kind, flags, &header);
        m.attr(1, &octets);
        m.attr(2, &self.mac);
        m
    }

    fn forwarding(
        &self,
        kind: u16,
        flags: u16,
        index: u32,
        state: u16,
    ) -> Message {
        let (_, octets) = family_and_octets(self.public);
        let header = neighbour_header(AF_BRIDGE, index, state, NTF_SELF);
        let mut m = Message::new(kind, flags, &header);
        m.attr(1, &octets);
        m.attr(2, &self.mac);
        m
    }

    fn route(
        &self,
        kind: u16,
        flags: u16,
        index: u32,
        protocol: u8,
        rtype: u8,
    ) -> Message {
        let (family, octets) = family_and_octets(self.subnet.base());
        let mut header = vec![
            family,
            self.subnet.len(),
            0,
            0,
            RT_TABLE_MAIN,
            protocol,
            0,
            rtype,
        ];
        header.extend(RTNH_F_ONLINK.to_ne_bytes());
        let mut m = Message::new(kind, flags, &header);
        m.attr(1, &octets);
        m.attr(5, &octets);
        m.attr(4, &index.to_ne_bytes());
        m
    }
}

// === impl Message ===

impl Message {
    /// Only attributes, to be nested in another message.
    const fn attributes() -> Self {
        Self { kind: 0, flags: 0, body: Vec::new() }
    }

    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        Self { kind, flags, body: header.to_vec() }
    }

    fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend(len.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn send(self, socket: &mut Socket, what: &str) -> Result<()> {
        socket
            .request(&Request::raw(what, self.kind, self.flags, &self.body))
            .context(what.to_owned())
    }
}

fn neighbour_header(family: u8, index: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![family, 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(state.to_ne_bytes());
    header.extend([flags, RTN_UNICAST]);
    header
}

fn zero_terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn family_and_octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (2, ip.octets().to_vec()),
        IpAddr::V6(ip) => (10, ip.octets().to_vec()),
    }
}

const fn host_len(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
