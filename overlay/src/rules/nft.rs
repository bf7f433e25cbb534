//! The rules in nf_tables: tables and chains named as upstream names them
//! (T-51 to T-53), each pass one batch that is carried out as a whole.

use std::collections::BTreeMap;
use std::fmt;

use ipam::{Family, PerFamily};

use super::{Chain, Found, Rule, Rules, revise};

/// What is in our tables: `None` for a table that is not there.
pub type Observed = PerFamily<Table>;

/// A table of ours as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Switched off (`flags dormant`): its chains see no packet.
    pub dormant: bool,
    /// Its chains by name.
    pub chains: BTreeMap<String, FoundChain>,
}

/// A chain of such a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// Where packets enter it; `None` for one that is only jumped to, or
    /// hooked to a place where ours never are.
    pub base: Option<Base>,
    /// Its rules by handle, in order.
    pub rules: Vec<Found<u64>>,
}

/// What makes a chain see packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its type and hook.
    pub chain: Chain,
    /// Its place among the chains of that hook.
    pub priority: i32,
    /// Packets that no rule decides on are accepted.
    pub accept: bool,
}

/// One step of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the family's table, with [`table_comment`], if it is not
    /// there; awake, if it is dormant.
    AddTable(Family),
    /// Deletes it with all that is in it.
    DeleteTable(Family),
    /// Creates a base chain, with [`chain_comment`], if it is not there.
    AddChain(Family, Chain),
    /// Deletes a chain by name with all rules in it.
    DeleteChain(Family, String),
    /// Appends a rule.
    AddRule(Family, Chain, Rule),
    /// Deletes a rule.
    DeleteRule {
        /// The table.
        family: Family,
        /// The chain's name.
        chain: Chain,
        /// The rule's handle.
        handle: u64,
        /// What it said, if it could be understood.
        before: Option<Rule>,
    },
}

impl Change {
    /// The family of the table that it changes.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::AddTable(family)
            | Self::DeleteTable(family)
            | Self::AddChain(family, _)
            | Self::DeleteChain(family, _)
            | Self::AddRule(family, ..)
            | Self::DeleteRule { family, .. } => *family,
        }
    }
}

/// The table's name (T-51).
#[must_use]
pub const fn table_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel-ipv4",
        Family::V6 => "flannel-ipv6",
    }
}

/// What the table says about itself (T-51).
#[must_use]
pub const fn table_comment(family: Family) -> &'static str {
    match family {
        Family::V4 => "rules for flannel-ipv4",
        Family::V6 => "rules for flannel-ipv6",
    }
}

/// The chain's name (T-52, T-53).
#[must_use]
pub const fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::Forward => "forward",
        Chain::Masquerade => "postrtg",
    }
}

/// What the chain says about itself (T-52, T-53).
#[must_use]
pub const fn chain_comment(chain: Chain) -> &'static str {
    match chain {
        Chain::Forward => "chain to accept flannel traffic",
        Chain::Masquerade => "chain to manage traffic masquerading by flannel",
    }
}

/// How a chain of ours is hooked in: at priority `filter` (0) or `srcnat`
/// (100).
#[must_use]
pub const fn base(chain: Chain) -> Base {
    let priority = match chain {
        Chain::Forward => 0,
        Chain::Masquerade => 100,
    };
    Base { chain, priority, accept: true }
}

/// The changes that turn what was observed into what `rules` want: nothing
/// when it is right. Tables and chains are ours by name; what another flannel
/// on this host keeps in them stays (D-80). Chains of other names go with
/// their table only.
#[must_use]
pub fn diff(rules: &Rules, observed: &Observed) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in Family::ALL {
        one_family(rules, family, observed.get(family), &mut changes);
    }
    changes
}

