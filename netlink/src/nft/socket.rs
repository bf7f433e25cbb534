use nix::errno::Errno;

use super::read::{
    self, ChainState, CountedChain, CountedTable, RuleInfo, TableState,
};
use super::uapi::*;
use super::{
    Batch, Chain, ChainId, ChainKind, Expr, Family, Hook, Op, PRIORITY_SRCNAT,
    Rule, Side, Table, TableId, nfgenmsg,
};
use crate::error::Error;
use crate::netns::NetNs;
use crate::request::Request;
use crate::socket::{Socket, Transaction, open_in};
use crate::wire::Message;

const OBJECT: &str = "nf_tables socket";
/// Attempts at reading a table while others change the rules.
const READ_ATTEMPTS: u32 = 10;
/// Looks at what iptables shows while others change the rules.
const LOOKS: u32 = 5;
/// Table of the rule that is tried and never made.
const PROBE_TABLE: &str = "flannel-probe";

/// A `NETLINK_NETFILTER` socket in one network namespace, like
/// [`Socket`](crate::Socket). Everything needs `CAP_NET_ADMIN` there.
#[derive(Debug)]
pub struct NftSocket(Socket);

/// Whether the kernel has nf_tables, in the calling thread's namespace.
///
/// # Errors
/// When the kernel answers neither yes nor no, such as without
/// `CAP_NET_ADMIN`.
pub fn supported() -> Result<bool, Error> {
    // The socket's protocol and the subsystem behind it are modules.
    let missing = [
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
        Errno::EOPNOTSUPP,
        Errno::EINVAL,
    ];
    match NftSocket::open().and_then(|mut s| s.generation()) {
        Ok(_) => Ok(true),
        Err(e) if e.errno().is_some_and(|n| missing.contains(&n)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// What `look`, which runs iptables' programs, gives when nf_tables were not
/// changed meanwhile, by whomever and in whichever table: iptables built on
/// them leaves out what it was just reading, or says that it cannot show it,
/// and ends as if all were well. Where others never rest, the fifth look
/// counts.
pub fn steadily<T>(mut look: impl FnMut() -> T) -> T {
    let mut socket = NftSocket::open().ok();
    // a kernel without nf_tables has none that change
    let mut generation = || socket.as_mut()?.generation().ok();
    for _ in 1..LOOKS {
        let before = generation();
        let seen = look();
        if generation() == before {
            return seen;
        }
    }
    look()
}

// === impl NftSocket ===

impl NftSocket {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`] when the system refuses the socket or its options.
    pub fn open() -> Result<Self, Error> {
        Socket::open_netfilter(OBJECT).map(Self)
    }

    /// A socket in `namespace`.
    ///
    /// # Errors
    /// As [`NftSocket::open`], or when the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs) -> Result<Self, Error> {
        open_in(namespace, OBJECT, Self::open)
    }

    /// The port number by which [`Change`](super::Change)s name this socket.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.0.port()
    }

    /// Carries the batch out, as a whole or not at all.
    ///
    /// # Errors
    /// The first refused object's; [`Error::is_outdated`] when the batch
    /// expects another generation; [`Error::Unknown`] when the answer was
    /// lost.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.send(batch, true)
    }

    /// Lets the kernel check the batch as if it were to be carried out, and
    /// changes nothing.
    ///
    /// # Errors
    /// As [`NftSocket::commit`].
    pub fn check(&mut self, batch: &Batch) -> Result<(), Error> {
        self.send(batch, false)
    }

    fn send(&mut self, batch: &Batch, commit: bool) -> Result<(), Error> {
        let end = Batch::end();
        self.0.transact(&Transaction {
            begin: &batch.begin(),
            requests: &batch.requests,
            end: commit.then_some(&end),
        })
    }

    /// The namespace's generation; it changes with every batch.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        let header = nfgenmsg(NFPROTO_UNSPEC, 0);
        let message = Message::new(GETGEN, 0, &header);
        let query = Request::new("nf_tables generation", message);
        self.0.get(&query, read::generation).map(|g| g.id)
    }

    /// The tables of one family.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn tables(&mut self, family: Family) -> Result<Vec<Table>, Error> {
        let header = nfgenmsg(family.number(), 0);
        let message = Message::new(GETTABLE, 0, &header);
        let query =
            Request::new(format!("nf_tables tables: {family}"), message);
        self.0.dump(&query, read::table)?.complete()
    }

    /// One table; `None` when it is not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn table(&mut self, id: &TableId) -> Result<Option<Table>, Error> {
        Ok(self.counted(id)?.map(|t| t.table))
    }

    fn counted(&mut self, id: &TableId) -> Result<Option<CountedTable>, Error> {
        let header = nfgenmsg(id.family.number(), 0);
        let mut message = Message::new(GETTABLE, 0, &header);
        message.str(NFTA_TABLE_NAME, &id.name);
        let query = Request::new(format!("table {id}"), message);
        if_there(self.0.get(&query, read::counted_table))
    }

    /// The chains of one table without their rules, oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn chains(&mut self, table: &TableId) -> Result<Vec<Chain>, Error> {
        let counted = self.counted_chains(table)?;
        Ok(counted.into_iter().map(|c| c.chain).collect())
    }

    fn counted_chains(
        &mut self,
        table: &TableId,
    ) -> Result<Vec<CountedChain>, Error> {
        let header = nfgenmsg(table.family.number(), 0);
        let message = Message::new(GETCHAIN, 0, &header);
        let query = Request::new(format!("chains of table {table}"), message);
        let dump = self.0.dump(&query, read::counted_chain)?;
        // The kernel tells of all tables' chains.
        dump.filtered(|c| c.chain.id.table == *table).complete()
    }

    /// One chain without its rules; `None` when it is not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn chain(&mut self, id: &ChainId) -> Result<Option<Chain>, Error> {
        let header = nfgenmsg(id.table.family.number(), 0);
        let mut message = Message::new(GETCHAIN, 0, &header);
        message.str(NFTA_CHAIN_TABLE, &id.table.name);
        message.str(NFTA_CHAIN_NAME, &id.name);
        let query = Request::new(format!("chain {id}"), message);
        if_there(self.0.get(&query, read::chain))
    }

    /// The rules of one table, chain by chain.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn rules(&mut self, table: &TableId) -> Result<Vec<RuleInfo>, Error> {
        let header = nfgenmsg(table.family.number(), 0);
        let mut message = Message::new(GETRULE, 0, &header);
        message.str(NFTA_RULE_TABLE, &table.name);
        let query = Request::new(format!("rules of table {table}"), message);
        let dump = self.0.dump(&query, read::rule)?;
        dump.filtered(|r| r.chain.table == *table).complete()
    }

    /// A table with its chains and rules, all as of one generation; `None`
    /// when it is not there.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the namespace's rules change without
    /// pause; else see [`Error`].
    pub fn read(&mut self, id: &TableId) -> Result<Option<TableState>, Error> {
        for _ in 0..READ_ATTEMPTS {
            let generation = self.generation()?;
            let Some(found) = self.counted(id)? else { return Ok(None) };
            let (table, uses) = (found.table, found.uses);
            let rules = self.rules(id)?;
            let chains = match self.chains_of(&rules)? {
                some if u32::try_from(some.len()).ok() == uses => some,
                _ => {
                    let counted = self.counted_chains(id)?;
                    // Of two tables of one name the kernel lists the rules
                    // of the first, which may be one that a batch has just
                    // replaced: its rules are gone, and it is not yet.
                    if rules.is_empty()
                        && counted.iter().any(CountedChain::has_rules)
                    {
                        continue;
                    }
                    counted.into_iter().map(|c| c.chain).collect()
                }
            };
            // A batch may take effect while the kernel lists, under the new
            // generation already: two looks in a row must agree.
            let again = self.rules(id)?;
            let handles = |rules: &[RuleInfo]| -> Vec<u64> {
                rules.iter().map(|rule| rule.handle).collect()
            };
            if handles(&again) == handles(&rules)
                && self.generation()? == generation
            {
                let chains = with_rules(chains, rules);
                return Ok(Some(TableState { generation, table, chains }));
            }
        }
        let object = format!("table {id}");
        Err(Error::Interrupted { object, attempts: READ_ATTEMPTS })
    }

    /// The chains that have rules, asked for by name. The kernel's list of
    /// chains cannot be had for one table, and some nodes have ten thousands
    /// in others.
    fn chains_of(&mut self, rules: &[RuleInfo]) -> Result<Vec<Chain>, Error> {
        let mut ids: Vec<_> = rules.iter().map(|r| &r.chain).collect();
        ids.dedup();
        let mut chains = Vec::with_capacity(ids.len());
        for id in ids {
            chains.extend(self.chain(id)?);
        }
        Ok(chains)
    }

    /// Whether rules of that family can masquerade with random ports (T-54).
    /// Tried without changing anything.
    ///
    /// # Errors
    /// When the kernel refuses also what has nothing to do with random ports,
    /// such as any masquerading.
    pub fn can_masquerade_randomly(
        &mut self,
        family: ipam::Family,
    ) -> Result<bool, Error> {
        match self.check(&masquerading(family, true)) {
            Ok(()) => Ok(true),
            Err(Error::Refused { .. }) => {
                self.check(&masquerading(family, false)).map(|()| false)
            }
            Err(e) => Err(e),
        }
    }
}

/// `None` for what is not there.
fn if_there<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

fn with_rules(chains: Vec<Chain>, rules: Vec<RuleInfo>) -> Vec<ChainState> {
    let mut states: Vec<_> = chains
        .into_iter()
        .map(|chain| ChainState { chain, rules: Vec::new() })
        .collect();
    for rule in rules {
        let of = states.iter_mut().find(|s| s.chain.id == rule.chain);
        if let Some(state) = of {
            state.rules.push(rule);
        }
    }
    states
}

/// A table with one masquerading rule.
fn masquerading(family: ipam::Family, random: bool) -> Batch {
    let table = Table::new(TableId::new(family, PROBE_TABLE));
    let (kind, hook) = (ChainKind::Nat, Hook::Postrouting);
    let id = table.id.chain("probe");
    let chain = Chain::base(id, kind, hook, PRIORITY_SRCNAT);
    let loopback = match family {
        ipam::Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
        ipam::Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let rule = Rule::new([
        Expr::Address {
            side: Side::Source,
            op: Op::IsNot,
            net: ipam::Subnet::host(loopback),
        },
        Expr::masquerade(random),
    ]);
    let mut batch = Batch::new();
    batch.add_table(&table).add_chain(&chain).append_rule(&chain.id, &rule);
    batch
}
