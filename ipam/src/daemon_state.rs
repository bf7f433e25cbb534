//! `state.json`, in which flanneld says how far it is (design §3.10). The
//! CNI plugin and flannelctl read it for their messages.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What flanneld is doing, written beside subnet.env on each change of phase.
///
/// Fields that this version does not know are ignored, and a phase it does
/// not know reads as [`Phase::Unknown`], so that old readers understand newer
/// files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonState {
    /// [`DaemonState::VERSION`]; a higher one may mean other things.
    pub version: u32,
    /// How far the daemon is.
    pub phase: Phase,
    /// For a person: what it waits for or what is wrong, on which object,
    /// and what to do about it. Empty when all is well.
    #[serde(default)]
    pub reason: String,
    /// When this phase began, in seconds since 1970.
    pub since: u64,
    /// The kernel's boot id at that time: under another one the file is left
    /// over from before a restart of the machine.
    pub boot_id: String,
    /// The subnet.env that this daemon writes.
    pub subnet_file: String,
    /// Until when the node has its subnet unless the lease is renewed, in
    /// seconds on the clock of [`uptime`] at this `boot_id`: whatever the wall
    /// clock is set to. Absent when it has none, or one that does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ends_uptime: Option<u64>,
}

/// Time since the machine started, suspended time included
/// (`CLOCK_BOOTTIME`). Never jumps.
#[must_use]
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        // a clock that every kernel of this century has
        .unwrap_or_default()
}

/// How far flanneld is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Reading flags, looking for the underlay interface.
    Starting,
    /// The store does not answer, or refuses.
    WaitingForStore,
    /// The store holds no network configuration, or one that is refused.
    WaitingForConfig,
    /// Taking a subnet.
    AcquiringLease,
    /// Making the kernel carry packets for the first time.
    Programming,
    /// All peers that are known are reachable.
    Ready,
    /// Running, but something does not work.
    Degraded,
    /// The subnet is lost to another node or expired.
    LeaseLost,
    /// Ending on request; what was set up stays.
    Stopping,
    /// Ended by an error that `reason` tells.
    Failed,
    /// A phase of a newer version.
    #[serde(other)]
    Unknown,
}

// === impl DaemonState ===

impl DaemonState {
    /// The version of the format.
    pub const VERSION: u32 = 1;

    /// A state of this version.
    #[must_use]
    pub fn new(
        phase: Phase,
        reason: impl Into<String>,
        since: u64,
        boot_id: impl Into<String>,
        subnet_file: impl Into<String>,
    ) -> Self {
        Self {
            version: Self::VERSION,
            phase,
            reason: reason.into(),
            since,
            boot_id: boot_id.into(),
            subnet_file: subnet_file.into(),
            lease_ends_uptime: None,
        }
    }

    /// Where the daemon that writes `subnet_file` has this file: in the same
    /// directory, `state.json` for a `subnet.env`. Several daemons on a host
    /// (D-80) have other names for theirs: beside `b.env` it is
    /// `b.env.state.json`.
    #[must_use]
    pub fn beside(subnet_file: &Path) -> PathBuf {
        let name = subnet_file.file_name().unwrap_or_default();
        if name.is_empty() || name == "subnet.env" {
            return subnet_file.with_file_name("state.json");
        }
        let mut file = name.to_owned();
        file.push(".state.json");
        subnet_file.with_file_name(file)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The text is not such a file, with the place where it is not.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The file's bytes: one line.
    ///
    /// # Errors
    /// None is known; what `serde_json` says.
    pub fn render(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

// === impl Phase ===

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::WaitingForStore => "waiting for the store",
            Self::WaitingForConfig => "waiting for the network configuration",
            Self::AcquiringLease => "taking a subnet",
            Self::Programming => "setting up the network",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::LeaseLost => "without its subnet",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Unknown => "in a phase of a newer version",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_files_bytes() {
        let state = DaemonState::new(
            Phase::WaitingForConfig,
            "no key /coreos.com/network/config in etcd: write it",
            1_700_000_000,
            "6f1e3b1c-0000-4000-8000-000000000000",
            "/run/flannel/subnet.env",
        );
        let text = "{\"version\":1,\"phase\":\"waiting-for-config\",\"reason\":\"no key /coreos.com/network/config in etcd: write it\",\"since\":1700000000,\"boot_id\":\"6f1e3b1c-0000-4000-8000-000000000000\",\"subnet_file\":\"/run/flannel/subnet.env\"}\n";
        assert_eq!(state.render().unwrap(), text);
        assert_eq!(DaemonState::parse(text).unwrap(), state);
    }

    #[test]
    fn the_files_place() {
        for (subnet_file, place) in [
            ("/run/flannel/subnet.env", "/run/flannel/state.json"),
            ("/run/flannel/b.env", "/run/flannel/b.env.state.json"),
            ("/srv/b/subnet.env", "/srv/b/state.json"),
            ("subnet.env", "state.json"),
        ] {
            let found = DaemonState::beside(Path::new(subnet_file));
            assert_eq!(found, Path::new(place));
        }
    }

    #[test]
    fn a_newer_version_is_understood() {
        let state = DaemonState::parse(
            r#"{"version":2,"phase":"dancing","since":1,"boot_id":"b",
                "subnet_file":"f","extra":{"x":[1]}}"#,
        )
        .unwrap();
        assert_eq!((state.version, state.phase), (2, Phase::Unknown));
        assert_eq!(state.reason, "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip(
            reason in ".*",
            since in any::<u64>(),
            phase in prop::sample::select(&[
                Phase::Starting,
                Phase::WaitingForStore,
                Phase::WaitingForConfig,
                Phase::AcquiringLease,
                Phase::Programming,
                Phase::Ready,
                Phase::Degraded,
                Phase::LeaseLost,
                Phase::Stopping,
                Phase::Failed,
            ]),
        ) {
            let state = DaemonState::new(phase, reason, since, "b", "f");
            let text = state.render().unwrap();
            prop_assert_eq!(text.lines().count(), 1);
            prop_assert_eq!(DaemonState::parse(&text).unwrap(), state);
        }

        #[test]
        fn never_panics(text in ".{0,64}") {
            drop(DaemonState::parse(&text));
        }
    }
}
