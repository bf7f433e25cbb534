//! A thread that owns something blocking and runs what it is sent, one job
//! after the other.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::busy::THREADS;

/// How long the end of the daemon waits for the jobs under way.
const FINISH: Duration = Duration::from_secs(2);

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A handle to the thread. When it is dropped, the thread finishes what it
/// was sent, which is waited for: a device that is being replaced is not left
/// half replaced.
#[derive(Debug)]
pub struct Worker<T> {
    name: &'static str,
    jobs: Option<Sender<Job<T>>>,
    /// Closed when the thread ends.
    alive: Receiver<()>,
}

/// The newest of several values that a thread is to do the same with: those
/// before it that it has not come to are dropped. A thread that hangs costs
/// one of them, however many follow.
#[derive(Debug)]
pub struct Newest<V>(Arc<Mutex<Option<V>>>);

/// What a job will return.
#[derive(Debug)]
pub struct Answer<R> {
    name: &'static str,
    receiver: oneshot::Receiver<R>,
}

/// The thread is gone: a job of its panicked.
#[derive(Debug, thiserror::Error)]
#[error("the {0} thread is gone")]
pub struct Gone(&'static str);

// === impl Worker ===

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread `name`, which owns `state`. [`THREADS`] tells when it
    /// stands still.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(name: &'static str, state: T) -> io::Result<Self> {
        Self::start(name, state, true)
    }

    /// The same where who asks for a job tells when it takes too long.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn spawn_followed(name: &'static str, state: T) -> io::Result<Self> {
        Self::start(name, state, false)
    }

    fn start(
        name: &'static str,
        mut state: T,
        watched: bool,
    ) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job<T>>();
        let (living, alive) = channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _living = living;
            while let Ok(job) = inbox.recv() {
                if watched {
                    THREADS.during(|| job(&mut state));
                } else {
                    job(&mut state);
                }
            }
        })?;
        Ok(Self { name, jobs: Some(jobs), alive })
    }

    /// Runs `job` on the thread and waits for what it returns.
    ///
    /// # Errors
    /// [`Gone`] when the thread has ended.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        self.ask(job).get().await
    }

    /// Runs `job` on the thread; what it returns can be waited for.
    pub fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Answer<R> {
        let (reply, receiver) = oneshot::channel();
        self.post(move |state| {
            // Nobody waits for the answer when the daemon stops meanwhile.
            let _ = reply.send(job(state));
        });
        Answer { name: self.name, receiver }
    }

    /// Runs `job` on the thread, without waiting.
    pub fn post(&self, job: impl FnOnce(&mut T) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // A thread that is gone drops the job.
            let _ = jobs.send(Box::new(job));
        }
    }
}

// === impl Answer ===

impl<R> Answer<R> {
    /// Waits for it. Once it was there it is not there again; to wait for it
    /// in parts is all right.
    ///
    /// # Errors
    /// [`Gone`] when the thread has ended.
    pub async fn get(&mut self) -> Result<R, Gone> {
        (&mut self.receiver).await.map_err(|_| Gone(self.name))
    }
}

// === impl Newest ===

impl<V: Send + 'static> Newest<V> {
    /// Has `job` done on the thread with `value`, or a newer one.
    pub fn post<T: Send + 'static>(
        &self,
        worker: &Worker<T>,
        value: V,
        job: impl FnOnce(&mut T, V) + Send + 'static,
    ) {
        let put = |value| {
            let mut slot =
                self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.replace(value)
        };
        if put(value).is_some() {
            // Its job takes this one instead.
            return;
        }
        let slot = Arc::clone(&self.0);
        worker.post(move |state| {
            let value =
                slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(value) = value {
                job(state, value);
            }
        });
    }
}

impl<V> Default for Newest<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.jobs = None;
        if self.alive.recv_timeout(FINISH) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the {} thread is not waited for", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_on_one_thread() {
        let worker = Worker::spawn("test", Vec::new()).unwrap();
        for n in 0..3 {
            worker.run(move |list: &mut Vec<i32>| list.push(n)).await.unwrap();
        }
        worker.post(|list| list.push(3));
        let list = worker.run(|list| list.clone()).await.unwrap();
        assert_eq!(list, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn of_many_values_the_newest_is_used() {
        let worker = Worker::spawn("test", Vec::new()).unwrap();
        let newest = Newest::default();
        let post = |value| {
            newest.post(&worker, value, |list: &mut Vec<i32>, value| {
                list.push(value);
            });
        };
        let (go, held) = std::sync::mpsc::channel::<()>();
        worker.post(move |_| {
            let _ = held.recv();
        });
        (0..1000).for_each(post);
        drop(go);
        let list = worker.run(|list| list.clone()).await.unwrap();
        assert_eq!(list, [999]);
        post(7);
        let list = worker.run(|list| list.clone()).await.unwrap();
        assert_eq!(list, [999, 7]);
    }

    /// Of one whose jobs are followed by who asks for them, nothing is told
    /// twice.
    #[test]
    fn a_job_that_stands_still_is_told_of_where_nobody_follows_it() {
        let hold = |worker: &Worker<()>| {
            let (go, held) = channel::<()>();
            let (at_work, begun) = channel();
            worker.post(move |()| {
                let _ = at_work.send(());
                let _ = held.recv();
            });
            begun.recv().unwrap();
            go
        };
        let watched = Worker::spawn("watched", ()).unwrap();
        let followed = Worker::spawn_followed("followed", ()).unwrap();
        let held = [hold(&watched), hold(&followed)];
        let later = Instant::now() + Duration::from_secs(3600);
        let still = THREADS.still(later).unwrap();
        assert!(still.contains("watched"), "{still}");
        assert!(!still.contains("followed"), "{still}");
        drop(held);
    }

    #[tokio::test]
    async fn a_panicked_thread_is_reported() {
        let worker = Worker::spawn("test", ()).unwrap();
        assert!(worker.run(|()| panic!("on purpose")).await.is_err());
        assert!(worker.run(|()| ()).await.is_err());
    }

    #[test]
    fn the_end_waits_for_the_job_under_way() {
        let worker = Worker::spawn("test", ()).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        worker.post(move |()| {
            std::thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::SeqCst);
        });
        drop(worker);
        assert!(done.load(Ordering::SeqCst));
    }
}
