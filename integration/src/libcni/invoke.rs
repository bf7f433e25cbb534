//! One verb of one plugin: a process, its environment, its answer.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Attachment;

/// What is asked of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

/// A process to be.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) verb: Verb,
    pub(super) conf: &'a Value,
    pub(super) of: &'a Attachment,
    pub(super) path: &'a [PathBuf],
}

/// A plugin's own error (S-54).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which plugin.
    pub plugin: String,
    /// Which verb.
    pub verb: &'static str,
    /// Its code (S-55).
    pub code: u64,
    /// What it said.
    pub msg: String,
    /// More of it.
    pub details: String,
}

/// The plugin's error in `error`, if one is the reason.
#[must_use]
pub fn failure(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref()
}

// === impl Verb ===

impl Verb {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, verb, code, msg, details } = self;
        write!(f, "{verb} by {plugin} failed with code {code}: {msg}")?;
        if details.is_empty() { Ok(()) } else { write!(f, " ({details})") }
    }
}

impl std::error::Error for Failure {}

// === impl Call ===

impl Call<'_> {
    /// Runs it in the calling thread's namespaces, and gives what it printed;
    /// null when that is nothing.
    pub(super) fn run(&self) -> Result<Value> {
        let args: Vec<String> =
            self.of.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let path: Vec<String> =
            self.path.iter().map(|p| p.display().to_string()).collect();
        let mut child = Command::new(self.program)
            .env("CNI_COMMAND", self.verb.name())
            .env("CNI_CONTAINERID", &self.of.id)
            .env("CNI_NETNS", &self.of.netns)
            .env("CNI_IFNAME", &self.of.ifname)
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", path.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        if let Some(mut pipe) = child.stdin.take() {
            // VERSION does not read it (S-12).
            let _ = pipe.write_all(self.conf.to_string().as_bytes());
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = match text.trim() {
            "" => Ok(Value::Null),
            text => serde_json::from_str(text),
        };
        if output.status.success() {
            return json.with_context(|| format!("answer {text:?}"));
        }
        let Ok(Value::Object(error)) = json else {
            bail!(
                "{} by {} failed with {} and no error of its own: {text:?} {}",
                self.verb.name(),
                self.program.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let said = |key: &str| {
            let value = error.get(key).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let name = self.program.file_name().unwrap_or_default();
        Err(Failure {
            plugin: name.to_string_lossy().into_owned(),
            verb: self.verb.name(),
            code: error.get("code").and_then(Value::as_u64).unwrap_or(0),
            msg: said("msg"),
            details: said("details"),
        }
        .into())
    }
}
