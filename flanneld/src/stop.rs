//! SIGTERM and SIGINT: the first ends the daemon in good order, the second at
//! once (C-85).

use std::io;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;

use crate::logging;

/// So long it takes to end at once: the last lines of the log are wanted.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Has both signals wait for a thread of their own, which no other work of
/// the daemon can hold up. The receiver is told of the first.
///
/// To be called before any other thread is started: they inherit that the
/// signals are not theirs. The programs that the daemon runs do not, see
/// [`netlink::program`].
///
/// # Errors
/// When the system refuses the thread, or to block signals.
pub fn listen() -> io::Result<oneshot::Receiver<Signal>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let (first, receiver) = oneshot::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // `wait` fails for no set that has signals in it.
        if let Ok(signal) = signals.wait() {
            // Nobody listens when the daemon is about to end anyway.
            let _ = first.send(signal);
        }
        if let Ok(signal) = signals.wait() {
            tracing::info!("{signal} again: ending at once");
            logging::flush(AT_ONCE);
            // As a shell reports a process that the signal has killed.
            std::process::exit(128 + signal as i32);
        }
    })?;
    Ok(receiver)
}
