//! The protocol between a runtime and a plugin: environment and stdin in,
//! result or error out (S-1..S-20). The order of checks is S-13.

mod args;
mod deadline;
mod differences;
mod env;
mod error;
mod stdin;
#[cfg(test)]
mod tests;
mod valid;
mod version;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use ipam::gojson::{self, Document, Object};
use netlink::NetNs;
use nix::errno::Errno;
use serde::Serialize;

pub(crate) use args::Args;
pub(crate) use deadline::Deadline;
pub(crate) use differences::Differences;
pub(crate) use env::{Env, interface_name_problem};
pub(crate) use error::{CniError, FailedAdd, code, gather};
pub(crate) use valid::ValidAttachments;
pub(crate) use version::{Layout, Version};

use crate::result::CniResult;

/// One plugin: what the runtime reaches under one name.
///
/// A call has been checked when it gets here: the variables its verb needs
/// are there, the configuration is JSON with a name and a version that the
/// plugin knows. Each verb must end by [`Call::deadline`].
pub(crate) trait Plugin {
    /// The name it is called by.
    fn name(&self) -> &'static str;

    /// The oldest version it can be used with (S-17).
    fn oldest(&self) -> Version {
        Version::V010
    }

    /// Attaches; the result is printed in the configuration's version. A
    /// chained plugin changes [`Call::required_previous`] and returns it
    /// (S-52). One that fails has removed what it made.
    fn add(&self, call: &Call) -> Result<CniResult, CniError>;

    /// Detaches: best effort, any number of times (S-60), without
    /// [`Call::previous`], without the namespace.
    fn del(&self, call: &Call) -> Result<(), CniError>;

    /// Says how an attachment differs from what ADD made (S-62), in all that
    /// it looks at.
    fn check(&self, call: &Call) -> Result<(), CniError>;

    /// Removes what belongs to no attachment in
    /// [`Call::valid_attachments`] (S-64).
    fn gc(&self, call: &Call) -> Result<(), CniError>;

    /// Whether ADD could be served (S-63).
    fn status(&self, call: &Call) -> Result<(), CniError>;
}

/// What a runtime asks for, checked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The variables.
    pub(crate) env: Env,
    /// The configuration as it came on stdin: an object.
    pub(crate) json: Document,
    /// The network's name.
    pub(crate) name: String,
    /// The configuration's version.
    pub(crate) version: Version,
    /// How long it may take.
    pub(crate) deadline: Deadline,
}

/// What is printed and the exit status that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// For stdout, byte for byte.
    pub(crate) stdout: String,
    /// For stderr.
    pub(crate) stderr: String,
    /// Whether the status is 0.
    pub(crate) ok: bool,
}

/// Serves one call of `plugin` and prints the answer.
pub(crate) fn serve(plugin: &dyn Plugin) -> ExitCode {
    let env = Env::read(|name| {
        std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
    });
    answer(plugin, env, |until| stdin::read(io::stdin(), until)).print()
}

/// Works out the answer; `stdin` is read only where the command needs it.
pub(crate) fn answer(
    plugin: &dyn Plugin,
    env: Env,
    stdin: impl FnOnce(&Deadline) -> Result<String, CniError>,
) -> Answer {
    if env.command.is_empty() {
        // a person at a terminal (S-8, P-43)
        return Answer::about(plugin.name());
    }
    let verb = env.command.clone();
    let mut version = Version::NEWEST;
    match run(plugin, env, stdin, &mut version) {
        Ok(stdout) => Answer { stdout, stderr: String::new(), ok: true },
        Err(error) => {
            let error = if verb == "DEL" { error.retriable() } else { error };
            Answer::failed(&error, version)
        }
    }
}

