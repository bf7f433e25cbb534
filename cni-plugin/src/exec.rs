//! Running another plugin (S-5, S-57, S-67, P-27, P-28).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ipam::gojson::Object;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::protocol::{Call, CniError, code};
use crate::result::CniResult;

/// Starts of a binary that is just being replaced, in all.
const ATTEMPTS: u32 = 6;
/// Time between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs ADD of the plugin `kind` with the configuration `conf`.
///
/// # Errors
/// The plugin's own error, or why it could not be run or understood.
pub(crate) fn add(
    call: &Call,
    kind: &str,
    conf: &str,
) -> Result<CniResult, CniError> {
    let stdout = run(call, "ADD", kind, conf)?;
    if stdout.trim().is_empty() {
        return Ok(CniResult::default());
    }
    Object::parse(&stdout)
        .map_err(CniError::from)
        .and_then(|from| CniResult::read(&from, call.version))
        .map_err(|e| {
            CniError { code: code::DECODE, ..e }
                .context(format!("result of plugin {kind:?}"))
        })
}

/// Runs another verb of the plugin `kind`.
///
/// # Errors
/// As [`add`].
pub(crate) fn other(
    call: &Call,
    verb: &str,
    kind: &str,
    conf: &str,
) -> Result<(), CniError> {
    run(call, verb, kind, conf).map(drop)
}

/// The plugin's stdout. The environment is inherited but for the command;
/// its stderr is ours.
fn run(
    call: &Call,
    verb: &str,
    kind: &str,
    conf: &str,
) -> Result<String, CniError> {
    let path = find(call, kind)?;
    let failed = |doing: &str, e: &std::io::Error| {
        CniError::io(e, format!("plugin {}: {doing}: {e}", path.display()))
    };
    let mut command = Command::new(&path);
    command
        .env("CNI_COMMAND", verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // so that it can be ended with all that it started
        .process_group(0);
    call.deadline.enter("waiting for the plugin it delegates to")?;
    let child = spawn(call, &mut command)
        .map_err(|e| failed("cannot be started", &e))?;
    let out = listen(call, child, conf)
        .map_err(|e| failed("reading its answer", &e))?
        .ok_or_else(|| call.deadline.error())?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(stdout);
    }
    Err(reported(&stdout).unwrap_or_else(|| {
        let msg = format!("plugin {kind:?} failed with {}", out.status);
        match stdout.trim().is_empty() {
            true => CniError::internal(msg)
                .details("it gave no error on stdout; see its stderr"),
            false => CniError::internal(format!(
                "{msg} and an answer that is no CNI error"
            ))
            .details(stdout),
        }
    }))
}

/// Feeds the plugin its configuration and collects its answer; `None` when
/// there is none in time: then it has been killed.
fn listen(
    call: &Call,
    mut child: Child,
    conf: &str,
) -> std::io::Result<Option<Output>> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (conf, (tell, told)) = (conf.to_owned(), mpsc::channel());
    // both pipes on a thread, so that neither is waited for too long
    std::thread::Builder::new().spawn(move || {
        let exchange = || {
            if let Some(mut stdin) = stdin {
                match stdin.write_all(conf.as_bytes()) {
                    // a plugin need not read its configuration
                    Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                        return Err(e);
                    }
                    _ => {}
                }
            }
            let mut answer = Vec::new();
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut answer)?;
            }
            Ok(answer)
        };
        // the other side may have given up
        let _ = tell.send(exchange());
    })?;
    let Ok(stdout) = told.recv_timeout(call.deadline.left()) else {
        end(&mut child)?;
        return Ok(None);
    };
    let (stdout, stderr) = (stdout?, Vec::new());
    // it has closed its output, so it ends any moment
    while call.deadline.check().is_ok() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Output { status, stdout, stderr }));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    end(&mut child)?;
    Ok(None)
}

