//! Other programs, where the kernel offers no other way: the few that only
//! `iptables` and its kin can talk to. Found in PATH, run with a limited time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

mod child;

use child::{Child, Pipes};

/// How long `iptables-restore` is to wait for the lock of the legacy tables,
/// in seconds (its option `-w`).
pub const LOCK_WAIT: &str = "5";
/// How long any program may take: the lock, and then thousands of rules.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a killed program is waited for. One that hangs in the
/// kernel (on a disk, say) does not end by any signal.
const KILLED: Duration = Duration::from_secs(1);
/// The longest pause between two looks whether a program has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// Killed programs that have not ended.
static LEFT: Mutex<Vec<(PathBuf, Child)>> = Mutex::new(Vec::new());

/// Why a program did not do what it was to.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("{program} cannot be run: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed.
        said: String,
    },
    /// It did not end in time, and was killed with all that it had started.
    #[error(
        "{program} did not end within {:.1} s and was killed",
        limit.as_secs_f64()
    )]
    Stuck {
        /// The program.
        program: String,
        /// How long it was given.
        limit: Duration,
    },
    /// An earlier run was killed and hangs in the kernel all the same: more
    /// of them would only fill the machine.
    #[error(
        "{program} (pid {pid}) was killed and has not ended: it is not run \
         again before; see /proc/{pid}/stack for what it waits for"
    )]
    Left {
        /// The program.
        program: String,
        /// The process of the earlier run.
        pid: Pid,
    },
}

/// The program's name, for messages.
#[must_use]
pub fn name(program: &Path) -> String {
    program
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// Where `name` is in the folders of `path` (the value of PATH).
#[must_use]
pub fn which(path: &OsStr, name: &str) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|meta| {
            meta.is_file() && meta.permissions().mode() & 0o111 != 0
        })
    };
    std::env::split_paths(path).map(|dir| dir.join(name)).find(executable)
}

/// Runs `program` with `input` and gives what it prints.
///
/// # Errors
/// [`ProgramError`]; nothing of the program is left running, but for one that
/// no signal ends.
pub fn run(
    program: &Path,
    args: &[&str],
    input: Option<String>,
) -> Result<String, ProgramError> {
    run_for(program, args, input, LIMIT)
}

