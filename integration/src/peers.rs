//! Upstream's own programs, to run beside ours. `integration/setup peers`
//! compiles them, by a Go that it fetches where there is none; where it cannot
//! what needs them says that it is skipped.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::daemon::Daemon;

/// The folder of upstream's programs.
#[derive(Clone, Debug)]
pub struct Peers {
    dir: PathBuf,
}

// === impl Peers ===

impl Peers {
    /// Where `FLANNEL_TEST_PEERS` says they are, if they are.
    #[must_use]
    pub fn find() -> Option<Self> {
        let dir = PathBuf::from(std::env::var_os("FLANNEL_TEST_PEERS")?);
        let peers = Self { dir };
        peers.flanneld().is_file().then_some(peers)
    }

    /// The same, for the test `name`: when they are missing it says, also
    /// where a test's output is captured, that the test is skipped.
    ///
    /// # Panics
    /// When they are missing in CI, which would count the test as passed.
    #[must_use]
    pub fn or_skip(name: &str) -> Option<Self> {
        let found = Self::find();
        if found.is_none() {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "{name}: no upstream flanneld in FLANNEL_TEST_PEERS");
            // Not a macro: those are captured.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {name}: no upstream flanneld in FLANNEL_TEST_PEERS \
                 (`integration/setup peers` compiles it; where there is no Go it fetches one)"
            );
        }
        found
    }

    /// Upstream's daemon.
    #[must_use]
    pub fn flanneld(&self) -> PathBuf {
        self.dir.join("flanneld")
    }

    /// The folder of the Go CNI plugins: `flannel`, and what this binary
    /// answers to besides.
    #[must_use]
    pub fn cni(&self) -> PathBuf {
        self.dir.join("cni")
    }

    /// The CNI project's own runtime for the command line.
    #[must_use]
    pub fn cnitool(&self) -> PathBuf {
        self.dir.join("cnitool")
    }

    /// Starts upstream's daemon as node `n`'s, without waiting. It is told to
    /// leave traffic rules alone, as ours is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, cluster: &mut Cluster, n: usize) -> Result<()> {
        let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
        let flags = [
            endpoint.as_str(),
            "--iface=eth0",
            "--ip-masq=false",
            "--iptables-forward-rules=false",
        ];
        let node = cluster.node_mut(n);
        node.daemon = Some(Daemon::start_program(
            &self.flanneld(),
            &node.host,
            &flags,
            &[],
        )?);
        Ok(())
    }
}
