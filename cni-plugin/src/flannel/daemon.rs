//! What flanneld says about itself (design.md §3.10).

use std::path::Path;

use ipam::daemon_state::{DaemonState, Phase, uptime};
use ipam::file;

use crate::protocol::{CniError, code};

/// Where the kernel tells one start of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Refuses while flanneld says that this node has lost its subnet, or said
/// until when it has it and that time is over: another node may have it, and
/// hand out the same addresses. What runs keeps its own.
///
/// # Errors
/// "Try again later", with flanneld's own words.
pub(super) fn check_lease(subnet_file: &Path) -> Result<(), CniError> {
    match State::read(subnet_file) {
        Some(state) => state.refuse_lost(subnet_file, uptime().as_secs()),
        None => Ok(()),
    }
}

/// Whether flanneld does its part: for STATUS. One that is starting, stopping
/// or waiting has left everything working that its last run made.
///
/// # Errors
/// Code 51: pods may not be reachable from other nodes.
pub(super) fn check_serving(subnet_file: &Path) -> Result<(), CniError> {
    let Some(state) = State::read(subnet_file) else { return Ok(()) };
    let limited = |e| CniError { code: code::LIMITED, ..e };
    state.refuse_lost(subnet_file, uptime().as_secs()).map_err(limited)?;
    match state.is_of(subnet_file) && state.said.phase == Phase::Failed {
        false => Ok(()),
        true => Err(CniError::new(
            code::LIMITED,
            format!(
                "other nodes may not be reachable.{}",
                state.sentence(subnet_file)
            ),
        )),
    }
}

/// What flanneld said last, and the present start of the machine.
struct State {
    said: DaemonState,
    boot_id: String,
}

impl State {
    /// `None` when there is no such file, as with upstream's daemon.
    fn read(subnet_file: &Path) -> Option<Self> {
        let text = file::read_text(&DaemonState::beside(subnet_file)).ok()?;
        let boot_id = file::read_text(BOOT_ID.as_ref()).unwrap_or_default();
        let said = DaemonState::parse(&text).ok()?;
        Some(Self { said, boot_id: boot_id.trim().to_owned() })
    }

    /// Whether it is about this subnet file and this start of the machine.
    fn is_of(&self, file: &Path) -> bool {
        self.said.boot_id == self.boot_id && self.writes(file)
    }

    /// Whether the daemon writes this subnet file. It was found beside it, so
    /// that the name is enough; the way to the folder may be a link, or
    /// another one in the daemon's container.
    fn writes(&self, file: &Path) -> bool {
        Path::new(&self.said.subnet_file).file_name() == file.file_name()
    }

    /// `now` in seconds since the machine started.
    fn refuse_lost(&self, file: &Path, now: u64) -> Result<(), CniError> {
        if !self.is_of(file) {
            return Ok(());
        }
        let expired = self.said.lease_ends_uptime.is_some_and(|end| end <= now);
        let why = match (self.said.phase, expired) {
            (Phase::LeaseLost, _) => "",
            (_, true) => " Its lease was not renewed in time.",
            (_, false) => return Ok(()),
        };
        Err(CniError::new(
            code::TRY_AGAIN,
            format!(
                "this node has no subnet to take addresses from.{why}{}",
                self.sentence(file)
            ),
        ))
    }
}

/// A sentence for the end of a message, with a space in front; empty when
/// there is no such file, as with upstream's daemon.
pub(super) fn says(subnet_file: &Path) -> String {
    State::read(subnet_file)
        .map(|state| state.sentence(subnet_file))
        .unwrap_or_default()
}

