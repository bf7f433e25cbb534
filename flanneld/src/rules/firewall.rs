//! Both firewalls of a host: the one that has our rules, and the others, in
//! which nothing of ours is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use ipam::Family;
use netlink::nft::{ChainId, Family as NftFamily, TableId};
use overlay::World;
use overlay::rules::{Rules, iptables as pure, nft as pure_nft};

use super::Setup;
use super::events::{self, Pending};
use super::mended;
use crate::repairs::{Kind, Repair};
use crate::world::iptables::{Change, Flavour, Iptables, Scope, Shown};
use crate::world::nft::Nft;

/// Attempts at a batch while others change the rules.
const ATTEMPTS: u32 = 5;

/// The firewalls.
pub(super) struct Firewall {
    /// The families whose rules are in nftables; the others' are in iptables.
    nftables: BTreeSet<Family>,
    nft: Option<Nft>,
    iptables: Option<Iptables>,
    /// Rules may choose ports at random.
    random: bool,
    polled: bool,
    /// Families whose legacy `FORWARD` chain was last seen to drop.
    legacy_drops: BTreeSet<Family>,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// How many changes were made, by kind.
    pub(super) kinds: BTreeMap<Kind, u64>,
    /// What they have put right, if nothing but a foreign hand made them
    /// necessary.
    pub(super) mended: Vec<Repair>,
    /// What failed, in words.
    pub(super) failed: Vec<String>,
    /// How many of these were looks.
    pub(super) blind: usize,
}

// === impl Firewall ===

impl Firewall {
    /// Finds out what this host has.
    pub(super) fn open(setup: &Setup, pending: &Pending) -> Self {
        let nft = Nft::open().unwrap_or_else(|error| {
            tracing::warn!("nf_tables cannot be used: {error}");
            None
        });
        let path = std::env::var_os("PATH").unwrap_or_default();
        let iptables = Iptables::find(&path, setup.families());
        let wished = setup.wishes.masquerade || setup.wishes.forward;
        let nftables = match &iptables {
            _ if setup.nftables => Family::ALL.into(),
            Err(missing) => {
                if wished {
                    tracing::info!(
                        "iptables cannot be used ({missing}): traffic rules \
                         are set in nftables, as with EnableNFTables"
                    );
                }
                Family::ALL.into()
            }
            Ok(iptables) => {
                for (family, missing) in iptables.missing() {
                    if wished && setup.networks.get(*family).is_some() {
                        tracing::info!(
                            "iptables cannot be used for {family} ({missing}): \
                             its traffic rules are set in nftables"
                        );
                    }
                }
                iptables.missing().keys().copied().collect()
            }
        };
        let mut out = Self {
            nftables,
            nft,
            iptables: iptables.ok(),
            random: false,
            polled: false,
            legacy_drops: BTreeSet::new(),
        };
        out.random = out.random_ports(setup);
        out.listen(pending);
        out
    }

    fn random_ports(&mut self, setup: &Setup) -> bool {
        let wished = setup.wishes.masquerade && setup.wishes.random;
        if !wished {
            return false;
        }
        let iptables =
            self.iptables.as_ref().is_some_and(Iptables::random_ports);
        let possible = setup.networks.families().all(|family| {
            match (self.nftables.contains(&family), &mut self.nft) {
                (true, Some(nft)) => nft.random_ports(family),
                (true, None) => false,
                (false, _) => iptables,
            }
        });
        if !possible {
            tracing::info!(
                "source ports are not chosen at random when masquerading: \
                 this host's kernel or iptables cannot"
            );
        }
        possible
    }

