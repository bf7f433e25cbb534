//! The daemon's log: plain text on stderr, one line per event, with time (UTC)
//! and severity.
//!
//! Only our own crates are heard above `INFO`; libraries are heard from `WARN`
//! on, because what they say below it includes the bytes they send, and those
//! hold passwords.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

/// The crates whose events are logged at the chosen level.
const OURS: [&str; 4] = ["flanneld", "ipam", "netlink", "overlay"];

/// Logs to stderr from now on, for the whole process.
///
/// # Errors
/// When the process has a logger already.
pub fn init(
    level: LevelFilter,
) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(level, io::stderr))
}

/// The logger [`init`] installs, with its lines going to `out`.
pub fn subscriber<W>(level: LevelFilter, out: W) -> impl Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let mut targets = Targets::new().with_default(level.min(LevelFilter::WARN));
    for ours in OURS {
        targets = targets.with_target(ours, level);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(OneLine(out))
        .with_target(level >= LevelFilter::DEBUG);
    registry().with(lines).with(targets)
}

/// Makes writers that keep each event on one line.
struct OneLine<W>(W);

/// Replaces line breaks and other control characters inside an event, which
/// is written whole: no text from outside can fake a second line.
struct OneLineWriter<W>(W);

// === impl OneLine ===

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        OneLineWriter(self.0.make_writer_for(meta))
    }
}

// === impl OneLineWriter ===

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let body = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = Vec::with_capacity(body.len() + 1);
        for byte in body {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\t' => line.push(b' '),
                byte if byte.is_ascii_control() => line.push(b'?'),
                byte => line.push(*byte),
            }
        }
        line.push(b'\n');
        self.0.write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

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
        let buffer = Buffer::default();
        let out = buffer.clone();
        tracing::subscriber::with_default(
            subscriber(level, move || out.clone()),
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
