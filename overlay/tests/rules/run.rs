//! Two daemons in small, and what must hold.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use ipam::{Family, PerFamily, Subnet};
use overlay::World;
use overlay::rules::iptables::{self, Place, Script};
use overlay::rules::{
    Chain, Masquerade, Networks, Rule, Rules, Side, Verdict, nft,
};
use proptest::prelude::*;

use crate::hands::{Hand, family, hand};
use crate::iptables::{Iptables, Tables};
use crate::nft::Nft;

pub(crate) type Trouble = String;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It is refused, or never arrives.
    Refused,
    /// It is done, but nobody hears of it.
    LostAnswer,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(VecDeque<Fault>);

impl Faults {
    pub(crate) fn next(&mut self) -> Fault {
        self.0.pop_front().unwrap_or(Fault::None)
    }
}

impl Fault {
    pub(crate) fn before(self) -> Result<(), Trouble> {
        match self {
            Self::Refused => Err("refused".to_owned()),
            Self::None | Self::LostAnswer => Ok(()),
        }
    }

    pub(crate) fn after(self) -> Result<(), Trouble> {
        match self {
            Self::LostAnswer => Err("no answer".to_owned()),
            Self::None | Self::Refused => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A daemon's options change; it never forgets what it had before.
    Options {
        who: usize,
        masquerade: Option<bool>,
        forward: bool,
    },
    Nftables(usize, bool),
    Subnet(usize, Family, Option<u8>),
    Foreign(Hand),
    Faults(Vec<Fault>),
    Pass(usize),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Daemon {
    nftables: bool,
    rules: Rules,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) iptables: Iptables,
    pub(crate) nft: Nft,
    daemons: [Daemon; 2],
}

/// The networks of a daemon whose node has subnet `n`.
pub(crate) fn networks(who: usize, family: Family, n: u8) -> Networks {
    let (network, subnet) = match family {
        Family::V4 => (
            format!("10.{}.0.0/16", 5 + who),
            format!("10.{}.{n}.0/24", 5 + who),
        ),
        Family::V6 => {
            (format!("fd00:{who}::/48"), format!("fd00:{who}:0:{n}::/64"))
        }
    };
    Networks {
        network: network.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
    }
}

impl Default for Run {
    fn default() -> Self {
        let daemon = |who| Daemon {
            nftables: false,
            rules: Rules {
                masquerade: Some(Masquerade { random: true }),
                forward: true,
                networks: PerFamily::from_fn(|f| Some(networks(who, f, 1))),
                former: BTreeSet::new(),
            },
        };
        Self {
            iptables: Iptables::default(),
            nft: Nft::default(),
            daemons: [daemon(0), daemon(1)],
        }
    }
}

impl Daemon {
    fn iptables(&self) -> Rules {
        if self.nftables { self.rules.none() } else { self.rules.clone() }
    }

    fn nft(&self) -> Rules {
        if self.nftables { self.rules.clone() } else { self.rules.none() }
    }
}

impl Run {
    pub(crate) fn step(&mut self, op: &Op) {
        match op.clone() {
            Op::Options { who, masquerade, forward } => {
                let rules = &mut self.daemons[who].rules;
                rules.forward = forward;
                rules.masquerade =
                    masquerade.map(|random| Masquerade { random });
            }
            Op::Nftables(who, on) => self.daemons[who].nftables = on,
            Op::Subnet(who, family, n) => {
                let rules = &mut self.daemons[who].rules;
                if let Some(was) = rules.networks.get(family) {
                    rules.former.extend([was.network, was.subnet]);
                }
                let now = n.map(|n| networks(who, family, n));
                if let Some(now) = now {
                    rules.former.remove(&now.network);
                    rules.former.remove(&now.subnet);
                }
                rules.networks.set(family, now);
            }
            Op::Foreign(hand) => hand.act(self),
            Op::Faults(faults) => {
                let (a, b) = faults.split_at(faults.len() / 2);
                self.iptables.faults = Faults(a.iter().copied().collect());
                self.nft.faults = Faults(b.iter().copied().collect());
            }
            Op::Pass(who) => {
                self.pass(who);
            }
        }
    }

    /// One pass of one daemon; how many changes it tried.
    fn pass(&mut self, who: usize) -> usize {
        let daemon = self.daemons[who].clone();
        let others = self.not_of(who);
        let mut tried = 0;
        if let Ok(saved) = self.iptables.observe(&()) {
            let scripts: Vec<Script> = saved
                .iter()
                .filter_map(|(f, s)| iptables::diff(&daemon.iptables(), f, s))
                .collect();
            tried += scripts.len();
            for outcome in self.iptables.apply(&scripts) {
                outcome_is_fair(&outcome, &scripts);
                if outcome.is_err() {
                    break;
                }
            }
        }
        if let Ok(observed) = self.nft.observe(&()) {
            let changes = nft::diff(&daemon.nft(), &observed);
            tried += changes.len();
            for outcome in self.nft.apply(&changes) {
                outcome_is_fair(&outcome, &changes);
            }
        }
        assert_eq!(self.not_of(who), others, "a pass of {who} touched it");
        tried
    }

    /// All that is not daemon `who`'s: what is outside of our chains, and
    /// what in them the other one wants to be there, as text.
    fn not_of(&self, who: usize) -> Vec<String> {
        let mut out = Vec::new();
        for (tables, family) in self.iptables.families.iter().zip(Family::ALL) {
            out.push(self.foreign(tables));
            let wanted = self.daemons[1 - who].iptables();
            for chain in Chain::ALL {
                let place = Place::of(chain);
                let contents = &tables.0[place.table].get(place.chain);
                let Some(contents) = contents else { continue };
                let there = |r: &&Rule| {
                    let text = place.rule(r);
                    let text = text.split_once(' ').unwrap().1;
                    r.nets().next().is_some()
                        && contents.rules.iter().any(|c| c == text)
                };
                let list = wanted.list(family, chain);
                out.extend(list.iter().filter(there).map(|r| place.rule(r)));
            }
            let table = self.nft.tables.get(family);
            let wanted = self.daemons[1 - who].nft();
            for chain in Chain::ALL {
                let name = nft::chain_name(chain);
                let found = table.and_then(|t| t.chains.get(name));
                let Some(found) = found else { continue };
                // elsewhere, it has no effect and is made anew
                if found.base != Some(nft::base(chain)) {
                    continue;
                }
                let there = |r: &&Rule| {
                    r.nets().next().is_some()
                        && found.rules.iter().any(|f| f.rule == Some(**r))
                };
                let list = wanted.list(family, chain);
                out.extend(list.iter().filter(there).map(|r| r.to_string()));
            }
        }
        out
    }

    fn foreign(&self, tables: &Tables) -> String {
        let mut tables = tables.clone();
        for chain in Chain::ALL {
            let place = Place::of(chain);
            let table = tables.0.get_mut(place.table).unwrap();
            table.remove(place.chain);
            let jump = place.jump();
            let jump = jump.split_once(' ').unwrap().1;
            let from = table.get_mut(place.from).unwrap();
            from.rules.retain(|r| r != jump);
        }
        tables.save()
    }

    /// No more faults, no more hands: everything comes to be as wanted.
    pub(crate) fn settle(&mut self) {
        self.iptables.faults = Faults::default();
        self.nft.faults = Faults::default();
        for _ in 0..3 {
            self.pass(0);
            self.pass(1);
        }
        let before = (self.iptables.done, self.nft.done);
        assert_eq!(self.pass(0), 0, "not settled: {self:#?}");
        assert_eq!(self.pass(1), 0, "not settled: {self:#?}");
        assert_eq!((self.iptables.done, self.nft.done), before);
        for who in [0, 1] {
            for family in Family::ALL {
                self.assert_rules(who, family);
            }
        }
    }

    /// In the daemon's firewall its rules stand, once, in order, and are led
    /// to; in the other there is none.
    fn assert_rules(&self, who: usize, family: Family) {
        let daemon = &self.daemons[who];
        let tables = match family {
            Family::V4 => &self.iptables.families[0],
            Family::V6 => &self.iptables.families[1],
        };
        for chain in Chain::ALL {
            let desired = daemon.rules.list(family, chain);
            let own = |nets: &[Subnet]| {
                let all = [1, 2].map(|n| networks(who, family, n));
                let now = daemon.rules.networks.get(family);
                let named = |net: &Subnet| {
                    now.is_some_and(|n| n.network.covers(net))
                        || all.iter().any(|n| n.subnet == *net)
                };
                nets.iter().any(named)
            };

            let place = Place::of(chain);
            let texts = tables.0[place.table]
                .get(place.chain)
                .map(|c| c.rules.clone())
                .unwrap_or_default();
            let nets = |text: &str| -> Vec<Subnet> {
                text.split(' ').filter_map(|w| w.parse().ok()).collect()
            };
            let mine: Vec<_> = texts.iter().filter(|t| own(&nets(t))).collect();
            let wanted: Vec<_> = desired
                .iter()
                .filter(|_| !daemon.nftables)
                .filter(|r| r.mark.is_none())
                .map(|r| place.rule(r).split_once(' ').unwrap().1.to_owned())
                .collect();
            assert!(mine.iter().copied().eq(&wanted), "{texts:#?} {wanted:#?}");
            assert!(!texts.iter().any(|t| t == crate::hands::JUNK));
            let jump = place.jump();
            let jump = jump.split_once(' ').unwrap().1;
            let from = &tables.0[place.table][place.from].rules;
            let jumps = from.iter().filter(|r| *r == jump).count();
            assert_eq!(jumps, usize::from(!texts.is_empty()));
            if !wanted.is_empty() && chain == Chain::Masquerade {
                let marked = texts.iter().position(|t| t.contains("0x4000"));
                let first = texts.iter().position(|t| *t == wanted[0]);
                assert!(marked.is_some() && marked < first, "{texts:#?}");
            }

            let table = self.nft.tables.get(family);
            let found =
                table.and_then(|t| t.chains.get(nft::chain_name(chain)));
            let rules = found.map(|c| c.rules.clone()).unwrap_or_default();
            let mine = rules.iter().filter(|f| own(&f.nets));
            let mine: Vec<_> = mine.map(|f| f.rule.unwrap()).collect();
            let wanted: Vec<_> = desired
                .iter()
                .filter(|_| daemon.nftables)
                .filter(|r| r.mark.is_none())
                .copied()
                .collect();
            assert_eq!(mine, wanted);
            if daemon.nftables && !desired.is_empty() {
                assert!(!table.unwrap().dormant);
                assert_eq!(found.unwrap().base, Some(nft::base(chain)));
                let rules: Vec<_> =
                    rules.iter().map(|f| f.rule.unwrap()).collect();
                assert_meaning(daemon, family, chain, &rules);
            }
        }
    }
}

/// A firewall without faults takes whatever it is given.
fn outcome_is_fair(
    outcome: &Result<(), Trouble>,
    changes: &impl std::fmt::Debug,
) {
    if let Err(trouble) = outcome {
        let fair = ["refused", "no answer"].contains(&trouble.as_str());
        assert!(fair, "{trouble}: {changes:#?}");
    }
}

/// What happens to a packet of this daemon's pods and nodes, said in another
/// way than as a list of rules.
fn assert_meaning(
    daemon: &Daemon,
    family: Family,
    chain: Chain,
    rules: &[Rule],
) {
    let Networks { network: n, subnet: p } =
        *daemon.rules.networks.get(family).unwrap();
    let (outside, group) = match family {
        Family::V4 => ("192.0.2.7", "224.0.0.5"),
        Family::V6 => ("2001:db8::7", "ff02::5"),
    };
    let remote = n.gateway();
    let all: Vec<IpAddr> = vec![
        p.gateway(),
        remote,
        outside.parse().unwrap(),
        group.parse().unwrap(),
    ];
    for (from, to) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)))
    {
        for mark in [0, 0x4000, 0x14000, 0x8000] {
            if from == all[3] || !(n.contains(from) || n.contains(to)) {
                continue;
            }
            let happens = run(rules, from, to, mark);
            let masquerade = daemon.rules.masquerade.is_some_and(|_| {
                let leaves =
                    n.contains(from) && !n.contains(to) && to != all[3];
                let enters = !n.contains(from) && n.contains(to);
                // between pods of two other nodes, it would be somebody
                // else's packet; upstream masquerades those as well
                let transit = n.contains(from)
                    && n.contains(to)
                    && !p.contains(from)
                    && !p.contains(to);
                mark & 0x4000 == 0
                    && (leaves || (enters && !p.contains(to)) || transit)
            });
            let expected = match chain {
                Chain::Forward => Some(Verdict::Accept),
                Chain::Masquerade if masquerade => {
                    daemon.rules.masquerade.map(Verdict::Masquerade)
                }
                Chain::Masquerade => None,
            };
            assert_eq!(happens, expected, "{from} {to} {mark:#x}: {rules:#?}");
        }
    }
}

fn run(rules: &[Rule], from: IpAddr, to: IpAddr, mark: u32) -> Option<Verdict> {
    let met = |side: Option<Side>, ip| {
        side.is_none_or(|s: Side| s.net.contains(ip) != s.not)
    };
    let hit = rules.iter().find(|r| {
        met(r.from, from)
            && met(r.to, to)
            && r.mark.is_none_or(|m| mark & m.mask == m.value)
    });
    hit.map(|r| r.verdict).filter(|v| *v != Verdict::Return)
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let who = || 0..2usize;
    let fault = prop_oneof![
        2 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::LostAnswer),
    ];
    let op = prop_oneof![
        2 => (who(), prop::option::of(any::<bool>()), any::<bool>()).prop_map(
            |(who, masquerade, forward)| Op::Options {
                who,
                masquerade,
                forward
            }
        ),
        2 => (who(), any::<bool>()).prop_map(|(w, on)| Op::Nftables(w, on)),
        2 => (who(), family(), prop::option::of(1..3u8))
            .prop_map(|(w, f, n)| Op::Subnet(w, f, n)),
        6 => hand().prop_map(Op::Foreign),
        2 => prop::collection::vec(fault, 1..8).prop_map(Op::Faults),
        6 => who().prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 0..40)
}
