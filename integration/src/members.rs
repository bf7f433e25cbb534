//! An etcd of several members, each on a host of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::Child;
use crate::host::Host;
use crate::poll::poll_until;
use crate::underlay::Underlay;

/// The first member is this node of the underlay, the next one more.
const FIRST: u8 = 91;

/// A running cluster of members. Traffic is not encrypted.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    ctl: PathBuf,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    child: Child,
    words: Vec<String>,
    ip: String,
    host: Host,
}

// === impl Members ===

impl Members {
    /// Starts `count` members beside the nodes on `underlay`, and waits until
    /// they have a leader.
    ///
    /// # Errors
    /// When the binary is missing or does not come up.
    pub fn start(underlay: &Underlay, count: u8) -> Result<Self> {
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
        let all: Vec<String> = hosts
            .iter()
            .map(|(_, ip)| format!("m{ip}=http://{ip}:2380"))
            .collect();
        let all = all.join(",");
        let mut members = Vec::new();
        for (host, ip) in hosts {
            let data = dir.path().join(&ip);
            let words = vec![
                binary.display().to_string(),
                format!("--name=m{ip}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls=http://{ip}:2379"),
                format!("--advertise-client-urls=http://{ip}:2379"),
                format!("--listen-peer-urls=http://{ip}:2380"),
                format!("--initial-advertise-peer-urls=http://{ip}:2380"),
                format!("--initial-cluster={all}"),
                // A busy machine is not a dead leader.
                "--heartbeat-interval=200".into(),
                "--election-timeout=2000".into(),
                "--logger=zap".into(),
                "--log-level=warn".into(),
            ];
            let log = dir.path().join(format!("{ip}.log"));
            let child = Child::spawn(&host, &words, &[], &log)?;
            members.push(Member { child, words, ip, host });
        }
        let members = Self { members, ctl, dir };
        poll_until("the members to agree", Duration::from_secs(30), || {
            members.ctl(0, &["get", "x"]).map(drop)
        })?;
        Ok(members)
    }

    /// All client URLs, as `--etcd-endpoints` takes them.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.members.iter().map(|m| m.url()).collect();
        urls.join(",")
    }

    /// Which member a URL is of.
    #[must_use]
    pub fn named_in(&self, text: &str) -> Option<usize> {
        self.members.iter().position(|m| text.contains(&m.url()))
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
            format!("--endpoints={}", member.url()),
            "--command-timeout=5s".to_owned(),
        ];
        all.extend(words.iter().map(|w| (*w).to_owned()));
        member.host.cmd(&all)
    }

    /// The member that leads now.
    ///
    /// # Errors
    /// When none says that it does.
    pub fn leader(&self) -> Result<usize> {
        for n in 0..self.members.len() {
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

    /// Sends a signal to member `n`.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn signal(&self, n: usize, signal: Signal) -> Result<()> {
        let member = self.members.get(n).context("no such member")?;
        member.child.signal(signal)
    }

    /// Kills member `n`.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        self.members.get_mut(n).context("no such member")?.child.kill();
        Ok(())
    }

    /// Starts member `n`, once killed, with the data it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self, n: usize) -> Result<()> {
        let member = self.members.get_mut(n).context("no such member")?;
        let log = self.dir.path().join(format!("{}.log", member.ip));
        let child = Child::spawn(&member.host, &member.words, &[], &log)?;
        member.child = child;
        self.wait_well(n)
    }

    /// Waits until member `n` answers with the others' consent.
    ///
    /// # Errors
    /// After 30 s.
    pub fn wait_well(&self, n: usize) -> Result<()> {
        poll_until("the member to be well", Duration::from_secs(30), || {
            self.ctl(n, &["get", "x"]).map(drop)
        })
    }

    /// Cuts member `n` off from the others, not from its clients.
    ///
    /// # Errors
    /// When a route cannot be added.
    pub fn cut(&self, n: usize) -> Result<()> {
        self.peers_of(n, "add")
    }

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// When a route cannot be deleted.
    pub fn heal(&self, n: usize) -> Result<()> {
        self.peers_of(n, "del")
    }

    fn peers_of(&self, n: usize, verb: &str) -> Result<()> {
        let member = self.members.get(n).context("no such member")?;
        ensure!(self.members.len() > 1, "there is nobody to cut it off from");
        for other in self.members.iter().filter(|m| m.ip != member.ip) {
            let words = format!("route {verb} blackhole {}/32", other.ip);
            member.host.ip(&words)?;
        }
        Ok(())
    }
}

// === impl Member ===

impl Member {
    fn url(&self) -> String {
        format!("http://{}:2379", self.ip)
    }
}
