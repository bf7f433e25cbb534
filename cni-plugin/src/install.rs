//! `flannel install`: puts this binary into a folder of plugins, under the
//! names it answers to (P02).
//!
//! Each name is a file of its own, not a link: whoever writes over one of
//! them in place, as an init container's `cp -f` does, changes no other.
//! Files that hold another program are left alone unless told otherwise.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::plugins;

/// Where runtimes look for plugins unless told otherwise.
const FOLDER: &str = "/opt/cni/bin";
/// Where the kernel has the program that runs.
const SELF: &str = "/proc/self/exe";
/// Tells copies of this program, of any version, from other programs.
const MARK: &[u8] = b"flannel multi-call CNI plugin, a copy made by install";

const USAGE: &str = "\
usage: flannel install [--dir FOLDER] [--force] [NAME...]

Copies this program into FOLDER (default /opt/cni/bin), once for each NAME
(default: all names it answers to). A file that holds another program is left
alone; --force replaces it.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    folder: PathBuf,
    force: bool,
    names: Vec<&'static str>,
    /// Nobody named them: one that is left alone is no failure.
    all: bool,
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    New,
    Updated,
    Same,
    Replaced,
    /// Another program's, and not replaced.
    Left,
}

/// Runs the command with the arguments behind `install`.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let mut stderr = io::stderr().lock();
    let options = match Options::parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let written = io::stdout().write_all(USAGE.as_bytes());
            return if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        Err(problem) => {
            // without a stderr there is nobody to tell
            let _ = write!(stderr, "flannel install: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut ok = true;
    match fs::read(SELF) {
        Ok(program) => {
            for name in &options.names {
                let path = options.folder.join(name);
                let outcome = put(&program, &path, options.force);
                ok &= options.accepts(name, &outcome);
                let _ = match outcome {
                    Ok(outcome) => writeln!(
                        io::stdout(),
                        "{}: {}",
                        path.display(),
                        outcome.text()
                    ),
                    Err(e) => writeln!(stderr, "{}: {e}", path.display()),
                };
            }
        }
        Err(e) => {
            ok = false;
            let _ = writeln!(stderr, "flannel install: {SELF}: {e}");
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Makes `path` a copy of `program`: complete or as it was.
fn put(program: &[u8], path: &Path, force: bool) -> io::Result<Outcome> {
    let outcome = match fs::read(path) {
        Ok(there) if there == program => return Ok(Outcome::Same),
        Ok(there) if is_ours(&there) => Outcome::Updated,
        Ok(_) if force => Outcome::Replaced,
        Ok(_) => return Ok(Outcome::Left),
        Err(e) if e.kind() == ErrorKind::NotFound => Outcome::New,
        Err(e) => return Err(e),
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // one at a time; where a folder cannot be locked, the rename still is whole
    let turn = File::open(folder)?;
    let _ = turn.lock();
    // one name: what an interrupted run left is written over by the next
    let temporary = folder.join(".flannel-install");
    let written = copy(program, &temporary)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        // rubbish that hurts nobody
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| outcome)
}

fn copy(program: &[u8], to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o755).open(to)?;
    file.write_all(program)?;
    file.sync_all()
}

fn is_ours(program: &[u8]) -> bool {
    program.windows(MARK.len()).any(|part| part == MARK)
}

// === impl Options ===

impl Options {
    /// Reads the command line; `None` asks for help.
    fn parse(args: &[OsString]) -> Result<Option<Self>, String> {
        let mut out = Self {
            folder: FOLDER.into(),
            force: false,
            names: Vec::new(),
            all: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let text = arg.to_string_lossy();
            match text.as_ref() {
                "-h" | "--help" => return Ok(None),
                "--force" => out.force = true,
                "--dir" => {
                    out.folder = args
                        .next()
                        .filter(|dir| !dir.is_empty())
                        .ok_or("--dir needs a folder")?
                        .into();
                }
                _ if text.starts_with("--dir=") => {
                    let dir = text.trim_start_matches("--dir=");
                    if dir.is_empty() {
                        return Err("--dir needs a folder".into());
                    }
                    out.folder = dir.into();
                }
                _ => {
                    let name = plugins::names().find(|name| *name == text);
                    out.names.push(name.ok_or_else(|| unknown(&text))?);
                }
            }
        }
        if out.names.is_empty() {
            out.names = plugins::names().collect();
            out.all = true;
        }
        Ok(Some(out))
    }

    /// Whether the command can succeed with this outcome. A node with
    /// another `flannel` still runs that one.
    fn accepts(&self, name: &str, outcome: &io::Result<Outcome>) -> bool {
        match outcome {
            Ok(Outcome::Left) => self.all && name != "flannel",
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

fn unknown(name: &str) -> String {
    let names = plugins::names().collect::<Vec<_>>().join(", ");
    format!("{name:?} is neither an option nor one of the names {names}")
}

// === impl Outcome ===

impl Outcome {
    const fn text(self) -> &'static str {
        match self {
            Self::New => "made",
            Self::Updated => "updated",
            Self::Same => "already this version",
            Self::Replaced => "made in place of another program",
            Self::Left => {
                "left alone: it is another program (--force replaces it)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Options>, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Options::parse(&args)
    }

    #[test]
    fn command_lines() {
        let all = parse(&[]).unwrap().unwrap();
        assert_eq!(all.folder, Path::new(FOLDER));
        assert!(all.all && all.names.contains(&"loopback"));
        let one = parse(&["--dir", "/x", "--force", "loopback"]);
        let one = one.unwrap().unwrap();
        assert_eq!((one.folder.as_path(), one.force), (Path::new("/x"), true));
        assert_eq!((one.names.as_slice(), one.all), (&["loopback"][..], false));
        assert_eq!(parse(&["--help"]), Ok(None));
        assert!(parse(&["dhcpd"]).unwrap_err().contains("\"dhcpd\""));
        for none in [&["--dir"][..], &["--dir="], &["--dir", ""]] {
            assert!(parse(none).is_err(), "{none:?}");
        }
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/bridge");
        let (old, new) = ([b"1", MARK].concat(), [b"2", MARK].concat());
        let put = |program: &[u8], force| put(program, &path, force).unwrap();
        assert_eq!(put(&old, false), Outcome::New);
        assert_eq!(put(&old, false), Outcome::Same);
        assert_eq!(put(&new, false), Outcome::Updated);
        fs::write(&path, "another").unwrap();
        assert_eq!(put(&new, false), Outcome::Left);
        assert_eq!(fs::read(&path).unwrap(), b"another");
        // what a killed run has left
        fs::write(path.with_file_name(".flannel-install"), "x").unwrap();
        assert_eq!(put(&new, true), Outcome::Replaced);
        assert_eq!(fs::read(&path).unwrap(), new);
        let names = fs::read_dir(dir.path().join("new")).unwrap().count();
        assert_eq!(names, 1, "no temporary file stays");
    }
}