/// `version` is the configuration's as soon as it is known.
fn run(
    plugin: &dyn Plugin,
    env: Env,
    stdin: impl FnOnce(&Deadline) -> Result<String, CniError>,
    version: &mut Version,
) -> Result<String, CniError> {
    env.check()?;
    if env.command == "VERSION" {
        return Ok(Version::answer(plugin.oldest()));
    }
    let deadline = Deadline::default();
    deadline.enter("reading the configuration")?;
    let json = Document::new(stdin(&deadline)?)?;
    let clears = matches!(env.command.as_str(), "DEL" | "GC");
    let Head { name, version: asked, timeout } = head(&json.object()?, clears)?;
    if let Some(known) = Version::parse(&asked) {
        *version = known;
    }
    let verb = env.command.clone();
    match verb.as_str() {
        "CHECK" => version::gate(&asked, Version::V040, &verb)?,
        "GC" | "STATUS" => version::gate(&asked, Version::V110, &verb)?,
        "ADD" | "DEL" => {}
        _ => {
            return Err(CniError::new(
                code::ENVIRONMENT,
                format!("unknown CNI_COMMAND: {verb}"),
            ));
        }
    }
    let version = version::accept(&asked, plugin.oldest())?;
    let deadline = match timeout {
        Some(limit) => deadline.limited_to(limit),
        None => deadline,
    };
    let call = Call { env, json, name, version, deadline };
    let done = match verb.as_str() {
        "ADD" => add(plugin, &call),
        "DEL" => plugin.del(&call).map(|()| String::new()),
        "CHECK" => plugin.check(&call).map(|()| String::new()),
        "GC" => plugin.gc(&call).map(|()| String::new()),
        _ => status(plugin, &call).map(|()| String::new()),
    };
    done.map_err(|error| call.deadline.explain(error))
}

/// The text of ADD's result. One that the version has no form for (S-50) is
/// a failure like any other: the attachment is taken back.
fn add(plugin: &dyn Plugin, call: &Call) -> Result<String, CniError> {
    plugin.add(call)?.render(call.version).inspect_err(|_| {
        if let Err(e) = plugin.del(call) {
            log(format_args!("undoing a failed ADD: {e}"));
        }
    })
}

/// Whether ADD could be served. A plugin that is missing is what STATUS has a
/// code for (S-63).
fn status(plugin: &dyn Plugin, call: &Call) -> Result<(), CniError> {
    plugin.status(call).map_err(|e| match e.code {
        code::NO_PLUGIN => CniError { code: code::NOT_AVAILABLE, ..e },
        _ => e,
    })
}

/// What every plugin reads in its configuration.
struct Head {
    name: String,
    version: String,
    timeout: Option<Duration>,
}

/// The name and version of a configuration (S-12), and how long it allows.
/// A wrong time must not keep a verb that `clears` from its work.
fn head(conf: &Object<'_>, clears: bool) -> Result<Head, CniError> {
    let name = conf.string("name")?.unwrap_or_default();
    if name.is_empty() {
        return Err(CniError::config("missing network name"));
    }
    if !env::is_name(&name) {
        return Err(CniError::config(
            "invalid characters found in network name",
        )
        .details(name));
    }
    let version = conf.string("cniVersion").map_err(|e| {
        CniError::new(code::DECODE, format!("network configuration: {e}"))
    })?;
    let timeout = match timeout(conf) {
        Err(e) if clears => {
            log(format_args!("{e}; the default is used"));
            None
        }
        other => other?,
    };
    Ok(Head { name, version: version.unwrap_or_default(), timeout })
}

fn timeout(conf: &Object<'_>) -> Result<Option<Duration>, CniError> {
    let seconds = conf.integer::<i64>("timeoutSeconds")?;
    seconds.map(deadline::limit).transpose()
}

