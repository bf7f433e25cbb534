//! nf_tables in memory: our two tables, handles, batches.

use ipam::{Family, PerFamily};
use overlay::World;
use overlay::rules::Found;
use overlay::rules::nft::{self, Change, FoundChain, Observed, Table};

use crate::run::{Faults, Trouble};

#[derive(Clone, Debug, Default)]
pub(crate) struct Nft {
    pub(crate) tables: PerFamily<Table>,
    pub(crate) handles: u64,
    pub(crate) faults: Faults,
    /// Batches carried out.
    pub(crate) done: usize,
}

impl Nft {
    pub(crate) fn table(&mut self, family: Family) -> Option<&mut Table> {
        match family {
            Family::V4 => self.tables.v4.as_mut(),
            Family::V6 => self.tables.v6.as_mut(),
        }
    }

    /// One batch: as a whole or not at all.
    pub(crate) fn batch(&mut self, changes: &[Change]) -> Result<(), Trouble> {
        let before = self.clone();
        for change in changes {
            if self.step(change).is_none() {
                *self = before;
                return Err(format!("{change}: no such file or directory"));
            }
        }
        Ok(())
    }

    fn step(&mut self, change: &Change) -> Option<()> {
        match change.clone() {
            Change::AddTable(family) => {
                let mut table =
                    self.tables.get(family).cloned().unwrap_or_default();
                table.dormant = false;
                self.tables.set(family, Some(table));
            }
            Change::DeleteTable(family) => {
                self.table(family)?;
                self.tables.set(family, None);
            }
            Change::AddChain(family, chain) => {
                let base = Some(nft::base(chain));
                let name = nft::chain_name(chain).to_owned();
                let chains = &mut self.table(family)?.chains;
                let fresh = FoundChain { base, rules: Vec::new() };
                if chains.entry(name).or_insert(fresh).base != base {
                    return None;
                }
            }
            Change::DeleteChain(family, name) => {
                self.table(family)?.chains.remove(&name)?;
            }
            Change::AddRule(family, chain, rule) => {
                self.handles += 1;
                let id = self.handles;
                let nets = rule.nets().collect();
                let found = Found { id, rule: Some(rule), nets };
                let chains = &mut self.table(family)?.chains;
                chains.get_mut(nft::chain_name(chain))?.rules.push(found);
            }
            Change::DeleteRule { family, chain, handle, .. } => {
                let chains = &mut self.table(family)?.chains;
                let rules = &mut chains.get_mut(nft::chain_name(chain))?.rules;
                let at = rules.iter().position(|r| r.id == handle)?;
                rules.remove(at);
            }
        }
        Some(())
    }
}

impl World for Nft {
    type Scope = ();
    type Observed = Observed;
    type Change = Change;
    type Error = Trouble;

    fn observe(&mut self, (): &()) -> Result<Observed, Trouble> {
        self.faults.next().before()?;
        Ok(self.tables.clone())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), Trouble>> {
        if changes.is_empty() {
            return Vec::new();
        }
        let fault = self.faults.next();
        self.done += 1;
        let outcome = fault
            .before()
            .and_then(|()| self.batch(changes))
            .and_then(|()| fault.after());
        vec![outcome; changes.len()]
    }
}
