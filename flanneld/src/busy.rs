//! Threads that stand still at one piece of work: a disk, the kernel or a
//! program does not answer. Nobody waits for them, so that nobody else would
//! notice.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No piece of work takes so long that anything comes of it: a pass over
/// traffic rules may start several programs, each of which may take half a
/// minute.
const LIMIT: Duration = Duration::from_secs(180);

/// The threads of this process.
pub static THREADS: Busy = Busy::new();

/// Which threads are at work, and since when.
#[derive(Debug, Default)]
pub struct Busy(Mutex<BTreeMap<String, Instant>>);

// === impl Busy ===

impl Busy {
    /// None is.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Does `work` on the present thread, which is known by its name.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        self.with(|busy| busy.insert(name.to_owned(), Instant::now()));
        let result = work();
        self.with(|busy| busy.remove(name));
        result
    }

    /// Which threads stand still at `now`, in words that stay the same while
    /// they do; `None` when none does.
    #[must_use]
    pub fn still(&self, now: Instant) -> Option<String> {
        let names: Vec<_> = self.with(|busy| {
            let still = busy.iter().filter(|(_, at)| now >= **at + LIMIT);
            still.map(|(name, _)| name.clone()).collect()
        });
        (!names.is_empty()).then(|| {
            format!(
                "nothing has come for {} s of what is done by the thread {}: \
                 a disk, the kernel or a program does not answer",
                LIMIT.as_secs(),
                names.join(", ")
            )
        })
    }

    fn with<R>(
        &self,
        f: impl FnOnce(&mut BTreeMap<String, Instant>) -> R,
    ) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::Builder;

    use super::*;

    #[test]
    fn a_thread_that_stands_still_is_named_until_it_goes_on() {
        let busy = Busy::new();
        let (go, held) = channel::<()>();
        let (at_work, begun) = channel();
        std::thread::scope(|scope| {
            let work = {
                let busy = &busy;
                move || {
                    busy.during(|| {
                        at_work.send(()).unwrap();
                        held.recv().unwrap();
                    });
                }
            };
            let named = Builder::new().name("rules".to_owned());
            let thread = named.spawn_scoped(scope, work).unwrap();
            begun.recv().unwrap();
            assert_eq!(busy.still(Instant::now()), None);
            let later = Instant::now() + LIMIT;
            let text = busy.still(later).unwrap();
            assert!(text.contains("by the thread rules: "), "{text}");
            go.send(()).unwrap();
            thread.join().unwrap();
            assert_eq!(busy.still(later), None);
        });
    }
}
