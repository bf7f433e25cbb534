//! Reading tables, chains and rules.

use super::uapi::*;
use super::{
    Base, Chain, ChainId, ChainKind, Family, Hook, NFGENMSG, Policy, Rule,
    Table, TableId,
};
use super::{expr, udata};
use crate::wire::{
    Attrs, Malformed, RawMessage, string, u8_at, u32_be_at, u64_be_at,
};

/// A table with its chains and their rules, as of one generation. Sets, maps
/// and other things in it are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// The namespace's generation: it changes with every batch, whoever sent
    /// it and whatever it changed.
    pub generation: u32,
    /// The table.
    pub table: Table,
    /// Its chains, oldest first.
    pub chains: Vec<ChainState>,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// The chain.
    pub chain: Chain,
    /// Its rules in order.
    pub rules: Vec<RuleInfo>,
}

/// A rule as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The chain it is in.
    pub chain: ChainId,
    /// What names it in the table.
    pub handle: u64,
    /// The rule.
    pub rule: Rule,
    /// The counts of its first counter, if it has one.
    pub counts: Option<Counts>,
}

/// What a counter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

// === impl TableState ===

impl TableState {
    /// The chain of that name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&ChainState> {
        self.chains.iter().find(|c| c.chain.id.name == name)
    }
}

// === impl ChainState ===

impl ChainState {
    /// Its rules without handles and counts.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter().map(|r| &r.rule)
    }

    /// Whether its rules are exactly those, in that order.
    #[must_use]
    pub fn has_exactly(&self, rules: &[Rule]) -> bool {
        self.rules().eq(rules)
    }
}

// === decoding ===

/// The family in a message's header, and its attributes.
fn open<'a>(
    message: &RawMessage<'a>,
) -> Result<(Option<Family>, Attrs<'a>), Malformed> {
    let family =
        u8_at(message.payload, 0).ok_or(Malformed("nf_tables header"))?;
    let attrs = Attrs::after(message.payload, NFGENMSG)?;
    Ok((Family::from_number(family), attrs))
}

/// The table that any kind of nf_tables message is about. `None`: of a
/// family not known here, or not about a table.
pub(super) fn table_of(
    message: &RawMessage<'_>,
) -> Result<Option<TableId>, Malformed> {
    let (family, attrs) = open(message)?;
    for attr in attrs {
        if let (NFTA_OBJ_TABLE, name) = attr? {
            return Ok(family.map(|f| TableId::new(f, string(name))));
        }
    }
    Ok(None)
}

/// A table, and how many chains, sets and other things are in it.
pub(super) struct CountedTable {
    pub(super) table: Table,
    pub(super) uses: Option<u32>,
}

pub(crate) fn table(
    message: &RawMessage<'_>,
) -> Result<Option<Table>, Malformed> {
    Ok(counted_table(message)?.map(|t| t.table))
}

pub(super) fn counted_table(
    message: &RawMessage<'_>,
) -> Result<Option<CountedTable>, Malformed> {
    if message.kind != NEWTABLE {
        return Ok(None);
    }
    let (family, attrs) = open(message)?;
    let Some(family) = family else { return Ok(None) };
    let mut table = Table::new(TableId::new(family, ""));
    let mut uses = None;
    for attr in attrs {
        match attr? {
            (NFTA_TABLE_NAME, value) => table.id.name = string(value),
            (NFTA_TABLE_FLAGS, value) => {
                let flags =
                    u32_be_at(value, 0).ok_or(Malformed("table flags"))?;
                table.dormant = flags & NFT_TABLE_F_DORMANT != 0;
            }
            (NFTA_TABLE_USE, value) => uses = u32_be_at(value, 0),
            (NFTA_TABLE_USERDATA, value) => {
                table.comment = udata::comment(value);
            }
            _ => {}
        }
    }
    if table.id.name.is_empty() {
        return Err(Malformed("table: no name"));
    }
    Ok(Some(CountedTable { table, uses }))
}

/// A chain, and how many rules are in it or jump to it.
pub(super) struct CountedChain {
    pub(super) chain: Chain,
    pub(super) uses: Option<u32>,
}

impl CountedChain {
    /// Whether it is known to have rules: nothing jumps to a base chain.
    pub(super) fn has_rules(&self) -> bool {
        self.chain.base.is_some() && self.uses.is_some_and(|uses| uses > 0)
    }
}

pub(crate) fn chain(
    message: &RawMessage<'_>,
) -> Result<Option<Chain>, Malformed> {
    Ok(counted_chain(message)?.map(|c| c.chain))
}

