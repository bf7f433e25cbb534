//! An etcd of several members, each on a host of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::Child;
use crate::etcd::{Pki, Security};
use crate::host::Host;
use crate::poll::poll_until;
use crate::underlay::Underlay;

/// The first member is this node of the underlay, the next one more.
const FIRST: u8 = 91;

/// For a member that is asked for something.
const ANSWER: Duration = Duration::from_secs(30);
/// What `etcdctl` says of a cluster that has no leader at the moment.
const ELECTING: [&str; 5] =
    ["leader", "timed out", "deadline", "unhealthy", "refused"];

/// A running cluster of members.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    ctl: PathBuf,
    scheme: &'static str,
    /// Certificates, when there is TLS: of clients, and between members.
    pub pki: Option<Pki>,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    child: Child,
    words: Vec<String>,
    data: PathBuf,
    ip: String,
    host: Host,
    fate: Fate,
}

/// What was done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    Killed,
    Frozen,
    /// From the others, not from its clients.
    Cut,
}

// === impl Members ===

impl Members {
    /// Starts `count` members beside the nodes on `underlay`, and waits until
    /// they have a leader. There are no users.
    ///
    /// # Errors
    /// When the binary is missing or does not come up.
    pub fn start(
        underlay: &Underlay,
        count: u8,
        security: Security,
    ) -> Result<Self> {
        let binary = std::env::var_os("FLANNEL_TEST_ETCD")
            .map_or("etcd".into(), PathBuf::from);
        let ctl = binary.with_file_name("etcdctl");
        let dir =
            tempfile::Builder::new().prefix("flannel-it-etcd-").tempdir()?;
        let mut hosts = Vec::new();
        for n in FIRST..FIRST + count {
            let host = Host::new(&format!("etcd{n}"))?;
            let uplink = underlay.attach(&host, n)?;
            hosts.push((host, uplink.v4));
        }
        let ips: Vec<_> = hosts.iter().map(|(_, ip)| ip.as_str()).collect();
        let pki = security.tls.then(|| Pki::of(&dir, &ips)).transpose()?;
        let scheme = if security.tls { "https" } else { "http" };
        let all: Vec<String> = ips
            .iter()
            .map(|ip| format!("m{ip}={scheme}://{ip}:2380"))
            .collect();
        let all = all.join(",");
        let mut members = Vec::new();
        for (host, ip) in hosts {
            let data = dir.path().join(&ip);
            let mut words = vec![
                binary.display().to_string(),
                format!("--name=m{ip}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={scheme}://{ip}:2379"),
                format!("--advertise-client-urls={scheme}://{ip}:2379"),
                format!("--listen-peer-urls={scheme}://{ip}:2380"),
                format!("--initial-advertise-peer-urls={scheme}://{ip}:2380"),
                format!("--initial-cluster={all}"),
                // A busy machine is not a dead leader.
                "--heartbeat-interval=200".into(),
                "--election-timeout=2000".into(),
                "--logger=zap".into(),
                "--log-level=warn".into(),
            ];
            if let Some(pki) = &pki {
                words.extend(tls_words(pki, security.client_certs));
            }
            let log = dir.path().join(format!("{ip}.log"));
            let child = Child::spawn(&host, &words, &[], &log)?;
            let fate = Fate::Well;
            members.push(Member { child, words, data, ip, host, fate });
        }
        let members = Self { members, ctl, scheme, pki, dir };
        members.wait_well(0)?;
        Ok(members)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// All client URLs, as `--etcd-endpoints` takes them.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(|m| self.url(m)).collect();
        urls.join(",")
    }

    fn url(&self, member: &Member) -> String {
        format!("{}://{}:2379", self.scheme, member.ip)
    }

    /// Which member a URL is of.
    #[must_use]
    pub fn named_in(&self, text: &str) -> Option<usize> {
        self.members.iter().position(|m| text.contains(&self.url(m)))
    }