fn one_family(
    rules: &Rules,
    family: Family,
    table: Option<&Table>,
    changes: &mut Vec<Change>,
) {
    let wanted = Chain::ALL.map(|c| (c, rules.list(family, c)));
    let another = |(name, chain): (&String, &FoundChain)| {
        let ours = Chain::ALL.into_iter().find(|c| chain_name(*c) == name);
        let named = ours.unwrap_or(Chain::Forward);
        let mut owners = chain.rules.iter().map(|f| rules.owner(named, f));
        owners.any(|owner| owner == super::Owner::Another)
    };
    let shared = table.is_some_and(|t| t.chains.iter().any(another));
    if wanted.iter().all(|(_, list)| list.is_empty()) && !shared {
        // With all that is in it, whatever that is.
        changes.extend(table.map(|_| Change::DeleteTable(family)));
        return;
    }

    let from = changes.len();
    let fresh = Table::default();
    let table = table.unwrap_or(&fresh);
    for (chain, desired) in &wanted {
        let found = table.chains.get(chain_name(*chain));
        one_chain(rules, family, *chain, desired, found, changes);
    }
    // Adding what is there changes nothing, and the batch does not fail when
    // somebody has just removed it.
    let adds = |c: &Change| matches!(c, Change::AddChain(..));
    if table.dormant || changes.iter().skip(from).any(adds) {
        changes.insert(from, Change::AddTable(family));
    }
}

fn one_chain(
    rules: &Rules,
    family: Family,
    chain: Chain,
    desired: &[Rule],
    found: Option<&FoundChain>,
    changes: &mut Vec<Change>,
) {
    let add = |changes: &mut Vec<Change>, list: &[Rule]| {
        changes.push(Change::AddChain(family, chain));
        changes.extend(list.iter().map(|r| Change::AddRule(family, chain, *r)));
    };
    let name = chain_name(chain);
    let Some(found) = found else {
        if !desired.is_empty() {
            add(changes, desired);
        }
        return;
    };
    if found.base != Some(base(chain)) {
        // A live chain cannot be hooked in elsewhere. What another flannel
        // has in it sees no packet either; it puts that back by itself.
        changes.push(Change::DeleteChain(family, name.to_owned()));
        if !desired.is_empty() {
            add(changes, desired);
        }
        return;
    }
    let revision = revise(rules, chain, desired, &found.rules);
    let kept = match &revision {
        Some(revision) => !revision.is_empty(),
        None => !desired.is_empty() || !found.rules.is_empty(),
    };
    if !kept {
        changes.push(Change::DeleteChain(family, name.to_owned()));
        return;
    }
    let Some(revision) = revision else { return };
    for (n, rule) in found.rules.iter().enumerate() {
        if !revision.keep.contains(&n) {
            changes.push(Change::DeleteRule {
                family,
                chain,
                handle: rule.id,
                before: rule.rule,
            });
        }
    }
    if !revision.add.is_empty() {
        add(changes, &revision.add);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = |family: &Family| match family {
            Family::V4 => "table ip flannel-ipv4",
            Family::V6 => "table ip6 flannel-ipv6",
        };
        match self {
            Self::AddTable(family) => write!(f, "create {}", table(family)),
            Self::DeleteTable(family) => write!(f, "delete {}", table(family)),
            Self::AddChain(family, chain) => {
                let name = chain_name(*chain);
                write!(f, "create chain {name} in {}", table(family))
            }
            Self::DeleteChain(family, name) => {
                write!(f, "delete chain {name} in {}", table(family))
            }
            Self::AddRule(family, chain, rule) => {
                let name = chain_name(*chain);
                write!(f, "append to chain {name} in {}: {rule}", table(family))
            }
            Self::DeleteRule { family, chain, handle, before } => {
                let name = chain_name(*chain);
                let table = table(family);
                write!(f, "delete from chain {name} in {table}: ")?;
                match before {
                    Some(rule) => rule.fmt(f),
                    None => write!(f, "the rule with handle {handle}"),
                }
            }
        }
    }
}
