//! Namespaces.

use std::path::Path;

use netlink::{NetNs, NetNsError, Socket, link, sysctl};

use crate::ns::{another, drop_privilege, fresh, underlay};

#[test]
fn paths_that_are_no_network_namespace() {
    let dir = tempfile::tempdir().expect("directory");

    let missing = NetNs::open(dir.path().join("gone")).expect_err("missing");
    assert!(missing.is_missing(), "{missing}");

    // What a reboot leaves of a bind mount (BR-45).
    let file = dir.path().join("leftover");
    std::fs::write(&file, "").expect("write");
    let leftover = NetNs::open(&file).expect_err("file");
    assert!(leftover.is_not_a_namespace(), "{leftover}");
    assert!(leftover.to_string().contains("a regular file"), "{leftover}");
    let under = NetNs::open(file.join("x")).expect_err("under a file");
    assert!(under.is_missing(), "{under}");

    let directory = NetNs::open(dir.path()).expect_err("directory");
    assert!(directory.to_string().contains("a directory"), "{directory}");

    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let pipe = NetNs::open(pipe).expect_err("pipe");
    assert!(pipe.is_not_a_namespace(), "{pipe}");

    for other in ["/proc/self/ns/mnt", "/proc/self/ns/uts"] {
        let other = NetNs::open(other).expect_err("another kind");
        assert!(other.is_not_a_namespace(), "{other}");
    }
    let status = NetNs::open("/proc/self/status").expect_err("proc file");
    assert!(status.is_not_a_namespace(), "{status}");
}

#[test]
fn entering_and_coming_back() {
    fresh(|socket| {
        underlay(socket);
        let home = NetNs::current().expect("own");
        let pod = another();
        assert!(!home.same_as(&pod).expect("compare"));
        assert!(home.same_as(&home.clone()).expect("compare"));

        let seen =
            pod.enter(|| NetNs::current().expect("inside")).expect("enter");
        assert!(seen.same_as(&pod).expect("compare"));
        let back = NetNs::current().expect("back");
        assert!(back.same_as(&home).expect("compare"));

        // Where to return to may be known.
        let known = pod.clone().entered_from(&home);
        let seen =
            known.enter(|| NetNs::current().expect("inside")).expect("enter");
        assert!(seen.same_as(&pod).expect("compare"));
        let back = NetNs::current().expect("back");
        assert!(back.same_as(&home).expect("compare"));

        // Back home after a panic, too.
        let result = std::panic::catch_unwind(|| {
            pod.enter(|| panic!("inside the pod")).expect("enter")
        });
        assert!(result.is_err());
        let back = NetNs::current().expect("back");
        assert!(back.same_as(&home).expect("compare"));

        let seen = pod
            .run(|| NetNs::current().expect("on another thread"))
            .expect("run");
        assert!(seen.same_as(&pod).expect("compare"));
    });
}

#[test]
fn a_socket_stays_where_it_was_opened() {
    fresh(|socket| {
        underlay(socket);
        let pod = another();
        let mut inside = Socket::open_in(&pod).expect("socket");
        assert!(link::by_name(&mut inside, "u0").is_err());
        assert!(link::by_name(socket, "u0").is_ok());
        pod.enter(|| assert!(link::by_name(socket, "u0").is_ok()))
            .expect("enter");
    });
}

#[test]
fn a_bind_mount_is_the_same_namespace() {
    // In a mount namespace of its own, so that nothing is left behind.
    std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .expect("unshare");
        let none = None::<&Path>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("private");
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("pod");
        std::fs::write(&path, "").expect("write");
        let own = "/proc/thread-self/ns/net";
        mount(Some(own), &path, none, MsFlags::MS_BIND, none).expect("bind");
        let bound = NetNs::open(&path).expect("open");
        assert_eq!(bound.path(), path);
        let own = NetNs::current().expect("own");
        assert!(own.same_as(&bound).expect("compare"));
        Socket::open_in(&bound).expect("socket");
        drop(bound);
        nix::mount::umount(&path).expect("umount");
    })
    .join()
    .expect("thread");
}

#[test]
fn without_privilege() {
    fresh(|_| {
        let pod = another();
        drop_privilege();
        let entered = pod.enter(|| ());
        let opened = NetNs::open("/proc/1/ns/net");
        assert!(matches!(
            entered,
            Err(NetNsError::Denied { operation: "setns", .. })
        ));
        assert!(matches!(
            opened,
            Err(NetNsError::Denied { operation: "open", .. })
        ));
    });
}

#[test]
fn sysctls_are_those_of_the_namespace_entered() {
    const FORWARD: &str = "net/ipv4/ip_forward";
    fresh(|_| {
        let pod = another();
        let written = pod
            .enter(|| sysctl::write_if_different(FORWARD, "1"))
            .expect("enter")
            .expect("write");
        assert!(written);
        let inside = pod.enter(|| sysctl::read(FORWARD)).expect("enter");
        assert_eq!(inside.expect("read"), "1");
        assert_eq!(sysctl::read(FORWARD).expect("read"), "0");
    });
}
