//! Reading expressions: the kernel's, one by one, then those that stand for
//! one condition or statement together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipam::Subnet;

use super::super::Family;
use super::super::uapi::*;
use super::encode::{IFNAMSIZ, address_at, mask};
use super::{Expr, NatFlags, Op, RawExpr, Side, Verdict};
use crate::wire::{Attrs, Malformed, ip, string, u32_be_at, u64_be_at};

/// What the rule read so far says about those to come.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Context {
    /// The packets' family, where it is known.
    family: Option<ipam::Family>,
}

/// Expressions and the counts of the first counter among them.
pub(in super::super) type Decoded = (Vec<Expr>, Option<(u64, u64)>);

/// One expression of the kernel's. Registers that are not named are 1.
#[derive(Clone, Debug)]
enum Kernel<'a> {
    Meta(u32),
    Payload {
        base: u32,
        offset: u32,
        len: u32,
    },
    SetMeta(u32),
    Bitwise(&'a [u8]),
    /// Sets bits, and leaves the others.
    Or(&'a [u8]),
    Cmp(Op, &'a [u8]),
    Immediate(u32, &'a [u8]),
    Verdict(Verdict),
    Ct(u32),
    FibDaddrType,
    Counter {
        packets: u64,
        bytes: u64,
    },
    Masquerade(NatFlags),
    Dnat {
        family: u32,
        port: bool,
        flags: NatFlags,
    },
    Other,
}

// === impl Context ===

impl Context {
    pub(in super::super) const fn of(table: Family) -> Self {
        let family = match table {
            Family::Ip => Some(ipam::Family::V4),
            Family::Ip6 => Some(ipam::Family::V6),
            Family::Inet | Family::Arp | Family::Bridge | Family::Netdev => {
                None
            }
        };
        Self { family }
    }
}

/// Reads the value of `NFTA_RULE_EXPRESSIONS`.
pub(in super::super) fn decode(
    bytes: &[u8],
    mut context: Context,
) -> Result<Decoded, Malformed> {
    let mut raw = Vec::new();
    for element in Attrs::new(bytes) {
        let (_, element) = element?;
        raw.push(raw_expr(element)?);
    }
    let kernel: Vec<_> = raw.iter().map(kernel).collect();
    let mut exprs = Vec::with_capacity(raw.len());
    let mut counts = None;
    let (mut raw, mut kernel) = (raw.as_slice(), kernel.as_slice());
    while let Some(first) = raw.first() {
        let (expr, used) = together(kernel, context)
            .unwrap_or_else(|| (Expr::Raw(first.clone()), 1));
        if let Expr::NfProto(family) = &expr {
            context.family.get_or_insert(*family);
        }
        if let Some(Kernel::Counter { packets, bytes }) = kernel.first() {
            counts.get_or_insert((*packets, *bytes));
        }
        exprs.push(expr);
        raw = raw.get(used..).unwrap_or_default();
        kernel = kernel.get(used..).unwrap_or_default();
    }
    Ok((exprs, counts))
}

fn raw_expr(element: &[u8]) -> Result<RawExpr, Malformed> {
    let mut name = None;
    let mut attrs = None;
    for attr in Attrs::new(element) {
        match attr? {
            (NFTA_EXPR_NAME, value) => name = Some(string(value)),
            (NFTA_EXPR_DATA, value) => attrs = Some(value.to_vec()),
            _ => {}
        }
    }
    let name = name.ok_or(Malformed("expression: no name"))?;
    Ok(RawExpr { name, attrs })
}

/// The condition or statement that starts here, and how many of the kernel's
/// expressions it takes. `None`: not one this crate knows.
fn together(exprs: &[Kernel<'_>], context: Context) -> Option<(Expr, usize)> {
    Some(match exprs {
        [Kernel::Counter { .. }, ..] => (Expr::Counter, 1),
        [Kernel::Verdict(verdict), ..] => (Expr::Verdict(verdict.clone()), 1),
        [Kernel::Masquerade(flags), ..] => (Expr::Masquerade(*flags), 1),
        [Kernel::Meta(key), Kernel::Cmp(op, with), ..] => {
            (meta(*key, *op, with)?, 2)
        }
        [
            Kernel::Meta(NFT_META_MARK),
            Kernel::Bitwise(mask),
            Kernel::Cmp(op, with),
            ..,
        ] => {
            let (mask, value) = (host_u32(mask)?, host_u32(with)?);
            (Expr::Mark { mask, op: *op, value }, 3)
        }
        [
            Kernel::Meta(NFT_META_MARK),
            Kernel::Or(bits),
            Kernel::SetMeta(NFT_META_MARK),
            ..,
        ] => (Expr::AddMark(host_u32(bits)?), 3),
        [
            Kernel::Payload {
                base: NFT_PAYLOAD_LL_HEADER,
                offset: ETHER_SOURCE,
                len: 6,
            },
            Kernel::Cmp(op, with),
            ..,
        ] => (Expr::EtherSource(*op, (*with).try_into().ok()?), 2),
        [
            Kernel::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, len },
            Kernel::Cmp(op, with),
            ..,
        ] => {
            let bits = u8::try_from(len.checked_mul(8)?).ok()?;
            (address(context, *offset, *op, with, *len, bits)?, 2)
        }
        [
            Kernel::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, len },
            Kernel::Bitwise(mask),
            Kernel::Cmp(op, with),
            ..,
        ] => {
            let bits = prefix(mask)?;
            if mask.len() != with.len() || !matches!(with.len(), 4 | 16) {
                return None;
            }
            (address(context, *offset, *op, with, *len, bits)?, 3)
        }
        [
            Kernel::Payload {
                base: NFT_PAYLOAD_TRANSPORT_HEADER,
                offset,
                len: 2,
            },
            Kernel::Cmp(op, with),
            ..,
        ] => {
            let side = match offset {
                0 => Side::Source,
                2 => Side::Destination,
                _ => return None,
            };
            let port = u16::from_be_bytes((*with).try_into().ok()?);
            (Expr::Port { side, op: *op, port }, 2)
        }
        [
            Kernel::Ct(key),
            Kernel::Bitwise(bits),
            Kernel::Cmp(Op::IsNot, [0, 0, 0, 0]),
            ..,
        ] => match *key {
            NFT_CT_STATE => (Expr::CtState(host_u32(bits)?), 3),
            NFT_CT_STATUS => (Expr::CtStatus(host_u32(bits)?), 3),
            _ => return None,
        },
        [Kernel::FibDaddrType, Kernel::Cmp(op, with), ..]
            if host_u32(with)? == RTN_LOCAL =>
        {
            (Expr::ToLocal(*op), 2)
        }
        [
            Kernel::Immediate(NFT_REG_1, to),
            Kernel::Dnat { family, port: false, flags },
            ..,
        ] => (dnat(to, None, *family, *flags)?, 2),
        [
            Kernel::Immediate(NFT_REG_1, to),
            Kernel::Immediate(NFT_REG_2, port),
            Kernel::Dnat { family, port: true, flags },
            ..,
        ] => (dnat(to, Some(port), *family, *flags)?, 3),
        _ => return None,
    })
}

fn meta(key: u32, op: Op, with: &[u8]) -> Option<Expr> {
    Some(match key {
        NFT_META_MARK => {
            Expr::Mark { mask: u32::MAX, op, value: host_u32(with)? }
        }
        NFT_META_IIFNAME => Expr::InInterface(op, interface(with)?),
        NFT_META_OIFNAME => Expr::OutInterface(op, interface(with)?),
        NFT_META_L4PROTO => match with {
            [number] => Expr::L4Proto(op, *number),
            _ => return None,
        },
        NFT_META_NFPROTO => match (op, with) {
            (Op::Is, [NFPROTO_IPV4]) => Expr::NfProto(ipam::Family::V4),
            (Op::Is, [NFPROTO_IPV6]) => Expr::NfProto(ipam::Family::V6),
            _ => return None,
        },
        _ => return None,
    })
}

/// A name with its padding; without, it is a prefix that this crate does not
/// write.
fn interface(with: &[u8]) -> Option<String> {
    let end = with.iter().position(|b| *b == 0)?;
    let (name, padding) = with.split_at_checked(end)?;
    (with.len() == IFNAMSIZ && padding.iter().all(|b| *b == 0))
        .then(|| std::str::from_utf8(name).ok().map(str::to_owned))?
}

/// The first `len` bytes of an address are `with`, of which `bits` count.
fn address(
    context: Context,
    offset: u32,
    op: Op,
    with: &[u8],
    len: u32,
    bits: u8,
) -> Option<Expr> {
    let family = context.family?;
    let side = [Side::Source, Side::Destination]
        .into_iter()
        .find(|side| address_at(family, *side).0 == offset)?;
    let (_, full) = address_at(family, side);
    let full = usize::try_from(full).ok()?;
    if usize::try_from(len) != Ok(with.len()) || with.len() > full {
        return None;
    }
    let mut bytes = with.to_vec();
    bytes.resize(full, 0);
    let base = ip(&bytes)?;
    let net = Subnet::new(base, bits).ok()?;
    // With bits beyond the mask it would never be equal.
    (net.base() == base).then_some(Expr::Address { side, op, net })
}

fn dnat(
    to: &[u8],
    port: Option<&[u8]>,
    family: u32,
    flags: NatFlags,
) -> Option<Expr> {
    let to = match u8::try_from(family).ok()? {
        NFPROTO_IPV4 => {
            let octets: [u8; 4] = to.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        NFPROTO_IPV6 => {
            let octets: [u8; 16] = to.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    let port = match port {
        None => None,
        Some(port) => Some(u16::from_be_bytes(port.try_into().ok()?)),
    };
    Some(Expr::Dnat { to, port, flags })
}

// === the kernel's expressions ===

fn kernel(raw: &RawExpr) -> Kernel<'_> {
    parse(raw).unwrap_or(Kernel::Other)
}

/// `None`: something in it is not as this crate writes it.
fn parse(raw: &RawExpr) -> Option<Kernel<'_>> {
    let fields = Fields::of(raw)?;
    Some(match raw.name.as_str() {
        "meta" if fields.u32(NFTA_META_SREG).is_some() => {
            fields.only(&[NFTA_META_SREG, NFTA_META_KEY])?;
            fields.register_1(NFTA_META_SREG)?;
            Kernel::SetMeta(fields.u32(NFTA_META_KEY)?)
        }
        "meta" => {
            fields.only(&[NFTA_META_DREG, NFTA_META_KEY])?;
            fields.register_1(NFTA_META_DREG)?;
            Kernel::Meta(fields.u32(NFTA_META_KEY)?)
        }
        "payload" => {
            fields.only(&[
                NFTA_PAYLOAD_DREG,
                NFTA_PAYLOAD_BASE,
                NFTA_PAYLOAD_OFFSET,
                NFTA_PAYLOAD_LEN,
            ])?;
            fields.register_1(NFTA_PAYLOAD_DREG)?;
            Kernel::Payload {
                base: fields.u32(NFTA_PAYLOAD_BASE)?,
                offset: fields.u32(NFTA_PAYLOAD_OFFSET)?,
                len: fields.u32(NFTA_PAYLOAD_LEN)?,
            }
        }
        "bitwise" => {
            fields.only(&[
                NFTA_BITWISE_SREG,
                NFTA_BITWISE_DREG,
                NFTA_BITWISE_LEN,
                NFTA_BITWISE_MASK,
                NFTA_BITWISE_XOR,
                NFTA_BITWISE_OP,
            ])?;
            fields.register_1(NFTA_BITWISE_SREG)?;
            fields.register_1(NFTA_BITWISE_DREG)?;
            // Operation 0 is mask and xor; Linux before 5.6 has no other.
            let xor = fields.value(NFTA_BITWISE_XOR)?;
            let op = fields.u32(NFTA_BITWISE_OP).unwrap_or(0);
            let mask = fields.value(NFTA_BITWISE_MASK)?;
            if op != 0 {
                return None;
            }
            if xor.iter().all(|b| *b == 0) {
                return Some(Kernel::Bitwise(mask));
            }
            if !mask.iter().copied().eq(xor.iter().map(|b| !b)) {
                return None;
            }
            Kernel::Or(xor)
        }
        "cmp" => {
            fields.register_1(NFTA_CMP_SREG)?;
            let op = match fields.u32(NFTA_CMP_OP)? {
                NFT_CMP_EQ => Op::Is,
                NFT_CMP_NEQ => Op::IsNot,
                _ => return None,
            };
            Kernel::Cmp(op, fields.value(NFTA_CMP_DATA)?)
        }
        "immediate" => match fields.u32(NFTA_IMMEDIATE_DREG)? {
            NFT_REG_VERDICT => {
                Kernel::Verdict(verdict(fields.get(NFTA_IMMEDIATE_DATA)?)?)
            }
            register => {
                Kernel::Immediate(register, fields.value(NFTA_IMMEDIATE_DATA)?)
            }
        },
        "ct" => {
            fields.only(&[NFTA_CT_DREG, NFTA_CT_KEY])?;
            fields.register_1(NFTA_CT_DREG)?;
            Kernel::Ct(fields.u32(NFTA_CT_KEY)?)
        }
        "fib" => {
            fields.register_1(NFTA_FIB_DREG)?;
            if fields.u32(NFTA_FIB_RESULT)? != NFT_FIB_RESULT_ADDRTYPE
                || fields.u32(NFTA_FIB_FLAGS)? != NFTA_FIB_F_DADDR
            {
                return None;
            }
            Kernel::FibDaddrType
        }
        "counter" => Kernel::Counter {
            packets: u64_be_at(fields.get(NFTA_COUNTER_PACKETS)?, 0)?,
            bytes: u64_be_at(fields.get(NFTA_COUNTER_BYTES)?, 0)?,
        },
        "masq" => {
            fields.only(&[NFTA_MASQ_FLAGS])?;
            let bits = match fields.get(NFTA_MASQ_FLAGS) {
                Some(flags) => u32_be_at(flags, 0)?,
                None => 0,
            };
            Kernel::Masquerade(NatFlags::from_bits(bits)?)
        }
        "nat" => return nat(&fields),
        _ => return None,
    })
}

fn nat<'a>(fields: &Fields<'a>) -> Option<Kernel<'a>> {
    let port = fields.get(NFTA_NAT_REG_PROTO_MIN).is_some();
    // The kernel reports one address or port as a range of itself.
    let range = |min, max, register| {
        fields.u32(min) == Some(register)
            && fields.u32(max).is_none_or(|max| max == register)
    };
    if fields.u32(NFTA_NAT_TYPE)? != NFT_NAT_DNAT
        || !range(NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_ADDR_MAX, NFT_REG_1)
        || port
            && !range(NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX, NFT_REG_2)
    {
        return None;
    }
    let implied = NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED;
    let bits = match fields.get(NFTA_NAT_FLAGS) {
        Some(flags) => u32_be_at(flags, 0)? & !implied,
        None => 0,
    };
    let flags = NatFlags::from_bits(bits)?;
    Some(Kernel::Dnat { family: fields.u32(NFTA_NAT_FAMILY)?, port, flags })
}

fn verdict(data: &[u8]) -> Option<Verdict> {
    let find = |bytes, wanted| {
        Attrs::new(bytes)
            .filter_map(Result::ok)
            .find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let verdict = find(data, NFTA_DATA_VERDICT)?;
    let chain = find(verdict, NFTA_VERDICT_CHAIN).map(string);
    match (u32_be_at(find(verdict, NFTA_VERDICT_CODE)?, 0)?, chain) {
        (NF_ACCEPT, None) => Some(Verdict::Accept),
        (NF_DROP, None) => Some(Verdict::Drop),
        (NFT_RETURN, None) => Some(Verdict::Return),
        (NFT_JUMP, Some(chain)) => Some(Verdict::Jump(chain)),
        (NFT_GOTO, Some(chain)) => Some(Verdict::Goto(chain)),
        _ => None,
    }
}

/// An expression's attributes.
struct Fields<'a>(Vec<(u16, &'a [u8])>);

