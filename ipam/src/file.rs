//! Small files, with as few system calls as it takes: a call of the CNI plugin
//! opens fifteen of them within two milliseconds.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

/// Nearly all files that are read whole are smaller, in bytes.
const SMALL: usize = 512;

/// Opens `path`, which programs that are started do not inherit; `mode` is
/// that of a file that is made.
///
/// By openat(2): musl's `open`, which the standard library calls, asks the
/// kernel a second time not to let the file be inherited.
///
/// # Errors
/// What the system answered.
pub fn open(path: &Path, flags: OFlag, mode: u32) -> io::Result<File> {
    let mode = Mode::from_bits_truncate(mode);
    loop {
        match openat(AT_FDCWD, path, flags | OFlag::O_CLOEXEC, mode) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?.into()),
        }
    }
}

/// What the file at `path` holds.
///
/// # Errors
/// What the system answered.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    rest_of(&mut open(path, OFlag::O_RDONLY, 0)?)
}

/// The same, which must be UTF-8.
///
/// # Errors
/// What the system answered, or [`io::ErrorKind::InvalidData`].
pub fn read_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// What an open file holds from its position on. A small one comes whole with
/// the first call: the kernel gives less than was asked for only where the file
/// ends.
///
/// # Errors
/// What the system answered.
pub fn rest_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = [0; SMALL];
    let len = loop {
        match file.read(&mut start) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let mut content = start.get(..len).unwrap_or_default().to_vec();
    if len == start.len() {
        file.read_to_end(&mut content)?;
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_whatever_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for len in [0, 1, SMALL - 1, SMALL, SMALL + 1, 100_000] {
            let content = "x".repeat(len);
            std::fs::write(&path, &content).unwrap();
            assert_eq!(read_text(&path).unwrap(), content, "{len}");
        }
        std::fs::write(&path, b"\xff").unwrap();
        let error = read_text(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = read(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(read(dir.path()).is_err());
    }

    #[test]
    fn not_inherited() {
        use nix::fcntl::{F_GETFD, FdFlag, fcntl};
        let file = open(Path::new("/"), OFlag::O_RDONLY, 0).unwrap();
        let flags = FdFlag::from_bits_retain(fcntl(&file, F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
}
