//! Messages to systemd (C-49, C-77). Without `NOTIFY_SOCKET` in the
//! environment they go nowhere; a failure is logged once, until a message gets
//! through, and never stops anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Tells systemd that the loop still turns, if systemd wants to hear it
/// (`WATCHDOG_USEC`, `sd_watchdog_enabled(3)`).
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

// === impl Watchdog ===

impl Watchdog {
    /// As the environment says. It is fed twice as often as it asks for.
    #[must_use]
    pub fn new() -> Self {
        let limit = sd_notify::watchdog_enabled();
        Self(limit.filter(|limit| !limit.is_zero()).map(|limit| {
            let mut beat = interval((limit / 2).max(Duration::from_millis(1)));
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        }))
    }

    /// Feeds it once when that is due. To be polled by the loop itself, not
    /// by a task of its own: a loop that hangs is what it is for.
    pub async fn feed(&mut self) {
        let Some(beat) = &mut self.0 else {
            return std::future::pending().await;
        };
        beat.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

/// The first complete pass is done; `status` is what `systemctl status`
/// shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// What the daemon is doing.
pub fn status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// The daemon stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    static BROKEN: AtomicBool = AtomicBool::new(false);
    let outcome = sd_notify::notify(states);
    let was_broken = BROKEN.swap(outcome.is_err(), Ordering::Relaxed);
    if let (Err(error), false) = (outcome, was_broken) {
        tracing::warn!(
            "systemd cannot be told the state over NOTIFY_SOCKET: {error}"
        );
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::time::Duration;

    const CHILD: &str = "notify::tests::speaks_in_a_child_of_the_next_test";

    #[test]
    fn speaks_in_a_child_of_the_next_test() {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            crate::logging::init(tracing::Level::INFO.into()).unwrap();
        }
        // Without the socket nothing hears it.
        super::status("waiting for etcd\nREADY=1");
        super::ready("3 peers");
        super::stopping();
    }

    /// Runs the test above in a process that is to tell this socket.
    fn child(socket: &Path) -> Output {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact", "--nocapture"])
            .env("NOTIFY_SOCKET", socket)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        child
    }

    #[test]
    fn a_socket_that_nobody_has_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = child(&dir.path().join("none")).stderr;
        let log = String::from_utf8_lossy(&log).into_owned();
        assert_eq!(log.matches("systemd cannot be told").count(), 1, "{log}");
    }

    #[test]
    fn systemd_hears_every_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        child(&path);
        let heard = || {
            let mut buffer = [0; 200];
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        assert_eq!(heard(), "STATUS=waiting for etcd READY=1\n");
        assert_eq!(heard(), "READY=1\nSTATUS=3 peers\n");
        assert_eq!(heard(), "STOPPING=1\n");
    }
}
