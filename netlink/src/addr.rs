//! Addresses on links.

use std::net::IpAddr;

use ipam::Family;

use crate::error::Error;
use crate::request::Request;
use crate::route::Scope;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{
    AF_UNSPEC, IFA_ADDRESS, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_LABEL,
    IFA_LOCAL, IFA_PROTO, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTM_DELADDR,
    RTM_GETADDR, RTM_NEWADDR,
};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, af, af_of, family, ip, string,
    u8_at, u32_at,
};

/// Length of `struct ifaddrmsg`.
const IFADDR: usize = 8;

/// An address to add or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrSpec {
    /// Index of the link.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
    /// Without duplicate address detection (IPv6): never tentative. Its
    /// local route, without which packets to it are not taken, and the
    /// `RTM_NEWADDR` event still come from a kernel worker a moment later.
    pub nodad: bool,
    /// Broadcast address (IPv4). The kernel sets none by itself.
    pub broadcast: Option<IpAddr>,
}

/// An address as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddrInfo {
    /// Index of the link.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub len: u8,
    /// The other end's address on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Where the address is valid.
    pub scope: Scope,
    /// Broadcast address.
    pub broadcast: Option<IpAddr>,
    /// Label (IPv4).
    pub label: Option<String>,
    /// Flags.
    pub flags: AddrFlags,
    /// Remaining valid lifetime in seconds; `None` is for ever.
    pub valid_lifetime: Option<u32>,
    /// Who set it (`IFAPROT_*`): 0 unknown, 1 loopback, 2 router
    /// advertisement, 3 link-local. Kernels before 5.18 do not say.
    pub protocol: u8,
}

/// An address's flags (`IFA_F_*`).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AddrFlags(u32);

// === reading ===

/// The addresses of one family or both, on one link or all.
///
/// # Errors
/// See [`Error`]; check [`Dump::complete`] before deleting anything.
/// [`Error::is_not_found`] when the link does not exist.
pub fn list(
    socket: &mut Socket,
    only: Option<Family>,
    index: Option<u32>,
) -> Result<Dump<AddrInfo>, Error> {
    let af = only.map_or(AF_UNSPEC, af);
    let message =
        Message::new(RTM_GETADDR, 0, &ifaddr(af, 0, 0, index.unwrap_or(0)));
    let object = match index {
        Some(index) => format!("list addresses of link {index}"),
        None => "list addresses".to_owned(),
    };
    let dump = socket.dump(&Request::new(object, message), decode)?;
    Ok(dump.filtered(|a| {
        index.is_none_or(|i| a.index == i)
            && only.is_none_or(|f| Family::of(a.ip) == f)
    }))
}

// === changing ===

/// Adds an address; refused (`EEXIST`) when it is there.
#[must_use]
pub fn add(spec: &AddrSpec) -> Request {
    write(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "add", spec, None)
}

/// Adds an address, or takes over the one that is there.
#[must_use]
pub fn replace(spec: &AddrSpec) -> Request {
    write(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, "set", spec, None)
}

/// Deletes an address; broadcast and flags are not looked at.
#[must_use]
pub fn delete(index: u32, ip: IpAddr, len: u8) -> Request {
    delete_pair(index, ip, None, len)
}

/// The same of one that has another end's address, see [`AddrInfo::peer`]:
/// without that, IPv4 does not find it.
#[must_use]
pub fn delete_pair(
    index: u32,
    ip: IpAddr,
    peer: Option<IpAddr>,
    len: u8,
) -> Request {
    let spec = AddrSpec { index, ip, len, nodad: false, broadcast: None };
    write(RTM_DELADDR, 0, "delete", &spec, peer)
}

fn write(
    kind: u16,
    flags: u16,
    verb: &str,
    spec: &AddrSpec,
    peer: Option<IpAddr>,
) -> Request {
    let AddrSpec { index, ip, len, nodad, broadcast } = *spec;
    let header = ifaddr(af_of(ip), len, 0, index);
    let mut message = Message::new(kind, flags, &header);
    message.ip(IFA_LOCAL, ip);
    message.ip(IFA_ADDRESS, peer.unwrap_or(ip));
    if let Some(broadcast) = broadcast {
        message.ip(IFA_BROADCAST, broadcast);
    }
    if nodad {
        message.u32(IFA_FLAGS, AddrFlags::NODAD);
    }
    let object = format!("{verb} address {ip}/{len} on link {index}");
    Request::new(object, message)
}

