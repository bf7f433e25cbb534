//! Files that are there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be written. What was there before still is.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be written ({step}): {error}", path = path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// What failed.
    pub step: &'static str,
    /// The kernel's answer.
    pub error: io::Error,
}

/// For how long a file is to say what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// Also after the machine has lost its power: the disk is waited for.
    Always,
    /// While the machine runs: it says nothing about the next start.
    ThisBoot,
}

/// Replaces `path` by `bytes`: a crash at any moment leaves the old content
/// or the new, never a part; that of the machine as well if it is to last.
///
/// The directory is created (0755) if missing. A new file gets `mode`
/// whatever the umask is, an existing regular file keeps its own (F-11). The
/// temporary file stands beside the target under a fixed name, so that a
/// crash leaves one at most; there must be one writer only.
///
/// # Errors
/// [`WriteError`] names the step that failed.
pub(super) fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    lasts: Lasts,
) -> Result<(), WriteError> {
    let failed =
        |step| move |error| WriteError { path: path.to_owned(), step, error };
    let dir = directory(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dir)
        .map_err(failed("creating the directory"))?;
    let temporary = temporary(path, &dir)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
        .map_err(failed("the path names no file"))?;

    let mode = mode_of(path).unwrap_or(mode);
    let result = fill(&temporary, bytes, mode, lasts)
        .map_err(failed("writing a temporary file beside it"))
        .and_then(|()| {
            fs::rename(&temporary, path)
                .map_err(failed("moving the new file into its place"))
        });
    if result.is_err() {
        // It may not exist; what matters is the first error.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    if lasts == Lasts::ThisBoot {
        return Ok(());
    }
    File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("syncing the directory"))
}

/// The directory of `path`.
pub(super) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A name beside `path`, in the same directory: `prefix` + name + `suffix`.
pub(super) fn beside(
    path: &Path,
    prefix: &str,
    suffix: &str,
) -> Option<PathBuf> {
    let mut name = OsString::from(prefix);
    name.push(path.file_name()?);
    name.push(suffix);
    Some(path.with_file_name(name))
}

fn temporary(path: &Path, dir: &Path) -> Option<PathBuf> {
    Some(dir.join(beside(path, ".", ".tmp")?.file_name()?))
}

/// The mode of a regular file at `path`, permission bits only.
fn mode_of(path: &Path) -> Option<u32> {
    let meta = fs::symlink_metadata(path).ok()?;
    meta.is_file().then(|| meta.permissions().mode() & 0o7777)
}

/// Never follows a link that somebody put there.
fn fill(
    temporary: &Path,
    bytes: &[u8],
    mode: u32,
    lasts: Lasts,
) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    match lasts {
        Lasts::Always => file.sync_all(),
        Lasts::ThisBoot => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
        super::write(path, bytes, mode, Lasts::Always)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn creates_directory_and_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/subnet.env");
        write(&path, b"A=1\n", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"A=1\n");
        assert_eq!(mode(&path), 0o644);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(names(path.parent().unwrap()), ["subnet.env"]);
    }

    /// What the next test's child writes, in a process with another umask.
    const TARGET: &str = "FLANNEL_TEST_TARGET";

    #[test]
    fn writes_in_a_child_of_the_next_test() {
        // Started by anybody else it has nothing to do.
        let Some(target) = std::env::var_os(TARGET) else { return };
        write(Path::new(&target), b"A=1\n", 0o644).unwrap();
    }

    #[test]
    fn the_umask_does_not_narrow_the_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        let child = std::process::Command::new("sh")
            .args(["-c", "umask 077 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg("files::atomic::tests::writes_in_a_child_of_the_next_test")
            .env(TARGET, &path)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        assert_eq!(mode(&path), 0o644);
    }

    #[test]
    fn an_existing_file_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        write(&path, b"old", 0o644).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        write(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn links_are_replaced_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = root.path().join("f");
        symlink(&victim, &path).unwrap();
        symlink(&victim, root.path().join(".f.tmp")).unwrap();
        write(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(names(root.path()), ["f", "victim"]);
    }

    #[test]
    fn what_a_crash_left_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        fs::write(root.path().join(".f.tmp"), "half of it").unwrap();
        write(&path, b"new", 0o644).unwrap();
        assert_eq!(names(root.path()), ["f"]);
    }

    #[test]
    fn a_failure_leaves_the_old_state_and_says_what_failed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = write(&file.join("f"), b"", 0o644).unwrap_err();
        assert!(error.to_string().contains("creating the directory"));

        let dir = root.path().join("dir");
        fs::create_dir(&dir).unwrap();
        let error = write(&dir, b"", 0o644).unwrap_err().to_string();
        assert!(error.contains("into its place"), "{error}");
        assert!(error.contains(&dir.display().to_string()), "{error}");
        assert_eq!(names(root.path()), ["dir", "file"]);

        assert!(write(Path::new("/"), b"", 0o644).is_err());
    }

    #[test]
    fn relative_names_stand_in_the_current_directory() {
        assert_eq!(directory(Path::new("subnet.env")), Path::new("."));
        assert_eq!(directory(Path::new("a/b")), Path::new("a"));
    }
}
