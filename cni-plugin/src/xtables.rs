//! iptables and ip6tables, as the plugins of a chain use them: what
//! `iptables-save` shows decides what `iptables-restore` is told, and that is
//! one transaction. Two programs a change, where upstream runs one for each
//! rule it looks for and one for each it makes (PF-15).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipam::Family;
use netlink::nft::{self, NftSocket, TableId};
use netlink::program::{self, LOCK_WAIT};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::protocol::{CniError, Deadline, Differences, code};

/// Others may change the same table between looking at it and changing it.
const ATTEMPTS: u32 = 5;
/// Held from looking at a table to changing it: pods that come at the same
/// moment would each add what they share.
const LOCK: &str = "/run/flannel/iptables.lock";

/// The programs of one family, for one verb.
#[derive(Clone, Debug)]
pub(crate) struct Xtables<'a> {
    /// The family.
    pub(crate) family: Family,
    save: PathBuf,
    restore: PathBuf,
    /// The verb's.
    deadline: &'a Deadline,
}

/// One table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    chains: BTreeSet<String>,
    /// As they follow `-A `.
    rules: Vec<String>,
}

// === impl Xtables ===

impl<'a> Xtables<'a> {
    /// The programs in PATH, for a verb with this deadline.
    pub(crate) fn find(family: Family, deadline: &'a Deadline) -> Option<Self> {
        let [save, restore] = match family {
            Family::V4 => ["iptables-save", "iptables-restore"],
            Family::V6 => ["ip6tables-save", "ip6tables-restore"],
        };
        let path = std::env::var_os("PATH")?;
        Some(Self {
            family,
            save: program::which(&path, save)?,
            restore: program::which(&path, restore)?,
            deadline,
        })
    }

    /// The programs of each family that has them.
    pub(crate) fn all(deadline: &'a Deadline) -> impl Iterator<Item = Self> {
        let find = |family| Self::find(family, deadline);
        Family::ALL.into_iter().filter_map(find)
    }

    /// The programs, for whom they are a must.
    ///
    /// # Errors
    /// Code 50 when they are not in PATH.
    pub(crate) fn required(
        family: Family,
        deadline: &'a Deadline,
    ) -> Result<Self, CniError> {
        Self::find(family, deadline).ok_or_else(|| {
            let name = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            CniError::new(
                code::NOT_AVAILABLE,
                format!(
                    "{name}-save and {name}-restore are not in PATH; install \
                     iptables, or choose another backend"
                ),
            )
        })
    }

    /// Whether the namespace may hold `chain` in `table`: a look that starts
    /// no program. A chain made by iptables over nf_tables can be asked for;
    /// of the older iptables only whether its table is in use.
    pub(crate) fn may_hold(&self, table: &str, chain: &str) -> bool {
        self.may_hold_by(NftSocket::open().ok().as_mut(), table, chain)
    }

    /// The same over a socket that is open already; without one there are no
    /// nf_tables.
    pub(crate) fn may_hold_by(
        &self,
        nft: Option<&mut NftSocket>,
        table: &str,
        chain: &str,
    ) -> bool {
        // a verb that was killed may have left a program running
        if Path::new(LOCK).exists() {
            drop(turn(Instant::now() + self.share()));
        }
        let id = TableId::new(self.family, table).chain(chain);
        // a kernel without nf_tables refuses the question
        nft.is_some_and(|nft| matches!(nft.chain(&id), Ok(Some(_))))
            || self.legacy_in_use(table)
    }

    fn legacy_in_use(&self, table: &str) -> bool {
        let names = match self.family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        // there is no such file where it is not built in
        std::fs::read_to_string(names)
            .is_ok_and(|text| text.lines().any(|line| line == table))
    }

    /// What is in `table`, while nobody changed nf_tables.
    ///
    /// # Errors
    /// Code 999 when the program fails, or cannot show the table; code 11
    /// when it takes too long.
    pub(crate) fn save(&self, table: &str) -> Result<Saved, CniError> {
        nft::steadily(|| {
            let text = self.run(&self.save, &["-t", table], None)?;
            Saved::parse(&text, table).map_err(|e| {
                e.context(format_args!("{}", program::name(&self.save)))
            })
        })
    }

