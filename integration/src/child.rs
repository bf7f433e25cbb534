//! A long-running child process with its log.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;
use crate::poll::poll_until;

/// A child that is killed when this value, its host, or the test process
/// goes away.
#[derive(Debug)]
pub struct Child {
    process: Process,
    log: PathBuf,
    what: String,
}

/// What a process holds in memory, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// All of it (`VmRSS`).
    pub all: u32,
    /// What is its own (`RssAnon`): the rest is mostly the program's text, of
    /// which there is more whenever some is run for the first time.
    pub own: u32,
}

// === impl Resident ===

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.own, self.all)
    }
}

// === impl Child ===

impl Child {
    /// Starts `words` on `host` with `env` added; both outputs go to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        host: &Host,
        words: &[String],
        env: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let what = words.join(" ");
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("log {}", log.display()))?;
        let err = out.try_clone()?;
        let (words, env) = (words.to_vec(), env.to_vec());
        // The death signal is tied to the thread that spawns: the host's.
        let process = host
            .run(move || {
                Command::new("setpriv")
                    .args(["--pdeathsig", "KILL"])
                    .args(&words)
                    .envs(env)
                    .stdin(Stdio::null())
                    .stdout(out)
                    .stderr(err)
                    .spawn()
            })
            .with_context(|| {
                format!("on {}: starting `{what}`", host.name())
            })?;
        Ok(Self { process, log: log.to_owned(), what })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it holds in memory now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> Result<Resident> {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path)?;
        let field = |name: &str| -> Result<u32> {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let word = line.and_then(|l| l.split_whitespace().next());
            Ok(word.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok(Resident { all: field("VmRSS:")?, own: field("RssAnon:")? })
    }

    /// What it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("pid")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("{signal} to `{}`", self.what))
    }

    /// Whether it ended, and how.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Past the limit; its log is in the message.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of `{}`", self.what);
        let process = &mut self.process;
        let status = poll_until(&what, limit, || match process.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("still running"),
        });
        status.with_context(|| self.log())
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
