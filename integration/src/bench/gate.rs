//! A program that waits right before its `exec`: what is timed is the
//! program's own start, not the making of its process.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// A program held before its `exec`, then running. Killed with this value.
#[derive(Debug)]
pub(super) struct Gate {
    process: Child,
}

/// Between two looks of [`spin`].
const STEP: Duration = Duration::from_micros(100);

/// Time for the shell to reach its gate.
const SETTLE: Duration = Duration::from_millis(30);

/// How long anything timed may take.
const LIMIT: Duration = Duration::from_secs(30);

// === impl Gate ===

impl Gate {
    /// Prepares `words` on `host`. Its output goes to `/run/bench.log` there.
    pub(super) fn new(host: &Host, words: &[String]) -> Result<Self> {
        let words = words.to_vec();
        let process = host.run(move || -> Result<Child> {
            let log = std::fs::File::create("/run/bench.log")?;
            let gate = r#"read -r _ && exec "$0" "$@" </dev/null"#;
            Ok(Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "sh", "-c", gate])
                .args(words)
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?)
        })?;
        std::thread::sleep(SETTLE);
        Ok(Self { process })
    }

    /// Lets it run.
    pub(super) fn open(&mut self) -> Result<Instant> {
        use std::io::Write;
        let mut stdin = self.process.stdin.take().context("opened twice")?;
        let start = Instant::now();
        stdin.write_all(b"\n")?;
        Ok(start)
    }

    /// Lets it run and waits for its end.
    pub(super) fn time_to_end(mut self) -> Result<Duration> {
        let start = self.open()?;
        let status = self.process.wait()?;
        let took = start.elapsed();
        if !status.success() {
            bail!("it ended with {status}");
        }
        Ok(took)
    }

    /// Lets it run and waits until `done` says so, on `host`; gives the time
    /// and the process, still running.
    pub(super) fn time_until(
        mut self,
        host: &Host,
        what: &str,
        done: impl FnMut() -> bool + Send + 'static,
    ) -> Result<(Duration, Self)> {
        let start = self.open()?;
        let waited = host.run(move || spin(start, done));
        match waited {
            Some(took) => Ok((took, self)),
            None => bail!(
                "waited {LIMIT:?} for {what}; the log:\n{}",
                host.read("/run/bench.log")?
            ),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The time from `start` until `done`; `None` past the limit.
fn spin(start: Instant, mut done: impl FnMut() -> bool) -> Option<Duration> {
    loop {
        if done() {
            return Some(start.elapsed());
        }
        if start.elapsed() > LIMIT {
            return None;
        }
        std::thread::sleep(STEP);
    }
}
