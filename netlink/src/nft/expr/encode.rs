//! Writing expressions, in the form in which `nft` writes them.

use std::net::IpAddr;

use ipam::Subnet;

use super::super::uapi::*;
use super::{Expr, NatFlags, Op, Side, Verdict};
use crate::wire::{Message, af, af_of};

/// Interface names are compared with their padding.
pub(super) const IFNAMSIZ: usize = 16;

/// Offsets of source and destination address in the network header and their
/// length.
pub(super) const fn address_at(family: ipam::Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (ipam::Family::V4, Side::Source) => (12, 4),
        (ipam::Family::V4, Side::Destination) => (16, 4),
        (ipam::Family::V6, Side::Source) => (8, 16),
        (ipam::Family::V6, Side::Destination) => (24, 16),
    }
}

/// Appends `exprs` as `NFTA_RULE_EXPRESSIONS`.
pub(in super::super) fn encode(message: &mut Message, exprs: &[Expr]) {
    message.nest(NFTA_RULE_EXPRESSIONS, |m| {
        for expr in exprs {
            one(m, expr);
        }
    });
}

fn one(m: &mut Message, expr: &Expr) {
    match expr {
        Expr::Address { side, op, net } => address(m, *side, *op, net),
        Expr::Mark { mask, op, value } => {
            meta(m, NFT_META_MARK);
            if *mask != u32::MAX {
                bitwise(m, &mask.to_ne_bytes());
            }
            cmp(m, *op, &value.to_ne_bytes());
        }
        Expr::AddMark(bits) => {
            meta(m, NFT_META_MARK);
            bitwise_xor(m, &(!bits).to_ne_bytes(), &bits.to_ne_bytes());
            expression(m, "meta", |m| {
                m.u32_be(NFTA_META_KEY, NFT_META_MARK);
                m.u32_be(NFTA_META_SREG, NFT_REG_1);
            });
        }
        Expr::InInterface(op, name) => {
            interface(m, NFT_META_IIFNAME, *op, name)
        }
        Expr::OutInterface(op, name) => {
            interface(m, NFT_META_OIFNAME, *op, name);
        }
        Expr::EtherSource(op, mac) => {
            payload(m, NFT_PAYLOAD_LL_HEADER, ETHER_SOURCE, 6);
            cmp(m, *op, mac);
        }
        Expr::NfProto(family) => {
            meta(m, NFT_META_NFPROTO);
            cmp(m, Op::Is, &[af(*family)]);
        }
        Expr::L4Proto(op, number) => {
            meta(m, NFT_META_L4PROTO);
            cmp(m, *op, &[*number]);
        }
        Expr::Port { side, op, port } => {
            let offset = match side {
                Side::Source => 0,
                Side::Destination => 2,
            };
            payload(m, NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2);
            cmp(m, *op, &port.to_be_bytes());
        }
        Expr::CtState(bits) => ct(m, NFT_CT_STATE, *bits),
        Expr::CtStatus(bits) => ct(m, NFT_CT_STATUS, *bits),
        Expr::ToLocal(op) => {
            expression(m, "fib", |m| {
                m.u32_be(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
                m.u32_be(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                m.u32_be(NFTA_FIB_DREG, NFT_REG_1);
            });
            cmp(m, *op, &RTN_LOCAL.to_ne_bytes());
        }
        Expr::Counter => expression(m, "counter", |m| {
            m.bytes(NFTA_COUNTER_BYTES, &[0; 8]);
            m.bytes(NFTA_COUNTER_PACKETS, &[0; 8]);
        }),
        Expr::Verdict(verdict) => self::verdict(m, verdict),
        Expr::Masquerade(flags) => expression(m, "masq", |m| {
            if *flags != NatFlags::default() {
                m.u32_be(NFTA_MASQ_FLAGS, flags.bits());
            }
        }),
        Expr::Dnat { to, port, flags } => dnat(m, *to, *port, *flags),
        Expr::Raw(raw) => m.nest(NFTA_LIST_ELEM, |m| {
            m.str(NFTA_EXPR_NAME, &raw.name);
            if let Some(attrs) = &raw.attrs {
                m.nest(NFTA_EXPR_DATA, |m| m.raw(attrs));
            }
        }),
    }
}

/// A prefix of whole bytes is compared without a mask.
fn address(m: &mut Message, side: Side, op: Op, net: &Subnet) {
    let (offset, full) = address_at(net.family(), side);
    let base = octets(net.base());
    let whole = u32::from(net.len() / 8);
    if net.len() > 0 && net.len().is_multiple_of(8) {
        payload(m, NFT_PAYLOAD_NETWORK_HEADER, offset, whole);
        let count = usize::from(net.len() / 8);
        cmp(m, op, base.get(..count).unwrap_or_default());
    } else {
        payload(m, NFT_PAYLOAD_NETWORK_HEADER, offset, full);
        bitwise(m, &mask(net.len(), base.len()));
        cmp(m, op, &base);
    }
}

/// One of the bits is set.
fn ct(m: &mut Message, key: u32, bits: u32) {
    expression(m, "ct", |m| {
        m.u32_be(NFTA_CT_DREG, NFT_REG_1);
        m.u32_be(NFTA_CT_KEY, key);
    });
    bitwise(m, &bits.to_ne_bytes());
    cmp(m, Op::IsNot, &[0; 4]);
}

fn interface(m: &mut Message, key: u32, op: Op, name: &str) {
    meta(m, key);
    let mut padded = name.as_bytes().to_vec();
    padded.resize(IFNAMSIZ.max(padded.len()), 0);
    cmp(m, op, &padded);
}

fn verdict(m: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    };
    expression(m, "immediate", |m| {
        m.u32_be(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        m.nest(NFTA_IMMEDIATE_DATA, |m| {
            m.nest(NFTA_DATA_VERDICT, |m| {
                m.u32_be(NFTA_VERDICT_CODE, code);
                if let Some(chain) = chain {
                    m.str(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

fn dnat(m: &mut Message, to: IpAddr, port: Option<u16>, flags: NatFlags) {
    immediate(m, NFT_REG_1, &octets(to));
    if let Some(port) = port {
        immediate(m, NFT_REG_2, &port.to_be_bytes());
    }
    expression(m, "nat", |m| {
        m.u32_be(NFTA_NAT_TYPE, NFT_NAT_DNAT);
        m.u32_be(NFTA_NAT_FAMILY, u32::from(af_of(to)));
        m.u32_be(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
        let mut bits = flags.bits();
        if port.is_some() {
            m.u32_be(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
            bits |= NF_NAT_RANGE_PROTO_SPECIFIED;
        }
        if bits != 0 {
            m.u32_be(NFTA_NAT_FLAGS, bits);
        }
    });
}

// === the kernel's expressions ===

fn expression(m: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    m.nest(NFTA_LIST_ELEM, |m| {
        m.str(NFTA_EXPR_NAME, name);
        m.nest(NFTA_EXPR_DATA, fill);
    });
}

fn meta(m: &mut Message, key: u32) {
    expression(m, "meta", |m| {
        m.u32_be(NFTA_META_KEY, key);
        m.u32_be(NFTA_META_DREG, NFT_REG_1);
    });
}

fn payload(m: &mut Message, base: u32, offset: u32, len: u32) {
    expression(m, "payload", |m| {
        m.u32_be(NFTA_PAYLOAD_DREG, NFT_REG_1);
        m.u32_be(NFTA_PAYLOAD_BASE, base);
        m.u32_be(NFTA_PAYLOAD_OFFSET, offset);
        m.u32_be(NFTA_PAYLOAD_LEN, len);
    });
}

fn bitwise(m: &mut Message, mask: &[u8]) {
    bitwise_xor(m, mask, &vec![0; mask.len()]);
}

fn bitwise_xor(m: &mut Message, mask: &[u8], xor: &[u8]) {
    expression(m, "bitwise", |m| {
        m.u32_be(NFTA_BITWISE_SREG, NFT_REG_1);
        m.u32_be(NFTA_BITWISE_DREG, NFT_REG_1);
        let len = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        m.u32_be(NFTA_BITWISE_LEN, len);
        value(m, NFTA_BITWISE_MASK, mask);
        value(m, NFTA_BITWISE_XOR, xor);
    });
}

fn cmp(m: &mut Message, op: Op, with: &[u8]) {
    let op = match op {
        Op::Is => NFT_CMP_EQ,
        Op::IsNot => NFT_CMP_NEQ,
    };
    expression(m, "cmp", |m| {
        m.u32_be(NFTA_CMP_SREG, NFT_REG_1);
        m.u32_be(NFTA_CMP_OP, op);
        value(m, NFTA_CMP_DATA, with);
    });
}

fn immediate(m: &mut Message, register: u32, bytes: &[u8]) {
    expression(m, "immediate", |m| {
        m.u32_be(NFTA_IMMEDIATE_DREG, register);
        value(m, NFTA_IMMEDIATE_DATA, bytes);
    });
}

fn value(m: &mut Message, attr: u16, bytes: &[u8]) {
    m.nest(attr, |m| m.bytes(NFTA_DATA_VALUE, bytes));
}

// === bits ===

impl NatFlags {
    const fn bits(self) -> u32 {
        (if self.random { NF_NAT_RANGE_PROTO_RANDOM } else { 0 })
            | (if self.persistent { NF_NAT_RANGE_PERSISTENT } else { 0 })
            | (if self.fully_random {
                NF_NAT_RANGE_PROTO_RANDOM_FULLY
            } else {
                0
            })
    }

    /// `None` for flags unknown here.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        let flags = Self {
            random: bits & NF_NAT_RANGE_PROTO_RANDOM != 0,
            fully_random: bits & NF_NAT_RANGE_PROTO_RANDOM_FULLY != 0,
            persistent: bits & NF_NAT_RANGE_PERSISTENT != 0,
        };
        (flags.bits() == bits).then_some(flags)
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `len` leading ones in `bytes` bytes.
pub(super) fn mask(len: u8, bytes: usize) -> Vec<u8> {
    let mut left = u32::from(len);
    (0..bytes)
        .map(|_| {
            let ones = left.min(8);
            left -= ones;
            u8::MAX.checked_shl(8 - ones).unwrap_or(0)
        })
        .collect()
}
