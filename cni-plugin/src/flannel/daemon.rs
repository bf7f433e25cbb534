//! What flanneld says about itself (design.md §3.10).

use std::fs;
use std::path::Path;

use ipam::daemon_state::{DaemonState, Phase};

use crate::protocol::{CniError, code};

/// Where the kernel tells one start of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Refuses while flanneld says that this node has lost its subnet: another
/// node may have it, and hand out the same addresses. What runs keeps its own.
///
/// # Errors
/// "Try again later", with flanneld's own words.
pub(super) fn check_lease(subnet_file: &Path) -> Result<(), CniError> {
    let Ok(text) = fs::read_to_string(DaemonState::beside(subnet_file)) else {
        return Ok(());
    };
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    match DaemonState::parse(&text) {
        Ok(state) => refuse_lost(&state, boot_id.trim(), subnet_file),
        Err(_) => Ok(()),
    }
}

fn refuse_lost(
    state: &DaemonState,
    boot_id: &str,
    file: &Path,
) -> Result<(), CniError> {
    let here =
        state.boot_id == boot_id && Path::new(&state.subnet_file) == file;
    if here && state.phase == Phase::LeaseLost {
        return Err(CniError::new(
            code::TRY_AGAIN,
            format!(
                "this node has no subnet to take addresses from.{}",
                sentence(state, boot_id, file)
            ),
        ));
    }
    Ok(())
}

/// A sentence for the end of a message, with a space in front; empty when
/// there is no such file, as with upstream's daemon.
pub(super) fn says(subnet_file: &Path) -> String {
    let Ok(text) = fs::read_to_string(DaemonState::beside(subnet_file)) else {
        return String::new();
    };
    let boot_id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    match DaemonState::parse(&text) {
        Ok(state) => sentence(&state, boot_id.trim(), subnet_file),
        Err(_) => String::new(),
    }
}

fn sentence(state: &DaemonState, boot_id: &str, file: &Path) -> String {
    if !boot_id.is_empty() && state.boot_id != boot_id {
        return " flanneld has not run since this machine started.".to_owned();
    }
    let mut out = format!(" flanneld says: {}", state.phase);
    if !state.reason.is_empty() {
        out.push_str(": ");
        out.push_str(&state.reason);
    }
    if Path::new(&state.subnet_file) != file {
        out.push_str("; it writes ");
        out.push_str(&state.subnet_file);
    }
    out
}

#[cfg(test)]
mod tests {
    use ipam::daemon_state::Phase;

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
        let error = refuse_lost(&state(Phase::LeaseLost), "b", file);
        let error = error.unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN);
        assert!(error.to_string().contains("it was deleted"), "{error}");
        let lost = state(Phase::LeaseLost);
        assert!(refuse_lost(&lost, "other", file).is_ok());
        assert!(refuse_lost(&lost, "b", Path::new("/x.env")).is_ok());
        for phase in [Phase::Ready, Phase::WaitingForStore, Phase::Stopping] {
            assert!(refuse_lost(&state(phase), "b", file).is_ok());
        }
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
        assert_eq!(
            sentence(&state, "b", file),
            " flanneld says: waiting for the store: etcd at 10.0.0.1:2379 \
             refuses connections"
        );
        assert!(sentence(&state, "other", file).contains("has not run since"));
        assert!(
            sentence(&state, "b", Path::new("/x"))
                .ends_with("; it writes /run/flannel/subnet.env")
        );
    }
}
