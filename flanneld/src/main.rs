//! `flanneld`, the node daemon: takes the node's pod subnet from the store,
//! learns the other nodes' and makes the kernel carry pod traffic to them.

use std::convert::Infallible;
use std::future::pending;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use flanneld::cli::{self, Env, Options};
use flanneld::files::{Files, InstanceLock};
use flanneld::health::{Readiness, Server};
use flanneld::metrics::Metrics;
use flanneld::recent::Recent;
use flanneld::reconcile::STUCK;
use flanneld::repairs::Repairs;
use flanneld::report::Reporter;
use flanneld::{daemon, logging, stop};
use ipam::daemon_state::Phase;
use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// musl's allocator gives each small group of pages back to the kernel as soon
/// as it is free, and gets it anew for the next: a third of what a start among
/// thousands of peers takes beside the kernel's own work. This one keeps them,
/// so what is needed at most stays resident: the pass that looks at everything
/// is what to keep small.
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let options =
        match cli::parse(std::env::args_os().skip(1), &Env::of_process()) {
            Ok(options) => options,
            Err(stop) => {
                // Nobody is left to tell when stderr is gone.
                let _ = writeln!(std::io::stderr(), "{stop}");
                return ExitCode::from(stop.exit_code());
            }
        };
    // Before any other thread is started, and before the lock is waited for:
    // a process with the number 1 would not end by a signal nobody listens to.
    let listening = stop::listen().context("SIGTERM and SIGINT");
    let stopped = match listening.and_then(|stopped| {
        logging::init(options.log_level).context("the log").map(|()| stopped)
    }) {
        Ok(stopped) => stopped,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let result = start(&options, stopped);
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    logging::flush(logging::LAST_WORDS);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(
    options: &Options,
    mut stopped: oneshot::Receiver<Signal>,
) -> Result<()> {
    tracing::info!("flanneld {}", cli::VERSION);
    for note in &options.notes {
        note.log();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    // A reload is no end, also of a daemon that waits for its lock.
    let hangup = {
        let _context = runtime.enter();
        unix::signal(SignalKind::hangup()).context("SIGHUP")?
    };
    let lock = runtime.block_on(take_lock(options, &mut stopped));
    let Some(lock) = lock.transpose()? else {
        // The thread that waits is not waited for.
        runtime.shutdown_background();
        return Ok(());
    };
    let readiness = Readiness::not_ready("it has just started");
    let files = Files::spawn(&options.subnet_file, lock)
        .context("a thread for the subnet file")?;
    let mut reporter =
        Reporter::new(files, readiness.clone(), Recent::default());
    let living = live(options, readiness, &mut reporter, hangup, stopped);
    let result = runtime.block_on(living);
    // A name that is being resolved cannot be given up, and may take as long
    // as a dead name server lets it: nobody waits for it.
    runtime.shutdown_background();
    if let Err(error) = &result {
        reporter.say(Phase::Failed, &format!("{error:#}"));
    }
    result
}

/// The lock; nothing when a signal ends the wait for another daemon's end.
async fn take_lock(
    options: &Options,
    stopped: &mut oneshot::Receiver<Signal>,
) -> Option<Result<InstanceLock>> {
    let subnet_file = options.subnet_file.clone();
    let wait = options.wait_for_lock;
    let take = move || InstanceLock::take(&subnet_file, wait);
    let slow = async {
        // For another daemon's end any time is all right.
        if !wait {
            sleep(STUCK).await;
            tracing::warn!(
                "the disk of --subnet-file has not answered for {} s: it \
                 hangs, and the lock cannot be taken",
                STUCK.as_secs()
            );
        }
        pending::<Infallible>().await
    };
    tokio::select! {
        taken = tokio::task::spawn_blocking(take) => {
            Some(taken.context("waiting for the lock").and_then(|lock| Ok(lock?)))
        }
        Ok(_) = stopped => {
            tracing::info!("stopping; the lock was not taken yet");
            None
        }
        never = slow => match never {},
    }
}

/// The daemon until a signal or an error ends it; the health server around it.
async fn live(
    options: &Options,
    readiness: Readiness,
    reporter: &mut Reporter,
    hangup: unix::Signal,
    stopped: oneshot::Receiver<Signal>,
) -> Result<()> {
    let (stop_health, health_stopped) = tokio::sync::oneshot::channel::<()>();
    let recent = reporter.recent().clone();
    let metrics = Metrics::new(readiness.clone(), Repairs::new(recent.clone()));
    let health = match options.health {
        Some(addr) => {
            let server =
                Server::bind(addr, readiness, recent, metrics.clone()).await?;
            let stopped = async { drop(health_stopped.await) };
            Some(tokio::spawn(server.run(stopped)))
        }
        None => None,
    };

    tokio::select! {
        ended = daemon::run(options, metrics, hangup, reporter) => ended?,
        Ok(_) = stopped => {}
    }
    // What is in the kernel stays: pods keep their network.
    tracing::info!("stopping; the data plane stays as it is");
    reporter.say(
        Phase::Stopping,
        "it was asked to end; running pods stay connected",
    );
    drop(stop_health);
    if let Some(health) = health {
        health.await.context("the health server")?;
    }
    Ok(())
}
