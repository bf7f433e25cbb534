//! Starting a program and waiting for its end. Not by the standard library:
//! there a program inherits which signals its parent's thread has blocked,
//! and one that a daemon with a thread for SIGTERM runs could not be ended by
//! it.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::spawn::{
    PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn,
};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

/// The last of the real-time signals (signal(7)), for any of them.
const REAL_TIME: i32 = 64;

/// A program that was started.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    /// Once it has been waited for: its number may be another's then.
    ended: Option<ExitStatus>,
}

/// Our ends of its pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// What it reads; nothing where it is given nothing.
    pub(super) input: Option<OwnedFd>,
    /// What it prints: as a result, and about errors.
    pub(super) outputs: [OwnedFd; 2],
}

// === impl Child ===

impl Child {
    /// Starts `program`, the leader of a process group, with our environment,
    /// no signal blocked and SIGPIPE as usual.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(
        program: &Path,
        args: &[&str],
        fed: bool,
    ) -> io::Result<(Self, Pipes)> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let (stdin, input) = if fed {
            let (read, write) = pipe()?;
            (read, Some(write))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let (stdout, stderr) = (pipe()?, pipe()?);
        let mut files = PosixSpawnFileActions::init()?;
        files.add_dup2(stdin.as_raw_fd(), 0)?;
        files.add_dup2(stdout.1.as_raw_fd(), 1)?;
        files.add_dup2(stderr.1.as_raw_fd(), 2)?;
        let mut attr = PosixSpawnAttr::init()?;
        attr.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        // so that what it starts can be killed with it
        attr.set_pgroup(Pid::from_raw(0))?;
        attr.set_sigmask(&SigSet::empty())?;
        // which Rust's programs ignore
        attr.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        let pid = posix_spawn(
            program,
            &files,
            &attr,
            &words(program, args)?,
            &environment()?,
        )?;
        let pipes = Pipes { input, outputs: [stdout.0, stderr.0] };
        Ok((Self { pid, ended: None }, pipes))
    }

    /// Its process.
    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// How it has ended; `None` while it runs.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                // as the system call puts them
                Ok(WaitStatus::Exited(_, code)) => {
                    Some(ExitStatus::from_raw(code << 8))
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    Some(ExitStatus::from_raw(signal as i32))
                }
                Ok(_) | Err(Errno::EINTR) => None,
                // a real-time signal, for which nix has no name, has ended it
                Err(Errno::EINVAL) => Some(ExitStatus::from_raw(REAL_TIME)),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(self.ended)
    }
}

fn words(program: &Path, args: &[&str]) -> io::Result<Vec<CString>> {
    let args = args.iter().map(|arg| text(arg.as_bytes()));
    std::iter::once(text(program.as_os_str().as_bytes())).chain(args).collect()
}

fn environment() -> io::Result<Vec<CString>> {
    let line = |(name, value): (OsString, OsString)| {
        text(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    std::env::vars_os().map(line).collect()
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    Ok(CString::new(bytes)?)
}
