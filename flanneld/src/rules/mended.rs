//! What a pass over traffic rules has put right, chain by chain, as it is
//! counted and said.

use std::collections::BTreeMap;

use ipam::Family;
use overlay::rules::Chain;
use overlay::rules::iptables::{Place, Script};
use overlay::rules::nft::{Change, chain_name, table_name};

use crate::repairs::{Cause, Kind, Repair};

/// What was done to one chain.
#[derive(Default)]
struct Tally {
    added: usize,
    removed: usize,
    /// The chain itself was deleted, or hooked in anew.
    remade: bool,
}

/// What the batch `changes` has put right.
pub(super) fn in_nft(changes: &[Change]) -> Vec<Repair> {
    let mut out = Vec::new();
    let mut chains: BTreeMap<(Family, String), Tally> = BTreeMap::new();
    let mut woken = Vec::new();
    for change in changes {
        let (family, chain) = match change {
            Change::AddTable(family) => {
                woken.push(*family);
                continue;
            }
            Change::DeleteTable(family) => {
                out.push(repair(
                    Kind::Nftables,
                    Cause::Surplus,
                    &format!("table {}", table(*family)),
                    "deleted",
                ));
                continue;
            }
            Change::AddChain(family, chain)
            | Change::AddRule(family, chain, _)
            | Change::DeleteRule { family, chain, .. } => {
                (*family, chain_name(*chain).to_owned())
            }
            Change::DeleteChain(family, name) => (*family, name.clone()),
        };
        let tally = chains.entry((family, chain)).or_default();
        match change {
            Change::AddRule(..) => tally.added += 1,
            Change::DeleteRule { .. } => tally.removed += 1,
            Change::DeleteChain(..) => tally.remade = true,
            Change::AddTable(_)
            | Change::DeleteTable(_)
            | Change::AddChain(..) => {}
        }
    }
    for family in woken {
        // made for the chains that follow, unless there are none
        if !chains.keys().any(|(of, _)| *of == family) {
            let what = format!("table {}", table(family));
            out.push(repair(
                Kind::Nftables,
                Cause::Altered,
                &what,
                "switched on",
            ));
        }
    }
    for ((family, chain), tally) in chains {
        let what = format!("chain {chain} in table {}", table(family));
        out.push(tally.repair(Kind::Nftables, &what));
    }
    out
}

/// What the input `script` has put right.
pub(super) fn in_iptables(script: &Script) -> Vec<Repair> {
    let program = match script.family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let mut out = Vec::new();
    for section in script.text.split("COMMIT\n") {
        let Some(place) = Chain::ALL
            .map(Place::of)
            .into_iter()
            .find(|p| section.starts_with(&format!("*{}\n", p.table)))
        else {
            continue;
        };
        let count = |start: String| {
            section.lines().filter(|l| l.starts_with(&start)).count()
        };
        let Place { chain, from, .. } = place;
        let jumps = count(format!("-A {from} "));
        let tally = Tally {
            added: count(format!("-A {chain} ")) + jumps,
            removed: count("-D ".to_owned()),
            remade: count("-X ".to_owned()) > 0
                || count(format!(":{chain} ")) > 0 && jumps == 0,
        };
        let what = format!("chain {chain} of {program}");
        out.push(tally.repair(Kind::Iptables, &what));
    }
    out
}

// === impl Tally ===

impl Tally {
    fn repair(&self, kind: Kind, what: &str) -> Repair {
        let rules = |n: usize| match n {
            1 => "1 rule".to_owned(),
            n => format!("{n} rules"),
        };
        match self {
            Self { added: 0, remade: true, .. } => {
                repair(kind, Cause::Surplus, what, "deleted")
            }
            Self { added: 0, removed, .. } => {
                let done = format!("{} removed", rules(*removed));
                repair(kind, Cause::Surplus, what, &done)
            }
            Self { added, removed: 0, remade: false } => {
                let done = format!("{} added", rules(*added));
                repair(kind, Cause::Missing, what, &done)
            }
            Self { added, .. } => {
                let done = format!("filled anew with {}", rules(*added));
                repair(kind, Cause::Altered, what, &done)
            }
        }
    }
}

fn table(family: Family) -> String {
    let of = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    format!("{of} {}", table_name(family))
}

