//! Settings under /proc/sys, and what netlink tells of them.

use ipam::Family;
use netlink::sysctl::{self, SysctlError};
use netlink::{link, netconf};

use crate::ns::{fresh, underlay};

#[test]
fn written_only_when_different() {
    fresh(|socket| {
        underlay(socket);
        let key = "net/ipv6/conf/u0/accept_ra";
        assert_eq!(sysctl::read(key).expect("read"), "1");
        assert!(sysctl::write_if_different(key, "0").expect("write"));
        assert!(!sysctl::write_if_different(key, "0").expect("write"));
        assert_eq!(sysctl::read(key).expect("read"), "0");

        let missing = sysctl::read("net/ipv6/conf/absent/accept_ra");
        let missing = missing.expect_err("missing");
        assert!(missing.is_missing(), "{missing}");
        assert!(missing.to_string().contains("conf/absent/accept_ra"));
        let refused = sysctl::write_if_different(key, "nonsense");
        assert!(matches!(refused, Err(SysctlError::Write { .. })));
    });
}

#[test]
fn read_only_is_no_error_when_equal() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    fresh(|_| {
        // The thread must not share its mounts with the test's other threads.
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("private");
        let sys = Some("/proc/sys");
        mount(sys, "/proc/sys", none, MsFlags::MS_BIND, none).expect("bind");
        let read_only =
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, "/proc/sys", none, read_only, none).expect("remount");

        let key = "net/ipv4/ip_forward";
        assert!(!sysctl::write_if_different(key, "0").expect("equal"));
        let error = sysctl::write_if_different(key, "1").expect_err("differs");
        let text = error.to_string();
        assert!(text.contains("/proc/sys/net/ipv4/ip_forward"), "{text}");
        assert!(text.contains("\"0\"") && text.contains("\"1\""), "{text}");
        assert!(text.contains("Read-only"), "{text}");
    });
}

#[test]
fn as_netlink_tells_them() {
    fresh(|socket| {
        underlay(socket);
        for (family, key) in [
            (Family::V4, "net/ipv4/ip_forward"),
            (Family::V6, "net/ipv6/conf/all/forwarding"),
        ] {
            for (value, on) in [("1", true), ("0", false)] {
                sysctl::write_if_different(key, value).expect("write");
                let told = netconf::forwarding(socket, family).expect("told");
                assert_eq!(told, on, "{key}");
            }
        }
        let key = "net/ipv6/conf/u0/accept_ra";
        for value in [2, 0, 1] {
            sysctl::write_if_different(key, &value.to_string()).expect("write");
            let told = link::by_name(socket, "u0").expect("u0").accept_ra;
            assert_eq!(told, Some(value));
        }
    });
}
