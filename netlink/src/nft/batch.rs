use super::uapi::*;
use super::{Base, Chain, ChainId, Rule, Table, TableId};
use super::{expr, nfgenmsg, udata};
use crate::request::Request;
use crate::wire::Message;
use crate::wire::uapi::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};

/// Changes that are carried out in order, all or none. Sent by
/// [`NftSocket::commit`](super::NftSocket::commit).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) requests: Vec<Request>,
    pub(super) generation: Option<u32>,
}

// === impl Batch ===

impl Batch {
    /// An empty batch. Committing it does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuse the batch ([`Error::is_outdated`](crate::Error::is_outdated))
    /// unless the namespace's generation is still this one.
    pub fn expecting(&mut self, generation: u32) -> &mut Self {
        self.generation = Some(generation);
        self
    }

    /// How many changes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Makes the table, or leaves the one of that name but for its being
    /// dormant: a comment is not changed.
    pub fn add_table(&mut self, table: &Table) -> &mut Self {
        let mut m = message(NEWTABLE, NLM_F_CREATE, &table.id);
        let flags = if table.dormant { NFT_TABLE_F_DORMANT } else { 0 };
        m.u32_be(NFTA_TABLE_FLAGS, flags);
        if let Some(comment) = &table.comment {
            m.bytes(NFTA_TABLE_USERDATA, &udata::of_comment(comment));
        }
        self.push(format!("table {}", table.id), m)
    }

    /// Deletes the table and all in it, also what others put there. Refused
    /// when it is not there
    /// ([`Error::is_not_found`](crate::Error::is_not_found)).
    pub fn delete_table(&mut self, table: &TableId) -> &mut Self {
        let m = message(DELTABLE, 0, table);
        self.push(format!("table {table}"), m)
    }

    /// As [`Batch::delete_table`], also when the table is not there. Together
    /// with what is added afterwards this makes a table anew.
    pub fn remove_table(&mut self, table: &TableId) -> &mut Self {
        self.add_table(&Table::new(table.clone())).delete_table(table)
    }

    /// Makes the chain, or leaves the one of that name but for its policy.
    /// Refused (`EEXIST`) when that one has another [`Base`]; a comment is not
    /// changed.
    pub fn add_chain(&mut self, chain: &Chain) -> &mut Self {
        let mut m = message(NEWCHAIN, NLM_F_CREATE, &chain.id.table);
        m.str(NFTA_CHAIN_NAME, &chain.id.name);
        if let Some(base) = &chain.base {
            base_attrs(&mut m, base);
        }
        if let Some(comment) = &chain.comment {
            m.bytes(NFTA_CHAIN_USERDATA, &udata::of_comment(comment));
        }
        self.push(format!("chain {}", chain.id), m)
    }

    /// Deletes the chain and its rules. Refused when it is not there, and
    /// (`EBUSY`) while rules of other chains jump to it.
    pub fn delete_chain(&mut self, chain: &ChainId) -> &mut Self {
        let mut m = message(DELCHAIN, 0, &chain.table);
        m.str(NFTA_CHAIN_NAME, &chain.name);
        self.push(format!("chain {chain}"), m)
    }

    /// Deletes the chain's rules. Refused when there is no such chain.
    pub fn flush_chain(&mut self, chain: &ChainId) -> &mut Self {
        let m = rule_message(DELRULE, 0, chain);
        self.push(format!("rules of chain {chain}"), m)
    }

    /// Adds the rule after all others of the chain.
    pub fn append_rule(&mut self, chain: &ChainId, rule: &Rule) -> &mut Self {
        self.rule(chain, rule, NLM_F_CREATE | NLM_F_APPEND, None)
    }

    /// Adds the rule before all others of the chain.
    pub fn insert_rule(&mut self, chain: &ChainId, rule: &Rule) -> &mut Self {
        self.rule(chain, rule, NLM_F_CREATE, None)
    }

    /// Puts the rule in the place of the one with that handle.
    pub fn replace_rule(
        &mut self,
        chain: &ChainId,
        handle: u64,
        rule: &Rule,
    ) -> &mut Self {
        self.rule(chain, rule, NLM_F_REPLACE, Some(handle))
    }

    /// Deletes the rule with that handle.
    pub fn delete_rule(&mut self, chain: &ChainId, handle: u64) -> &mut Self {
        let mut m = rule_message(DELRULE, 0, chain);
        m.u64_be(NFTA_RULE_HANDLE, handle);
        self.push(format!("rule with handle {handle} in chain {chain}"), m)
    }

    fn rule(
        &mut self,
        chain: &ChainId,
        rule: &Rule,
        flags: u16,
        handle: Option<u64>,
    ) -> &mut Self {
        let mut m = rule_message(NEWRULE, flags, chain);
        if let Some(handle) = handle {
            m.u64_be(NFTA_RULE_HANDLE, handle);
        }
        expr::encode(&mut m, &rule.exprs);
        let (comment, note) = (rule.comment.as_deref(), rule.note.as_deref());
        if let Some(data) = udata::of_rule(comment, note) {
            m.bytes(NFTA_RULE_USERDATA, &data);
        }
        self.push(format!("rule \"{rule}\" in chain {chain}"), m)
    }

    fn push(&mut self, object: String, message: Message) -> &mut Self {
        self.requests.push(Request::new(object, message));
        self
    }

    /// The message that opens the batch.
    pub(super) fn begin(&self) -> Request {
        let mut m = Message::new(
            NFNL_MSG_BATCH_BEGIN,
            0,
            &nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES),
        );
        if let Some(generation) = self.generation {
            m.u32_be(NFNL_BATCH_GENID, generation);
        }
        let count = self.requests.len();
        let object = match self.requests.first() {
            Some(first) if count == 1 => first.object(),
            Some(first) => {
                format!("nf_tables batch of {count} from {}", first.object())
            }
            None => "empty nf_tables batch".to_owned(),
        };
        Request::new(object, m)
    }

    /// The message that closes it.
    pub(super) fn end() -> Request {
        let header = nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
        Request::new(
            "end of nf_tables batch",
            Message::new(NFNL_MSG_BATCH_END, 0, &header),
        )
    }
}

/// A message about something in that table.
fn message(kind: u16, flags: u16, table: &TableId) -> Message {
    let header = nfgenmsg(table.family.number(), 0);
    let mut m = Message::new(kind, flags, &header);
    m.str(NFTA_OBJ_TABLE, &table.name);
    m
}

fn rule_message(kind: u16, flags: u16, chain: &ChainId) -> Message {
    let mut m = message(kind, flags, &chain.table);
    m.str(NFTA_RULE_CHAIN, &chain.name);
    m
}

fn base_attrs(m: &mut Message, base: &Base) {
    m.str(NFTA_CHAIN_TYPE, base.kind.name());
    m.nest(NFTA_CHAIN_HOOK, |m| {
        m.u32_be(NFTA_HOOK_HOOKNUM, base.hook.number());
        m.u32_be(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    m.u32_be(NFTA_CHAIN_POLICY, base.policy.number());
}
