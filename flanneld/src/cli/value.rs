//! The types of flag values and how a text becomes one.

use std::net::{IpAddr, Ipv4Addr};

/// The value of `--etcd-endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints(pub(super) Vec<String>);

/// `--etcd-endpoints` (C-1). Blanks around commas and empty members are
/// dropped; nothing left is an error (E-55). The store looks into each.
pub(super) fn endpoints(text: &str) -> Result<Endpoints, String> {
    if text.contains('@') {
        return Err("an endpoint holds no credentials: give them by \
                    --etcd-username and --etcd-password"
            .to_owned());
    }
    let list: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .map(str::to_owned)
        .collect();
    if list.is_empty() {
        return Err("no endpoint is named".to_owned());
    }
    Ok(Endpoints(list))
}

/// Go's spelling of booleans.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("not a boolean (true or false)".to_owned()),
    }
}

/// Go's spelling of integers: a sign, a base prefix (`0x`, `0o`, `0b`, or a
/// leading zero for octal), underscores between digits.
pub(super) fn go_int(text: &str) -> Result<i64, String> {
    let bad = || "not an integer".to_owned();
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = base_and_digits(unsigned);
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if !underscores_ok(digits, base != 10)
        || !plain.chars().all(|c| c.is_digit(base))
        || (plain.is_empty() && unsigned != "0")
    {
        return Err(bad());
    }
    let magnitude = if plain.is_empty() {
        0
    } else {
        i128::from_str_radix(&plain, base)
            .map_err(|_| "out of range".to_owned())?
    };
    i64::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| "out of range".to_owned())
}

/// An address of a flag that may be left empty.
pub(super) fn optional_ip(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<IpAddr>()
        .map(|ip| Some(ip.to_canonical()))
        .map_err(|_| "not an IP address".to_owned())
}

/// `--public-ip` (C-12).
pub(super) fn optional_ipv4(text: &str) -> Result<Option<IpAddr>, String> {
    match optional_ip(text)? {
        Some(IpAddr::V6(_)) => {
            Err("not an IPv4 address; an IPv6 one is given by --public-ipv6"
                .to_owned())
        }
        other => Ok(other),
    }
}

/// `--public-ipv6` (C-13).
pub(super) fn optional_ipv6(text: &str) -> Result<Option<IpAddr>, String> {
    match optional_ip(text)? {
        Some(IpAddr::V4(_)) => {
            Err("not an IPv6 address; an IPv4 one is given by --public-ip"
                .to_owned())
        }
        other => Ok(other),
    }
}

/// `--healthz-ip` (C-22): an address, `localhost`, or nothing for all.
pub(super) fn listen_ip(text: &str) -> Result<IpAddr, String> {
    match text {
        "" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.parse().map_err(|_| "not an IP address".to_owned()),
    }
}

fn base_and_digits(text: &str) -> (u32, &str) {
    let Some(rest) = text.strip_prefix('0') else {
        return (10, text);
    };
    let base = match rest.chars().next().map(|c| c.to_ascii_lowercase()) {
        Some('x') => 16,
        Some('o') => 8,
        Some('b') => 2,
        _ => return (8, rest),
    };
    match rest.get(1..) {
        Some(digits) if !digits.is_empty() => (base, digits),
        // "0x" alone: octal in Go's eyes, and `x` is no octal digit.
        _ => (8, rest),
    }
}

/// Underscores stand between digits, or after the base prefix.
fn underscores_ok(digits: &str, after_prefix: bool) -> bool {
    !digits.ends_with('_')
        && !digits.contains("__")
        && (after_prefix || !digits.starts_with('_'))
}

#[cfg(test)]
mod tests;