/// Writes to stdout with one call, where the standard library would keep back
/// what is behind the last line end.
fn write_at_once(text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(io::stdout(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// JSON as Go's `MarshalIndent` with four spaces writes it (S-44).
pub(crate) fn pretty<T: Serialize>(value: &T) -> String {
    // the values printed here have string keys and no failing parts
    gojson::to_lines(value, "    ").unwrap_or_default()
}

/// Writes a line for a person who reads the runtime's log.
pub(crate) fn log(line: impl std::fmt::Display) {
    // without a stderr there is nobody to tell
    let _ = writeln!(io::stderr(), "{line}");
}

// === impl Call ===

impl Call {
    /// The configuration's members.
    ///
    /// # Errors
    /// None in fact: the text was read as an object before.
    pub(crate) fn conf(&self) -> Result<Object<'_>, CniError> {
        Ok(self.json.object()?)
    }

    /// What the plugins before this one made, or on CHECK and DEL the whole
    /// chain (S-28, S-51).
    ///
    /// # Errors
    /// Code 6 or 7 for one that is no result of the configuration's version.
    pub(crate) fn previous(&self) -> Result<Option<CniResult>, CniError> {
        CniResult::previous(&self.conf()?, self.version)
    }

    /// The same for verbs that cannot do without.
    ///
    /// # Errors
    /// As [`Call::previous`], and code 7 when there is none.
    pub(crate) fn required_previous(&self) -> Result<CniResult, CniError> {
        self.previous()?
            .ok_or_else(|| CniError::config("Required prevResult missing"))
    }

    /// What GC must leave alone.
    ///
    /// # Errors
    /// Code 7 when the runtime gives no list.
    pub(crate) fn valid_attachments(
        &self,
    ) -> Result<ValidAttachments, CniError> {
        ValidAttachments::read(&self.conf()?)
    }

    /// CNI_ARGS taken apart.
    ///
    /// # Errors
    /// See [`Args::parse`].
    pub(crate) fn args(&self) -> Result<Args, CniError> {
        Args::parse(&self.env.args)
    }

    /// The container's namespace.
    ///
    /// # Errors
    /// Code 8 when there is none at CNI_NETNS, or it is the plugin's own
    /// (S-18).
    pub(crate) fn netns(&self) -> Result<NetNs, CniError> {
        self.env.netns()?.ok_or_else(|| self.own_netns())
    }

    /// The container's namespace, for DEL; `None` when it is gone, or its
    /// path holds something else (CW-3): also the plugin's own namespace,
    /// which is no container's (S-18) and must not keep one from going away.
    ///
    /// # Errors
    /// Code 8 when it cannot be opened.
    pub(crate) fn living_netns(&self) -> Result<Option<NetNs>, CniError> {
        if self.env.netns.is_empty() {
            return Ok(None);
        }
        // only to enter it tells whether it is one of networks
        let found = self.env.netns().and_then(|netns| {
            netns.map(|n| n.enter(|| ()).map(|()| n)).transpose()
        });
        match found {
            Ok(None) => {
                log(format_args!("taken as gone: {}", self.own_netns()));
                Ok(None)
            }
            Ok(netns) => Ok(netns),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) if e.is_not_a_namespace() => {
                log(format_args!("taken as gone: {e}"));
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Refuses the plugin's own namespace (S-18) on behalf of a delegate, which
    /// may find out when it has changed it. What else is at CNI_NETNS, the
    /// delegate must know.
    ///
    /// # Errors
    /// Code 8.
    pub(crate) fn refuse_own_netns(&self) -> Result<(), CniError> {
        match self.env.netns() {
            Ok(None) => Err(self.own_netns()),
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    fn own_netns(&self) -> CniError {
        CniError::new(
            code::NETNS,
            "plugin's netns and netns from CNI_NETNS should not be the same",
        )
        .details(format!("CNI_NETNS is {:?}", self.env.netns))
    }
}

// === impl Answer ===

impl Answer {
    /// What a person sees who runs the binary by hand.
    fn about(name: &str) -> Self {
        let stderr = format!(
            "CNI Plugin {name} version {} ({}/{})\n\
             CNI protocol versions supported: {}\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            Version::list()
        );
        Self { stdout: String::new(), stderr, ok: true }
    }

    /// The error of a call whose configuration has `version`.
    pub(crate) fn failed(error: &CniError, version: Version) -> Self {
        Self {
            stdout: error.render(version.as_str()),
            stderr: String::new(),
            ok: false,
        }
    }

    /// Prints it.
    pub(crate) fn print(&self) -> ExitCode {
        let written = write_at_once(&self.stdout)
            .and_then(|()| io::stderr().write_all(self.stderr.as_bytes()));
        match written {
            Ok(()) if self.ok => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
