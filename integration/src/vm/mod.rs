//! A virtual machine for one set of tests, for what this machine's kernel has
//! not: `qemu` without hardware support (TCG), Debian's cloud kernel, and the
//! program `guest` as its first process. `integration/setup vm` gets the first
//! two, `integration/setup release` makes the third.
//!
//! | module | what |
//! |---|---|
//! | [`cpio`] | the archive that the kernel takes its first files from |
//! | [`modules`] | which modules a module needs |
//!
//! To test something else in there: a test function in `integration/guest`,
//! its name in a test of `integration/tests/vm`, and what it needs of modules
//! and programs here.

pub mod cpio;
pub mod modules;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::child::Child;
use crate::host::Host;
use cpio::Archive;

/// How often it is switched on before its kernel must have come to its first
/// process: on a machine that has no time for it, emulated devices may fail
/// the kernel's own tests of them, which says nothing of ours.
const STARTS: usize = 3;

/// From power on to power off. A kernel that is emulated, beside others, takes
/// some seconds to start.
const LIMIT: Duration = Duration::from_secs(600);

/// A machine that is not yet switched on.
#[derive(Debug)]
pub struct Vm {
    files: Archive,
    kernel: PathBuf,
}

// === impl Vm ===

impl Vm {
    /// A machine whose kernel has these modules and those that they need.
    ///
    /// # Errors
    /// When one of its parts is missing.
    pub fn new(names: &[&str]) -> Result<Self> {
        let root = PathBuf::from(
            std::env::var_os("FLANNEL_TEST_VM").unwrap_or_default(),
        );
        let kernel = only(&root.join("boot"), "vmlinuz-").with_context(|| {
            "no kernel: `integration/setup vm` unpacks one, FLANNEL_TEST_VM \
             names the folder"
        })?;
        let tree = only(&root.join("lib/modules"), "")?;
        let mut vm = Self { files: Archive::default(), kernel };
        vm.program(&guest(), "/init")?;
        vm.files.folder("/modules");
        for (n, file) in modules::closure(&tree, names)?.iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let bytes = fs::read(file)?;
            vm.files.file(&format!("/modules/{n:03}-{name}"), 0o644, &bytes);
        }
        Ok(vm)
    }

    /// Puts a static program into it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| {
            format!("{to} of the guest: {}", from.display())
        })?;
        self.files.file(to, 0o755, &bytes);
        Ok(())
    }

    /// Makes a symbolic link to `target` at `path`.
    pub fn link(&mut self, path: &str, target: &str) {
        self.files.link(path, target);
    }

    /// Switches it on, runs these tests of the guest, and waits until it has
    /// switched itself off.
    ///
    /// # Errors
    /// When it does not start, does not end, or one of the tests is not said
    /// to have passed; all that it has printed is in the message.
    pub fn run(self, tests: &[&str]) -> Result<()> {
        let host = Host::new("vm")?;
        let folder = tempfile::tempdir()?;
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, self.files.finish())?;
        let arguments = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check -- {}",
            tests.join(" ")
        );
        let words = [
            "qemu-system-x86_64",
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "qemu64",
            "-m",
            "512",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
            &self.kernel.display().to_string(),
            "-initrd",
            &initrd.display().to_string(),
            "-append",
            &arguments,
        ];
        let words: Vec<String> = words.iter().map(|w| (*w).into()).collect();
        // one after the other, each with what it printed
        let mut text = String::new();
        for start in 0..STARTS {
            let log = folder.path().join(format!("log{start}"));
            let mut qemu = Child::spawn(&host, &words, &[], &log)
                .context("`integration/setup vm` installs qemu-system-x86")?;
            let status = qemu.wait(LIMIT)?;
            text += &format!("{}\nqemu ended: {status}\n", qemu.log());
            if says(&text, "guest: begin") {
                break;
            }
        }
        judge(&text, tests).with_context(|| text.clone())
    }
}

/// Its first process.
fn guest() -> PathBuf {
    PathBuf::from(std::env::var_os("FLANNEL_TEST_GUEST").unwrap_or_default())
}

/// Whether the guest says of each of these tests that it passed.
fn judge(text: &str, tests: &[&str]) -> Result<()> {
    ensure!(!tests.is_empty(), "no tests");
    let silent = tests.iter().find(|t| !says(text, &format!("guest: ok {t}")));
    if let Some(test) = silent {
        bail!("{test} has not passed in the guest");
    }
    ensure!(says(text, "guest: end"), "the guest has not come to its end");
    Ok(())
}

fn says(text: &str, line: &str) -> bool {
    text.lines().any(|l| l.trim() == line)
}

/// The one entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("{}: {} of {prefix}*", folder.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn verdicts() {
        let whole = "noise\r\nguest: ok a\r\nguest: ok b\r\nguest: end\r\n";
        assert!(judge(whole, &["a", "b"]).is_ok());
        assert!(judge(whole, &["a", "c"]).is_err());
        assert!(judge(whole, &[]).is_err());
        assert!(judge("guest: ok a", &["a"]).is_err());
        let failed = "guest: FAILED a: exit status: 1\nguest: end";
        assert!(judge(failed, &["a"]).is_err());
    }
}