/// As [`run`], with another time than half a minute.
///
/// # Errors
/// As [`run`].
pub fn run_for(
    program: &Path,
    args: &[&str],
    input: Option<String>,
    limit: Duration,
) -> Result<String, ProgramError> {
    let failed =
        |source| ProgramError::Start { program: name(program), source };
    if let Some(pid) = left(program) {
        return Err(ProgramError::Left { program: name(program), pid });
    }
    let until = Instant::now() + limit;
    let (mut child, pipes) =
        Child::start(program, args, input.is_some()).map_err(failed)?;
    let input = input.unwrap_or_default();
    let heard = hear(&mut child, pipes, &input, until);
    let (status, [stdout, stderr]) = match heard {
        Ok(Some(heard)) => heard,
        unheard => {
            kill(program, child);
            let stuck = ProgramError::Stuck { program: name(program), limit };
            return Err(unheard.map_or_else(failed, |_| stuck));
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !status.success() {
        let stderr = text(&stderr);
        let lines = stderr.lines().map(str::trim).filter(|l| !l.is_empty());
        let said = lines.collect::<Vec<_>>().join("; ");
        return Err(ProgramError::Failed {
            program: name(program),
            status,
            said,
        });
    }
    Ok(text(&stdout))
}

/// Feeds a program and hears both its outputs until it has closed them and
/// ended; `None` when it has not by `until`. There is no thread for that, so
/// that none is left behind with somebody who keeps the pipes.
fn hear(
    child: &mut Child,
    pipes: Pipes,
    input: &str,
    until: Instant,
) -> io::Result<Option<(ExitStatus, [Vec<u8>; 2])>> {
    let mut stdin = pipes.input.map(pipe).transpose()?;
    let [stdout, stderr] = pipes.outputs;
    let mut outputs = [Some(pipe(stdout)?), Some(pipe(stderr)?)];
    let mut said = [Vec::new(), Vec::new()];
    let mut input = input.as_bytes();
    let mut buffer = vec![0; 1 << 16];
    while outputs.iter().any(Option::is_some) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        wait(stdin.as_ref(), &outputs, left)?;
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(sent) => input = input.get(sent..).unwrap_or_default(),
                Err(e) if is_early(&e) => {}
                // A program that ends early says why by itself.
                Err(_) => input = &[],
            }
            if input.is_empty() {
                stdin = None;
            }
        }
        for (output, said) in outputs.iter_mut().zip(&mut said) {
            let Some(pipe) = output else { continue };
            match pipe.read(&mut buffer) {
                Ok(0) => *output = None,
                Ok(len) => {
                    said.extend_from_slice(buffer.get(..len).unwrap_or(&[]));
                }
                Err(e) if is_early(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(ended(child, until)?.map(|status| (status, said)))
}

/// Our end of a pipe, which never has us wait.
fn pipe(end: OwnedFd) -> io::Result<File> {
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(end.into())
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits for `limit` at most until one of the pipes is of use.
fn wait(
    stdin: Option<&File>,
    outputs: &[Option<File>],
    limit: Duration,
) -> io::Result<()> {
    let input = stdin.map(|f| PollFd::new(f.as_fd(), PollFlags::POLLOUT));
    let outputs = outputs.iter().flatten();
    let outputs = outputs.map(|f| PollFd::new(f.as_fd(), PollFlags::POLLIN));
    let mut pipes: Vec<_> = input.into_iter().chain(outputs).collect();
    // its unit is a millisecond: not for nothing at the end
    let limit = limit + Duration::from_millis(1);
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut pipes, limit) {
        Err(Errno::EINTR) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How the child has ended; `None` when it has not by `until`.
fn ended(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_micros(50);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE);
    }
}

/// Kills a program with all that it has started. Nobody has waited for it
/// yet, so that its number is still its own.
fn kill(program: &Path, mut child: Child) {
    let _ = killpg(child.pid(), Signal::SIGKILL);
    if let Ok(None) = ended(&mut child, Instant::now() + KILLED) {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.push((program.to_owned(), child));
    }
}

/// The process of an earlier run of `program` that was killed and has not
/// ended. Takes away all that have.
fn left(program: &Path) -> Option<Pid> {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
    let mut left = left.iter();
    left.find(|(of, _)| of == program).map(|(_, child)| child.pid())
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::SigSet;

    use super::*;

    fn sh(script: &str, input: Option<&str>) -> Result<String, ProgramError> {
        let limit = Duration::from_secs(1);
        let input = input.map(str::to_owned);
        run_for(Path::new("/bin/sh"), &["-c", script], input, limit)
    }

    #[test]
    fn input_output_and_errors() {
        let big = "x".repeat(1 << 20);
        assert_eq!(sh("cat", Some(&big)).unwrap(), big);
        assert_eq!(sh("exit 0", Some(&big)).unwrap(), "");
        let error = sh("echo no >&2; echo way >&2; exit 4", None).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 4): no; way");
        let none = run(Path::new("/nowhere/iptables"), &[], None).unwrap_err();
        assert!(
            none.to_string().starts_with("iptables cannot be run: No such")
        );
    }

    /// As the daemon does, which has a thread for these signals.
    #[test]
    fn signals_that_are_blocked_here_end_a_program_all_the_same() {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block().unwrap();
        let status = sh("cat /proc/self/status", None).unwrap();
        let none = format!("SigBlk:\t{:016x}\n", 0);
        assert!(status.contains(&none), "{status}");
        let error = sh("kill -TERM $$; echo on", None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("signal: 15 (SIGTERM)"), "{text}");
        // ours is ignored by the standard library
        let error = sh("kill -PIPE $$; echo on", None).unwrap_err();
        assert!(error.to_string().contains("SIGPIPE"), "{error}");
        assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
    }

    #[test]
    fn a_stuck_program_is_killed() {
        let start = Instant::now();
        let error = sh("exec sleep 60", None).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(
            error.to_string(),
            "sh did not end within 1.0 s and was killed"
        );
    }

    #[test]
    fn a_program_that_closes_its_outputs_and_goes_on_is_killed() {
        let error = sh("exec >&- 2>&-; exec sleep 60", None).unwrap_err();
        assert!(matches!(error, ProgramError::Stuck { .. }), "{error}");
    }

    /// Whether the process runs: one that nobody has waited for does not.
    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn what_a_stuck_program_has_started_is_killed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // it ends in time; what it has started keeps its outputs open
        let script = format!("sleep 600 & echo $! >{}", file.display());
        let error = sh(&script, None).unwrap_err();
        assert!(matches!(error, ProgramError::Stuck { .. }), "{error}");
        let pid = std::fs::read_to_string(file).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while runs(pid.trim()) {
            assert!(Instant::now() < until, "{pid} still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_no_signal_ends_is_not_run_again_before_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("iptables");
        std::os::unix::fs::symlink("/bin/true", &program).unwrap();
        // stands for a killed one that hangs in the kernel
        let cat = Path::new("/bin/cat");
        let (child, pipes) = Child::start(cat, &[], true).unwrap();
        let (pid, stdin) = (child.pid(), pipes.input);
        LEFT.lock().unwrap().push((program.clone(), child));
        let text = run(&program, &[], None).unwrap_err().to_string();
        let begins = format!("iptables (pid {pid}) was killed and has not");
        assert!(text.starts_with(&begins), "{text}");
        drop(stdin);
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = run(&program, &[], None) {
            assert!(Instant::now() < until, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn programs_are_found_in_the_order_of_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sh"), "not executable").unwrap();
        let path = std::env::join_paths([dir.path(), Path::new("/bin")]);
        let found = which(&path.unwrap(), "sh");
        assert_eq!(found, Some(PathBuf::from("/bin/sh")));
        assert_eq!(which(OsStr::new("/bin"), "no-such-program"), None);
    }
}
