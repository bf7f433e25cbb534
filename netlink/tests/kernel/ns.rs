//! A fresh network namespace for one test.

use std::process::Command;

use netlink::{NetNs, Socket, link};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a new thread in a new network namespace whose loopback is
/// up. Nothing persists: the namespace has no name and goes with the thread.
pub(crate) fn fresh(test: impl FnOnce(&mut Socket) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the kernel tests of crate netlink need root: they make network \
         namespaces"
    );
    let thread = std::thread::Builder::new()
        .name(std::thread::current().name().unwrap_or("test").to_owned())
        .spawn(move || {
            enter_new();
            let mut socket = Socket::open().expect("socket");
            test(&mut socket);
        })
        .expect("thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A second namespace, open as long as the value lives.
pub(crate) fn another() -> NetNs {
    std::thread::spawn(|| {
        enter_new();
        NetNs::current().expect("current namespace")
    })
    .join()
    .expect("thread")
}

/// What `command` prints; fails the test when it fails.
pub(crate) fn sh(command: &str) -> String {
    let mut words = command.split_whitespace();
    let out = Command::new(words.next().expect("command"))
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{command}: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command}: {}: {errors}", out.status);
    text
}

fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
    let mut socket = Socket::open().expect("socket");
    let lo = link::by_name(&mut socket, "lo").expect("lo");
    socket.request(&link::set(lo.index).up().build()).expect("lo up");
}
