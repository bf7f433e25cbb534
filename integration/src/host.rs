//! A namespace of its own, and commands in it.
//!
//! A [`Host`] is an OS thread with its own network and mount namespace. Work
//! is sent to the thread; what it spawns inherits the namespaces. No process
//! and no name keeps them alive, so nothing is left behind when the test ends
//! in whatever way.

use std::any::Any;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

type Answer = Box<dyn Any + Send>;
type Job = (Box<dyn FnOnce() -> Answer + Send>, Sender<Answer>);

/// A machine, as far as networking and `/run`, `/var/lib` are concerned.
#[derive(Debug)]
pub struct Host {
    name: String,
    tid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Host ===

impl Host {
    /// A new host with nothing but a loopback interface, and an empty `/run`
    /// and `/var/lib`.
    ///
    /// # Errors
    /// Without root.
    pub fn new(name: &str) -> Result<Self> {
        let (jobs, inbox) = channel();
        let (ready, made) = channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let setup = isolate();
                let failed = setup.is_err();
                if ready.send(setup).is_err() || failed {
                    return;
                }
                serve(&inbox);
            })
            .context("starting a host's thread")?;
        let tid = made
            .recv()
            .context("the host's thread ended")?
            .with_context(|| format!("making host {name} (needs root)"))?;
        let host = Self {
            name: name.to_owned(),
            tid,
            jobs: Some(jobs),
            thread: Some(thread),
        };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The name given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace as a path that any process on the machine can
    /// open while this host lives.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            self.tid
        ))
    }

    /// Runs `job` inside and waits for its answer.
    ///
    /// # Panics
    /// When the job does.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (reply, answer) = channel();
        let job: Box<dyn FnOnce() -> Answer + Send> =
            Box::new(move || Box::new(job()));
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send((job, reply)).is_ok());
        assert!(sent, "host {} is gone", self.name);
        let answer = answer
            .recv()
            .unwrap_or_else(|_| panic!("a job on host {} panicked", self.name));
        *answer
            .downcast()
            .unwrap_or_else(|_| panic!("a job's answer has its type"))
    }

    /// Runs a program to its end and gives what it printed.
    ///
    /// # Errors
    /// When it cannot be started or fails; its output is in the message.
    pub fn cmd<S: AsRef<str>>(&self, words: &[S]) -> Result<String> {
        let out = self.output(words)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        bail!(
            "on {}: `{}` failed with {}: {}{}",
            self.name,
            join(words),
            out.status,
            text,
            String::from_utf8_lossy(&out.stderr)
        )
    }

    /// Runs a program to its end, whatever its status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output<S: AsRef<str>>(&self, words: &[S]) -> Result<Output> {
        let owned: Vec<String> =
            words.iter().map(|w| w.as_ref().to_owned()).collect();
        let (program, rest) =
            owned.split_first().ok_or_else(|| anyhow!("no command"))?;
        let (program, rest) = (program.clone(), rest.to_vec());
        self.run(move || Command::new(&program).args(&rest).output())
            .with_context(|| {
                format!("on {}: starting `{}`", self.name, join(words))
            })
    }

    /// `ip` with the words of `args`.
    ///
    /// # Errors
    /// As [`Self::cmd`].
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut words = vec!["ip"];
        words.extend(args.split_whitespace());
        self.cmd(&words)
    }

    /// Reads a file as this host sees it.
    ///
    /// # Errors
    /// As [`std::fs::read_to_string`].
    pub fn read(&self, path: &str) -> Result<String> {
        let owned = path.to_owned();
        self.run(move || std::fs::read_to_string(owned))
            .with_context(|| format!("on {}: reading {path}", self.name))
    }

    /// Writes a file as this host sees it, with its folders.
    ///
    /// # Errors
    /// As [`std::fs::write`].
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let (file, text) = (PathBuf::from(path), text.to_owned());
        self.run(move || {
            if let Some(dir) = file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(&file, text)
        })
        .with_context(|| format!("on {}: writing {path}", self.name))
    }

    /// Sets a sysctl, by its path below `/proc/sys`.
    ///
    /// # Errors
    /// As [`std::fs::write`].
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.write(&format!("/proc/sys/{path}"), value)
    }

    /// A network namespace inside this host under `/run/netns/<name>`, as a
    /// container runtime makes one for a pod. It lives until the host ends or
    /// [`Self::remove_netns`].
    ///
    /// # Errors
    /// When it exists already.
    pub fn add_netns(&self, name: &str) -> Result<String> {
        self.ip(&format!("netns add {name}"))?;
        Ok(format!("/run/netns/{name}"))
    }

    /// Starts a thread inside the namespace at `netns` of this host, for
    /// sockets of a pod. Ends when `job` does.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn spawn_in<T: Send + 'static>(
        &self,
        netns: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let path = netns.to_owned();
        let (ready, entered) = channel();
        let thread = self.run(move || {
            std::thread::spawn(move || {
                let done = std::fs::File::open(&path)
                    .context("opening")
                    .and_then(|ns| {
                        setns(ns, CloneFlags::CLONE_NEWNET).context("setns")
                    });
                let failed = done.is_err();
                let _ = ready.send(done);
                if failed { None } else { Some(job()) }
            })
        });
        entered
            .recv()
            .context("the thread ended")?
            .with_context(|| format!("on {}: entering {netns}", self.name))?;
        Ok(std::thread::spawn(move || match thread.join() {
            Ok(Some(value)) => value,
            Ok(None) => unreachable!("entering was reported as done"),
            Err(panic) => std::panic::resume_unwind(panic),
        }))
    }

    /// Removes a namespace made by [`Self::add_netns`].
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_netns(&self, name: &str) -> Result<()> {
        self.ip(&format!("netns del {name}")).map(drop)
    }

    /// Pings `to` once a tenth of a second, `count` times; every answer must
    /// come.
    ///
    /// # Errors
    /// When one does not.
    pub fn ping(&self, to: &str, count: u32) -> Result<()> {
        let count = count.to_string();
        let said = self.cmd(&[
            "ping", "-n", "-q", "-i", "0.1", "-W", "10", "-c", &count, to,
        ])?;
        ensure!(said.contains(&format!(" {count} received")), "{said}");
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already reported by `run`.
            let _ = thread.join();
        }
    }
}

fn serve(inbox: &Receiver<Job>) {
    while let Ok((job, reply)) = inbox.recv() {
        // A panicking job must not take the namespaces away from the child
        // processes of others: the caller sees its reply channel close.
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        if let Ok(value) = result {
            let _ = reply.send(value);
        }
    }
}

/// Puts the calling thread into namespaces of its own.
fn isolate() -> Result<i32> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("unshare")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making mounts private")?;
    for dir in ["/run", "/var/lib"] {
        mount(
            Some("flannel-test"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .with_context(|| format!("an own {dir}"))?;
    }
    std::fs::create_dir_all("/run/netns").context("creating /run/netns")?;
    Ok(nix::unistd::gettid().as_raw())
}

fn join<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")
}