impl State {
    fn sentence(&self, file: &Path) -> String {
        let Self { said, boot_id } = self;
        if !boot_id.is_empty() && said.boot_id != *boot_id {
            return " flanneld has not run since this machine started."
                .to_owned();
        }
        let mut out = format!(" flanneld says: {}", said.phase);
        if !said.reason.is_empty() {
            out.push_str(": ");
            out.push_str(&said.reason);
        }
        if !self.writes(file) {
            out.push_str("; it writes ");
            out.push_str(&said.subnet_file);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use ipam::daemon_state::Phase;

    use std::fs;

    use super::*;

    /// D-80: each of several daemons on a host has a file of its own.
    #[test]
    fn the_daemon_of_this_subnet_file() {
        let dir = tempfile::tempdir().unwrap();
        let mine = dir.path().join("b.env");
        for (file, phase) in [
            ("state.json", Phase::Ready),
            ("b.env.state.json", Phase::Starting),
        ] {
            let boot_id = fs::read_to_string(BOOT_ID).unwrap();
            let shown = mine.display().to_string();
            let state = DaemonState::new(phase, "", 1, boot_id.trim(), shown);
            fs::write(dir.path().join(file), state.render().unwrap()).unwrap();
        }
        assert_eq!(says(&mine), " flanneld says: starting");
    }

    #[test]
    fn only_a_lost_subnet_of_this_daemon_and_boot_refuses() {
        let file = Path::new("/run/flannel/subnet.env");
        let shown = file.display().to_string();
        let state = |phase| {
            let why = "lease 10.5.1.0-24 is lost: it was deleted";
            DaemonState::new(phase, why, 1, "b", shown.clone())
        };
        let refuse_lost = |said, boot_id: &str, file| {
            State { said, boot_id: boot_id.into() }.refuse_lost(file, 100)
        };
        let lost = state(Phase::LeaseLost);
        let error = refuse_lost(lost.clone(), "b", file).unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN);
        assert!(error.to_string().contains("it was deleted"), "{error}");
        assert!(refuse_lost(lost.clone(), "other", file).is_ok());
        assert!(refuse_lost(lost, "b", Path::new("/x.env")).is_ok());
        for phase in [Phase::Ready, Phase::WaitingForStore, Phase::Stopping] {
            let mut one = state(phase);
            assert!(refuse_lost(one.clone(), "b", file).is_ok());
            one.lease_ends_uptime = Some(101);
            assert!(refuse_lost(one.clone(), "b", file).is_ok());
            one.lease_ends_uptime = Some(100);
            let error = refuse_lost(one, "b", file).unwrap_err();
            assert_eq!(error.code, code::TRY_AGAIN);
            assert!(error.to_string().contains("not renewed"), "{error}");
        }
    }

    /// The folder may be a link, or have another name in the daemon's
    /// container.
    #[test]
    fn another_way_to_the_same_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("run"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let boot_id = fs::read_to_string(BOOT_ID).unwrap();
        let written = "/host/run/flannel/subnet.env";
        let state =
            |phase| DaemonState::new(phase, "why", 1, boot_id.trim(), written);
        let put = |phase| {
            let text = state(phase).render().unwrap();
            fs::write(folder.join("state.json"), text).unwrap();
        };
        let file = link.join("subnet.env");
        put(Phase::LeaseLost);
        assert_eq!(check_lease(&file).unwrap_err().code, code::TRY_AGAIN);
        assert_eq!(check_serving(&file).unwrap_err().code, code::LIMITED);
        put(Phase::Failed);
        assert_eq!(check_serving(&file).unwrap_err().code, code::LIMITED);
        assert_eq!(says(&file), " flanneld says: failed: why");
    }

    #[test]
    fn the_reason_is_passed_on() {
        let file = Path::new("/run/flannel/subnet.env");
        let state = DaemonState::new(
            Phase::WaitingForStore,
            "etcd at 10.0.0.1:2379 refuses connections",
            1,
            "b",
            "/run/flannel/subnet.env",
        );
        let sentence = |boot_id: &str, file| {
            State { said: state.clone(), boot_id: boot_id.into() }
                .sentence(file)
        };
        assert_eq!(
            sentence("b", file),
            " flanneld says: waiting for the store: etcd at 10.0.0.1:2379 \
             refuses connections"
        );
        assert!(sentence("other", file).contains("has not run since"));
        assert!(
            sentence("b", Path::new("/x"))
                .ends_with("; it writes /run/flannel/subnet.env")
        );
    }
}
