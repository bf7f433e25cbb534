//! Reads what `iptables-save` and `ip6tables-save` print, as far as it
//! concerns our chains.

use std::collections::BTreeMap;

use super::{FoundRule, Place, net};
use crate::rules::{Chain, Mark, Masquerade, Rule, Side, Verdict};

/// What of ours, and around it, was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    chains: BTreeMap<Chain, Vec<FoundRule>>,
    jumps: BTreeMap<Chain, Jumps>,
    forward_policy: Option<String>,
}

/// The rules that lead into a chain of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Jumps {
    /// Ours or upstream's, as they follow `-A`.
    pub(super) ours: Vec<String>,
    /// How many others there are.
    pub(super) others: usize,
}

/// Why the text does not say what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It ends in the middle.
    #[error("table {0} has no end: iptables-save was cut short")]
    Cut(String),
    /// A line that is not of this format.
    #[error("iptables-save printed {0:?}, which is no line of its format")]
    Line(String),
    /// Somebody has put rules into the table that `iptables` cannot show.
    #[error(
        "table {0} holds what only nft can show, so iptables-save leaves it \
         out; remove that, or set EnableNFTables in the network configuration"
    )]
    Incompatible(String),
}

/// A rule being read.
#[derive(Default)]
struct Reading {
    mark: Option<Mark>,
    from: Option<Side>,
    to: Option<Side>,
    verdict: Option<Verdict>,
    commented: bool,
    /// Something in it is none of our rules' words.
    strange: bool,
    nets: Vec<ipam::Subnet>,
}

// === impl Saved ===

impl Saved {
    /// Reads the text.
    ///
    /// # Errors
    /// [`ReadError`]: the text is not all there is.
    pub fn parse(text: &str) -> Result<Self, ReadError> {
        let mut out = Self::default();
        let mut table: Option<&str> = None;
        for line in text.lines().map(str::trim) {
            let bad = || ReadError::Line(line.to_owned());
            if let Some(remark) = line.strip_prefix('#') {
                refused(remark)?;
                continue;
            }
            match (line.split_at_checked(1), table) {
                (None, _) => {}
                (Some(("*", name)), None) => table = Some(name),
                (Some((":", chain)), Some(table)) => out.declare(table, chain),
                _ if line == "COMMIT" && table.is_some() => table = None,
                (Some(("-" | "[", _)), Some(table)) => {
                    // `-c` puts counters in front
                    let (_, rule) = line.split_once("-A ").ok_or_else(bad)?;
                    out.rule(table, rule);
                }
                _ => return Err(bad()),
            }
        }
        match table {
            Some(table) => Err(ReadError::Cut(table.to_owned())),
            None => Ok(out),
        }
    }

    /// The rules of a chain; `None` when it is not there.
    pub(in crate::rules) fn chain(&self, chain: Chain) -> Option<&[FoundRule]> {
        self.chains.get(&chain).map(Vec::as_slice)
    }

    /// What leads into a chain.
    pub(super) fn jumps(&self, chain: Chain) -> Jumps {
        self.jumps.get(&chain).cloned().unwrap_or_default()
    }

    /// Whether the `FORWARD` chain drops what no rule in it accepts (P58):
    /// no accept rule elsewhere changes that.
    #[must_use]
    pub fn drops_forwarded(&self) -> bool {
        self.forward_policy.as_deref() == Some("DROP")
    }

    /// `FORWARD ACCEPT [0:0]`
    fn declare(&mut self, table: &str, text: &str) {
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default();
        for chain in Chain::ALL {
            let place = Place::of(chain);
            if (table, name) == (place.table, place.chain) {
                self.chains.entry(chain).or_default();
            }
        }
        if (table, name) == ("filter", "FORWARD") {
            self.forward_policy = words.next().map(str::to_owned);
        }
    }