    /// Has changes by others told.
    fn listen(&mut self, pending: &Pending) {
        let flavour = self.iptables.as_ref().and_then(Iptables::flavour);
        let mut tables: BTreeSet<_> = Family::ALL
            .map(|f| TableId::new(f, pure_nft::table_name(f)))
            .into();
        let in_iptables: Vec<_> = Family::ALL
            .into_iter()
            .filter(|family| !self.nftables.contains(family))
            .collect();
        if flavour == Some(Flavour::Nft) {
            for family in &in_iptables {
                let table = |name| TableId::new(*family, name);
                tables.extend([table("filter"), table("nat")]);
            }
        }
        self.polled = !in_iptables.is_empty() && flavour != Some(Flavour::Nft);
        let Some(nft) = &self.nft else {
            self.polled = true;
            return;
        };
        if let Err(error) = events::spawn(pending.clone(), tables, nft.port()) {
            tracing::warn!(
                "nf_tables does not tell of changes, so that rules are looked \
                 at every --iptables-resync seconds: {error:#}"
            );
            self.polled = true;
        }
    }

    /// Whether nothing tells of changes.
    pub(super) fn is_polled(&self, pending: &Pending) -> bool {
        self.polled || pending.is_deaf()
    }

    /// Makes the rules what they should be, where they are to be.
    pub(super) fn keep(&mut self, rules: &Rules) -> Done {
        if rules.is_none() {
            return Done::default();
        }
        let mut rules = rules.clone();
        if let Some(masquerade) = &mut rules.masquerade {
            masquerade.random = self.random;
        }
        let mut done = Done::default();
        let nftables = self.nftables.clone();
        if !nftables.is_empty() {
            match &mut self.nft {
                Some(nft) => pass_nft(nft, &rules, &nftables, &mut done),
                None => done.failed.push(
                    "this kernel has no nf_tables, and iptables cannot be \
                     used either: install iptables, or leave --ip-masq out \
                     and set --iptables-forward-rules=false"
                        .to_owned(),
                ),
            }
        }
        let others = |family| !nftables.contains(&family);
        self.pass_iptables(Scope::Primary, &rules, others, &mut done);
        done
    }

    /// Removes what of ours is where it is not to be.
    pub(super) fn clean(&mut self, rules: &Rules) -> Done {
        let none = rules.none();
        let anywhere = rules.is_none();
        let nftables = self.nftables.clone();
        let mut done = Done::default();
        let not_there: BTreeSet<_> = Family::ALL
            .into_iter()
            .filter(|family| anywhere || !nftables.contains(family))
            .collect();
        if !not_there.is_empty()
            && let Some(nft) = &mut self.nft
        {
            pass_nft(nft, &none, &not_there, &mut done);
        }
        let not_there = |family| anywhere || nftables.contains(&family);
        self.pass_iptables(Scope::Primary, &none, not_there, &mut done);
        self.pass_iptables(Scope::Other, &none, |_| true, &mut done);
        done
    }

    /// What keeps pod traffic from passing although our rules accept it
    /// (P58), one text each. What of it is iptables' was looked at before, by
    /// [`Self::keep`] and [`Self::clean`].
    pub(super) fn obstacles(&mut self, rules: &Rules) -> Vec<String> {
        if !rules.forward || rules.networks.is_empty() {
            return Vec::new();
        }
        let primary = self.iptables.as_ref().and_then(Iptables::flavour);
        let ours = |family, flavour| {
            !self.nftables.contains(&family)
                && primary == Some(flavour)
                && rules.networks.get(family).is_some()
        };
        let mut chains = Vec::new();
        for family in &self.legacy_drops {
            if !ours(*family, Flavour::Legacy) {
                let v6 = if *family == Family::V6 { "6" } else { "" };
                chains.push(format!("FORWARD of legacy ip{v6}tables"));
            }
        }
        if let Some(nft) = &mut self.nft {
            for chain in nft.drops_forwarded().unwrap_or_default() {
                let family = family(&chain);
                let enabled = family
                    .is_none_or(|family| rules.networks.get(family).is_some());
                let iptables =
                    chain.table.name == "filter" && chain.name == "FORWARD";
                let ours =
                    iptables && family.is_some_and(|f| ours(f, Flavour::Nft));
                if enabled && !ours {
                    chains.push(format!("{chain} of nf_tables"));
                }
            }
        }
        let networks: Vec<_> =
            rules.networks.iter().map(|(_, n)| n.network.to_string()).collect();
        let networks = networks.join(" and ");
        let text = |chain: String| {
            format!(
                "chain {chain} drops what none of its own rules accepts, and \
                 flannel's accept rules, which are elsewhere, do not change \
                 that: accept traffic from and to {networks} there"
            )
        };
        chains.into_iter().map(text).collect()
    }

