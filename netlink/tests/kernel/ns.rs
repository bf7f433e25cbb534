//! A fresh network namespace for one test, and what most tests put in it.

use std::net::IpAddr;
use std::process::Command;

use ipam::Subnet;
use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::link::vxlan::{self, VxlanSpec};
use netlink::{NetNs, Socket, addr, link};
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

/// A second namespace with its loopback up, there as long as the value is.
pub(crate) fn another() -> NetNs {
    std::thread::spawn(|| {
        enter_new();
        NetNs::current().expect("current namespace")
    })
    .join()
    .expect("thread")
}

/// Waits for what a kernel worker does a moment later.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 5, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Takes all privileges from the calling thread, for the rest of its life.
pub(crate) fn drop_privilege() {
    const NOBODY: libc::uid_t = 65534;
    // glibc's and musl's setresuid change every thread of the process, the
    // other tests' too.
    #[expect(unsafe_code, reason = "no safe call is per thread")]
    // SAFETY: three plain numbers; the kernel touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(result, 0, "setresuid");
}

fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
    let mut socket = Socket::open().expect("socket");
    let lo = link::by_name(&mut socket, "lo").expect("lo");
    socket.request(&link::set(lo.index).up().build()).expect("lo up");
}

/// An underlay device `u0`: 10.9.0.1/24 and fd09::1/64, MTU 1500, up with
/// carrier. Returns its index.
pub(crate) fn underlay(socket: &mut Socket) -> u32 {
    let spec = VethSpec {
        end: VethEnd { name: "u0".into(), ..VethEnd::default() },
        master: None,
        up: true,
        peer: VethEnd { name: "u1".into(), ..VethEnd::default() },
        peer_namespace: None,
    };
    socket.request(&veth::add(&spec)).expect("veth");
    let u0 = link::by_name(socket, "u0").expect("u0").index;
    let u1 = link::by_name(socket, "u1").expect("u1").index;
    socket.request(&link::set(u1).up().build()).expect("u1 up");
    for (ip, len) in [("10.9.0.1", 24), ("fd09::1", 64)] {
        let spec = addr::AddrSpec {
            index: u0,
            ip: ip.parse().expect("address"),
            len,
            nodad: true,
            broadcast: None,
        };
        socket.request(&addr::add(&spec)).expect("address");
    }
    u0
}

/// `flannel.1` on `parent`, up, with MAC 02:00:00:00:00:01. Returns its index.
pub(crate) fn flannel(socket: &mut Socket, parent: u32) -> u32 {
    socket.request(&vxlan::add(&flannel_spec(parent))).expect("vxlan");
    link::by_name(socket, "flannel.1").expect("flannel.1").index
}

pub(crate) fn flannel_spec(parent: u32) -> VxlanSpec {
    VxlanSpec {
        name: "flannel.1".into(),
        vni: 1,
        parent: Some(parent),
        local: Some(ip("10.9.0.1")),
        port: None,
        learning: false,
        gbp: false,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(1450),
        txqlen: Some(0),
        up: true,
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn net(text: &str) -> Subnet {
    text.parse().expect("subnet")
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
