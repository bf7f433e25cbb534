//! The configuration as it comes on stdin. A runtime that never closes it
//! must not keep the verb for longer than its deadline (P09).

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use super::{CniError, Deadline, code};

/// So much room that most need one call.
const ROOM: usize = 4096;

/// All that comes from `from` until it is closed.
///
/// # Errors
/// Code 5 when it cannot be read, code 11 when it is not closed in time.
pub(super) fn read(
    from: impl AsFd,
    deadline: &Deadline,
) -> Result<String, CniError> {
    let failed = |e: Errno| {
        CniError::new(code::IO, format!("error reading from stdin: {e}"))
    };
    let (mut bytes, mut len, mut closed) = (vec![0; ROOM], 0, false);
    loop {
        if !closed {
            closed = wait(&from, deadline)?;
        }
        if len == bytes.len() {
            bytes.resize(2 * len, 0);
        }
        let room = bytes.get_mut(len..).unwrap_or_default();
        match unistd::read(&from, room) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    bytes.truncate(len);
    Ok(String::from_utf8(bytes).unwrap_or_else(|broken| {
        String::from_utf8_lossy(broken.as_bytes()).into_owned()
    }))
}

/// Waits until there is something to read, or the end. Returns whether the
/// other side has closed it: then nothing that is read makes wait.
fn wait(from: impl AsFd, deadline: &Deadline) -> Result<bool, CniError> {
    let mut stdin = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    loop {
        let left = deadline.left().as_millis();
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut stdin, left) {
            Ok(0) => {
                return Err(deadline
                    .error()
                    .details("the runtime has not closed the plugin's stdin"));
            }
            // what cannot be waited for says why when it is read
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    let [stdin] = stdin;
    let closed = |events: PollFlags| events.contains(PollFlags::POLLHUP);
    Ok(stdin.revents().is_some_and(closed))
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write, pipe};
    use std::time::Duration;

    use super::*;

    fn filled(text: &str) -> (std::io::PipeReader, PipeWriter) {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        (reader, writer)
    }

    #[test]
    fn until_it_is_closed() {
        let long = "x".repeat(5 * ROOM);
        for text in ["", "{}", &long] {
            let (reader, writer) = filled(text);
            drop(writer);
            let all = read(&reader, &Deadline::default()).unwrap();
            assert_eq!(all, text);
        }
        // in parts: the second when the first has been taken
        let (reader, mut writer) = filled("a");
        let rest = std::thread::spawn(move || {
            let big = "b".repeat(1 << 17);
            writer.write_all(big.as_bytes()).unwrap();
        });
        let all = read(&reader, &Deadline::default()).unwrap();
        rest.join().unwrap();
        assert_eq!(all.len(), 1 + (1 << 17));
    }

    #[test]
    fn what_is_no_pipe() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(read(&null, &Deadline::default()).unwrap(), "");
        let folder = std::fs::File::open("/").unwrap();
        assert_eq!(read(&folder, &Deadline::default()).unwrap_err().code, 5);
    }

    #[test]
    fn one_that_is_never_closed() {
        let (reader, writer) = filled("{}");
        let deadline = Deadline::after(Duration::from_millis(50));
        let error = read(&reader, &deadline).unwrap_err();
        assert_eq!(error.code, 11);
        assert!(error.details.contains("not closed"), "{error:?}");
        drop(writer);
    }
}
