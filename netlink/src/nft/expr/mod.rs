//! What rules are made of.

use std::fmt;
use std::net::IpAddr;

use ipam::Subnet;

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(super) use decode::{Context, decode};
pub(super) use encode::encode;

/// One condition or statement of a rule: what `nft` writes as one, several
/// expressions in the kernel's terms. Reading gives the same value for
/// every form in which `nft` and this crate write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// The packet's address lies in a network, or does not (`ip saddr`). In
    /// an `inet` table an [`Expr::NfProto`] must precede it.
    Address {
        /// Which address.
        side: Side,
        /// Inside or not.
        op: Op,
        /// The network.
        net: Subnet,
    },
    /// The packet's mark under a mask (`meta mark`). `nft` writes a mask of
    /// all ones by leaving it out.
    Mark {
        /// Bits that count.
        mask: u32,
        /// Same or not.
        op: Op,
        /// What they are compared with.
        value: u32,
    },
    /// Sets these bits in the packet's mark (`meta mark set meta mark or`).
    AddMark(u32),
    /// The name of the interface it came in by (`iifname`).
    InInterface(Op, String),
    /// The name of the interface it leaves by (`oifname`).
    OutInterface(Op, String),
    /// The Ethernet address it comes from, in `bridge` tables
    /// (`ether saddr`).
    EtherSource(Op, crate::link::Mac),
    /// IPv4 or IPv6, in `inet` tables (`meta nfproto`).
    NfProto(ipam::Family),
    /// The transport protocol's number, such as 6 for TCP (`meta l4proto`).
    L4Proto(Op, u8),
    /// The port in a TCP, UDP, UDP-Lite, DCCP or SCTP header (`th dport`). An
    /// [`Expr::L4Proto`] should precede it.
    Port {
        /// Which port.
        side: Side,
        /// Same or not.
        op: Op,
        /// What it is compared with.
        port: u16,
    },
    /// Connection tracking has the connection in one of these states:
    /// `CT_*` or'ed (`ct state`).
    CtState(u32),
    /// The connection has one of these marks of connection tracking:
    /// `CT_STATUS_*` or'ed (`ct status`).
    CtStatus(u32),
    /// The destination is, or is not, an address of this machine
    /// (`fib daddr type local`).
    ToLocal(Op),
    /// Counts packets and bytes (`counter`). The counts are in
    /// [`RuleInfo`](super::RuleInfo).
    Counter,
    /// Decides about the packet.
    Verdict(Verdict),
    /// The source address becomes that of the interface it leaves by, in
    /// `nat` chains at postrouting (`masquerade`).
    Masquerade(NatFlags),
    /// The destination becomes another, in `nat` chains at prerouting and
    /// output (`dnat to`).
    Dnat {
        /// The new address.
        to: IpAddr,
        /// The new port.
        port: Option<u16>,
        /// How ports are chosen.
        flags: NatFlags,
    },
    /// Anything else, in the kernel's form.
    Raw(RawExpr),
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Source
    Source,
    /// Destination
    Destination,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Holds when equal (inside).
    Is,
    /// Holds when not equal (outside).
    IsNot,
}

/// A decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this hook's chain; others may still drop it.
    Accept,
    /// It is dropped.
    Drop,
    /// Back to the calling chain, or to the base chain's policy.
    Return,
    /// To another chain of the table, and back after its end.
    Jump(String),
    /// To another chain of the table for good.
    Goto(String),
}

/// How address translation chooses ports (`NF_NAT_RANGE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatFlags {
    /// At random from a hash (`random`).
    pub random: bool,
    /// At random (`fully-random`; Linux 3.14).
    pub fully_random: bool,
    /// The same address for a client always (`persistent`).
    pub persistent: bool,
}

/// An expression in the kernel's form.
#[derive(Clone, PartialEq, Eq)]
pub struct RawExpr {
    /// The kernel's name for it, such as `lookup`.
    pub name: String,
    /// Its attributes; `None` when it has none at all.
    pub attrs: Option<Vec<u8>>,
}

// === impl Expr ===

impl Expr {
    /// The source lies in `net`.
    #[must_use]
    pub const fn from(net: Subnet) -> Self {
        Self::Address { side: Side::Source, op: Op::Is, net }
    }

