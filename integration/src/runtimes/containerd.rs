//! Debian's containerd with its CRI.

use std::time::Duration;

use anyhow::{Context, Result};

use super::boot::Boot;
use super::cri::Cri;
use super::{image, program};
use crate::host::Host;
use crate::poll::poll_until;

const CONFIG: &str = "/var/lib/flannel-it/containerd.toml";

/// A machine whose first process is containerd.
#[derive(Debug)]
pub struct Containerd {
    boot: Boot,
}

// === impl Containerd ===

impl Containerd {
    /// Starts it on `host`, with what an earlier one left on disk, and waits
    /// until it answers. The image is there then.
    ///
    /// # Errors
    /// When it does not come up; its log is in the message.
    pub fn start(host: &Host) -> Result<Self> {
        let name = image::NAME;
        // All paths are the usual ones: they are the host's own.
        let config = format!(
            "version = 2\n\
             [plugins.'io.containerd.grpc.v1.cri']\n\
             sandbox_image = '{name}'\n\
             disable_apparmor = true\n\
             restrict_oom_score_adj = true\n"
        );
        host.write(CONFIG, &config)?;
        let daemon = program("containerd")?.display().to_string();
        let boot = Boot::start(
            host,
            &[&daemon, "--log-level=warn", "--config", CONFIG],
        )?;
        let mut own = Self { boot };
        poll_until("containerd", Duration::from_secs(30), || {
            own.boot.alive()?;
            own.cri(host).conditions().map(drop)
        })
        .with_context(|| own.log())?;
        for namespace in ["k8s.io", "default"] {
            let words = ["-n", namespace, "image", "import", image::ARCHIVE];
            own.ctr(host, &words)?;
        }
        Ok(own)
    }

    /// What kubelet would say to it.
    #[must_use]
    pub fn cri<'a>(&self, host: &'a Host) -> Cri<'a> {
        Cri::new(host, &self.boot.cgroup())
    }

    /// `ctr` beside it.
    ///
    /// # Errors
    /// When it fails; the daemon's log is in the message.
    pub fn ctr(&self, host: &Host, words: &[&str]) -> Result<String> {
        let all = [&["ctr"], words].concat();
        self.boot.cmd(host, &all).with_context(|| self.log())
    }

    /// Runs a container that `ctr` makes, named `id`, on the first network of
    /// the node, and gives what it printed.
    ///
    /// # Errors
    /// When it fails; the daemon's log is in the message.
    pub fn ctr_run(
        &self,
        host: &Host,
        id: &str,
        command: &[&str],
    ) -> Result<String> {
        let cgroup = format!("--cgroup={}/{id}", self.boot.cgroup());
        let run = ["run", "--rm", "--cni", &cgroup, image::NAME, id];
        self.ctr(host, &[&run, command].concat())
    }

    /// The network namespaces of its pods, as paths that any process on the
    /// machine can open.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        let folder = self.boot.root().join("run/netns");
        let names = std::fs::read_dir(folder)?;
        names.map(|e| Ok(e?.path().display().to_string())).collect()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        format!("containerd's log:\n{}", self.boot.log())
    }
}
