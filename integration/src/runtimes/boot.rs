//! Everything that runs on a machine from its boot to its end: a process
//! namespace. Runtimes leave daemons behind on purpose (shims, monitors, the
//! containers themselves); here they end with their first process, at once,
//! as on a machine whose power fails.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::cgroup::Cgroup;
use super::search_path;
use crate::child::Child;
use crate::host::Host;
use crate::poll::poll_until;

/// Between power on and power off. Without a first process of its own nothing
/// ever ends by itself.
#[derive(Debug)]
pub struct Boot {
    // In the order of their end: processes, then their cgroups.
    init: Child,
    pid: u32,
    cgroup: Cgroup,
    _dir: TempDir,
}

// === impl Boot ===

impl Boot {
    /// Starts `words` as the first process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(host: &Host, words: &[&str]) -> Result<Self> {
        crate::etcd::sweep_temp()?;
        let dir =
            tempfile::Builder::new().prefix("flannel-it-boot-").tempdir()?;
        let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
        let words: Vec<String> = unshare
            .iter()
            .chain(&["--mount-proc", "--"])
            .chain(words)
            .map(|word| (*word).to_owned())
            .collect();
        let env = [("PATH".to_owned(), search_path())];
        let log = dir.path().join("log");
        let init = Child::spawn(host, &words, &env, &log)?;
        let pid = first_child(init.pid())?;
        Ok(Self { init, pid, cgroup: Cgroup::new(), _dir: dir })
    }

    /// What the first process printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.init.log()
    }

    /// Whether the first process still runs.
    ///
    /// # Errors
    /// When it does not; its log is in the message.
    pub fn alive(&mut self) -> Result<()> {
        let ended = self.init.try_wait()?;
        ensure!(ended.is_none(), "it ended: {ended:?}\n{}", self.log());
        Ok(())
    }

    /// The root folder with the mounts of this boot.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// The cgroup that is to be the parent of all containers.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.cgroup.path()
    }

    /// Runs a program of a runtime to its end: among the processes and mounts
    /// of this boot, a minute at most.
    ///
    /// # Errors
    /// When it fails; its output is in the message.
    pub fn cmd(&self, host: &Host, words: &[&str]) -> Result<String> {
        let enter = format!("--target={}", self.pid);
        let path = format!("PATH={}", search_path());
        let mut all =
            vec!["nsenter", &enter, "--pid", "--mount", "--", "env", &path];
        all.extend(["timeout", "-k1", "60"]);
        all.extend(words);
        host.cmd(&all)
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        self.init.kill();
        // Its first process is gone only when all others are.
        let _ = poll_until("power off", Duration::from_secs(20), || {
            let stat =
                std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
            let gone = stat.map_or(true, |s| s.contains(") Z "));
            ensure!(gone, "process {} is there", self.pid);
            Ok(())
        });
    }
}

/// What a reboot leaves of `host`'s state: its interfaces that are hardware
/// and what is on disk.
///
/// # Errors
/// When something cannot be removed.
pub fn forget_runtime_state(host: &Host) -> Result<()> {
    host.run(|| -> Result<()> {
        for name in netns_names() {
            nix::mount::umount(name.as_str())?;
        }
        for entry in std::fs::read_dir("/run")? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path)
                    .with_context(|| path.display().to_string())?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(std::fs::create_dir_all("/run/netns")?)
    })?;
    // The kernel takes namespaces apart, and cables with them, when it has
    // the time.
    poll_until("the pods' cables to go", Duration::from_secs(20), || {
        let cables = links(host, "type veth")?;
        ensure!(cables.is_empty(), "{cables:?}");
        Ok(())
    })?;
    for name in links(host, "")? {
        host.ip(&format!("link del {name}"))?;
    }
    host.cmd(&["nft", "flush", "ruleset"]).map(drop)
}

/// The names of interfaces that a reboot removes: all but loopback and the
/// cable of the underlay.
fn links(host: &Host, which: &str) -> Result<Vec<String>> {
    let text = host.ip(&format!("-o link show {which}"))?;
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    let names = names.filter_map(|name| name.split('@').next());
    let names = names.filter(|name| !["lo", "eth0"].contains(name));
    Ok(names.map(str::to_owned).collect())
}

/// What is mounted below `/run/netns` of the calling thread's mounts.
fn netns_names() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts");
    let mounts = mounts.unwrap_or_default();
    let second = mounts.lines().filter_map(|l| l.split(' ').nth(1));
    second
        .filter(|path| path.starts_with("/run/netns/"))
        .map(str::to_owned)
        .collect()
}

/// The one child of process `parent`.
fn first_child(parent: u32) -> Result<u32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let limit = Duration::from_secs(10);
    let child = poll_until("the first process", limit, || {
        let text = std::fs::read_to_string(&file)?;
        let pid = text.split_whitespace().next().context("no child")?;
        // Before its exec it is no more than a copy of its parent.
        let pid: u32 = pid.parse()?;
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        ensure!(comm.trim() != "unshare", "not yet started");
        Ok(pid)
    })?;
    Ok(child)
}