    /// `etcdctl` towards member `n`.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctl(&self, n: usize, words: &[&str]) -> Result<String> {
        let member = self.members.get(n).context("no such member")?;
        let mut all = vec![
            "env".to_owned(),
            "ETCDCTL_API=3".to_owned(),
            self.ctl.display().to_string(),
            format!("--endpoints={}", self.url(member)),
            "--command-timeout=5s".to_owned(),
        ];
        if let Some(pki) = &self.pki {
            all.extend(pki.ctl_flags());
        }
        all.extend(words.iter().map(|w| (*w).to_owned()));
        member.host.cmd(&all)
    }

    /// `etcdctl` towards a member to which nothing was done, once such a one
    /// leads: what another passes on to a leader that is frozen would be
    /// carried out when that thaws, long after it was tried again.
    ///
    /// # Errors
    /// When it fails, or they do not elect one.
    pub fn ctl_any(&self, words: &[&str]) -> Result<String> {
        let well = |m: &Member| m.fate == Fate::Well;
        let n = self.members.iter().position(well).context("none is well")?;
        if !self.members.iter().all(well) {
            poll_until("a leader", ANSWER, || self.leader())?;
        }
        poll_until("a leader to answer", ANSWER, || match self.ctl(n, words) {
            Err(e) if ELECTING.iter().any(|w| format!("{e:#}").contains(w)) => {
                Err(e)
            }
            done => Ok(done),
        })?
    }

    /// The member that leads now, of those to which nothing was done.
    ///
    /// # Errors
    /// When none says that it does.
    pub fn leader(&self) -> Result<usize> {
        for (n, member) in self.members.iter().enumerate() {
            if member.fate != Fate::Well {
                continue;
            }
            let Ok(text) =
                self.ctl(n, &["endpoint", "status", "--write-out=json"])
            else {
                continue;
            };
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let status = &json[0]["Status"];
            if status["leader"].is_number()
                && status["leader"] == status["header"]["member_id"]
            {
                return Ok(n);
            }
        }
        anyhow::bail!("no member leads")
    }

    fn member(&mut self, n: usize) -> Result<&mut Member> {
        self.members.get_mut(n).context("no such member")
    }

    /// Kills member `n`.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        let member = self.member(n)?;
        member.child.kill();
        member.fate = Fate::Killed;
        Ok(())
    }

    /// Stops member `n`, which keeps its connections and says nothing.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn freeze(&mut self, n: usize) -> Result<()> {
        let member = self.member(n)?;
        member.child.signal(Signal::SIGSTOP)?;
        member.fate = Fate::Frozen;
        Ok(())
    }

    /// Cuts member `n` off from the others, not from its clients.
    ///
    /// # Errors
    /// When a route cannot be added.
    pub fn cut(&mut self, n: usize) -> Result<()> {
        self.ways(n, "add")?;
        self.member(n)?.fate = Fate::Cut;
        Ok(())
    }

    fn ways(&self, n: usize, verb: &str) -> Result<()> {
        let member = self.members.get(n).context("no such member")?;
        ensure!(self.members.len() > 1, "there is nobody to cut it off from");
        for other in self.members.iter().filter(|m| m.ip != member.ip) {
            let words = format!("route {verb} blackhole {}/32", other.ip);
            member.host.ip(&words)?;
        }
        Ok(())
    }

    /// Removes the data of all members, once killed.
    ///
    /// # Errors
    /// When one was not, or a folder cannot be removed.
    pub fn empty(&self) -> Result<()> {
        for member in &self.members {
            ensure!(member.fate == Fate::Killed, "{} runs", member.ip);
            std::fs::remove_dir_all(&member.data).context("a member's data")?;
        }
        Ok(())
    }

    /// Undoes what was done to the members, and waits until all are well.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn mend(&mut self) -> Result<()> {
        for n in 0..self.members.len() {
            let log = self.dir.path();
            let member = self.members.get_mut(n).context("no such member")?;
            let log = log.join(format!("{}.log", member.ip));
            match std::mem::replace(&mut member.fate, Fate::Well) {
                Fate::Well => {}
                Fate::Killed => {
                    let Member { host, words, .. } = member;
                    member.child = Child::spawn(host, words, &[], &log)?;
                }
                Fate::Frozen => member.child.signal(Signal::SIGCONT)?,
                Fate::Cut => self.ways(n, "del")?,
            }
        }
        (0..self.members.len()).try_for_each(|n| self.wait_well(n))
    }

    /// Waits until member `n` answers with the others' consent.
    ///
    /// # Errors
    /// After 30 s.
    pub fn wait_well(&self, n: usize) -> Result<()> {
        poll_until("the member to be well", ANSWER, || {
            self.ctl(n, &["get", "x"]).map(drop)
        })
    }
}

/// The flags for TLS: members always need a certificate among each other.
fn tls_words(pki: &Pki, client_certs: bool) -> Vec<String> {
    let (ca, cert, key) =
        (pki.ca.display(), pki.server_cert.display(), pki.server_key.display());
    let mut words = vec![
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        format!("--peer-cert-file={cert}"),
        format!("--peer-key-file={key}"),
        format!("--peer-trusted-ca-file={ca}"),
        "--peer-client-cert-auth".to_owned(),
    ];
    if client_certs {
        words.push("--client-cert-auth".to_owned());
        words.push(format!("--trusted-ca-file={ca}"));
    }
    words
}