    /// Carries out what `plan` makes of the table as it is: lines of
    /// `iptables-restore`'s format, none for no change. When they are refused
    /// and the table is not what it was any more, `plan` is asked again.
    ///
    /// # Errors
    /// The plan's own, or code 999 with what the program said; code 11 when
    /// that may be otherwise next time.
    pub(crate) fn edit(
        &self,
        table: &str,
        plan: impl Fn(&Saved) -> Result<Vec<String>, CniError>,
    ) -> Result<(), CniError> {
        self.deadline.check()?;
        let _turn = turn(Instant::now() + self.share());
        let mut saved = self.save(table)?;
        for _ in 1..ATTEMPTS {
            let Err(refused) = self.restore(table, &plan(&saved)?) else {
                return Ok(());
            };
            if self.deadline.check().is_err() {
                return Err(refused);
            }
            let now = self.save(table)?;
            if now == saved {
                return Err(refused);
            }
            saved = now;
        }
        self.restore(table, &plan(&saved)?)
    }

    /// What CHECK says of lines that ADD would restore.
    ///
    /// # Errors
    /// Code 100 when there are any.
    pub(crate) fn lacks(
        &self,
        table: &str,
        lines: &[String],
    ) -> Result<(), CniError> {
        let mut found = Differences::default();
        for line in lines {
            let family = self.family;
            found.add(format_args!(
                "{family} table {table}: {line:?} is missing"
            ));
        }
        found.end()
    }

    fn restore(&self, table: &str, lines: &[String]) -> Result<(), CniError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"));
        let args = ["--noflush", "-w", LOCK_WAIT];
        // the program names a line's number only
        self.run(&self.restore, &args, Some(text)).map(drop).map_err(|e| {
            e.details(format!("table {table}: {}", lines.join(" | ")))
        })
    }

    fn run(
        &self,
        program: &Path,
        args: &[&str],
        input: Option<String>,
    ) -> Result<String, CniError> {
        self.deadline.check()?;
        program::run_for(program, args, input, self.share())
            .map_err(|e| CniError::from(e).context(self.deadline.phase()))
    }

    /// How long one step may take: half of what is left, so that a verb that
    /// has more to do than this, such as releasing an address, gets to it.
    fn share(&self) -> Duration {
        self.deadline.left() / 2
    }
}

/// Our turn among the plugins of this node. Where there is no such file or no
/// end of waiting it goes without: others' changes are coped with anyway.
///
/// The programs inherit it: what a verb has started goes on when the verb is
/// killed, and DEL, which follows, must not come before that.
fn turn(deadline: Instant) -> Option<File> {
    let path = Path::new(LOCK);
    fs::create_dir_all(path.parent()?).ok()?;
    let lock = ipam::pool::lock_file(path, deadline).ok().flatten()?;
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).ok()?;
    Some(lock)
}

// === impl Saved ===

impl Saved {
    fn parse(text: &str, table: &str) -> Result<Self, CniError> {
        let mut out = Self::default();
        for line in text.lines() {
            if let Some(rule) = line.strip_prefix("-A ") {
                out.rules.push(rule.to_owned());
            } else if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                out.chains.insert(name.to_owned());
            } else if line.starts_with('#') && line.contains("incompatible") {
                return Err(CniError::internal(format_args!(
                    "table {table} holds what only nft can show; remove \
                     that, or choose another backend"
                )));
            }
        }
        Ok(out)
    }

    /// Whether the chain is there.
    pub(crate) fn has_chain(&self, chain: &str) -> bool {
        self.chains.contains(chain)
    }

    /// The chain's rules in order, without its name.
    pub(crate) fn rules_of<'a>(
        &'a self,
        chain: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.rules
            .iter()
            .filter_map(move |rule| rule.strip_prefix(chain)?.strip_prefix(' '))
    }

    /// Whether a rule of `chain` leads to `target`.
    pub(crate) fn leads(&self, chain: &str, target: &str) -> bool {
        self.rules_of(chain).any(|rule| target_of(rule) == Some(target))
    }

    /// All rules that lead to `target`, as they follow `-A ` and `-D `.
    pub(crate) fn leading_to<'a>(
        &'a self,
        target: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let rules = self.rules.iter().map(String::as_str);
        rules.filter(move |rule| target_of(rule) == Some(target))
    }

    /// Lines that remove `chain` and what leads there; none when nothing of
    /// it is there.
    pub(crate) fn removal(&self, chain: &str) -> Vec<String> {
        let leading = self.leading_to(chain);
        let mut out: Vec<_> = leading.map(|r| format!("-D {r}")).collect();
        if self.has_chain(chain) {
            out.extend([format!("-F {chain}"), format!("-X {chain}")]);
        }
        out
    }
}

