//! Conditions in the words of `nft`, as far as they are of use in front of a
//! mapped port. Upstream hands them to the program `nft`; here nobody runs
//! it, so what is not known is refused.

use ipam::{Family, Subnet};
use netlink::nft::{Expr, Op, Side};

use crate::cidr::Cidr;
use crate::protocol::CniError;

/// Reads them.
///
/// # Errors
/// Code 7 with the word that is not understood.
pub(super) fn parse(
    family: Family,
    words: &[String],
) -> Result<Vec<Expr>, CniError> {
    // a word of the configuration may hold several of nft's
    let words: Vec<&str> =
        words.iter().flat_map(|word| word.split_whitespace()).collect();
    let mut rest = words.as_slice();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (expr, after) = one(family, rest).ok_or_else(|| {
            CniError::config(format!(
                "condition {:?}: understood are ip saddr, ip daddr (ip6 for \
                 IPv6), iifname, oifname, meta mark, tcp or udp sport, each \
                 with == or !=, and one value",
                rest.join(" ")
            ))
        })?;
        out.push(expr);
        rest = after;
    }
    Ok(out)
}

fn one<'a, 'w>(
    family: Family,
    words: &'a [&'w str],
) -> Option<(Expr, &'a [&'w str])> {
    let (first, words) = words.split_first()?;
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    match *first {
        word if word == ip => {
            let (side, words) = words.split_first()?;
            let side = match *side {
                "saddr" => Side::Source,
                "daddr" => Side::Destination,
                _ => return None,
            };
            let (op, value, words) = compared(words)?;
            let net = network(family, value)?;
            Some((Expr::Address { side, op, net }, words))
        }
        "iifname" | "oifname" => {
            let (op, value, words) = compared(words)?;
            let name = value.trim_matches('"').to_owned();
            // a trailing * would be a prefix
            if name.is_empty() || name.len() > 15 || name.contains('*') {
                return None;
            }
            let expr = match *first {
                "iifname" => Expr::InInterface(op, name),
                _ => Expr::OutInterface(op, name),
            };
            Some((expr, words))
        }
        "meta" => match words.split_first()? {
            (&"mark", words) => {
                let (op, value, words) = compared(words)?;
                let value = match value.strip_prefix("0x") {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => value.parse().ok()?,
                };
                Some((Expr::Mark { mask: u32::MAX, op, value }, words))
            }
            (&("iifname" | "oifname"), _) => one(family, words),
            _ => None,
        },
        // the rule itself says which protocol
        "tcp" | "udp" => match words.split_first()? {
            (&"sport", words) => {
                let (op, value, words) = compared(words)?;
                let port = value.parse().ok()?;
                let side = Side::Source;
                Some((Expr::Port { side, op, port }, words))
            }
            _ => None,
        },
        _ => None,
    }
}

/// `X`, `== X`, `eq X`, `!= X` or `ne X`, and what follows.
fn compared<'a, 'w>(
    words: &'a [&'w str],
) -> Option<(Op, &'w str, &'a [&'w str])> {
    let (first, rest) = words.split_first()?;
    let (op, value, rest) = match *first {
        "==" | "eq" => (Op::Is, *rest.first()?, rest.get(1..)?),
        "!=" | "ne" => (Op::IsNot, *rest.first()?, rest.get(1..)?),
        value => (Op::Is, value, rest),
    };
    Some((op, value, rest))
}

fn network(family: Family, text: &str) -> Option<Subnet> {
    let net = match text.parse::<Cidr>() {
        Ok(cidr) => cidr.network()?,
        Err(_) => Subnet::host(crate::cidr::parse_ip(text)?),
    };
    (net.family() == family).then_some(net)
}
