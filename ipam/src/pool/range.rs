//! What may be handed out: ranges, grouped in sets of alternatives.
//!
//! One address is allocated from each set (HL-2). Which form of the
//! configuration comes first (HL-8) is the reader's concern; here a list of
//! sets is already in order.

use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use crate::Subnet;
use crate::subnet::addr_bits;

/// A range as the configuration writes it. An absent text and an empty one
/// both mean the default (HL-20), but for `subnet`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RangeConf {
    /// The subnet in CIDR form; its length is the prefix length of the
    /// addresses.
    pub subnet: Option<String>,
    /// First address to hand out; by default the one after the network's.
    pub range_start: Option<String>,
    /// Last address to hand out; by default the last but the broadcast
    /// address in IPv4, the very last in IPv6.
    pub range_end: Option<String>,
    /// The pods' gateway, never handed out; by default the address after the
    /// network's. It may lie anywhere.
    pub gateway: Option<String>,
}

/// A valid range of addresses inside one subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: Subnet,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// Ranges of one family without overlap, alternatives of each other; never
/// empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

/// Why a configuration gives no range sets. The texts are host-local's, which
/// tests and runtimes know (HL-10 to HL-19).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// HL-10.
    #[error("no IP ranges specified")]
    NoSets,
    /// HL-19: a subnet that cannot be read.
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
    /// HL-19: an address that cannot be read.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// HL-11 to HL-16: one set is wrong in itself.
    #[error("invalid range set {index}: {problem}")]
    Set {
        /// Which set, from 0.
        index: usize,
        /// What is wrong with it.
        problem: SetProblem,
    },
    /// HL-18: CNI before 0.3.0 has room for one address of each family.
    #[error("CNI version {0} does not support more than 1 address per family")]
    TooManyForVersion(String),
    /// HL-17: two sets share an address.
    #[error("range set {0} overlaps with {1}")]
    Overlap(usize, usize),
}

/// What is wrong with one range set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetProblem {
    /// HL-11.
    #[error("empty range set")]
    Empty,
    /// A range without a subnet.
    #[error("a range without \"subnet\"")]
    NoSubnet,
    /// HL-12: no room for a network address, a gateway and a pod.
    #[error("Network {0}/{1} too small to allocate from")]
    TooSmall(IpAddr, u8),
    /// HL-13.
    #[error(
        "Network has host bits set. For a subnet mask of length {len} the \
         network address is {base}"
    )]
    HostBits {
        /// The subnet's prefix length.
        len: u8,
        /// The network address the prefix length leads to.
        base: IpAddr,
    },
    /// HL-14, and a start behind the end (HL-21).
    #[error("RangeStart {0} not in network {1}")]
    Start(IpAddr, Subnet),
    /// HL-14, and an end before the default start.
    #[error("RangeEnd {0} not in network {1}")]
    End(IpAddr, Subnet),
    /// HL-15.
    #[error("mixed address families")]
    Families,
    /// HL-16.
    #[error("subnets {0} and {1} overlap")]
    Overlap(String, String),
}

/// A range whose texts are read but not yet judged.
struct Draft {
    subnet: Option<(IpAddr, u8)>,
    start: Option<IpAddr>,
    end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// Reads a requested address: `ip` or `ip/len`, whose length is ignored
/// (HL-7).
///
/// # Errors
/// [`RangeError::Address`] with the text.
pub fn parse_requested(text: &str) -> Result<IpAddr, RangeError> {
    let parsed = match text.contains('/') {
        true => parse_cidr(text).ok().map(|(ip, _)| ip),
        false => text.parse().ok(),
    };
    parsed
        .map(|ip: IpAddr| ip.to_canonical())
        .ok_or_else(|| RangeError::Address(text.to_owned()))
}

// === impl Range ===

impl Range {
    /// The subnet the range is a part of.
    #[must_use]
    pub const fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The pods' gateway.
    #[must_use]
    pub const fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Whether `ip` lies between start and end.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.subnet.contains(ip)
            && (addr_bits(self.start)..=addr_bits(self.end))
                .contains(&addr_bits(ip))
    }