/// `struct ifaddrmsg`.
fn ifaddr(af: u8, len: u8, scope: u8, index: u32) -> [u8; IFADDR] {
    let [a, b, c, d] = index.to_ne_bytes();
    [af, len, 0, scope, a, b, c, d]
}

// === decoding ===

/// Reads an `RTM_NEWADDR` or `RTM_DELADDR`.
pub(crate) fn decode(
    message: &RawMessage<'_>,
) -> Result<Option<AddrInfo>, Malformed> {
    if !matches!(message.kind, RTM_NEWADDR | RTM_DELADDR) {
        return Ok(None);
    }
    const HEADER: Malformed = Malformed("address header");
    const WHAT: Malformed = Malformed("address attribute");
    let payload = message.payload;
    if family(u8_at(payload, 0).ok_or(HEADER)?).is_none() {
        return Ok(None);
    }
    let len = u8_at(payload, 1).ok_or(HEADER)?;
    let mut flags = u32::from(u8_at(payload, 2).ok_or(HEADER)?);
    let scope = Scope::from(u8_at(payload, 3).ok_or(HEADER)?);
    let index = u32_at(payload, 4).ok_or(HEADER)?;
    let (mut local, mut address, mut broadcast) = (None, None, None);
    let (mut label, mut valid_lifetime, mut protocol) = (None, None, 0);
    for attr in Attrs::after(payload, IFADDR)? {
        let (kind, value) = attr?;
        let addr = || ip(value).ok_or(WHAT).map(Some);
        match kind {
            IFA_LOCAL => local = addr()?,
            IFA_ADDRESS => address = addr()?,
            IFA_BROADCAST => broadcast = addr()?,
            IFA_LABEL => label = Some(string(value)),
            IFA_FLAGS => flags = u32_at(value, 0).ok_or(WHAT)?,
            IFA_PROTO => protocol = u8_at(value, 0).ok_or(WHAT)?,
            IFA_CACHEINFO => {
                // preferred lifetime, then valid lifetime
                let valid = u32_at(value, 4).ok_or(WHAT)?;
                valid_lifetime = Some(valid).filter(|v| *v != u32::MAX);
            }
            _ => {}
        }
    }
    // Without a local address, the address is the local one.
    let ip = local.or(address).ok_or(Malformed("address without one"))?;
    Ok(Some(AddrInfo {
        index,
        ip,
        len,
        peer: address.filter(|a| *a != ip),
        scope,
        broadcast,
        label,
        flags: AddrFlags(flags),
        valid_lifetime,
        protocol,
    }))
}

// === impl AddrFlags ===

impl AddrFlags {
    const SECONDARY: u32 = 0x01;
    const NODAD: u32 = 0x02;
    const DADFAILED: u32 = 0x08;
    const DEPRECATED: u32 = 0x20;
    const TENTATIVE: u32 = 0x40;
    const PERMANENT: u32 = 0x80;
    const MANAGETEMPADDR: u32 = 0x100;

    /// The number (`IFA_F_*`).
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// IPv4: another address of the same network came first. IPv6: a
    /// temporary (privacy) address.
    #[must_use]
    pub const fn secondary(self) -> bool {
        self.0 & Self::SECONDARY != 0
    }

    /// Excepted from duplicate address detection.
    #[must_use]
    pub const fn nodad(self) -> bool {
        self.0 & Self::NODAD != 0
    }

    /// Duplicate address detection found another holder: unusable.
    #[must_use]
    pub const fn dad_failed(self) -> bool {
        self.0 & Self::DADFAILED != 0
    }

    /// Not to be used for new connections.
    #[must_use]
    pub const fn deprecated(self) -> bool {
        self.0 & Self::DEPRECATED != 0
    }

    /// Duplicate address detection still runs: not usable yet.
    #[must_use]
    pub const fn tentative(self) -> bool {
        self.0 & Self::TENTATIVE != 0
    }

    /// Without a lifetime.
    #[must_use]
    pub const fn permanent(self) -> bool {
        self.0 & Self::PERMANENT != 0
    }

    /// The kernel makes temporary (privacy) addresses beside this one.
    #[must_use]
    pub const fn manages_temporary(self) -> bool {
        self.0 & Self::MANAGETEMPADDR != 0
    }
}

impl std::fmt::Debug for AddrFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
