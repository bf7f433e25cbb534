//! Lines of the log on their way to stderr. A thread writes them, so that who
//! logs never waits: stderr is a pipe or a socket to a program (containerd's
//! shim, the journal, `logger`) that may not read it for as long as its own
//! disk hangs.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// What may wait to be written, in bytes; lines above that are lost, and
/// counted.
const MOST: usize = 1 << 20;

thread_local! {
    /// This thread is the one that writes.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// The log of this process.
static LOG: OnceLock<Lines> = OnceLock::new();

/// Where lines are put to be written.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: Sender<Item>,
    count: Arc<Count>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// All before it are written.
    Mark(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Count {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Lines lost so far.
    lost: AtomicU64,
}

/// Waits until what was logged so far is written, for at most `limit`. To be
/// called before the process ends.
pub fn flush(limit: Duration) {
    if let Some(log) = LOG.get() {
        log.flush(limit);
    }
}

// === impl Lines ===

impl Lines {
    /// The lines that [`flush`] waits for, to stderr.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(super) fn to_stderr() -> io::Result<Self> {
        let lines = Self::start(io::stderr())?;
        Ok(LOG.get_or_init(|| lines).clone())
    }

    /// A thread that writes each line to `out`.
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, items) = mpsc::channel();
        let count = Arc::new(Count::default());
        let counted = Arc::clone(&count);
        let write = move || write(out, &items, &counted);
        thread::Builder::new().name("log".to_owned()).spawn(write)?;
        Ok(Self { queue, count })
    }

    fn flush(&self, limit: Duration) {
        let (mark, written) = mpsc::sync_channel(1);
        if self.queue.send(Item::Mark(mark)).is_ok() {
            // Nobody is left to tell that it took longer.
            let _ = written.recv_timeout(limit);
        }
    }
}

impl Write for Lines {
    /// Takes one whole line, or loses it; never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let waiting = &self.count.waiting;
        let before = waiting.fetch_add(line.len(), Ordering::Relaxed);
        // The log thread itself says what is lost: that is not lost, too.
        let most = if WRITES.get() { usize::MAX } else { MOST };
        if before + line.len() > most
            || self.queue.send(Item::Line(line.to_vec())).is_err()
        {
            waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.count.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(mut out: impl Write, items: &Receiver<Item>, count: &Count) {
    WRITES.set(true);
    let mut said = 0;
    for item in items {
        match item {
            Item::Line(line) => {
                // Nobody is left to tell when stderr is gone.
                let _ = out.write_all(&line);
                count.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                let lost = count.lost.load(Ordering::Relaxed);
                if lost > said {
                    tracing::warn!(
                        "{} lines of this log are lost: nobody read them",
                        lost - said
                    );
                    said = lost;
                }
            }
            Item::Mark(mark) => drop(mark.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter};

    use super::*;

    fn pipe() -> (BufReader<PipeReader>, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (BufReader::new(reader), writer)
    }

    #[test]
    fn lines_come_in_order_and_are_there_after_a_flush() {
        let (mut reader, writer) = pipe();
        let mut lines = Lines::start(writer).unwrap();
        for number in 0..100 {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        lines.flush(Duration::MAX);
        assert_eq!(lines.count.waiting.load(Ordering::Relaxed), 0);
        for number in 0..100 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{number}\n"));
        }
    }

    #[test]
    fn who_logs_never_waits_and_hears_what_is_lost() {
        let (mut reader, writer) = pipe();
        let mut lines = Lines::start(writer).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than the pipe (64 KiB, pipe(7)) and the queue can hold.
        let written = 3 * MOST / line.len();
        for _ in 0..written {
            lines.write_all(&line).unwrap();
        }
        lines.flush(Duration::from_millis(1));
        let waiting = lines.count.waiting.load(Ordering::Relaxed);
        assert!((MOST / 2..=MOST).contains(&waiting), "{waiting}");
        let lost = lines.count.lost.load(Ordering::Relaxed);
        assert!(lost >= (written / 2) as u64, "{lost}");

        let mut read = 0;
        let mut text = String::new();
        while read + lost < written as u64 {
            text.clear();
            reader.read_line(&mut text).unwrap();
            assert_eq!(text.as_bytes(), line);
            read += 1;
        }
        // A reader that is gone does not stop it either.
        drop(reader);
        lines.write_all(b"unheard\n").unwrap();
        lines.flush(Duration::MAX);
        assert_eq!(lines.count.waiting.load(Ordering::Relaxed), 0);
    }
}
