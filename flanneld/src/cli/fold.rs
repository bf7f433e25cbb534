//! Go's `flag` syntax, turned into the one form that clap takes.

use std::ffi::OsString;

use ipam::gojson::nearest;

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Folded {
    /// `-h` or `-help` came first.
    Help,
    /// The flags in the order given.
    Words(Vec<Word>),
}

/// One flag with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The flag's name without dashes.
    pub(super) flag: String,
    /// Its value; `true` for a bare boolean.
    pub(super) value: String,
}

/// Reads `args` (without the program's name) as Go's `flag` package does:
/// one or two dashes; the value after `=` or, unless the flag is a boolean,
/// in the next word whatever that looks like. Where Go would stop looking for
/// flags and ignore the rest, this is an error that names the word (W-65).
///
/// # Errors
/// The message for the user.
pub(super) fn fold(
    command: &clap::Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Folded, String> {
    let mut args = args.into_iter().map(|word| {
        word.into_string()
            .map_err(|word| format!("the word {word:?} is not valid UTF-8"))
    });
    let mut words = Vec::new();
    while let Some(word) = args.next().transpose()? {
        if word == "--" {
            match args.next().transpose()? {
                Some(stray) => return Err(stray_word(&stray)),
                None => break,
            }
        }
        let Some(body) = dashed(&word) else {
            return Err(stray_word(&word));
        };
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {word}"));
        }
        let (flag, value) = match body.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(arg) =
            command.get_arguments().find(|a| a.get_long() == Some(flag))
        else {
            if matches!(flag, "h" | "help") {
                return Ok(Folded::Help);
            }
            return Err(unknown_flag(command, flag));
        };
        let value = match value {
            Some(value) => value,
            None if is_bool(arg) => "true".to_owned(),
            None => args
                .next()
                .transpose()?
                .ok_or_else(|| format!("flag needs an argument: -{flag}"))?,
        };
        words.push(Word { flag: flag.to_owned(), value });
    }
    Ok(Folded::Words(words))
}

// === impl Word ===

impl Word {
    /// The form clap takes.
    pub(super) fn to_clap(&self) -> String {
        format!("--{}={}", self.flag, self.value)
    }

    /// Whether this is a boolean that is set.
    pub(super) fn is_true(&self) -> bool {
        super::value::go_bool(&self.value) == Ok(true)
    }

    /// The value as a message may show it: what may hold a password is left
    /// out.
    pub(super) fn shown(&self) -> &str {
        let secret = self.flag == "etcd-password"
            || (self.flag == "etcd-endpoints" && self.value.contains('@'));
        if secret { "<secret>" } else { &self.value }
    }
}

/// Booleans are the flags whose value may be left out.
fn is_bool(arg: &clap::Arg) -> bool {
    arg.get_num_args().is_some_and(|range| range.min_values() == 0)
}

/// What follows the dashes; `None` where Go sees no flag (no dash, or a
/// lone one).
fn dashed(word: &str) -> Option<&str> {
    let body = word.strip_prefix('-')?;
    if body.is_empty() {
        return None;
    }
    Some(body.strip_prefix('-').unwrap_or(body))
}

fn stray_word(word: &str) -> String {
    format!(
        "unexpected word {word:?}: flanneld takes only flags, and upstream \
         would ignore this word and every flag after it (a boolean takes its \
         value with =, as in -ip-masq=false)"
    )
}

fn unknown_flag(command: &clap::Command, flag: &str) -> String {
    let known: Vec<&str> =
        command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let hint = nearest(flag, &known)
        .map(|near| format!(" (did you mean -{near}?)"))
        .unwrap_or_default();
    format!("flag provided but not defined: -{flag}{hint}")
}

#[cfg(test)]
mod tests;
