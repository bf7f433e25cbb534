//! The command line: Go's flag syntax, `FLANNELD_*` variables, and the typed
//! [`Options`] that all the rest of the daemon works with. Nothing deeper
//! reads the environment or knows a flag's name.
//!
//! Order of precedence for each flag (C-40): command line, environment,
//! default. What upstream silently ignores (W-65: unknown flags, stray words,
//! bad values in the environment) stops the daemon with exit status 2 here.

mod flags;
mod fold;
mod options;
mod refuse;
mod value;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::FromArgMatches;

use flags::Flags;
use fold::{Folded, Word};

pub use options::{Note, Options};
pub use refuse::{BACKENDS, netconf};

/// The version this binary reports (C-140): `FLANNEL_VERSION` of the build,
/// `dev` otherwise.
pub const VERSION: &str = match option_env!("FLANNEL_VERSION") {
    Some(version) => version,
    None => "dev",
};

/// The environment as a value.
#[derive(Clone, Debug, Default)]
pub struct Env(BTreeMap<String, String>);

/// Why the daemon does not start. Its `Display` is what belongs on stderr.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The usage was asked for (C-32).
    Help(String),
    /// The version was asked for (C-21).
    Version,
    /// A word or value that cannot be understood.
    Usage(String),
    /// Understood, but out of range or not possible with this version; one
    /// line each.
    Refused(Vec<String>),
}

/// Reads the command line (`args` without the program's name) and `env`.
///
/// # Errors
/// [`Stop`]: usage or version asked for, or options the daemon cannot start
/// with.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &Env,
) -> Result<Options, Stop> {
    let flags = read_flags(args, env)?;
    options::from_flags(flags)
}

/// The variable that sets `flag` (C-40): `-v` is `FLANNELD_V`.
#[must_use]
pub fn env_name(flag: &str) -> String {
    format!("FLANNELD_{}", flag.to_uppercase().replace('-', "_"))
}

// === impl Env ===

impl Env {
    /// The process's own environment. Values that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// The value of `name`; an empty one counts as unset (C-40).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(iter.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

// === impl Stop ===

impl Stop {
    /// The exit status: 0 when only a text was asked for, 2 for a command
    /// line that cannot be understood (upstream: 0, C-34), 1 for options the
    /// daemon cannot start with (C-81).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) | Self::Version => 0,
            Self::Usage(_) => 2,
            Self::Refused(_) => 1,
        }
    }

    /// Writes the text to stderr and returns the exit status, for `main`.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        // A closed stderr is no reason for another status.
        let _ = writeln!(io::stderr(), "{self}");
        ExitCode::from(self.exit_code())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help(text) => f.write_str(text),
            Self::Version => f.write_str(VERSION),
            Self::Usage(text) => {
                write!(f, "{text}\n`flanneld -h` lists the flags")
            }
            Self::Refused(lines) => f.write_str(&lines.join("\n")),
        }
    }
}

fn read_flags(
    args: impl IntoIterator<Item = OsString>,
    env: &Env,
) -> Result<Flags, Stop> {
    let mut command = flags::command();
    command.build();
    let words = match fold::fold(&command, args).map_err(Stop::Usage)? {
        Folded::Help => {
            return Err(Stop::Help(command.render_help().to_string()));
        }
        Folded::Words(words) => words,
    };

    for word in &words {
        check(&command, word).map_err(|reason| {
            Stop::Usage(format!(
                "invalid value {:?} for flag -{}: {reason}",
                word.shown(),
                word.flag
            ))
        })?;
    }
    // After the checks, as Go's own order has it; before the environment,
    // where it has no effect (C-21).
    if words.iter().rfind(|w| w.flag == "version").is_some_and(Word::is_true) {
        return Err(Stop::Version);
    }

    let from_env = env_words(&command, &words, env);
    for word in &from_env {
        check(&command, word).map_err(|reason| {
            Stop::Usage(format!(
                "invalid value {:?} in the environment variable {}: {reason}",
                word.shown(),
                env_name(&word.flag)
            ))
        })?;
    }

    let all = words.iter().chain(&from_env).map(Word::to_clap);
    command
        .try_get_matches_from(std::iter::once("flanneld".to_owned()).chain(all))
        .and_then(|matches| Flags::from_arg_matches(&matches))
        .map_err(|e| Stop::Usage(e.to_string()))
}

/// The flags that only the environment gives.
fn env_words(command: &clap::Command, given: &[Word], env: &Env) -> Vec<Word> {
    command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|flag| *flag != "version")
        .filter(|flag| given.iter().all(|word| word.flag != *flag))
        .filter_map(|flag| {
            let value = env.get(&env_name(flag))?;
            Some(Word { flag: flag.to_owned(), value: value.to_owned() })
        })
        .collect()
}

/// Whether the flag's type takes the value; otherwise the reason.
fn check(command: &clap::Command, word: &Word) -> Result<(), String> {
    command
        .clone()
        .try_get_matches_from(["flanneld".to_owned(), word.to_clap()])
        .map(|_| ())
        .map_err(|e| {
            e.source().map_or_else(|| e.to_string(), ToString::to_string)
        })
}

#[cfg(test)]
mod tests;
