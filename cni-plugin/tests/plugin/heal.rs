//! GC, STATUS, and addresses that come back by themselves (P15).

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use ipam::Family;
use netlink::conntrack::Conntrack;
use netlink::nft::{
    Batch, CT_NEW, Chain, ChainKind, Expr, Hook, NftSocket, PRIORITY_FILTER,
    Rule, Table, TableId,
};
use serde_json::Value;

use crate::deadlines::gives_up;
use crate::node::{Call, Node, on_a_node, plain, run};

const POOL: &str = "/var/lib/cni/networks/cbr0";

/// A pod with the newest protocol, of a pool of `2^(32-len) - 3` addresses.
fn pod(node: &Node, id: &str) -> Call {
    node.pod(id).version("1.1.0")
}

/// Go's host-local left a reservation, some time ago.
fn left_over(ip: &str, content: &str) {
    let path = format!("{POOL}/{ip}");
    fs::write(&path, content).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
}

fn code(call: &Call, verb: &str) -> (u64, String) {
    call.call(verb).error()
}

/// S-64: links, addresses and files of what is not valid go, the rest stays.
#[test]
fn gc_removes_what_is_not_valid() {
    on_a_node(|node| {
        let net = node.flanneld_alone(24);
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let kept = plain(&a.add());
        b.add();
        left_over(&format!("{net}.9"), "go\r\neth0");
        left_over(&format!("{net}.10"), "");
        fs::write("/var/lib/cni/flannel/.cbr0@c@eth0", "{").unwrap();
        // of a network whose name begins like this one's
        let longer = ".cbr0.x@c@eth0";
        fs::write(format!("/var/lib/cni/flannel/{longer}"), "{").unwrap();
        fs::write("/var/lib/cni/flannel/other", r#"{"name":"n2"}"#).unwrap();
        let gc = a.clone().valid(&[&a]).call("GC");
        assert!(gc.ok, "{gc:?}");
        assert_eq!(gc.stdout, "");
        assert_eq!(node.reserved(), kept);
        assert_eq!(node.veths().len(), 1);
        assert_eq!(node.scratch(), [longer, "a", "other"]);
        fs::remove_file(format!("/var/lib/cni/flannel/{longer}")).unwrap();
        assert!(a.pings(&format!("{net}.1")));
        b.del();
        b.add();
        for pod in [a, b] {
            pod.del();
        }
        fs::remove_file("/var/lib/cni/flannel/other").unwrap();
        node.assert_clean();
    });
}

/// R-17, and what Go's plugins made: an address in use is nobody else's,
/// whatever the list says.
#[test]
fn gc_does_not_take_what_is_in_use() {
    on_a_node(|node| {
        let net = node.flanneld_alone(24);
        let a = pod(node, "a");
        assert_eq!(code(&a, "GC").0, 7, "no list");
        a.add();
        assert_eq!(code(&a, "GC").0, 7);
        let ip = format!("{net}.77");
        left_over(&ip, "go\r\neth0");
        node.netns("go");
        let cidr = format!("{ip}/24");
        run("ip", &["-n", "go", "address", "add", &cidr, "dev", "lo"]);
        let (code, msg) = code(&a.clone().valid(&[&a]), "GC");
        assert_eq!(code, 11);
        assert!(msg.contains(&ip), "{msg}");
        assert_eq!(node.reserved().len(), 2);
        node.remove_netns("go");
        assert!(a.clone().valid(&[&a]).call("GC").ok);
        assert_eq!(node.reserved().len(), 1);
    });
}

#[test]
fn gc_of_a_version_that_has_none() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let (code, msg) = code(&node.pod("a"), "GC");
        assert_eq!(
            (code, msg.as_str()),
            (1, "config version does not allow GC")
        );
    });
}

/// After a restart of the machine: reservations without pods.
#[test]
fn add_finds_addresses_that_nobody_released() {
    on_a_node(|node| {
        let net = node.flanneld_alone(29);
        let a = pod(node, "a");
        let first = plain(&a.add());
        for (n, content) in
            [(3, "x\r\neth0"), (4, "y"), (5, ""), (6, "z\r\neth0")]
        {
            let ip = format!("{net}.{n}");
            if !first.contains(&ip) {
                left_over(&ip, content);
            }
        }
        left_over(&format!("{net}.2"), "a\r\neth0");
        let b = pod(node, "b");
        b.add();
        assert_eq!(node.reserved().len(), 2, "only a's and b's");
        assert!(a.pings(&format!("{net}.1")) && b.pings(&format!("{net}.1")));
    });
}

