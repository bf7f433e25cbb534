//! Helpers of unit tests.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread with its own network namespace, which goes with
/// the thread. Its loopback interface is up.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root: it makes a network namespace"
    );
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program, words separated by blanks, to its end; it must succeed.
pub(crate) fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let out = Command::new(program).args(words).output().unwrap();
    assert!(out.status.success(), "{line}: {out:?}");
}