    /// The source lies outside `net`.
    #[must_use]
    pub const fn not_from(net: Subnet) -> Self {
        Self::Address { side: Side::Source, op: Op::IsNot, net }
    }

    /// The destination lies in `net`.
    #[must_use]
    pub const fn to(net: Subnet) -> Self {
        Self::Address { side: Side::Destination, op: Op::Is, net }
    }

    /// The destination lies outside `net`.
    #[must_use]
    pub const fn not_to(net: Subnet) -> Self {
        Self::Address { side: Side::Destination, op: Op::IsNot, net }
    }

    /// The bits of `mask` in the packet's mark are those of `value`.
    #[must_use]
    pub const fn mark(value: u32, mask: u32) -> Self {
        Self::Mark { mask, op: Op::Is, value }
    }

    /// `accept`
    #[must_use]
    pub const fn accept() -> Self {
        Self::Verdict(Verdict::Accept)
    }

    /// `return`
    #[must_use]
    pub const fn ret() -> Self {
        Self::Verdict(Verdict::Return)
    }

    /// `masquerade`, with `fully-random` or without.
    #[must_use]
    pub const fn masquerade(fully_random: bool) -> Self {
        let random = false;
        Self::Masquerade(NatFlags { random, fully_random, persistent: false })
    }
}

/// Nearly as `nft` would write it.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { side, op, net } => {
                let ip = match net.family() {
                    ipam::Family::V4 => "ip",
                    ipam::Family::V6 => "ip6",
                };
                let side = match side {
                    Side::Source => "saddr",
                    Side::Destination => "daddr",
                };
                write!(f, "{ip} {side} {op}{net}")
            }
            Self::Mark { mask: u32::MAX, op, value } => {
                write!(f, "meta mark {op}{value:#010x}")
            }
            Self::Mark { mask, op, value } => {
                let op = if *op == Op::Is { "==" } else { "!=" };
                write!(f, "meta mark & {mask:#010x} {op} {value:#010x}")
            }
            Self::AddMark(bits) => {
                write!(f, "meta mark set meta mark | {bits:#010x}")
            }
            Self::InInterface(op, name) => write!(f, "iifname {op}{name:?}"),
            Self::OutInterface(op, name) => write!(f, "oifname {op}{name:?}"),
            Self::EtherSource(op, mac) => {
                let [a, b, c, d, e, last] = mac;
                write!(
                    f,
                    "ether saddr {op}{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:\
                     {last:02x}"
                )
            }
            Self::NfProto(ipam::Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::NfProto(ipam::Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::L4Proto(op, number) => {
                write!(f, "meta l4proto {op}{number}")
            }
            Self::Port { side: Side::Source, op, port } => {
                write!(f, "th sport {op}{port}")
            }
            Self::Port { side: Side::Destination, op, port } => {
                write!(f, "th dport {op}{port}")
            }
            Self::CtState(bits) => write!(f, "ct state {bits:#x}"),
            Self::CtStatus(bits) => write!(f, "ct status {bits:#x}"),
            Self::ToLocal(op) => write!(f, "fib daddr type {op}local"),
            Self::Counter => f.write_str("counter"),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Masquerade(flags) => write!(f, "masquerade{flags}"),
            Self::Dnat { to, port: None, flags } => {
                write!(f, "dnat to {to}{flags}")
            }
            Self::Dnat { to, port: Some(port), flags } => {
                let to = std::net::SocketAddr::new(*to, *port);
                write!(f, "dnat to {to}{flags}")
            }
            Self::Raw(raw) => write!(f, "[{}]", raw.name),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is => "",
            Self::IsNot => "!= ",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for NatFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, name) in [
            (self.random, " random"),
            (self.fully_random, " fully-random"),
            (self.persistent, " persistent"),
        ] {
            if set {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RawExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.name)?;
        for byte in self.attrs.iter().flatten() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("]")
    }
}

/// Expressions in order, separated by spaces.
pub(super) fn list(exprs: &[Expr], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, expr) in exprs.iter().enumerate() {
        let space = if i == 0 { "" } else { " " };
        write!(f, "{space}{expr}")?;
    }
    Ok(())
}
