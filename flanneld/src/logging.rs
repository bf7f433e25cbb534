//! The daemon's log: plain text on stderr, one line per event, with time (UTC)
//! and severity. Where stderr is the journal, each line begins with its
//! priority as sd-daemon(3) has it, `<4>` for a warning: the journal takes it
//! off, and `journalctl -p warning` finds the line.
//!
//! Only our own crates are heard above `INFO`; libraries are heard from `WARN`
//! on, because what they say below it includes the bytes they send, and those
//! hold passwords.

mod lines;

use std::io::{self, Write};
use std::time::Duration;

use nix::sys::stat::fstat;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

use self::lines::Lines;
pub use self::lines::flush;

/// The crates whose events are logged at the chosen level.
const OURS: [&str; 4] = ["flanneld", "ipam", "netlink", "overlay"];

/// So long the end of the process waits for its last lines to be written.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// Logs to stderr from now on, for the whole process. What is logged is
/// written by a thread: [`flush`] before the process ends.
///
/// # Errors
/// When the system refuses the thread, or the process has a logger already.
pub fn init(level: LevelFilter) -> anyhow::Result<()> {
    let to = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let journal = fstat(io::stderr())
        .is_ok_and(|stat| is_stream(&to, stat.st_dev, stat.st_ino));
    let lines = Lines::to_stderr()?;
    let subscriber = subscriber(level, move || lines.clone(), journal);
    tracing::subscriber::set_global_default(subscriber)?;
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("a defect of flanneld: it {panic}");
        // Before the process is gone.
        flush(LAST_WORDS);
    }));
    Ok(())
}

/// Whether `JOURNAL_STREAM` names that device and inode (systemd.exec(5)).
fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    variable == format!("{device}:{inode}")
}

/// The logger [`init`] installs, with its lines going to `out`, with
/// priorities if that is the `journal`.
pub fn subscriber<W>(
    level: LevelFilter,
    out: W,
    journal: bool,
) -> impl Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let mut targets = Targets::new().with_default(level.min(LevelFilter::WARN));
    for ours in OURS {
        targets = targets.with_target(ours, level);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(OneLine { out, journal })
        .with_target(level >= LevelFilter::DEBUG);
    registry().with(lines).with(targets)
}

/// Makes writers that keep each event on one line.
struct OneLine<W> {
    out: W,
    journal: bool,
}

/// Replaces line breaks and other control characters inside an event, which
/// is written whole: no text from outside can fake a second line.
struct OneLineWriter<W> {
    out: W,
    /// Goes before the line.
    priority: &'static str,
}

// === impl OneLine ===

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter { out: self.out.make_writer(), priority: "" }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        let priority = match *meta.level() {
            _ if !self.journal => "",
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        };
        OneLineWriter { out: self.out.make_writer_for(meta), priority }
    }
}

// === impl OneLineWriter ===

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let body = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = Vec::with_capacity(body.len() + 4);
        line.extend_from_slice(self.priority.as_bytes());
        for byte in body {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\t' => line.push(b' '),
                byte if byte.is_ascii_control() => line.push(b'?'),
                byte => line.push(*byte),
            }
        }
        line.push(b'\n');
        self.out.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut buffer = self.0.lock().map_err(|_| ErrorKind::Other)?;
            buffer.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter, events: impl FnOnce()) -> String {
        logged_to(false, level, events)
    }

    fn logged_to(
        journal: bool,
        level: LevelFilter,
        events: impl FnOnce(),
    ) -> String {
        let buffer = Buffer::default();
        let out = buffer.clone();
        tracing::subscriber::with_default(
            subscriber(level, move || out.clone(), journal),
            events,
        );
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_event_is_one_line_with_time_and_severity() {
        let log = logged(LevelFilter::INFO, || {
            tracing::warn!(peer = "10.5.7.0/24", "bad\nvalue \x1b[31m\u{e9}");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.ends_with('\n'), "{log}");
        assert!(log.contains(" WARN "), "{log}");
        assert!(log.contains("bad\\nvalue"), "{log}");
        assert!(log.contains('\u{e9}') && !log.contains('\x1b'), "{log}");
        assert!(log.contains("10.5.7.0/24"), "{log}");
        let time = log.split(' ').next().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{log}");
    }

    #[test]
    fn the_journal_is_told_the_priority() {
        let events = || {
            tracing::error!("a");
            tracing::warn!("b\n<0>c");
            tracing::info!("d");
            tracing::debug!("e");
        };
        let log = logged_to(true, LevelFilter::DEBUG, events);
        let starts: Vec<_> = log.lines().filter_map(|l| l.get(..3)).collect();
        assert_eq!(starts, ["<3>", "<4>", "<6>", "<7>"], "{log}");
        assert!(!logged(LevelFilter::DEBUG, events).starts_with('<'));

        assert!(is_stream("9:4321", 9, 4321));
        for other in ["", "9:", "9:43210", "8:4321", "4321"] {
            assert!(!is_stream(other, 9, 4321), "{other}");
        }
    }

    #[test]
    fn libraries_are_heard_from_warn_on_only() {
        let log = logged(LevelFilter::TRACE, || {
            tracing::trace!(target: "flanneld::store", "ours");
            tracing::info!(target: "h2::codec", "password on the wire");
            tracing::warn!(target: "hyper", "theirs");
        });
        assert!(log.contains("ours") && log.contains("theirs"), "{log}");
        assert!(!log.contains("password"), "{log}");
    }

    #[test]
    fn the_level_holds() {
        let log = logged(LevelFilter::INFO, || {
            tracing::info!("seen");
            tracing::debug!("unseen");
        });
        assert!(log.contains("seen") && !log.contains("unseen"), "{log}");
    }
}