fn repair(kind: Kind, cause: Cause, what: &str, done: &str) -> Repair {
    let found = match cause {
        Cause::Missing => "lacked what flannel needs",
        Cause::Altered => "was altered",
        Cause::Surplus | Cause::Foreign => "held what is not flannel's",
    };
    Repair { kind, cause, text: format!("{what} {found}: {done}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipam::PerFamily;
    use overlay::rules::iptables::Saved;
    use overlay::rules::nft::{FoundChain, Observed, Table, base};
    use overlay::rules::{Found, Networks, Rule, Rules, iptables, nft};

    use super::*;

    fn rules() -> Rules {
        Rules {
            masquerade: None,
            forward: true,
            networks: PerFamily::one(
                Family::V4,
                Networks {
                    network: "10.5.0.0/16".parse().unwrap(),
                    subnet: "10.5.1.0/24".parse().unwrap(),
                },
            ),
            former: BTreeSet::new(),
        }
    }

    fn found(rule: Rule, id: u64) -> Found<u64> {
        Found { id, rule: Some(rule), nets: rule.nets().collect() }
    }

    /// The table with the forward chain holding `rules`.
    fn observed(list: &[Rule]) -> Observed {
        let rules = list.iter().zip(1..).map(|(r, id)| found(*r, id)).collect();
        let base = Some(base(Chain::Forward));
        let chain = FoundChain { base, rules };
        let chains = [("forward".to_owned(), chain)].into();
        PerFamily::one(Family::V4, Table { dormant: false, chains })
    }

    fn told(repairs: &[Repair]) -> Vec<(Cause, &str)> {
        repairs.iter().map(|r| (r.cause, r.text.as_str())).collect()
    }

    #[test]
    fn each_chain_of_nftables_is_told_once_with_its_cause() {
        let rules = rules();
        let right = rules.list(Family::V4, Chain::Forward);
        let mend = |observed| in_nft(&nft::diff(&rules, &observed));
        let table = "in table ip flannel-ipv4";
        assert_eq!(told(&mend(observed(&right))), []);
        let gone = format!(
            "chain forward {table} lacked what flannel needs: 2 rules added"
        );
        for gone_how in [PerFamily::default(), observed(&[])] {
            assert_eq!(
                told(&mend(gone_how)),
                [(Cause::Missing, gone.as_str())]
            );
        }
        let altered = format!(
            "chain forward {table} was altered: filled anew with 2 rules"
        );
        let mut other = right.clone();
        other.reverse();
        assert_eq!(
            told(&mend(observed(&other))),
            [(Cause::Altered, altered.as_str())]
        );
        let mut asleep = observed(&right);
        asleep.v4.as_mut().unwrap().dormant = true;
        let text = "table ip flannel-ipv4 was altered: switched on";
        assert_eq!(told(&mend(asleep)), [(Cause::Altered, text)]);
        let none = in_nft(&nft::diff(&rules.none(), &observed(&right)));
        let text = "table ip flannel-ipv4 held what is not flannel's: deleted";
        assert_eq!(told(&none), [(Cause::Surplus, text)]);
    }

    #[test]
    fn each_chain_of_iptables_is_told_once_with_its_cause() {
        let rules = rules();
        let mend = |rules: &Rules, saved: &str| {
            let saved = Saved::parse(saved).unwrap();
            let script = iptables::diff(rules, Family::V4, &saved);
            script.map_or_else(Vec::new, |script| in_iptables(&script))
        };
        let frame = |inner: &str| {
            format!("*filter\n:FORWARD ACCEPT [0:0]\n{inner}COMMIT\n")
        };
        let place = Place::of(Chain::Forward);
        let list = rules.list(Family::V4, Chain::Forward);
        let lines = list.iter().map(|r| format!("-A {}\n", place.rule(r)));
        let chain = ":FLANNEL-FWD - [0:0]\n".to_owned();
        let jump = format!("-A {}\n", place.jump());
        let right = chain.clone() + &jump + &lines.collect::<String>();
        assert_eq!(told(&mend(&rules, &frame(&right))), []);
        for (inner, cause) in [
            (String::new(), Cause::Missing),
            (right.replace(&jump, ""), Cause::Missing),
            (chain.clone(), Cause::Missing),
            (chain + &jump, Cause::Altered),
        ] {
            let repairs = mend(&rules, &frame(&inner));
            let [one] = repairs.as_slice() else { panic!("{repairs:?}") };
            assert_eq!((one.kind, one.cause), (Kind::Iptables, cause));
            assert!(one.text.starts_with("chain FLANNEL-FWD of iptables "));
        }
        let none = mend(&rules.none(), &frame(&right));
        assert_eq!(
            told(&none),
            [(
                Cause::Surplus,
                "chain FLANNEL-FWD of iptables held what is not flannel's: \
                 deleted"
            )]
        );
    }
}
