//! What is wrong with a chain, and what it should hold instead.

use ipam::Subnet;

use super::{Chain, Rule, Rules, marked};

/// A rule as it was found in a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<Id> {
    /// How the firewall names it: a handle, or its text.
    pub id: Id,
    /// What it says, if that is something our rules can say.
    pub rule: Option<Rule>,
    /// The networks that it names, understood or not.
    pub nets: Vec<Subnet>,
}

/// Whose a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours: it stays if it is as it should be.
    Us,
    /// Another flannel's on this host: it stays.
    Another,
    /// Every flannel's: it stays while one needs it.
    Shared,
}

/// What a chain should hold instead of what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Indexes of the rules that stay.
    pub keep: Vec<usize>,
    /// What comes after them.
    pub add: Vec<Rule>,
}

// === impl Revision ===

impl Revision {
    /// Nothing is left: the chain is not needed any more.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.add.is_empty()
    }
}

/// What the rules of `chain` should become; `None` when they are right.
///
/// Alone on the host, the chain holds our rules and nothing else. With rules
/// of another flannel in it, ours are there in order, between or behind the
/// other's, and the shared one stands before them.
#[must_use]
pub fn revise<Id>(
    rules: &Rules,
    chain: Chain,
    desired: &[Rule],
    found: &[Found<Id>],
) -> Option<Revision> {
    let owner = |found: &Found<Id>| rules.owner(chain, found);
    if !found.iter().any(|f| owner(f) == Owner::Another) {
        let right = found.len() == desired.len()
            && found.iter().zip(desired).all(|(f, d)| f.rule == Some(*d));
        let revision = || Revision { keep: Vec::new(), add: desired.to_vec() };
        return (!right).then(revision);
    }
    let mut rest = desired;
    let mut needs_shared = false;
    if let Some((first, others)) = desired.split_first()
        && *first == marked()
    {
        (rest, needs_shared) = (others, true);
    }
    let place = |of| found.iter().position(|f| owner(f) == of);
    let shared = place(Owner::Shared);
    let mine = found.iter().filter(|f| owner(f) == Owner::Us);
    let right = mine.map(|f| f.rule).eq(rest.iter().map(|d| Some(*d)))
        && (!needs_shared
            || shared.is_some_and(|at| Some(at) < place(Owner::Us)));
    if right {
        return None;
    }
    let keep = found.iter().enumerate().filter(|(_, f)| owner(f) != Owner::Us);
    let add = (needs_shared && shared.is_none()).then(marked);
    Some(Revision {
        keep: keep.map(|(n, _)| n).collect(),
        add: add.into_iter().chain(rest.iter().copied()).collect(),
    })
}