/// Where a rule leads.
pub(crate) fn target_of(rule: &str) -> Option<&str> {
    let (_, after) = rule
        .rsplit_once(" -j ")
        .or_else(|| rule.strip_prefix("-j ").map(|after| ("", after)))?;
    after.split(' ').next()
}

/// A rule's words, quotes taken away.
pub(crate) fn words(rule: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = rule.chars().peekable();
    while chars.next_if_eq(&' ').is_some() || chars.peek().is_some() {
        let mut word = String::new();
        let mut quoted = false;
        while let Some(c) = chars.next_if(|c| quoted || *c != ' ') {
            match c {
                '"' => quoted = !quoted,
                '\\' => word.extend(chars.next()),
                other => word.push(other),
            }
        }
        if !word.is_empty() {
            out.push(word);
        }
    }
    out
}

/// The word after `flag`.
pub(crate) fn value_of<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| word == flag)?;
    words.get(at + 1).map(String::as_str)
}

/// A word as `iptables-restore` reads it, quoted where it must be.
///
/// # Errors
/// Code 7 for a line break, which no line can hold.
pub(crate) fn word(text: &str) -> Result<String, CniError> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(CniError::config(format!(
            "{text:?} has a line break, which no rule of iptables can hold"
        )));
    }
    let plain =
        !text.is_empty() && !text.contains(['"', '\'', '\\', ' ', '\t']);
    Ok(match plain {
        true => text.to_owned(),
        false => {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{escaped}\"")
        }
    })
}

/// A comment as it is saved and restored: always quoted, and cut to what the
/// kernel keeps.
pub(crate) fn comment(text: &str) -> String {
    /// `XT_MAX_COMMENT_LEN` without its closing zero.
    const LONGEST: usize = 255;
    let mut cut = text.len().min(LONGEST);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let text = text.get(..cut).unwrap_or_default();
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("-m comment --comment \"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated by iptables-save\n*nat\n\
        :PREROUTING ACCEPT [0:0]\n:CNI-DN-x - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
        -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"tn\\\" id: \\\"cA\\\"\" -m multiport --dports 80 -j CNI-DN-x\n\
        -A CNI-DN-x -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80\n\
        COMMIT\n# Completed\n";

    #[test]
    fn what_is_saved_is_read() {
        let saved = Saved::parse(SAVED, "nat").unwrap();
        assert!(saved.has_chain("CNI-DN-x") && !saved.has_chain("CNI-DN"));
        assert!(saved.leads("PREROUTING", "CNI-HOSTPORT-DNAT"));
        assert_eq!(saved.rules_of("CNI-DN").count(), 0, "a whole name only");
        let inside: Vec<_> = saved.rules_of("CNI-DN-x").collect();
        assert_eq!(target_of(inside[0]), Some("DNAT"));
        let gone = saved.removal("CNI-DN-x");
        assert!(gone[0].starts_with("-D CNI-HOSTPORT-DNAT -p tcp"), "{gone:?}");
        assert_eq!(gone[1..], ["-F CNI-DN-x", "-X CNI-DN-x"]);
        assert_eq!(saved.removal("CNI-DN-y"), [""; 0]);
        let odd = "# Table `nat' is incompatible, use 'nft' tool.\n";
        assert_eq!(Saved::parse(odd, "nat").unwrap_err().code, 999);
    }

    #[test]
    fn words_and_quotes() {
        let saved = Saved::parse(SAVED, "nat").unwrap();
        let entry = saved.leading_to("CNI-DN-x").next().unwrap();
        let words = words(entry);
        assert_eq!(
            value_of(&words, "--comment"),
            Some("dnat name: \"tn\" id: \"cA\"")
        );
        assert_eq!(value_of(&words, "--dports"), Some("80"));
        assert_eq!(value_of(&words, "--none"), None);
        assert_eq!(
            comment("dnat name: \"tn\" id: \"cA\""),
            "-m comment --comment \"dnat name: \\\"tn\\\" id: \\\"cA\\\"\""
        );
        assert_eq!(
            comment(&"ä".repeat(200)).len(),
            "-m comment --comment \"\"".len() + 254
        );
        assert_eq!(word("-s").unwrap(), "-s");
        assert_eq!(word("a b\"c").unwrap(), "\"a b\\\"c\"");
        assert_eq!(word("").unwrap(), "\"\"");
        assert_eq!(word("a\nCOMMIT").unwrap_err().code, 7);
    }
}