    /// How many addresses can be handed out: all but the gateway.
    fn size(&self) -> u128 {
        let all = addr_bits(self.end) - addr_bits(self.start);
        match self.contains(self.gateway) {
            true => all,
            false => all.saturating_add(1),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start)
            || self.contains(other.end)
            || other.contains(self.start)
    }

    fn addrs(&self, from: u128, to: u128) -> impl Iterator<Item = IpAddr> {
        let family = self.subnet.family();
        (from..=to).map(move |bits| family.addr(bits))
    }
}

impl TryFrom<Draft> for Range {
    type Error = SetProblem;

    fn try_from(draft: Draft) -> Result<Self, SetProblem> {
        let (ip, len) = draft.subnet.ok_or(SetProblem::NoSubnet)?;
        let too_small = SetProblem::TooSmall(ip, len);
        let subnet = Subnet::new(ip, len).map_err(|_| too_small.clone())?;
        let family = subnet.family();
        if len > family.bits() - 2 {
            return Err(too_small);
        }
        if subnet.base() != ip {
            return Err(SetProblem::HostBits { len, base: subnet.base() });
        }
        let start = draft.start.unwrap_or_else(|| subnet.gateway());
        let end = draft.end.unwrap_or_else(|| last_default(&subnet));
        let gateway = draft.gateway.unwrap_or_else(|| subnet.gateway());
        // A given start is held against a given end, which itself need not
        // be inside yet: which of the two is blamed is part of the text.
        let behind_end = draft
            .end
            .is_some_and(|e| e.is_ipv4() == start.is_ipv4() && start > e);
        if draft.start.is_some() && (!subnet.contains(start) || behind_end) {
            return Err(SetProblem::Start(start, subnet));
        }
        if !subnet.contains(end) || end < start {
            return Err(SetProblem::End(end, subnet));
        }
        Ok(Self { subnet, start, end, gateway })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

// === impl RangeSet ===

impl RangeSet {
    /// Reads and validates all range sets of a configuration, in order
    /// (HL-8). `cni_version` is the configuration's.
    ///
    /// # Errors
    /// The first thing wrong, in host-local's order: texts, then set by set,
    /// then what concerns several sets.
    pub fn from_conf(
        conf: &[Vec<RangeConf>],
        cni_version: &str,
    ) -> Result<Vec<Self>, RangeError> {
        let drafts: Vec<Vec<Draft>> = conf
            .iter()
            .map(|set| set.iter().map(Draft::read).collect())
            .collect::<Result<_, _>>()?;
        if drafts.is_empty() {
            return Err(RangeError::NoSets);
        }
        let sets: Vec<Self> = drafts
            .into_iter()
            .enumerate()
            .map(|(index, set)| {
                Self::try_from(set)
                    .map_err(|problem| RangeError::Set { index, problem })
            })
            .collect::<Result<_, _>>()?;
        let v4 = sets.iter().filter(|s| s.is_ipv4()).count();
        if before_0_3(cni_version) && (v4 > 1 || sets.len() - v4 > 1) {
            return Err(RangeError::TooManyForVersion(cni_version.to_owned()));
        }
        for (i, one) in sets.iter().enumerate() {
            for (j, other) in sets.iter().enumerate().skip(i + 1) {
                if one.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b))) {
                    return Err(RangeError::Overlap(i, j));
                }
            }
        }
        Ok(sets)
    }

    /// The ranges, in order; at least one.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The range that holds `ip`.
    #[must_use]
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// Whether one of the ranges holds `ip`.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some()
    }

    /// How many addresses can be handed out, capped at `u128::MAX`.
    #[must_use]
    pub fn size(&self) -> u128 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.size()))
    }

    /// Every address that may be handed out, once, beginning with the one
    /// after `last` if that lies in the set and with the first otherwise
    /// (HL-34). Gateways are left out.
    pub(super) fn turn(
        &self,
        last: Option<IpAddr>,
    ) -> impl Iterator<Item = (&Range, IpAddr)> {
        let at = last.and_then(|ip| {
            let index = self.0.iter().position(|r| r.contains(ip))?;
            Some((index, addr_bits(ip)))
        });
        let (index, bits) = at.unzip();
        let (before, from) = self.0.split_at(index.unwrap_or(0));
        // The range of `last` is cut in two: what follows it comes first,
        // what leads up to it, itself included, at the very end.
        let mut segments = Vec::with_capacity(self.0.len() + 1);
        for (n, range) in from.iter().enumerate() {
            let (start, end) = (addr_bits(range.start), addr_bits(range.end));
            match bits.filter(|_| n == 0) {
                None => segments.push((range, start, end)),
                Some(bits) if bits < end => {
                    segments.push((range, bits + 1, end));
                }
                Some(_) => {}
            }
        }
        for range in before {
            segments.push((
                range,
                addr_bits(range.start),
                addr_bits(range.end),
            ));
        }
        if let (Some(bits), Some(range)) = (bits, from.first()) {
            segments.push((range, addr_bits(range.start), bits));
        }
        segments
            .into_iter()
            .flat_map(|(range, from, to)| {
                range.addrs(from, to).map(move |ip| (range, ip))
            })
            .filter(|(range, ip)| *ip != range.gateway)
    }

    fn is_ipv4(&self) -> bool {
        self.0.iter().any(|range| range.start.is_ipv4())
    }
}

