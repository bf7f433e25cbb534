//! Our tables in nf_tables as an [`overlay::World`]: each set of changes is
//! one batch, refused when anything changed since the look.

mod rule;

use std::sync::Arc;

use ipam::Family;
use netlink::nft::{
    Base, Batch, Chain as NftChain, ChainId, ChainKind, Hook, NftSocket,
    Policy, Table as NftTable, TableId, TableState,
};
use overlay::World;
use overlay::rules::nft::{self, Change, FoundChain, Observed, Table};
use overlay::rules::{Chain, Found};

/// Attempts at looking at both tables while others change the rules.
const LOOKS: u32 = 10;

/// One network namespace's nf_tables.
#[derive(Debug)]
pub struct Nft {
    socket: NftSocket,
    /// As of the last look.
    generation: Option<u32>,
}

/// What the kernel said. One batch has one outcome: clones are the same.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NftError(Arc<netlink::Error>);

// === impl NftError ===

impl NftError {
    /// Something changed since the look: nothing was done, look again.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.0.is_outdated()
    }
}

impl From<netlink::Error> for NftError {
    fn from(error: netlink::Error) -> Self {
        Self(Arc::new(error))
    }
}

// === impl Nft ===

impl Nft {
    /// Opens the calling thread's network namespace; `None` when its kernel
    /// has no nf_tables.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn open() -> Result<Option<Self>, NftError> {
        if !netlink::nft::supported()? {
            return Ok(None);
        }
        Ok(Some(Self { socket: NftSocket::open()?, generation: None }))
    }

    /// The port by which notifications name this world's own changes.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Whether ports can be chosen at random (T-54). Where the kernel does
    /// not say, they are not.
    pub fn random_ports(&mut self, family: Family) -> bool {
        self.socket.can_masquerade_randomly(family).unwrap_or(false)
    }

    /// Chains that drop every forwarded packet which no rule of theirs
    /// accepts: an accept rule of ours does not change that (P58).
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn drops_forwarded(&mut self) -> Result<Vec<ChainId>, NftError> {
        use netlink::nft::Family;
        let mut out = Vec::new();
        for family in [Family::Ip, Family::Ip6, Family::Inet] {
            for table in self.socket.tables(family)? {
                if table.dormant {
                    continue;
                }
                let chains = self.socket.chains(&table.id)?;
                let drops = |chain: &NftChain| {
                    chain.base.is_some_and(|base| {
                        base.hook == Hook::Forward
                            && base.policy == Policy::Drop
                    })
                };
                out.extend(chains.into_iter().filter(drops).map(|c| c.id));
            }
        }
        Ok(out)
    }
}

impl World for Nft {
    type Scope = ();
    type Observed = Observed;
    type Change = Change;
    type Error = NftError;

    fn observe(&mut self, (): &()) -> Result<Observed, NftError> {
        for _ in 0..LOOKS {
            let before = self.socket.generation()?;
            let mut observed = Observed::default();
            for family in Family::ALL {
                let table = self.socket.read(&table(family))?;
                observed.set(family, table.map(read));
            }
            if self.socket.generation()? == before {
                self.generation = Some(before);
                return Ok(observed);
            }
        }
        Err(NftError::from(netlink::Error::Interrupted {
            object: "flannel's nf_tables".to_owned(),
            attempts: LOOKS,
        }))
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), NftError>> {
        if changes.is_empty() {
            return Vec::new();
        }
        let mut batch = Batch::new();
        if let Some(generation) = self.generation {
            batch.expecting(generation);
        }
        for change in changes {
            put(&mut batch, change);
        }
        let outcome = self.socket.commit(&batch).map_err(NftError::from);
        vec![outcome; changes.len()]
    }
}

fn table(family: Family) -> TableId {
    TableId::new(family, nft::table_name(family))
}

fn chain(family: Family, chain: Chain) -> ChainId {
    table(family).chain(nft::chain_name(chain))
}

const fn hooked(chain: Chain) -> (ChainKind, Hook) {
    match chain {
        Chain::Forward => (ChainKind::Filter, Hook::Forward),
        Chain::Masquerade => (ChainKind::Nat, Hook::Postrouting),
    }
}

fn put(batch: &mut Batch, change: &Change) {
    match change {
        Change::AddTable(family) => {
            let comment = Some(nft::table_comment(*family).to_owned());
            let id = table(*family);
            batch.add_table(&NftTable { id, comment, dormant: false });
        }
        Change::DeleteTable(family) => {
            batch.delete_table(&table(*family));
        }
        Change::AddChain(family, which) => {
            let (kind, hook) = hooked(*which);
            let priority = nft::base(*which).priority;
            let policy = Policy::Accept;
            batch.add_chain(&NftChain {
                id: chain(*family, *which),
                base: Some(Base { kind, hook, priority, policy }),
                comment: Some(nft::chain_comment(*which).to_owned()),
            });
        }
        Change::DeleteChain(family, name) => {
            batch.delete_chain(&table(*family).chain(name));
        }
        Change::AddRule(family, which, rule) => {
            batch.append_rule(&chain(*family, *which), &rule::write(rule));
        }
        Change::DeleteRule { family, chain: which, handle, .. } => {
            batch.delete_rule(&chain(*family, *which), *handle);
        }
    }
}

fn read(state: TableState) -> Table {
    let chains = state.chains.into_iter().map(|state| {
        let found = state.rules.iter().map(|info| Found {
            id: info.handle,
            rule: rule::read(&info.rule),
            nets: rule::nets(&info.rule),
        });
        let base = state.chain.base.and_then(place);
        let chain = FoundChain { base, rules: found.collect() };
        (state.chain.id.name, chain)
    });
    Table { dormant: state.table.dormant, chains: chains.collect() }
}

fn place(base: Base) -> Option<nft::Base> {
    let is = |chain: &Chain| hooked(*chain) == (base.kind, base.hook);
    let chain = Chain::ALL.into_iter().find(is)?;
    let accept = base.policy == Policy::Accept;
    Some(nft::Base { chain, priority: base.priority, accept })
}