/// A pod of Go's plugins that has no address yet, or is in a namespace that
/// cannot be found: nobody knows which addresses it will have.
#[test]
fn nothing_comes_back_while_a_port_is_unknown() {
    on_a_node(|node| {
        let net = node.flanneld_alone(29);
        pod(node, "a").add();
        for n in 2..=6 {
            let ip = format!("{net}.{n}");
            if !node.reserved().contains(&ip) {
                left_over(&ip, "go\r\neth0");
            }
        }
        node.netns("go");
        let veth = "link add go0 type veth peer name eth0 netns go";
        run("ip", &veth.split(' ').collect::<Vec<_>>());
        run("ip", &["link", "set", "go0", "master", "cni0"]);
        let b = pod(node, "b");
        let answer = b.call("ADD");
        assert_eq!(answer.error().0, 11);
        assert!(answer.stderr.contains("port go0"), "{answer:?}");
        assert_eq!(code(&b, "STATUS").0, 50);
        let cidr = format!("{net}.6/29");
        run("ip", &["-n", "go", "address", "add", &cidr, "dev", "eth0"]);
        b.add();
        assert!(node.reserved().contains(&format!("{net}.6")), "in use");
        assert_eq!(node.reserved().len(), 3);
    });
}

/// A plugin without CAP_SYS_PTRACE does not see other processes' namespaces:
/// what it does not see may be a pod.
#[test]
fn nothing_comes_back_while_namespaces_cannot_be_read() {
    on_a_node(|node| {
        let net = node.flanneld_alone(29);
        pod(node, "a").add();
        for n in 2..=6 {
            let ip = format!("{net}.{n}");
            if !node.reserved().contains(&ip) {
                left_over(&ip, "go\r\neth0");
            }
        }
        node.netns("go");
        let cidr = format!("{net}.6/29");
        run("ip", &["-n", "go", "address", "add", &cidr, "dev", "lo"]);
        let mut inside = Command::new("ip")
            .args(["netns", "exec", "go", "sh", "-c", "echo; exec sleep 60"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // it is there once it says a word
        inside.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        node.remove_netns("go");
        let b = pod(node, "b");
        for (call, verb) in
            [(&b, "ADD"), (&b, "STATUS"), (&b.clone().valid(&[]), "GC")]
        {
            let answer = call.call_without("sys_ptrace", verb);
            assert!(!answer.ok, "{verb}: {answer:?}");
            let said = format!("{}{}", answer.stdout, answer.stderr);
            assert!(said.contains("CAP_SYS_PTRACE"), "{verb}: {said}");
            let ip = format!("{net}.6");
            assert!(node.reserved().contains(&ip), "{verb}: in use");
        }
        b.add();
        assert!(node.reserved().contains(&format!("{net}.6")), "in use");
        inside.kill().unwrap();
        inside.wait().unwrap();
    });
}

/// A pod of Go's ptp, in a namespace that nothing leads to.
#[test]
fn an_address_with_a_route_of_its_own_is_in_use() {
    on_a_node(|node| {
        let net = node.flanneld_alone(29);
        pod(node, "a").add();
        for n in 2..=6 {
            let ip = format!("{net}.{n}");
            if !node.reserved().contains(&ip) {
                left_over(&ip, "go\r\neth0");
            }
        }
        let veth = "link add go0 type veth peer name go1";
        run("ip", &veth.split(' ').collect::<Vec<_>>());
        for end in ["go0", "go1"] {
            run("ip", &["link", "set", end, "up"]);
        }
        let ip = format!("{net}.6");
        run("ip", &["route", "add", &format!("{ip}/32"), "dev", "go0"]);
        pod(node, "b").add();
        assert!(node.reserved().contains(&ip), "in use");
        assert_eq!(node.reserved().len(), 3);
    });
}

#[test]
fn what_was_reserved_a_moment_ago_is_not_taken_back() {
    on_a_node(|node| {
        let net = node.flanneld_alone(29);
        pod(node, "a").add();
        for n in 2..=6 {
            let ip = format!("{net}.{n}");
            if !node.reserved().contains(&ip) {
                fs::write(format!("{POOL}/{ip}"), "go\r\neth0").unwrap();
            }
        }
        let b = pod(node, "b");
        assert_eq!(code(&b, "ADD").0, 11);
        assert_eq!(node.reserved().len(), 5);
    });
}

/// S-63: code 50 with the reason, and fine again once there are addresses.
#[test]
fn status_tells_what_is_missing() {
    on_a_node(|node| {
        let a = pod(node, "a");
        let (got, msg) = code(&a, "STATUS");
        assert_eq!(got, 50);
        assert!(msg.contains("/run/flannel/subnet.env"), "{msg}");
        let net = node.flanneld_alone(29);
        assert!(a.call("STATUS").ok, "nothing reserved ever");
        a.add();
        for n in 2..=6 {
            let ip = format!("{net}.{n}");
            if !node.reserved().contains(&ip) {
                fs::write(format!("{POOL}/{ip}"), "go\r\neth0").unwrap();
            }
        }
        let (got, msg) = code(&a, "STATUS");
        assert_eq!(got, 50);
        assert!(msg.contains("no IP addresses available"), "{msg}");
        for ip in node.reserved() {
            let path = format!("{POOL}/{ip}");
            let mine = fs::read_to_string(&path).unwrap().starts_with("a\r");
            if !mine {
                left_over(&ip, "go\r\neth0");
            }
        }
        assert!(a.call("STATUS").ok);
        assert_eq!(node.reserved().len(), 1);
    });
}

/// flanneld's own words; without its part other nodes are not reached.
#[test]
fn status_passes_on_what_flanneld_says() {
    on_a_node(|node| {
        node.flanneld_alone(29);
        let boot_id =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let state = |phase: &str, more: &str| {
            let text = format!(
                r#"{{"version":1,"phase":"{phase}","reason":"because",
                "since":1,"boot_id":"{}",
                "subnet_file":"/run/flannel/subnet.env"{more}}}"#,
                boot_id.trim()
            );
            fs::write("/run/flannel/state.json", text).unwrap();
        };
        let a = pod(node, "a");
        for phase in ["ready", "starting", "waiting-for-store", "degraded"] {
            state(phase, "");
            assert!(a.call("STATUS").ok, "{phase}");
        }
        for phase in ["failed", "lease-lost"] {
            state(phase, "");
            let (got, msg) = code(&a, "STATUS");
            assert_eq!(got, 51, "{phase}");
            assert!(msg.contains("because"), "{msg}");
        }
        state("stopping", r#","lease_ends_uptime":1"#);
        assert_eq!(code(&a, "STATUS").0, 51);
        let (got, msg) = code(&a, "ADD");
        assert_eq!(got, 11);
        assert!(msg.contains("not renewed in time"), "{msg}");
        // by the time since the start of the machine, of which the year 1970
        // was too long ago: the wall clock may be set to anything
        let ends = ipam::daemon_state::uptime().as_secs() + 600;
        state("stopping", &format!(r#","lease_ends_uptime":{ends}"#));
        a.add();
    });
}

/// P09: the lock is another's; the verb ends in time and says where it was.
#[test]
fn no_verb_waits_for_ever() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let a = pod(node, "a");
        a.add();
        let lock = fs::File::open(format!("{POOL}/lock")).unwrap();
        lock.lock().unwrap();
        let b = pod(node, "b");
        for (call, verb, phase) in [
            (&b, "ADD", "reserving an address"),
            (&a, "DEL", "releasing the address"),
            (&a.clone().valid(&[]), "GC", "looking for addresses"),
            (&a, "STATUS", "counting free addresses"),
        ] {
            let said = gives_up(call, verb, phase);
            assert!(said.contains("gave up after"), "{verb}: {said}");
        }
        drop(lock);
        a.del();
        b.del();
        node.assert_clean();
        for wrong in [Value::from(0), "x".into()] {
            b.add();
            let call = b.clone().valid(&[]).with("timeoutSeconds", wrong);
            let (code, msg) = code(&call, "ADD");
            assert_eq!(code, 7);
            assert!(msg.contains("timeoutSeconds is"), "{msg}");
            // what is to go away goes
            let gc = call.call("GC");
            assert!(gc.ok && gc.stderr.contains("the default"), "{gc:?}");
            call.del();
            node.assert_clean();
        }
    });
}