    /// What one family's programs refuse does not keep the other's from their
    /// work.
    fn pass_iptables(
        &mut self,
        scope: Scope,
        rules: &Rules,
        concerned: impl Fn(Family) -> bool,
        done: &mut Done,
    ) {
        let Some(iptables) = &mut self.iptables else { return };
        if !Family::ALL.into_iter().any(&concerned) {
            return;
        }
        let shown = match iptables.observe(&scope) {
            Ok(shown) => shown,
            Err(error) => return done.unseen(&error),
        };
        let mut changes = Vec::new();
        for Shown { tool, saved } in shown {
            if !concerned(tool.family) {
                continue;
            }
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) => {
                    done.unseen(&error);
                    continue;
                }
            };
            if tool.flavour == Flavour::Legacy && saved.drops_forwarded() {
                self.legacy_drops.insert(tool.family);
            } else if tool.flavour == Flavour::Legacy {
                self.legacy_drops.remove(&tool.family);
            }
            let script = pure::diff(rules, tool.family, &saved);
            changes.extend(script.map(|script| Change { tool, script }));
        }
        for (change, outcome) in changes.iter().zip(iptables.apply(&changes)) {
            match outcome {
                Ok(()) => {
                    log(std::slice::from_ref(change));
                    done.count(Kind::Iptables, 1);
                    done.mended.extend(mended::in_iptables(&change.script));
                }
                Err(error) => {
                    tracing::debug!("{change}: {error}");
                    done.failed.push(error.to_string());
                }
            }
        }
    }
}

/// The family whose packets a chain sees; `None`: both.
fn family(chain: &ChainId) -> Option<Family> {
    match chain.table.family {
        NftFamily::Ip => Some(Family::V4),
        NftFamily::Ip6 => Some(Family::V6),
        NftFamily::Inet
        | NftFamily::Arp
        | NftFamily::Bridge
        | NftFamily::Netdev => None,
    }
}

fn pass_nft(
    nft: &mut Nft,
    rules: &Rules,
    families: &BTreeSet<Family>,
    done: &mut Done,
) {
    for attempt in 1..=ATTEMPTS {
        let mut changes = match nft.observe(&()) {
            Ok(observed) => pure_nft::diff(rules, &observed),
            Err(error) => return done.unseen(&error),
        };
        changes.retain(|change| families.contains(&change.family()));
        let outcomes = nft.apply(&changes);
        // One batch has one outcome.
        match outcomes.into_iter().next().unwrap_or(Ok(())) {
            Ok(()) => {
                log(&changes);
                done.count(Kind::Nftables, changes.len());
                done.mended.extend(mended::in_nft(&changes));
                return;
            }
            Err(error) if error.is_outdated() && attempt < ATTEMPTS => {}
            Err(error) => return done.failed.push(error.to_string()),
        }
    }
}

fn log(changes: &[impl Display]) {
    for change in changes {
        tracing::debug!("{change}");
    }
}

// === impl Done ===

impl Done {
    /// How many changes were made.
    pub(super) fn changed(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// Takes in what else was done.
    pub(super) fn add(&mut self, more: &Self) {
        for (kind, count) in &more.kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
        self.blind += more.blind;
    }

    fn count(&mut self, kind: Kind, changes: usize) {
        if changes > 0 {
            let changes = u64::try_from(changes).unwrap_or(u64::MAX);
            *self.kinds.entry(kind).or_default() += changes;
        }
    }

    fn unseen(&mut self, error: &impl Display) {
        self.blind += 1;
        self.failed.push(error.to_string());
    }

    /// The first failure, and how many more there are.
    pub(super) fn failure(&self) -> Option<String> {
        match self.failed.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, rest @ ..] => {
                Some(format!("{first} (and {} more)", rest.len()))
            }
        }
    }
}
