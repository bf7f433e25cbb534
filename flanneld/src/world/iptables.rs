//! iptables and ip6tables as an [`overlay::World`]: `iptables-save` shows
//! what is there, `iptables-restore` changes it. Both have a kernel interface
//! of their own, which only these programs know.
//!
//! A host can have two of them, the legacy one and the one over nf_tables.
//! The one that `iptables` in PATH is, is used; the other is only looked at
//! for what may have been left in it (P61).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use ipam::Family;
use netlink::nft;
use netlink::program::{self, ProgramError};
use overlay::World;
use overlay::rules::iptables::{ReadError, Saved, Script};

/// Which of the two implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Its own tables in the kernel.
    Legacy,
    /// Rules of nf_tables.
    Nft,
}

/// The programs of one family and flavour.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The family.
    pub family: Family,
    /// The flavour.
    pub flavour: Flavour,
    /// It is the one that is in use.
    pub primary: bool,
    save: PathBuf,
    restore: PathBuf,
}

/// The programs of this host.
#[derive(Clone, Debug)]
pub struct Iptables {
    tools: Vec<Tool>,
    version: Version,
    missing: BTreeMap<Family, Missing>,
}

/// `iptables`'s version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Where our rules are.
    Primary,
    /// Where they may have been left.
    Other,
}

/// What one tool shows.
#[derive(Debug)]
pub struct Shown {
    /// The tool.
    pub tool: Tool,
    /// What is there. One family's program may not know what somebody else
    /// has put in its tables; the other family's rules do not wait for that.
    pub saved: Result<Saved, IptablesError>,
}

/// Input for one tool.
#[derive(Clone, Debug)]
pub struct Change {
    /// The tool.
    pub tool: Tool,
    /// The input.
    pub script: Script,
}

/// Why there is no iptables to be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Missing {
    /// A program is not in PATH.
    #[error("{0} is not in PATH")]
    Program(&'static str),
    /// A program does not say which it is.
    #[error("iptables --version says {0:?}")]
    Version(String),
    /// A program does not run.
    #[error("{0}")]
    Run(String),
}

/// Why rules could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program did not do its work.
    #[error(transparent)]
    Run(#[from] ProgramError),
    /// Its output cannot be read.
    #[error("{program}: {source}")]
    Read {
        /// The program.
        program: String,
        /// What is wrong with it.
        source: ReadError,
    },
}

// === impl Iptables ===

impl Iptables {
    /// Finds the programs for `families` in `path` (the value of PATH).
    ///
    /// # Errors
    /// What is missing, when there are none for any of them; see
    /// [`Self::missing`].
    pub fn find(
        path: &OsStr,
        families: impl Iterator<Item = Family>,
    ) -> Result<Self, Missing> {
        let which = |name: &'static str| {
            program::which(path, name).ok_or(Missing::Program(name))
        };
        let said = program::run(&which("iptables")?, &["--version"], None)
            .map_err(|error| Missing::Run(error.to_string()))?;
        let (version, flavour) = version(&said)
            .ok_or_else(|| Missing::Version(said.trim().to_owned()))?;
        let mut tools = Vec::new();
        let mut missing = BTreeMap::new();
        for family in families {
            let [save, restore] = names(family, None);
            let primary = true;
            match (which(save), which(restore)) {
                (Ok(save), Ok(restore)) => {
                    let tool = Tool { family, flavour, primary, save, restore };
                    tools.push(tool);
                }
                (Err(why), _) | (_, Err(why)) => {
                    missing.insert(family, why);
                }
            }
            let flavour = flavour.other();
            let [save, restore] = names(family, Some(flavour));
            if let (Ok(save), Ok(restore)) = (which(save), which(restore)) {
                let primary = false;
                tools.push(Tool { family, flavour, primary, save, restore });
            }
        }
        let why = missing.values().next().cloned();
        match why.filter(|_| !tools.iter().any(|tool| tool.primary)) {
            Some(why) => Err(why),
            None => Ok(Self { tools, version, missing }),
        }
    }

    /// The families without programs, with what is missing.
    #[must_use]
    pub const fn missing(&self) -> &BTreeMap<Family, Missing> {
        &self.missing
    }

    /// The flavour that is in use.
    #[must_use]
    pub fn flavour(&self) -> Option<Flavour> {
        self.tools.iter().find(|t| t.primary).map(|t| t.flavour)
    }

    /// Whether ports can be chosen at random (T-27).
    #[must_use]
    pub fn random_ports(&self) -> bool {
        self.version >= Version(1, 6, 2)
    }
}

