//! Other programs, where the kernel offers no other way: the few that only
//! `iptables` and its kin can talk to. Found in PATH, run with a limited time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long `iptables-restore` is to wait for the lock of the legacy tables,
/// in seconds (its option `-w`).
pub const LOCK_WAIT: &str = "5";
/// How long any program may take: the lock, and then thousands of rules.
const LIMIT: Duration = Duration::from_secs(30);

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
    /// It did not end in time, and was killed.
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
/// [`ProgramError`]; nothing of the program is left running.
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
    let until = Instant::now() + limit;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(args)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A program that ends early says why by itself.
        std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    }
    let printed = reader(child.stdout.take());
    let complained = reader(child.stderr.take());
    let read = |from: &Receiver<String>, child: &mut Child| {
        let left = until.saturating_duration_since(Instant::now());
        from.recv_timeout(left).map_err(|_| {
            // It is not waited for yet, so that its number is still its own.
            let _ = child.kill();
            let _ = child.wait();
            ProgramError::Stuck { program: name(program), limit }
        })
    };
    let stdout = read(&printed, &mut child)?;
    let stderr = read(&complained, &mut child)?;
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        let lines = stderr.lines().map(str::trim).filter(|l| !l.is_empty());
        let said = lines.collect::<Vec<_>>().join("; ");
        return Err(ProgramError::Failed {
            program: name(program),
            status,
            said,
        });
    }
    Ok(stdout)
}

/// Reads all there is to come.
fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is looked at; a cut text is no answer.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
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
    fn programs_are_found_in_the_order_of_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sh"), "not executable").unwrap();
        let path = std::env::join_paths([dir.path(), Path::new("/bin")]);
        let found = which(&path.unwrap(), "sh");
        assert_eq!(found, Some(PathBuf::from("/bin/sh")));
        assert_eq!(which(OsStr::new("/bin"), "no-such-program"), None);
    }
}
