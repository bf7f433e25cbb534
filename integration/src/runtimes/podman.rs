//! Debian's podman with its CNI backend. It has no daemon: each command sees
//! what the ones before it left, and leaves a monitor for each container.

use anyhow::{Context, Result};

use super::boot::Boot;
use super::{LISTS, PLUGINS, image, program, root};
use crate::host::Host;

const CONFIG: &str = "/var/lib/flannel-it/containers.conf";

/// A machine on which podman's commands run.
#[derive(Debug)]
pub struct Podman {
    boot: Boot,
    policy: String,
}

// === impl Podman ===

impl Podman {
    /// Prepares `host` for containers on the network `network` of its lists;
    /// the image is there then.
    ///
    /// # Errors
    /// When podman does not work.
    pub fn start(host: &Host, network: &str) -> Result<Self> {
        let runc = program("runc")?;
        let conmon = program("conmon")?;
        let config = format!(
            "[containers]\n\
             default_ulimits = ['nofile=1024:1024', 'nproc=4096:4096']\n\
             apparmor_profile = 'unconfined'\n\
             [network]\n\
             network_backend = 'cni'\n\
             cni_plugin_dirs = ['{PLUGINS}']\n\
             network_config_dir = '{LISTS}'\n\
             default_network = '{network}'\n\
             [engine]\n\
             cgroup_manager = 'cgroupfs'\n\
             events_logger = 'file'\n\
             runtime = 'runc'\n\
             conmon_path = ['{conmon}']\n\
             [engine.runtimes]\n\
             runc = ['{runc}']\n",
            conmon = conmon.display(),
            runc = runc.display(),
        );
        host.write(CONFIG, &config)?;
        let busybox = program("busybox")?.display().to_string();
        let idle = [&[busybox.as_str()][..], &["sleep", "86400"]].concat();
        let policy = root().join("etc/containers/policy.json");
        let own = Self {
            boot: Boot::start(host, &idle)?,
            policy: policy.display().to_string(),
        };
        let policy = ["--signature-policy", own.policy.as_str()];
        let load = ["load", "--quiet", "--input", image::ARCHIVE];
        own.cmd(host, &[&load[..], &policy].concat())?;
        Ok(own)
    }

    /// One command of podman's.
    ///
    /// # Errors
    /// When it fails.
    pub fn cmd(&self, host: &Host, words: &[&str]) -> Result<String> {
        let config = format!("CONTAINERS_CONF={CONFIG}");
        let podman = ["env", &config, "podman", "--storage-driver=overlay"];
        self.boot
            .cmd(host, &[&podman[..], words].concat())
            .with_context(|| format!("podman {words:?}"))
    }

    /// `podman run` with `flags`, of the image, and what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(
        &self,
        host: &Host,
        flags: &[&str],
        command: &[&str],
    ) -> Result<String> {
        let cgroup = format!("--cgroup-parent={}", self.boot.cgroup());
        let run = ["run", "--pull=never", &cgroup];
        self.cmd(host, &[&run[..], flags, &[image::NAME], command].concat())
    }
}