pub(super) fn counted_chain(
    message: &RawMessage<'_>,
) -> Result<Option<CountedChain>, Malformed> {
    if message.kind != NEWCHAIN {
        return Ok(None);
    }
    let (family, attrs) = open(message)?;
    let Some(family) = family else { return Ok(None) };
    let mut id = TableId::new(family, "").chain("");
    let (mut hook, mut kind, mut policy) = (None, None, None);
    let (mut comment, mut uses) = (None, None);
    for attr in attrs {
        match attr? {
            (NFTA_CHAIN_TABLE, value) => id.table.name = string(value),
            (NFTA_CHAIN_NAME, value) => id.name = string(value),
            (NFTA_CHAIN_HOOK, value) => hook = Some(value),
            (NFTA_CHAIN_TYPE, value) => kind = Some(string(value)),
            (NFTA_CHAIN_POLICY, value) => policy = u32_be_at(value, 0),
            (NFTA_CHAIN_USE, value) => uses = u32_be_at(value, 0),
            (NFTA_CHAIN_USERDATA, value) => comment = udata::comment(value),
            _ => {}
        }
    }
    if id.name.is_empty() || id.table.name.is_empty() {
        return Err(Malformed("chain: no name"));
    }
    let base = match hook {
        None => None,
        Some(hook) => {
            let kind = kind.as_deref().and_then(ChainKind::from_name);
            let kind = kind.ok_or(Malformed("chain type"))?;
            let policy = policy.and_then(Policy::from_number);
            let policy = policy.ok_or(Malformed("chain policy"))?;
            let (hook, priority) = self::hook(hook)?;
            Some(Base { kind, hook, priority, policy })
        }
    };
    let chain = Chain { id, base, comment };
    Ok(Some(CountedChain { chain, uses }))
}

fn hook(bytes: &[u8]) -> Result<(Hook, i32), Malformed> {
    let (mut hook, mut priority) = (None, None);
    for attr in Attrs::new(bytes) {
        match attr? {
            (NFTA_HOOK_HOOKNUM, value) => hook = u32_be_at(value, 0),
            (NFTA_HOOK_PRIORITY, value) => {
                priority = u32_be_at(value, 0).map(u32::cast_signed);
            }
            _ => {}
        }
    }
    hook.and_then(Hook::from_number).zip(priority).ok_or(Malformed("hook"))
}

pub(crate) fn rule(
    message: &RawMessage<'_>,
) -> Result<Option<RuleInfo>, Malformed> {
    if message.kind != NEWRULE {
        return Ok(None);
    }
    let (family, attrs) = open(message)?;
    let Some(family) = family else { return Ok(None) };
    let mut chain = TableId::new(family, "").chain("");
    let mut handle = None;
    let (mut exprs, mut counts) = (Vec::new(), None);
    let (mut comment, mut note) = (None, None);
    for attr in attrs {
        match attr? {
            (NFTA_RULE_TABLE, value) => chain.table.name = string(value),
            (NFTA_RULE_CHAIN, value) => chain.name = string(value),
            (NFTA_RULE_HANDLE, value) => handle = u64_be_at(value, 0),
            (NFTA_RULE_EXPRESSIONS, value) => {
                let context = expr::Context::of(family);
                (exprs, counts) = expr::decode(value, context)?;
            }
            (NFTA_RULE_USERDATA, value) => {
                comment = udata::comment(value);
                note = udata::note(value);
            }
            _ => {}
        }
    }
    let handle = handle.ok_or(Malformed("rule: no handle"))?;
    let counts = counts.map(|(packets, bytes)| Counts { packets, bytes });
    let rule = Rule { exprs, comment, note };
    Ok(Some(RuleInfo { chain, handle, rule, counts }))
}

/// What `NFT_MSG_NEWGEN` says: the generation, and who made it.
pub(super) struct Generation {
    pub(super) id: u32,
    pub(super) process: Option<(u32, String)>,
}

pub(super) fn generation(
    message: &RawMessage<'_>,
) -> Result<Option<Generation>, Malformed> {
    if message.kind != NEWGEN {
        return Ok(None);
    }
    let (_, attrs) = open(message)?;
    let (mut id, mut pid, mut name) = (None, None, None);
    for attr in attrs {
        match attr? {
            (NFTA_GEN_ID, value) => id = u32_be_at(value, 0),
            (NFTA_GEN_PROC_PID, value) => pid = u32_be_at(value, 0),
            (NFTA_GEN_PROC_NAME, value) => name = Some(string(value)),
            _ => {}
        }
    }
    let id = id.ok_or(Malformed("generation"))?;
    Ok(Some(Generation { id, process: pid.zip(name) }))
}