impl World for Iptables {
    type Scope = Scope;
    type Observed = Vec<Shown>;
    type Change = Change;
    type Error = IptablesError;

    fn observe(&mut self, scope: &Scope) -> Result<Vec<Shown>, IptablesError> {
        let primary = *scope == Scope::Primary;
        let tools = self.tools.iter().filter(|t| t.primary == primary);
        let saved = |tool: &Tool| {
            // Without a table's name, none is created in the kernel.
            let text = program::run(&tool.save, &[], None)?;
            Saved::parse(&text).map_err(|source| IptablesError::Read {
                program: program::name(&tool.save),
                source,
            })
        };
        let show = |tool| {
            let saved = nft::steadily(|| saved(tool));
            Shown { saved, tool: tool.clone() }
        };
        Ok(tools.map(show).collect())
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), IptablesError>> {
        // T-10
        let waits = self.version >= Version(1, 6, 2);
        let args: &[&str] = match waits {
            true => &["--noflush", "-w", program::LOCK_WAIT],
            false => &["--noflush"],
        };
        let restore = |change: &Change| {
            let text = change.script.text.clone();
            program::run(&change.tool.restore, args, Some(text))?;
            Ok(())
        };
        changes.iter().map(restore).collect()
    }
}

// === impl Flavour ===

impl Flavour {
    const fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Nft,
            Self::Nft => Self::Legacy,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "iptables (legacy)",
            Self::Nft => "iptables (over nf_tables)",
        })
    }
}

// === impl Change ===

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.script.fmt(f)
    }
}

const fn names(family: Family, flavour: Option<Flavour>) -> [&'static str; 2] {
    match (family, flavour) {
        (Family::V4, None) => ["iptables-save", "iptables-restore"],
        (Family::V6, None) => ["ip6tables-save", "ip6tables-restore"],
        (Family::V4, Some(Flavour::Legacy)) => {
            ["iptables-legacy-save", "iptables-legacy-restore"]
        }
        (Family::V6, Some(Flavour::Legacy)) => {
            ["ip6tables-legacy-save", "ip6tables-legacy-restore"]
        }
        (Family::V4, Some(Flavour::Nft)) => {
            ["iptables-nft-save", "iptables-nft-restore"]
        }
        (Family::V6, Some(Flavour::Nft)) => {
            ["ip6tables-nft-save", "ip6tables-nft-restore"]
        }
    }
}

/// `iptables v1.8.9 (nf_tables)`; before 1.8, without the flavour.
fn version(said: &str) -> Option<(Version, Flavour)> {
    let mut words = said.split_whitespace();
    let number = words.find_map(|w| w.strip_prefix('v'))?;
    let mut parts = number.split('.').map(str::parse);
    let mut part = || parts.next().unwrap_or(Ok(0)).ok();
    let version = Version(part()?, part()?, part()?);
    let flavour = match words.next() {
        Some("(nf_tables)") => Flavour::Nft,
        _ => Flavour::Legacy,
    };
    Some((version, flavour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_programs_print_them() {
        for (said, want) in [
            ("iptables v1.8.9 (nf_tables)\n", (Version(1, 8, 9), Flavour::Nft)),
            ("iptables v1.8.9 (legacy)\n", (Version(1, 8, 9), Flavour::Legacy)),
            ("iptables v1.6.1\n", (Version(1, 6, 1), Flavour::Legacy)),
            ("iptables v1.8\n", (Version(1, 8, 0), Flavour::Legacy)),
        ] {
            assert_eq!(version(said), Some(want), "{said}");
        }
        for said in ["", "busybox", "iptables vx.y"] {
            assert_eq!(version(said), None, "{said}");
        }
        assert!(Version(1, 6, 2) < Version(1, 8, 0));
        assert!(Version(1, 6, 2) > Version(1, 4, 21));
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let find =
            || Iptables::find(dir.path().as_os_str(), [Family::V6].into_iter());
        assert!(matches!(find(), Err(Missing::Program("iptables"))));
    }
}
