//! A `flanneld` on a node.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::Child;
use crate::host::Host;
use crate::poll::poll_until;

/// Where its health server listens.
pub const HEALTH_PORT: u16 = 8471;

/// A running `flanneld`. Its log is kept over restarts.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    words: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    errors_expected: bool,
    _dir: TempDir,
}

/// How a run ended that was not to last.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub code: Option<i32>,
    /// What it printed on either output.
    pub text: String,
}

/// Runs `flanneld` with `flags` and `env` on `host` to its end.
///
/// # Errors
/// When it has not ended by itself after 20 s.
pub fn run_to_end(
    host: &Host,
    flags: &[&str],
    env: &[(&str, &str)],
) -> Result<Ended> {
    let mut words = vec!["timeout".to_owned(), "-k1".into(), "20".into()];
    words.push("env".into());
    words.extend(env.iter().map(|(k, v)| format!("{k}={v}")));
    words.push(binary("flanneld")?.display().to_string());
    words.extend(flags.iter().map(|w| (*w).to_owned()));
    let out = host.output(&words)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned()
        + &String::from_utf8_lossy(&out.stderr);
    let code = out.status.code();
    ensure!(code != Some(124), "flanneld {flags:?} did not end:\n{text}");
    Ok(Ended { code, text })
}

/// A static release binary of ours, as `make build` leaves it.
///
/// # Errors
/// When it is not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dist = std::env::var_os("FLANNEL_DIST").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist"),
        PathBuf::from,
    );
    let path = dist.join(name);
    ensure!(path.is_file(), "{} is missing: run `make build`", path.display());
    Ok(path)
}

// === impl Daemon ===

impl Daemon {
    /// Starts it with `flags` and a health server on [`HEALTH_PORT`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        host: &Host,
        flags: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_program(&binary("flanneld")?, host, flags, env)
    }

    /// The same with a `flanneld` that is not ours: [`crate::peers`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(
        program: &Path,
        host: &Host,
        flags: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flannel-it-").tempdir()?;
        let log = dir.path().join(format!("{}.log", host.name()));
        let mut words = vec![program.display().to_string()];
        words.push(format!("--healthz-port={HEALTH_PORT}"));
        words.extend(flags.iter().map(|w| (*w).to_owned()));
        let env: Vec<_> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let child = Child::spawn(host, &words, &env, &log)?;
        Ok(Self { child, words, env, log, errors_expected: false, _dir: dir })
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.child.log()
    }

    /// Lines at ERROR do not fail the test.
    pub fn expect_errors(&mut self) {
        self.errors_expected = true;
    }

    /// The body of a path of its health server, with the status code.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, host: &Host, path: &str) -> Result<(u16, String)> {
        let path = path.to_owned();
        let addr = (Ipv4Addr::LOCALHOST, HEALTH_PORT).into();
        host.run(move || http_get(addr, &path))
    }

    /// The value of a series in its metrics, labels included in the name; 0
    /// for one that is not shown.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metric(&self, host: &Host, series: &str) -> Result<f64> {
        let (status, body) = self.get(host, "/metrics")?;
        ensure!(status == 200, "{status}: {body}");
        value(&body, series)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// After 60 s; its log is in the message.
    pub fn wait_ready(&mut self, host: &Host) -> Result<()> {
        poll_until("flanneld to be ready", Duration::from_secs(60), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            let (status, body) = self.get(host, "/readyz")?;
            ensure!(status == 200, "readyz says {status}: {body}");
            Ok(())
        })
        .with_context(|| format!("{} log:\n{}", host.name(), self.log()))
    }

    /// Waits until it says that it is not ready, for a reason that holds every
    /// one of `texts`, and gives that reason.
    ///
    /// # Errors
    /// After 40 s, or when it ends; its log is in the message.
    pub fn wait_not_ready(
        &mut self,
        host: &Host,
        texts: &[&str],
    ) -> Result<String> {
        let what = format!("flanneld to be not ready because of {texts:?}");
        poll_until(&what, Duration::from_secs(40), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            let (status, body) = self.get(host, "/readyz")?;
            let said = texts.iter().all(|text| body.contains(text));
            ensure!(status == 503 && said, "readyz says {status}: {body}");
            Ok(body)
        })
        .with_context(|| format!("{} log:\n{}", host.name(), self.log()))
    }

    /// Waits until its log has `text` somewhere after byte `from`.
    ///
    /// # Errors
    /// Past the limit.
    pub fn wait_log(
        &self,
        text: &str,
        from: usize,
        limit: Duration,
    ) -> Result<String> {
        poll_until(&format!("the log to say {text:?}"), limit, || {
            let log = self.log();
            let new = log.get(from..).unwrap_or_default();
            match new.lines().find(|line| line.contains(text)) {
                Some(line) => Ok(line.to_owned()),
                None => bail!("log so far:\n{log}"),
            }
        })
    }

    /// Has it do a full pass now, and checks that it changed nothing: what is
    /// there is what should be.
    ///
    /// # Errors
    /// When the pass changed something.
    pub fn assert_settled(&self) -> Result<()> {
        let from = self.log().len();
        self.child.signal(Signal::SIGHUP)?;
        for text in ["pass on request", "traffic rules on request"] {
            let line = self.wait_log(text, from, Duration::from_secs(30))?;
            ensure!(
                line.contains("changes=0 failed=0"),
                "a second pass still found work: {line}"
            );
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Ends it with `signal`.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        self.child.signal(signal)?;
        self.child.wait(Duration::from_secs(30)).map(drop)
    }

    /// Ends a daemon that is not ours: upstream's does not hear a SIGTERM in
    /// its first moments for good, and is killed then.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn end(&mut self) -> Result<()> {
        self.child.signal(Signal::SIGTERM)?;
        if self.child.wait(Duration::from_secs(10)).is_err() {
            self.child.kill();
        }
        Ok(())
    }

    /// Ends it with `signal` and starts it again, as it was started.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub fn restart(&mut self, host: &Host, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        self.start_again(host)
    }

    /// Starts it, once stopped, as it was started before.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self, host: &Host) -> Result<()> {
        self.child = Child::spawn(host, &self.words, &self.env, &self.log)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill();
        let log = self.log();
        let errors: Vec<_> =
            log.lines().filter(|l| l.contains("ERROR")).collect();
        if std::thread::panicking() {
            eprintln!("--- {}\n{log}", self.words.join(" "));
        } else if !self.errors_expected {
            assert!(
                errors.is_empty(),
                "flanneld logged errors: {errors:#?}\n{log}"
            );
        }
    }
}

/// The value of a series in what Prometheus reads; 0 when it is not there.
///
/// # Errors
/// When it is no number.
pub fn value(metrics: &str, series: &str) -> Result<f64> {
    let found = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map_or(Ok(0.0), |text| text.parse().with_context(|| text.to_owned()))
}

/// The body of a path of the HTTP server at `addr`, as the calling thread's
/// namespace sees it, with the status code.
///
/// # Errors
/// When it does not answer.
pub fn http_get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) =
        text.split_once("\r\n\r\n").context("no end of headers")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
