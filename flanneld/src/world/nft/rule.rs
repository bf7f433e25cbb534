//! One rule, from overlay's terms into nf_tables' and back.

use ipam::Subnet;
use netlink::nft::{
    Expr, NatFlags, Op, Rule as NftRule, Side as End, Verdict as NftVerdict,
};
use overlay::rules::{Mark, Masquerade, Rule, Side, Verdict};

/// The rule as nf_tables takes it: as `nft` would write it, so that what
/// upstream made reads the same (T-52, T-53).
pub(super) fn write(rule: &Rule) -> NftRule {
    let address = |side, it: Side| Expr::Address {
        side,
        op: if it.not { Op::IsNot } else { Op::Is },
        net: it.net,
    };
    let mark = rule.mark.map(|m| Expr::mark(m.value, m.mask));
    let from = rule.from.map(|it| address(End::Source, it));
    let to = rule.to.map(|it| address(End::Destination, it));
    let verdict = match rule.verdict {
        Verdict::Accept => Expr::accept(),
        Verdict::Return => Expr::ret(),
        Verdict::Masquerade(how) => Expr::masquerade(how.random),
    };
    let conditions = mark.into_iter().chain(from).chain(to);
    NftRule::new(conditions.chain([verdict]).collect::<Vec<_>>())
}

/// What a rule says; `None` when it says something that ours never do.
pub(super) fn read(rule: &NftRule) -> Option<Rule> {
    let (last, conditions) = rule.exprs.split_last()?;
    let verdict = verdict(last)?;
    let mut out = Rule { mark: None, from: None, to: None, verdict };
    for condition in conditions {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "whatever else there may be, ours do not have it"
        )]
        let repeated = match *condition {
            Expr::Mark { mask, op: Op::Is, value } => {
                out.mark.replace(Mark { value, mask }).is_some()
            }
            Expr::Address { side, op, net } => {
                let slot = match side {
                    End::Source => &mut out.from,
                    End::Destination => &mut out.to,
                };
                slot.replace(Side { not: op == Op::IsNot, net }).is_some()
            }
            _ => return None,
        };
        if repeated {
            return None;
        }
    }
    Some(out)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there may be, ours do not have it"
)]
fn verdict(expr: &Expr) -> Option<Verdict> {
    const NO: NatFlags =
        NatFlags { random: false, fully_random: false, persistent: false };
    match expr {
        Expr::Verdict(NftVerdict::Accept) => Some(Verdict::Accept),
        Expr::Verdict(NftVerdict::Return) => Some(Verdict::Return),
        Expr::Masquerade(flags) => {
            let random = flags.fully_random;
            let known = *flags == NatFlags { fully_random: random, ..NO };
            known.then_some(Verdict::Masquerade(Masquerade { random }))
        }
        _ => None,
    }
}

/// The networks a rule names, understood or not.
pub(super) fn nets(rule: &NftRule) -> Vec<Subnet> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "nothing else names a network"
    )]
    let net = |expr: &Expr| match expr {
        Expr::Address { net, .. } => Some(*net),
        _ => None,
    };
    rule.exprs.iter().filter_map(net).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipam::{Family, PerFamily};
    use overlay::rules::{Chain, Networks, Rules};

    use super::*;

    #[test]
    fn every_rule_reads_back_as_it_was_written() {
        for random in [false, true] {
            let rules = Rules {
                masquerade: Some(Masquerade { random }),
                forward: true,
                networks: PerFamily {
                    v4: Some(Networks {
                        network: "10.5.0.0/16".parse().unwrap(),
                        subnet: "10.5.1.0/24".parse().unwrap(),
                    }),
                    v6: Some(Networks {
                        network: "fd00:5::/48".parse().unwrap(),
                        subnet: "fd00:5:0:1::/64".parse().unwrap(),
                    }),
                },
                former: BTreeSet::new(),
            };
            for family in Family::ALL {
                for rule in
                    Chain::ALL.iter().flat_map(|c| rules.list(family, *c))
                {
                    let written = write(&rule);
                    assert_eq!(read(&written), Some(rule));
                    assert!(nets(&written).into_iter().eq(rule.nets()));
                }
            }
        }
    }

    #[test]
    fn what_ours_never_say_is_not_understood() {
        let net: Subnet = "10.5.0.0/16".parse().unwrap();
        let odd = NatFlags { persistent: true, ..NatFlags::default() };
        for exprs in [
            vec![],
            vec![Expr::from(net)],
            vec![Expr::accept(), Expr::from(net)],
            vec![Expr::from(net), Expr::from(net), Expr::accept()],
            vec![Expr::from(net), Expr::Counter, Expr::accept()],
            vec![Expr::from(net), Expr::Masquerade(odd)],
            vec![Expr::Verdict(NftVerdict::Drop)],
            vec![
                Expr::Mark { mask: 1, op: Op::IsNot, value: 1 },
                Expr::accept(),
            ],
        ] {
            let rule = NftRule::new(exprs);
            assert_eq!(read(&rule), None, "{rule}");
        }
    }
}
