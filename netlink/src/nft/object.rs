use std::fmt;

use super::uapi::{
    NF_ACCEPT, NF_DROP, NFPROTO_ARP, NFPROTO_BRIDGE, NFPROTO_INET,
    NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV,
};
use super::{Expr, expr};

/// A table's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 (`ip`)
    Ip,
    /// IPv6 (`ip6`)
    Ip6,
    /// Both (`inet`)
    Inet,
    /// ARP; events only.
    Arp,
    /// Bridges (`bridge`)
    Bridge,
    /// Devices; events only.
    Netdev,
}

/// What names a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// What names a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId {
    /// The table it is in.
    pub table: TableId,
    /// Its name.
    pub name: String,
}

/// A table without what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family and name.
    pub id: TableId,
    /// Its comment. Fixed when the table is made; kernels before 5.10 have
    /// none.
    pub comment: Option<String>,
    /// Switched off: its chains see no packets.
    pub dormant: bool,
}

/// A chain without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The table it is in and its name.
    pub id: ChainId,
    /// Where packets come from; `None` for a chain that is only jumped to.
    /// All but the policy is fixed when the chain is made.
    pub base: Option<Base>,
    /// Its comment. Fixed when the chain is made; kernels before 5.10 have
    /// none.
    pub comment: Option<String>,
}

/// What makes a chain one that sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its type.
    pub kind: ChainKind,
    /// Where in a packet's way.
    pub hook: Hook,
    /// Its place among the chains there, lowest first: see
    /// [`PRIORITY_FILTER`](super::PRIORITY_FILTER) and its like.
    pub priority: i32,
    /// What happens to packets that no rule decides.
    pub policy: Policy,
}

/// A base chain's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`
    Filter,
    /// `nat`: sees a connection's first packet.
    Nat,
    /// `route`
    Route,
}

/// Where in a packet's way a base chain sits (`NF_INET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `prerouting`
    Prerouting,
    /// `input`
    Input,
    /// `forward`
    Forward,
    /// `output`
    Output,
    /// `postrouting`
    Postrouting,
    /// `ingress`
    Ingress,
}

/// What a base chain does with packets that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They pass.
    Accept,
    /// They are dropped.
    Drop,
}

/// A rule: what it looks at and does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions and statements. A condition that does not hold ends the
    /// rule.
    pub exprs: Vec<Expr>,
    /// Its comment, at most 253 bytes (`nft` takes 128).
    pub comment: Option<String>,
    /// Words for programs like ours, which `nft` neither shows nor minds:
    /// whose the rule is, where the comment's form is given. Together with
    /// the comment at most [`Rule::WORDS`].
    pub note: Option<String>,
}

// === impl Family ===

impl Family {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Ip => NFPROTO_IPV4,
            Self::Ip6 => NFPROTO_IPV6,
            Self::Inet => NFPROTO_INET,
            Self::Arp => NFPROTO_ARP,
            Self::Bridge => NFPROTO_BRIDGE,
            Self::Netdev => NFPROTO_NETDEV,
        }
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            NFPROTO_IPV4 => Self::Ip,
            NFPROTO_IPV6 => Self::Ip6,
            NFPROTO_INET => Self::Inet,
            NFPROTO_ARP => Self::Arp,
            NFPROTO_BRIDGE => Self::Bridge,
            NFPROTO_NETDEV => Self::Netdev,
            _ => return None,
        })
    }
}

impl From<ipam::Family> for Family {
    fn from(family: ipam::Family) -> Self {
        match family {
            ipam::Family::V4 => Self::Ip,
            ipam::Family::V6 => Self::Ip6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

// === impl TableId ===

impl TableId {
    /// The table of that family and name.
    pub fn new(family: impl Into<Family>, name: impl Into<String>) -> Self {
        Self { family: family.into(), name: name.into() }
    }

    /// The chain of that name in this table.
    pub fn chain(&self, name: impl Into<String>) -> ChainId {
        ChainId { table: self.clone(), name: name.into() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

// === impl ChainId ===

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}

// === impl Table ===

impl Table {
    /// A table without a comment.
    #[must_use]
    pub const fn new(id: TableId) -> Self {
        Self { id, comment: None, dormant: false }
    }
}

// === impl Chain ===

impl Chain {
    /// A chain that is only jumped to.
    #[must_use]
    pub const fn plain(id: ChainId) -> Self {
        Self { id, base: None, comment: None }
    }

    /// A chain that sees packets at `hook`, with the policy `accept`.
    #[must_use]
    pub const fn base(
        id: ChainId,
        kind: ChainKind,
        hook: Hook,
        priority: i32,
    ) -> Self {
        let policy = Policy::Accept;
        let base = Some(Base { kind, hook, priority, policy });
        Self { id, base, comment: None }
    }
}

// === impl ChainKind ===

impl ChainKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route]
            .into_iter()
            .find(|k| k.name() == name)
    }
}

// === impl Hook ===

impl Hook {
    const ALL: [Self; 6] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
        Self::Ingress,
    ];

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
            Self::Ingress => 5,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.number() == number)
    }
}

// === impl Policy ===

impl Policy {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Accept => NF_ACCEPT,
            Self::Drop => NF_DROP,
        }
    }

    pub(super) const fn from_number(number: u32) -> Option<Self> {
        match number {
            NF_ACCEPT => Some(Self::Accept),
            NF_DROP => Some(Self::Drop),
            _ => None,
        }
    }
}

// === impl Rule ===

impl Rule {
    /// The longest comment and note together, in bytes.
    pub const WORDS: usize = 250;

    /// A rule without a comment.
    pub fn new(exprs: impl Into<Vec<Expr>>) -> Self {
        Self { exprs: exprs.into(), comment: None, note: None }
    }
}

/// The rule as `nft` would write it, nearly.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        expr::list(&self.exprs, f)?;
        match &self.comment {
            Some(comment) => write!(f, " comment {comment:?}"),
            None => Ok(()),
        }
    }
}