// === impl Fields ===

impl<'a> Fields<'a> {
    fn of(raw: &'a RawExpr) -> Option<Self> {
        let attrs = raw.attrs.as_deref().unwrap_or_default();
        Attrs::new(attrs).collect::<Result<_, _>>().ok().map(Self)
    }

    /// `Some` if there are none but those.
    fn only(&self, known: &[u16]) -> Option<()> {
        self.0.iter().all(|(kind, _)| known.contains(kind)).then_some(())
    }

    fn get(&self, attr: u16) -> Option<&'a [u8]> {
        self.0
            .iter()
            .find_map(|(kind, value)| (*kind == attr).then_some(*value))
    }

    fn u32(&self, attr: u16) -> Option<u32> {
        u32_be_at(self.get(attr)?, 0)
    }

    fn register_1(&self, attr: u16) -> Option<()> {
        (self.u32(attr)? == NFT_REG_1).then_some(())
    }

    /// The bytes in a nest of `NFTA_DATA_VALUE`.
    fn value(&self, attr: u16) -> Option<&'a [u8]> {
        match Attrs::new(self.get(attr)?).next()? {
            Ok((NFTA_DATA_VALUE, value)) => Some(value),
            _ => None,
        }
    }
}

// === bits ===

/// A number of 32 bits in the machine's order.
fn host_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// How many leading ones a mask has; `None` when ones follow a zero.
fn prefix(bytes: &[u8]) -> Option<u8> {
    let ones: u32 = bytes.iter().map(|b| b.count_ones()).sum();
    let len = u8::try_from(ones).ok()?;
    (mask(len, bytes.len()) == bytes).then_some(len)
}