    /// `FORWARD -m comment --comment "a b" -j FLANNEL-FWD`
    fn rule(&mut self, table: &str, text: &str) {
        let here = Chain::ALL.into_iter().map(|c| (c, Place::of(c)));
        for (chain, place) in here.filter(|(_, p)| p.table == table) {
            let mut words = text.split(' ');
            if words.next() == Some(place.chain) {
                let found = Reading::of(text, &place).done(text);
                self.chains.entry(chain).or_default().push(found);
            } else if text == place.jump() {
                let jumps = self.jumps.entry(chain).or_default();
                jumps.ours.push(text.to_owned());
            } else if words.any(|word| word == place.chain) {
                self.jumps.entry(chain).or_default().others += 1;
            }
        }
    }
}

/// ``# Table `nat' is incompatible, use 'nft' tool.``
fn refused(remark: &str) -> Result<(), ReadError> {
    let table = remark.split(['`', '\'']).nth(1).unwrap_or_default();
    let ours = Chain::ALL.iter().any(|c| Place::of(*c).table == table);
    if remark.contains("is incompatible") && ours {
        return Err(ReadError::Incompatible(table.to_owned()));
    }
    Ok(())
}

// === impl Reading ===

impl Reading {
    /// Reads a rule in `place`.
    fn of(text: &str, place: &Place) -> Self {
        let words = words(text);
        let mut rest = words.iter().skip(1).map(String::as_str);
        let mut out = Self::default();
        let mut not = false;
        while let Some(word) = rest.next() {
            match word {
                "!" if !not => {
                    not = true;
                    continue;
                }
                "-s" => out.side(rest.next(), not, |r| &mut r.from),
                "-d" => out.side(rest.next(), not, |r| &mut r.to),
                _ if not => out.strange = true,
                "-m" => {
                    let known = [Some("comment"), Some("mark")];
                    out.strange |= !known.contains(&rest.next());
                }
                "--comment" => {
                    out.commented = rest.next() == Some(place.comment);
                }
                "--mark" => {
                    out.strange |= out.mark.is_some();
                    out.mark = rest.next().and_then(mark);
                    out.strange |= out.mark.is_none();
                }
                "-j" => {
                    out.verdict = rest.next().and_then(target);
                }
                "--random-fully" => match &mut out.verdict {
                    Some(Verdict::Masquerade(how)) => how.random = true,
                    _ => out.strange = true,
                },
                _ => out.strange = true,
            }
            not = false;
        }
        out
    }

    fn side(
        &mut self,
        word: Option<&str>,
        not: bool,
        slot: impl Fn(&mut Self) -> &mut Option<Side>,
    ) {
        let Some(net) = word.and_then(net) else {
            self.strange = true;
            return;
        };
        self.nets.push(net);
        let before = slot(self).replace(Side { not, net });
        self.strange |= before.is_some();
    }

    /// Only a rule that has the comment of ours, and nothing that ours do
    /// not have, is taken for one of theirs.
    fn done(self, text: &str) -> FoundRule {
        let Self { mark, from, to, verdict, commented, strange, nets } = self;
        let rule = verdict
            .filter(|_| commented && !strange)
            .map(|verdict| Rule { mark, from, to, verdict });
        FoundRule { id: text.to_owned(), rule, nets }
    }
}

fn target(name: &str) -> Option<Verdict> {
    match name {
        "ACCEPT" => Some(Verdict::Accept),
        "RETURN" => Some(Verdict::Return),
        "MASQUERADE" => Some(Verdict::Masquerade(Masquerade { random: false })),
        _ => None,
    }
}

/// `0x4000/0x4000`; without a mask, all bits count.
fn mark(text: &str) -> Option<Mark> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (value, number(mask)?),
        None => (text, u32::MAX),
    };
    Some(Mark { value: number(value)?, mask })
}

/// Splits at blanks, outside of double quotes; a backslash in them takes the
/// next character as it is.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => {
                word.get_or_insert_default().extend(chars.next());
            }
            ' ' if !quoted => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}
