//! Messages to systemd (C-49, C-77). Without `NOTIFY_SOCKET` in the
//! environment they go nowhere; a failure is logged once, until a message gets
//! through. Nothing here ever waits: systemd reads its socket when it comes to
//! it, and its queue may be full for as long as a disk hangs. What it could
//! not be told is told later, with the newest state.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// When what systemd could not be told is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The daemon's one line to systemd.
static LINE: LazyLock<Mutex<Line>> = LazyLock::new(|| {
    Mutex::new(Line {
        to: std::env::var_os("NOTIFY_SOCKET"),
        ..Line::default()
    })
});

/// Tells systemd that the loop still turns, if systemd wants to hear it
/// (`WATCHDOG_USEC`, `sd_watchdog_enabled(3)`).
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

/// Where the messages go, and what is still to be said.
#[derive(Debug, Default)]
struct Line {
    /// `NOTIFY_SOCKET`.
    to: Option<OsString>,
    unsaid: Message,
    /// When to try once more to say it.
    again: Option<Instant>,
    broken: bool,
}

/// What one datagram says (`sd_notify(3)`).
#[derive(Debug, Default)]
struct Message {
    ready: bool,
    stopping: bool,
    beat: bool,
    status: Option<String>,
}

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

    /// Feeds it once when that is due, and says again what could not be said.
    /// To be polled by the loop itself, not by a task of its own: a loop that
    /// hangs is what it is for.
    pub async fn feed(&mut self) {
        let again = line().again;
        let beat = async {
            match &mut self.0 {
                Some(beat) => _ = beat.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = beat => line().say(|message| message.beat = true),
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)),
                if again.is_some() => line().say(|_| {}),
        }
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Line ===

impl Line {
    /// Adds to what is to be said, and says all of it if systemd can hear it.
    fn say(&mut self, add: impl FnOnce(&mut Message)) {
        let Some(to) = &self.to else { return };
        add(&mut self.unsaid);
        match send(to, &self.unsaid.text()) {
            Ok(()) => {
                self.unsaid = Message::default();
                (self.again, self.broken) = (None, false);
            }
            Err(error) => {
                self.again = Some(Instant::now() + AGAIN);
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::warn!(
                        "systemd cannot be told the state over NOTIFY_SOCKET: \
                         {error}"
                    );
                }
            }
        }
    }
}

// === impl Message ===

impl Message {
    fn text(&self) -> String {
        let mut text = String::new();
        for (said, line) in [
            (self.ready, "READY=1\n"),
            (self.stopping, "STOPPING=1\n"),
            (self.beat, "WATCHDOG=1\n"),
        ] {
            text.push_str(if said { line } else { "" });
        }
        if let Some(status) = &self.status {
            text.push_str("STATUS=");
            // A line break would begin another assignment.
            text.push_str(&status.replace(['\n', '\r'], " "));
            text.push('\n');
        }
        text
    }
}

/// The first complete pass is done; `status` is what `systemctl status`
/// shows.
pub fn ready(status: &str) {
    line().say(|message| {
        message.ready = true;
        message.status = Some(status.to_owned());
    });
}

/// What the daemon is doing.
pub fn status(status: &str) {
    line().say(|message| message.status = Some(status.to_owned()));
}

/// The daemon stops.
pub fn stopping() {
    line().say(|message| message.stopping = true);
}

fn line() -> MutexGuard<'static, Line> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One datagram to the socket `to`: a path, or a name in the abstract
/// namespace (`@`, unix(7)). A socket of its own each time: systemd may have
/// begun anew behind the same name.
fn send(to: &OsString, text: &str) -> io::Result<()> {
    let to = match to.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(to)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &to).map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::path::Path;
    use std::process::{Command, Output};

    use super::{Line, Message, send};

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
        crate::logging::flush(std::time::Duration::from_secs(60));
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

    /// Everything that waits in `socket`.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 200];
        std::iter::from_fn(|| {
            let len = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
        })
        .collect()
    }

    #[test]
    fn systemd_hears_every_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        child(&path);
        assert_eq!(
            heard(&socket),
            [
                "STATUS=waiting for etcd READY=1\n",
                "READY=1\nSTATUS=3 peers\n",
                "STOPPING=1\n"
            ]
        );
    }

    #[test]
    fn a_systemd_that_does_not_listen_hears_the_newest_state_later() {
        let name = format!("flannel-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(
            &SocketAddr::from_abstract_name(&name).unwrap(),
        )
        .unwrap();
        let to = OsString::from(format!("@{name}"));
        while send(&to, "full").is_ok() {}
        let mut line = Line { to: Some(to), ..Line::default() };
        line.say(|message| message.beat = true);
        line.say(|message| {
            *message = Message {
                ready: true,
                status: Some("ready".into()),
                ..Message::default()
            };
        });
        line.say(|message| message.status = Some("waiting".into()));
        assert!(line.again.is_some() && line.broken);
        assert!(heard(&socket).iter().all(|text| text == "full"));
        line.say(|_| {});
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=waiting\n"]);
        assert!(line.again.is_none() && !line.broken);
    }
}