/// S-9: as long as names can be.
#[test]
fn the_longest_network_names() {
    for len in [246, 247, 255] {
        on_a_node(|node| {
            node.flanneld_alone(24);
            let name: Value = "n".repeat(len).into();
            let a = pod(node, "a").with("name", name.clone());
            let b = pod(node, "b").with("name", name);
            let first = plain(&a.add());
            assert_ne!(first, plain(&b.add()), "{len}");
            assert!(a.valid(&[&b]).call("GC").ok);
            assert_eq!(node.veths().len(), 1, "{len}");
            b.del();
            assert_eq!(node.veths().len(), 0, "{len}");
            assert_eq!(node.scratch(), [""; 0]);
        });
    }
}

/// The pool's side folder cannot be made: addresses are given all the same?
/// No: a temporary file is needed, and the error says which.
#[test]
fn a_side_folder_that_is_something_else() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        fs::create_dir_all("/var/lib/cni/networks").unwrap();
        symlink("/nowhere", "/var/lib/cni/networks/.flannel-cbr0").unwrap();
        let (_, msg) = code(&pod(node, "a"), "ADD");
        assert!(msg.contains(".flannel-cbr0"), "{msg}");
        assert_eq!(node.veths().len(), 0);
    });
}

/// P17: another pod does not get an address at once, unless it asks for it;
/// and not with the connections of the one before.
#[test]
fn an_address_rests_and_is_forgotten() {
    on_a_node(|node| {
        let net = node.flanneld_alone(24);
        track_connections();
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let first = plain(&a.add()).remove(0);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", (first.as_str(), 7001)).unwrap();
        let address = first.parse().unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let mut connections = || conntrack.of_address(address).unwrap().len();
        assert_eq!(connections(), 1);
        assert!(run("ip", &["neighbour"]).contains(&first));
        a.del();
        assert!(!run("ip", &["neighbour"]).contains(&first));
        // the turn would begin with it
        fs::remove_file(format!("{POOL}/last_reserved_ip.0")).unwrap();
        assert_eq!(plain(&b.add()), [format!("{net}.3")]);
        b.del();
        assert_eq!(connections(), 1);
        let asks = a.env("CNI_ARGS", &format!("IP={first}"));
        assert_eq!(plain(&asks.add()), [first]);
        assert_eq!(connections(), 0);
    });
}

