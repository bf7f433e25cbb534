//! The rules in iptables and ip6tables: what `iptables-save` shows is read,
//! and answered with input for `iptables-restore --noflush` (T-10 to T-32).
//! Nothing to do is no input, and no process.

use std::fmt;
use std::fmt::Write as _;

use ipam::{Family, Subnet};

use super::{
    Chain, Found, Mark, Masquerade, Rule, Rules, Side, Verdict, revise,
};

mod read;

pub use read::{ReadError, Saved};

/// Where one of our chains is, and what leads into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: &'static str,
    /// The built-in chain that jumps to it.
    pub from: &'static str,
    /// The comment on every rule, by which upstream's are known too.
    pub comment: &'static str,
}

/// What to feed to `iptables-restore` or `ip6tables-restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Whose.
    pub family: Family,
    /// The input.
    pub text: String,
}

// === impl Place ===

impl Place {
    /// T-20 to T-26, T-30 to T-32.
    #[must_use]
    pub const fn of(chain: Chain) -> Self {
        match chain {
            Chain::Forward => Self {
                table: "filter",
                chain: "FLANNEL-FWD",
                from: "FORWARD",
                comment: "flanneld forward",
            },
            Chain::Masquerade => Self {
                table: "nat",
                chain: "FLANNEL-POSTRTG",
                from: "POSTROUTING",
                comment: "flanneld masq",
            },
        }
    }

    /// The rule that leads into the chain (T-20, T-30), as it follows `-A`.
    #[must_use]
    pub fn jump(&self) -> String {
        let Self { chain, from, comment, .. } = self;
        format!("{from} -m comment --comment \"{comment}\" -j {chain}")
    }

    /// `rule` in this chain, as it follows `-A`.
    #[must_use]
    pub fn rule(&self, rule: &Rule) -> String {
        let mut out = self.chain.to_owned();
        // Writing to a string cannot fail.
        if let Some(Mark { value, mask }) = rule.mark {
            let _ = write!(out, " -m mark --mark {value:#x}/{mask:#x}");
        }
        for (flag, side) in [("-s", rule.from), ("-d", rule.to)] {
            if let Some(Side { not, net }) = side {
                let not = if not { " !" } else { "" };
                let _ = write!(out, "{not} {flag} {net}");
            }
        }
        let _ = write!(out, " -m comment --comment \"{}\"", self.comment);
        out += match rule.verdict {
            Verdict::Accept => " -j ACCEPT",
            Verdict::Return => " -j RETURN",
            Verdict::Masquerade(Masquerade { random: false }) => {
                " -j MASQUERADE"
            }
            Verdict::Masquerade(Masquerade { random: true }) => {
                " -j MASQUERADE --random-fully"
            }
        };
        out
    }
}

/// The input that turns what was saved into what `rules` want; `None` when it
/// is right. Each table is one transaction: chains of ours are emptied and
/// filled in it, so that no packet meets half of them. What another flannel
/// has in them is put back as it was.
#[must_use]
pub fn diff(rules: &Rules, family: Family, saved: &Saved) -> Option<Script> {
    let mut text = String::new();
    for chain in Chain::ALL {
        let place = Place::of(chain);
        let desired = rules.list(family, chain);
        let lines = one_chain(rules, chain, &desired, saved);
        if !lines.is_empty() {
            let lines = lines.join("\n");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "*{}\n{lines}\nCOMMIT", place.table);
        }
    }
    (!text.is_empty()).then_some(Script { family, text })
}

fn one_chain(
    rules: &Rules,
    chain: Chain,
    desired: &[Rule],
    saved: &Saved,
) -> Vec<String> {
    let place = Place::of(chain);
    let jump = place.jump();
    let jumps = saved.jumps(chain);
    let mut lines = Vec::new();
    let Some(found) = saved.chain(chain) else {
        if !desired.is_empty() {
            // As a chain that is not there has no jumps, either.
            lines.push(format!(":{} - [0:0]", place.chain));
            lines.extend(
                desired.iter().map(|r| format!("-A {}", place.rule(r))),
            );
            lines.push(format!("-A {jump}"));
        }
        return lines;
    };

    let revision = revise(rules, chain, desired, found);
    let kept = match &revision {
        Some(revision) => !revision.is_empty(),
        None => !found.is_empty(),
    };
    if !kept {
        // Upstream's own way from iptables to nftables leaves the jump, and
        // with it a chain that cannot be deleted (W-22).
        lines.extend(jumps.ours.iter().map(|jump| format!("-D {jump}")));
        if jumps.others > 0 {
            let already = found.is_empty() && lines.is_empty();
            lines.extend(
                (!already).then(|| format!(":{} - [0:0]", place.chain)),
            );
            return lines;
        }
        lines.push(format!("-F {}", place.chain));
        lines.push(format!("-X {}", place.chain));
        return lines;
    }
    if let Some(revision) = revision {
        lines.push(format!(":{} - [0:0]", place.chain));
        let kept = revision.keep.iter().filter_map(|n| found.get(*n));
        lines.extend(kept.map(|f| format!("-A {}", f.id)));
        lines.extend(
            revision.add.iter().map(|r| format!("-A {}", place.rule(r))),
        );
    }
    match jumps.ours.as_slice() {
        [] => lines.push(format!("-A {jump}")),
        [_] => {}
        // Deleting takes the first of those that are equal.
        [_, more @ ..] => {
            lines.extend(more.iter().map(|jump| format!("-D {jump}")));
        }
    }
    lines
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let lines: Vec<_> = self.text.lines().collect();
        write!(f, "{name}: {}", lines.join("; "))
    }
}

type FoundRule = Found<String>;

/// A network as `-s` and `-d` show it: an address alone is one host.
fn net(text: &str) -> Option<Subnet> {
    text.parse().ok().or_else(|| text.parse().ok().map(Subnet::host))
}