/// Kills the plugin and its children. It is not waited for yet, so that its
/// number is still its own.
fn end(child: &mut Child) -> std::io::Result<()> {
    if let Ok(group) = i32::try_from(child.id()) {
        killpg(Pid::from_raw(group), Signal::SIGKILL)?;
    }
    child.wait().map(drop)
}

fn spawn(call: &Call, command: &mut Command) -> std::io::Result<Child> {
    let mut attempt = 1;
    loop {
        match command.spawn() {
            Err(e)
                if e.kind() == ErrorKind::ExecutableFileBusy
                    && attempt < ATTEMPTS
                    && call.deadline.check().is_ok() =>
            {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// The first regular file called `kind` in CNI_PATH (S-5).
///
/// # Errors
/// Code 7 for a name that is none, code 4 without CNI_PATH, code 101 when it
/// is in none of the folders.
pub(crate) fn find(call: &Call, kind: &str) -> Result<PathBuf, CniError> {
    let path = &call.env.path;
    if kind.is_empty() {
        return Err(CniError::config("no plugin name provided"));
    }
    if kind.contains('/') {
        return Err(CniError::config(format!(
            "invalid plugin name: {kind} (a plugin is named by its file name \
             in CNI_PATH)"
        )));
    }
    if path.is_empty() {
        return Err(CniError::new(
            code::ENVIRONMENT,
            format!(
                "required env variables [CNI_PATH] missing: plugin {kind:?} \
                 is to be executed"
            ),
        ));
    }
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| PathBuf::from(folder).join(kind))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file()))
        .ok_or_else(|| {
            CniError::new(
                code::NO_PLUGIN,
                format!(
                    "failed to find plugin {kind:?} in path [{}]",
                    path.replace(':', " ")
                ),
            )
        })
}

/// The error a plugin printed.
fn reported(stdout: &str) -> Option<CniError> {
    let error = Object::parse(stdout).ok()?;
    let text = |key| error.string(key).ok().map(Option::unwrap_or_default);
    Some(CniError {
        code: error.value("code")?.integer().ok()?,
        msg: text("msg")?,
        details: text("details")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::gojson::Document;

    use crate::protocol::{Deadline, Env, Version};

    fn find(kind: &str, path: &str) -> Result<PathBuf, CniError> {
        let env = Env { path: path.into(), ..Env::default() };
        let (json, name) = (Document::default(), "n".into());
        let (version, deadline) = (Version::NEWEST, Deadline::default());
        let call = Call { env, json, name, version, deadline };
        super::find(&call, kind)
    }

    #[test]
    fn plugins_are_regular_files_in_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for d in [&a, &b] {
            fs::create_dir(d).unwrap();
        }
        // a folder of that name does not count
        fs::create_dir(a.join("dhcp")).unwrap();
        fs::write(b.join("dhcp"), "").unwrap();
        let path = format!("{}::{}", a.display(), b.display());
        assert_eq!(find("dhcp", &path).unwrap(), b.join("dhcp"));
        let shown = format!("[{}  {}]", a.display(), b.display());
        assert_eq!(
            find("static", &path).unwrap_err().msg,
            format!("failed to find plugin \"static\" in path {shown}")
        );
    }

    #[test]
    fn names_that_are_none() {
        assert_eq!(find("", "/x").unwrap_err().msg, "no plugin name provided");
        assert!(
            find("../x", "/x")
                .unwrap_err()
                .msg
                .starts_with("invalid plugin name")
        );
        assert_eq!(find("x", "").unwrap_err().code, 4);
    }

    #[test]
    fn errors_are_taken_over() {
        let error =
            reported(r#"{"Code":11,"msg":"busy","details":"d"}"#).unwrap();
        assert_eq!((error.code, error.msg.as_str()), (11, "busy"));
        assert_eq!(error.details, "d");
        for text in ["", "null", "{}", r#"{"code":"x"}"#, "oops"] {
            assert_eq!(reported(text), None, "{text}");
        }
    }
}
