//! Traffic rules: masquerade of what leaves the flannel network, and accept
//! rules for what is forwarded within it (section 6 of the spec).
//!
//! One list of [`Rule`]s per family and chain, whoever carries it out:
//! [`iptables`] renders it for `iptables-restore`, [`nft`] for nf_tables; what
//! is found there is read back into the same type, so that a difference is a
//! comparison. Upstream's two renderings mean different things (W-24); these
//! mean the same: T-21 to T-26 and T-31, T-32.
//!
//! Chains and tables have upstream's names and are shared with any other
//! flannel on the host (T-46, D-80). What in them is ours is told by the
//! networks a rule names: see [`Rules::owner`].

use std::collections::BTreeSet;
use std::fmt;

use ipam::{Family, PerFamily, Subnet};

pub mod iptables;
pub mod nft;
mod revise;
#[cfg(test)]
mod tests;

pub use revise::{Found, Owner, Revision, revise};

/// What traffic rules a node should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Masquerade what leaves the flannel network (`--ip-masq`).
    pub masquerade: Option<Masquerade>,
    /// Accept what is forwarded from or to it (`--iptables-forward-rules`).
    pub forward: bool,
    /// The networks of the enabled families (unlike T-5: a network that is
    /// configured for a disabled family gets no rules, W-26).
    pub networks: PerFamily<Networks>,
    /// Networks and subnets of earlier configurations: rules that name one of
    /// them are removed.
    pub former: BTreeSet<Subnet>,
}

/// How to masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Source ports are chosen at random, not kept where possible (T-27,
    /// T-54).
    pub random: bool,
}

/// One family's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    /// The flannel network (N).
    pub network: Subnet,
    /// The node's own subnet (P).
    pub subnet: Subnet,
}

/// The chains that rules are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Accepts forwarded packets.
    Forward,
    /// Changes the source of packets that leave.
    Masquerade,
}

/// One rule: what it applies to, and what happens then. A condition that is
/// absent is met by every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of the packet's mark.
    pub mark: Option<Mark>,
    /// Of its source address.
    pub from: Option<Side>,
    /// Of its destination address.
    pub to: Option<Side>,
    /// What happens.
    pub verdict: Verdict,
}

/// The bits of `mask` are those of `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits to be.
    pub value: u32,
    /// The bits that count.
    pub mask: u32,
}

/// An address is in a network, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// It is not.
    pub not: bool,
    /// The network.
    pub net: Subnet,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Accept,
    /// The chain has nothing to say about it.
    Return,
    /// It leaves with the address of the interface it leaves by.
    Masquerade(Masquerade),
}

/// By which kube-proxy asks for masquerade. It shares the 32 bits with
/// others, so that only this one is looked at (T-21).
pub const KUBE_MARK: Mark = Mark { value: 0x4000, mask: 0x4000 };

// === impl Rules ===

impl Rules {
    /// No rule at all: what of ours is there is to be removed.
    #[must_use]
    pub fn none(&self) -> Self {
        Self { masquerade: None, forward: false, ..self.clone() }
    }

    /// Whether there is any rule to be.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.networks.is_empty() || (self.masquerade.is_none() && !self.forward)
    }

    /// The rules of one chain, in order; none when the chain is not needed.
    #[must_use]
    pub fn list(&self, family: Family, chain: Chain) -> Vec<Rule> {
        let Some(networks) = self.networks.get(family) else {
            return Vec::new();
        };
        match (chain, self.masquerade) {
            (Chain::Forward, _) if self.forward => forward(networks),
            (Chain::Masquerade, Some(how)) => masquerade(networks, how),
            (Chain::Forward, _) | (Chain::Masquerade, None) => Vec::new(),
        }
    }

    /// Whose a rule is that was found in a chain of ours.
    ///
    /// A rule that names our network, a part of it or a former network is
    /// ours. One that names other networks only belongs to another flannel on
    /// this host (D-80). One that names none is nobody's: chains of ours are
    /// kept free of those, but for the rule on kube-proxy's mark, which all
    /// share.
    #[must_use]
    pub fn owner<Id>(&self, chain: Chain, found: &Found<Id>) -> Owner {
        let own = |net: &Subnet| {
            let nets = self.networks.get(net.family());
            nets.is_some_and(|nets| nets.network.covers(net))
                || self.former.contains(net)
        };
        if found.nets.iter().any(own) {
            Owner::Us
        } else if !found.nets.is_empty() {
            Owner::Another
        } else if chain == Chain::Masquerade && found.rule == Some(marked()) {
            Owner::Shared
        } else {
            Owner::Us
        }
    }
}

/// T-21 to T-26.
fn masquerade(networks: &Networks, how: Masquerade) -> Vec<Rule> {
    let Networks { network: n, subnet: p } = *networks;
    let verdict = Verdict::Masquerade(how);
    vec![
        marked(),
        rule(is(p), is(n), Verdict::Return),
        rule(is(n), is(p), Verdict::Return),
        rule(not(n), is(p), Verdict::Return),
        rule(is(n), multicast(n.family()).and_then(not), verdict),
        rule(not(n), is(n), verdict),
    ]
}

/// T-31, T-32.
fn forward(networks: &Networks) -> Vec<Rule> {
    let n = networks.network;
    vec![rule(is(n), None, Verdict::Accept), rule(None, is(n), Verdict::Accept)]
}

/// T-21: kube-proxy masquerades it.
pub(crate) const fn marked() -> Rule {
    let mark = Some(KUBE_MARK);
    Rule { mark, from: None, to: None, verdict: Verdict::Return }
}

const fn rule(from: Option<Side>, to: Option<Side>, verdict: Verdict) -> Rule {
    Rule { mark: None, from, to, verdict }
}

/// Every address is in a network of length 0: no condition, and none is what
/// firewalls show.
fn is(net: Subnet) -> Option<Side> {
    (net.len() > 0).then_some(Side { not: false, net })
}

#[expect(clippy::unnecessary_wraps, reason = "reads like `is`")]
const fn not(net: Subnet) -> Option<Side> {
    Some(Side { not: true, net })
}

/// `224.0.0.0/4` or `ff00::/8`.
fn multicast(family: Family) -> Option<Subnet> {
    let (base, len) = match family {
        Family::V4 => ([224, 0, 0, 0].into(), 4),
        Family::V6 => ([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8),
    };
    Subnet::new(base, len).ok()
}

// === impl Rule ===

impl Rule {
    /// The networks it names.
    pub fn nets(&self) -> impl Iterator<Item = Subnet> {
        self.from.into_iter().chain(self.to).map(|side| side.net)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Mark { value, mask }) = self.mark {
            write!(f, "mark {value:#x}/{mask:#x} ")?;
        }
        if let Some(from) = self.from {
            write!(f, "from {from} ")?;
        }
        if let Some(to) = self.to {
            write!(f, "to {to} ")?;
        }
        match self.verdict {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Return => f.write_str("return"),
            Verdict::Masquerade(Masquerade { random: false }) => {
                f.write_str("masquerade")
            }
            Verdict::Masquerade(Masquerade { random: true }) => {
                f.write_str("masquerade fully-random")
            }
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.not { "not " } else { "" }, self.net)
    }
}

// === impl Chain ===

impl Chain {
    /// Both, in the order they are worked on.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Masquerade];
}
