//! What others do to the firewalls meanwhile.

use ipam::Family;
use overlay::rules::iptables::Place;
use overlay::rules::{Chain, Found, Rule, Side, Verdict, nft};
use proptest::prelude::*;

use crate::run::{Run, networks};

#[derive(Clone, Debug)]
pub(crate) enum Hand {
    /// `iptables -t <table> -F`, `nft flush chain`
    Flush(Family, Chain),
    /// `nft delete table`, all chains of the iptables table emptied and
    /// deleted
    Clear(Family),
    /// The chain with the jump to it deleted; the nft chain deleted.
    Delete(Family, Chain),
    /// The jump deleted, or there twice.
    Jump(Family, Chain, bool),
    /// One rule of our chain is lost.
    Lose(Family, Chain, usize),
    /// Two rules of our chain change places.
    Swap(Family, Chain, usize),
    /// A rule of theirs in our chain: it names no network, or ours.
    Squat(Family, Chain, bool),
    /// A rule of their own elsewhere.
    Own(Family, Chain),
    /// A jump of their own to our chain.
    Lead(Family, Chain),
    /// `FORWARD` drops.
    Policy(Family),
    /// The table does not see packets.
    Dormant(Family),
    /// The chain of our name is hooked in elsewhere.
    Bend(Family, Chain),
    /// A chain of theirs in our table.
    Foreign(Family),
}

pub(crate) const JUNK: &str = "-p tcp -j RETURN";

impl Hand {
    pub(crate) fn act(&self, run: &mut Run) {
        match *self {
            Self::Flush(family, chain) => {
                let place = Place::of(chain);
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut(place.table).unwrap();
                table.values_mut().for_each(|c| c.rules.clear());
                if let Some(found) = nft_chain(run, family, chain) {
                    found.rules.clear();
                }
            }
            Self::Clear(family) => {
                *run.iptables.of(family) = Default::default();
                run.nft.tables.set(family, None);
            }
            Self::Delete(family, chain) => {
                let place = Place::of(chain);
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut(place.table).unwrap();
                for contents in table.values_mut() {
                    contents.rules.retain(|r| !r.contains(place.chain));
                }
                table.remove(place.chain);
                if let Some(table) = run.nft.table(family) {
                    table.chains.remove(nft::chain_name(chain));
                }
            }
            Self::Jump(family, chain, twice) => {
                let place = Place::of(chain);
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut(place.table).unwrap();
                let exists = table.contains_key(place.chain);
                let from = table.get_mut(place.from).unwrap();
                let jump = place.jump();
                let jump = jump.split_once(' ').unwrap().1;
                match twice {
                    true if exists => from.rules.insert(0, jump.to_owned()),
                    true => {}
                    false => from.rules.retain(|r| r != jump),
                }
            }
            Self::Lose(family, chain, n) => {
                if let Some(rules) = iptables_chain(run, family, chain)
                    && !rules.is_empty()
                {
                    rules.remove(n % rules.len());
                }
                if let Some(found) = nft_chain(run, family, chain)
                    && !found.rules.is_empty()
                {
                    found.rules.remove(n % found.rules.len());
                }
            }
            Self::Swap(family, chain, n) => {
                if let Some(rules) = iptables_chain(run, family, chain)
                    && !rules.is_empty()
                {
                    let n = n % rules.len();
                    rules.swap(0, n);
                }
                if let Some(found) = nft_chain(run, family, chain)
                    && !found.rules.is_empty()
                {
                    let n = n % found.rules.len();
                    found.rules.swap(0, n);
                }
            }
            Self::Squat(family, chain, names) => {
                let net = networks(0, family, 9).subnet;
                let text = match names {
                    true => format!("-s {net} -j ACCEPT"),
                    false => JUNK.to_owned(),
                };
                if let Some(rules) = iptables_chain(run, family, chain) {
                    rules.insert(0, text);
                }
                run.nft.handles += 1;
                let id = run.nft.handles;
                let from = Some(Side { not: false, net });
                let rule = Rule {
                    mark: None,
                    from,
                    to: None,
                    verdict: Verdict::Return,
                };
                let found = match names {
                    true => Found { id, rule: Some(rule), nets: vec![net] },
                    false => Found { id, rule: None, nets: Vec::new() },
                };
                if let Some(chain) = nft_chain(run, family, chain) {
                    chain.rules.insert(0, found);
                }
            }
            Self::Own(family, chain) => {
                let place = Place::of(chain);
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut(place.table).unwrap();
                let from = table.get_mut(place.from).unwrap();
                from.rules.push("-i eth9 -j ACCEPT".to_owned());
                table.entry("THEIRS".to_owned()).or_default();
            }
            Self::Lead(family, chain) => {
                let place = Place::of(chain);
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut(place.table).unwrap();
                if table.contains_key(place.chain) {
                    let theirs = table.entry("THEIRS".to_owned()).or_default();
                    theirs.rules.push(format!("-p udp -j {}", place.chain));
                }
            }
            Self::Policy(family) => {
                let tables = &mut run.iptables.of(family).0;
                let table = tables.get_mut("filter").unwrap();
                table.get_mut("FORWARD").unwrap().policy = Some("DROP");
            }
            Self::Dormant(family) => {
                if let Some(table) = run.nft.table(family) {
                    table.dormant = true;
                }
            }
            Self::Bend(family, chain) => {
                if let Some(found) = nft_chain(run, family, chain)
                    && let Some(base) = &mut found.base
                {
                    base.priority += 1;
                }
            }
            Self::Foreign(family) => {
                if let Some(table) = run.nft.table(family) {
                    table.chains.entry("theirs".to_owned()).or_default();
                }
            }
        }
    }
}

fn iptables_chain(
    run: &mut Run,
    family: Family,
    chain: Chain,
) -> Option<&mut Vec<String>> {
    let place = Place::of(chain);
    let table = run.iptables.of(family).0.get_mut(place.table)?;
    Some(&mut table.get_mut(place.chain)?.rules)
}

fn nft_chain(
    run: &mut Run,
    family: Family,
    chain: Chain,
) -> Option<&mut nft::FoundChain> {
    run.nft.table(family)?.chains.get_mut(nft::chain_name(chain))
}

pub(crate) fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

pub(crate) fn hand() -> impl Strategy<Value = Hand> {
    let chain = || prop_oneof![Just(Chain::Forward), Just(Chain::Masquerade)];
    let at = move || (family(), chain());
    prop_oneof![
        at().prop_map(|(f, c)| Hand::Flush(f, c)),
        family().prop_map(Hand::Clear),
        at().prop_map(|(f, c)| Hand::Delete(f, c)),
        (at(), any::<bool>()).prop_map(|((f, c), b)| Hand::Jump(f, c, b)),
        (at(), 0..12usize).prop_map(|((f, c), n)| Hand::Lose(f, c, n)),
        (at(), 0..12usize).prop_map(|((f, c), n)| Hand::Swap(f, c, n)),
        (at(), any::<bool>()).prop_map(|((f, c), b)| Hand::Squat(f, c, b)),
        at().prop_map(|(f, c)| Hand::Own(f, c)),
        at().prop_map(|(f, c)| Hand::Lead(f, c)),
        family().prop_map(Hand::Policy),
        family().prop_map(Hand::Dormant),
        at().prop_map(|(f, c)| Hand::Bend(f, c)),
        family().prop_map(Hand::Foreign),
    ]
}
