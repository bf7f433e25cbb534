//! A thread that owns something blocking and runs what it is sent, one job
//! after the other.

use std::io;
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A handle to the thread. The thread ends when the handle is dropped.
#[derive(Debug)]
pub struct Worker<T> {
    jobs: Sender<Job<T>>,
}

/// The thread is gone: a job of its panicked.
#[derive(Debug, thiserror::Error)]
#[error("the worker thread is gone")]
pub struct Gone;

// === impl Worker ===

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread `name`, which owns `state`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(name: &str, mut state: T) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job<T>>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                job(&mut state);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `job` on the thread and waits for what it returns.
    ///
    /// # Errors
    /// [`Gone`] when the thread has ended.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (reply, answer) = oneshot::channel();
        let job: Job<T> = Box::new(move |state| {
            // Nobody waits for the answer when the daemon stops meanwhile.
            let _ = reply.send(job(state));
        });
        self.jobs.send(job).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_on_one_thread() {
        let worker = Worker::spawn("test", Vec::new()).unwrap();
        for n in 0..3 {
            worker.run(move |list: &mut Vec<i32>| list.push(n)).await.unwrap();
        }
        assert_eq!(worker.run(|list| list.clone()).await.unwrap(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_panicked_thread_is_reported() {
        let worker = Worker::spawn("test", ()).unwrap();
        assert!(worker.run(|()| panic!("on purpose")).await.is_err());
        assert!(worker.run(|()| ()).await.is_err());
    }
}