impl TryFrom<Vec<Draft>> for RangeSet {
    type Error = SetProblem;

    fn try_from(drafts: Vec<Draft>) -> Result<Self, SetProblem> {
        let mut ranges: Vec<Range> = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let range = Range::try_from(draft)?;
            let family = range.subnet.family();
            if ranges.iter().any(|r| r.subnet.family() != family) {
                return Err(SetProblem::Families);
            }
            ranges.push(range);
        }
        for (i, one) in ranges.iter().enumerate() {
            for other in ranges.iter().skip(i + 1) {
                if one.overlaps(other) {
                    return Err(SetProblem::Overlap(
                        one.to_string(),
                        other.to_string(),
                    ));
                }
            }
        }
        match ranges.is_empty() {
            true => Err(SetProblem::Empty),
            false => Ok(Self(ranges)),
        }
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

// === impl Draft ===

impl Draft {
    fn read(conf: &RangeConf) -> Result<Self, RangeError> {
        let addr = |text: &Option<String>| {
            given(text)
                .map(|text| {
                    text.parse()
                        .map(|ip: IpAddr| ip.to_canonical())
                        .map_err(|_| RangeError::Address(text.to_owned()))
                })
                .transpose()
        };
        Ok(Self {
            subnet: conf.subnet.as_deref().map(parse_cidr).transpose()?,
            start: addr(&conf.range_start)?,
            end: addr(&conf.range_end)?,
            gateway: addr(&conf.gateway)?,
        })
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Reads `address/length`, host bits kept. IPv4-mapped addresses become the
/// IPv4 ones they are; their length must cover the mapping.
///
/// # Errors
/// [`RangeError::Cidr`] with the text.
pub fn parse_cidr(text: &str) -> Result<(IpAddr, u8), RangeError> {
    let bad = || RangeError::Cidr(text.to_owned());
    let (ip, len) = text.split_once('/').ok_or_else(bad)?;
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let len: u8 = len.parse().map_err(|_| bad())?;
    if Subnet::new(ip, len).is_err() {
        return Err(bad());
    }
    let canonical = ip.to_canonical();
    if canonical == ip {
        return Ok((ip, len));
    }
    Ok((canonical, len.checked_sub(96).ok_or_else(bad)?))
}

fn last_default(subnet: &Subnet) -> IpAddr {
    let family = subnet.family();
    match subnet.last() {
        IpAddr::V4(last) => family.addr(u128::from(last.to_bits()) - 1),
        last @ IpAddr::V6(_) => last,
    }
}

/// Whether `version` is older than 0.3.0. A text without numbers is: the
/// absent version means 0.1.0.
fn before_0_3(version: &str) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next(), parts.next());
    (major.unwrap_or(0), minor.unwrap_or(0)) < (0, 3)
}