/// Connections are tracked where a rule looks at them.
fn track_connections() {
    let table = Table::new(TableId::new(Family::V4, "watch"));
    let id = table.id.chain("output");
    let (kind, hook) = (ChainKind::Filter, Hook::Output);
    let chain = Chain::base(id, kind, hook, PRIORITY_FILTER);
    let rule = Rule::new([Expr::CtState(CT_NEW), Expr::accept()]);
    let mut batch = Batch::new();
    batch.add_table(&table).add_chain(&chain).append_rule(&chain.id, &rule);
    NftSocket::open().unwrap().commit(&batch).unwrap();
}

/// P16: a full disk fails ADD, gives nothing twice, and does not keep DEL
/// from releasing.
#[test]
fn a_full_disk() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        fs::create_dir("/var/lib/cni").unwrap();
        let size = ["mount", "-t", "tmpfs", "-o", "size=64k", "none"];
        run(size[0], &[&size[1..], &["/var/lib/cni"]].concat());
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let kept = plain(&a.add());
        let filler = "/var/lib/cni/filler";
        let mut file = fs::File::create(filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let (got, msg) = code(&b, "ADD");
        assert_eq!(got, 5, "{msg}");
        assert_eq!(node.reserved(), kept);
        assert_eq!(node.veths().len(), 1);
        a.del();
        assert_eq!(node.reserved(), [""; 0]);
        fs::remove_file(filler).unwrap();
        b.del();
        b.add();
        b.del();
        node.assert_clean();
    });
}

/// Nothing changes, and nobody is told that it did.
#[test]
fn a_disk_that_is_read_only() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let kept = plain(&a.add());
        let remount = |how: &str| {
            let how = format!("remount,{how}");
            run("mount", &["-o", &how, "/var/lib"]);
        };
        remount("ro");
        assert_eq!(code(&b, "ADD").0, 5);
        // which made nothing
        b.del();
        assert_eq!(code(&a, "DEL").0, 5);
        assert_eq!(node.veths(), [""; 0]);
        let gc = a.clone().valid(&[]).call("GC");
        assert_eq!(gc.error().0, 5);
        assert_eq!(gc.stderr, "");
        assert_eq!(node.reserved(), kept);
        remount("rw");
        a.del();
        node.assert_clean();
    });
}

/// P16: without the lock file, and with one that others hold deleted.
#[test]
fn a_lost_lock_file() {
    on_a_node(|node| {
        node.flanneld_alone(24);
        let (a, b) = (pod(node, "a"), pod(node, "b"));
        let first = plain(&a.add());
        let lock = format!("{POOL}/lock");
        let held = fs::File::open(&lock).unwrap();
        held.lock().unwrap();
        fs::remove_file(&lock).unwrap();
        assert_ne!(plain(&b.add()), first);
        fs::remove_file(&lock).unwrap();
        a.del();
        b.del();
        node.assert_clean();
    });
}
