//! The gateway of a VLAN, which its pods share: when it comes, how long it
//! stays, what becomes of one that is damaged or not ours.

use std::fs::{self, File};
use std::time::Duration;

use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::neigh::{self, NeighSpec};
use netlink::vlan::{self, Mode, Vlans};
use netlink::{Request, link};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::{addresses, ips, names, of, peer};
use crate::node::{Call, find, ipam, pod, socket};

fn member(id: &str, vlan: u16) -> Call {
    pod(
        id,
        &json!({ "isGateway": true, "vlan": vlan,
        "ipam": ipam(&["10.1.2.0/24"]) }),
    )
}

fn ask(request: &Request) {
    socket().request(request).unwrap();
}

fn has(name: &str) -> bool {
    names().iter().any(|known| known == name)
}

/// The last pod's DEL removes it, or GC; others' gateways stay.
pub(crate) fn last_pod() {
    let (a, b) = (member("a", 100), member("b", 100));
    let other = member("o", 200).with(&json!({ "name": "other",
        "ipam": ipam(&["10.1.3.0/24"]) }));
    for pod in [&a, &b, &other] {
        pod.add();
    }
    let before = find("br0.100").mac;
    a.del();
    assert!(has("br0.100") && has("br0.200"));
    b.del();
    assert!(!has("br0.100") && has("br0.200"));
    b.del();
    // pods remember its address
    a.add();
    assert_eq!(find("br0.100").mac, before);
    b.add();
    a.gc(&[&b]);
    assert!(has("br0.100") && has("br0.200"));
    a.gc(&[]);
    assert!(!has("br0.100") && has("br0.200"));
    // a pod without a gateway that is in the VLAN may use it all the same
    a.add();
    let plain = pod("p", &json!({ "vlan": 100 }));
    plain.add();
    a.del();
    assert!(has("br0.100"));
    plain.del();
    a.gc(&[]);
    other.del();
    assert_eq!(names(), ["br0"]);
    // another bridge, as on another node, has another gateway
    ask(&link::delete_by_name("br0"));
    a.add();
    assert_ne!(find("br0.100").mac, before);
}

/// P17: what the node remembers of a pod's Ethernet address goes with the pod,
/// while the gateway stays for others.
pub(crate) fn forgets() {
    let subnets = ipam(&["10.1.2.0/24", "fd00:2::/64"]);
    let [a, b] =
        ["a", "b"].map(|id| member(id, 100).with(&json!({ "ipam": subnets })));
    let result = a.add();
    b.add();
    let index = find("br0.100").index;
    for ip in ips(&result) {
        ask(&neigh::set(&NeighSpec { index, ip, mac: [2, 0, 0, 0, 0, 9] }));
    }
    let known = |ip| match neigh::get(&mut socket(), index, ip) {
        Err(e) if e.is_not_found() => false,
        other => other.unwrap().mac == Some([2, 0, 0, 0, 0, 9]),
    };
    assert!(ips(&result).into_iter().all(known));
    a.del();
    assert_eq!(find("br0.100").index, index);
    assert!(!ips(&result).into_iter().any(known));
}

/// An ADD that fails takes it along, unless another pod has it.
pub(crate) fn failed_add() {
    let forward = "/proc/sys/net/ipv4/ip_forward";
    let a = member("a", 100);
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND;
    mount(Some(forward), forward, none, bind, none).unwrap();
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, forward, none, read_only, none).unwrap();
    let (_, text) = a.error("ADD");
    assert!(text.contains("failed to enable forwarding"), "{text}");
    assert_eq!(names(), ["br0"]);
    nix::mount::umount(forward).unwrap();

    a.add();
    let conflict = json!({ "name": "other", "ipam": ipam(&["10.7.0.0/24"]) });
    let b = member("b", 100).with(&conflict);
    let (_, text) = b.error("ADD");
    let taken = "\"br0.100\" already has an IP address different from \
                 10.7.0.1/24";
    assert!(text.contains(taken), "{text}");
    assert_eq!(names().len(), 4);
    assert_eq!(addresses(&find("br0.100")), ["10.1.2.1/24"]);
    a.del();
    assert_eq!(names(), ["br0"]);
}

/// What a crash or somebody else left of it is put right by the next ADD, and
/// what is not ours stays as it is.
pub(crate) fn repaired() {
    let (a, b) = (member("a", 100), member("b", 100));
    a.add();
    let gateway = find("br0.100");
    let port = peer(&gateway);
    // as after a crash before the VLAN was set
    let default = Vlans::from([(1, Mode { pvid: true, untagged: true })]);
    ask(&vlan::add(port.index, &default));
    ask(&vlan::retain(port.index, &default));
    ask(&link::set(gateway.index).down().build());
    let whole = || {
        let now = find("br0.100");
        assert!(now.up && now.index == gateway.index);
        let port = peer(&now);
        assert!(port.up && port.master == Some(find("br0").index));
        assert_eq!(of(&port), "100 pvid untagged");
        assert_eq!(addresses(&now), ["10.1.2.1/24"]);
    };
    b.add();
    whole();
    b.del();
    // and when the bridge was removed
    ask(&link::delete_by_name("br0"));
    b.add();
    whole();
    b.del();
    a.del();
    a.gc(&[]);
    assert_eq!(names(), ["br0"]);

    // one that somebody else made: used, and left alone
    let end = |name: &str| VethEnd { name: name.into(), ..VethEnd::default() };
    ask(&veth::add(&VethSpec {
        end: end("br0.100"),
        master: None,
        up: false,
        peer: end("cable"),
        peer_namespace: None,
    }));
    let result = a.add();
    assert_eq!(result["interfaces"][3]["name"], "br0.100");
    let port = peer(&find("br0.100"));
    assert_eq!(
        (port.name.as_str(), of(&port).as_str()),
        ("cable", "100 pvid untagged")
    );
    a.after(&result).expect("CHECK");
    a.del();
    a.gc(&[]);
    assert_eq!(names(), ["br0", "br0.100", "cable"]);
    ask(&link::delete_by_name("cable"));
    // a link of the name that is no cable
    let bridge = link::bridge::BridgeSpec {
        name: "br0.100".into(),
        mtu: None,
        mac: None,
        vlan_filtering: false,
        up: true,
    };
    ask(&link::bridge::add(&bridge));
    let result = a.add();
    assert_eq!(addresses(&find("br0.100")), ["10.1.2.1/24"]);
    a.after(&result).expect("CHECK");
    a.del();
    a.gc(&[]);
    assert_eq!(names(), ["br0", "br0.100"]);
}

/// ADD and DEL do not overtake each other between looking and doing: the test
/// holds what they take turns by, and changes what they find.
pub(crate) fn in_turn() {
    let (a, b) = (member("a", 100), member("b", 100));
    a.add();
    // DEL of the last pod has looked and removes it: ADD makes another
    let result = meanwhile(&b, "ADD", || {
        ask(&link::delete_by_name("br0.100"));
    });
    b.after(&result).expect("CHECK");
    assert_eq!(addresses(&find("br0.100")), ["10.1.2.1/24"]);
    a.del();
    // another pod's ADD puts its port into the VLAN: it stays
    let plain = pod("p", &json!({ "vlan": 100 }));
    meanwhile(&b, "DEL", || drop(plain.add()));
    assert!(has("br0.100"));
    plain.del();
    a.del();
    assert_eq!(names(), ["br0"]);
}

/// Calls the plugin while nobody may look after gateways; runs `then` when it
/// waits for that or has ended, and lets it go on.
fn meanwhile(call: &Call, verb: &str, then: impl FnOnce()) -> Value {
    fs::create_dir_all("/run/flannel").unwrap();
    let lock = "/run/flannel/vlan.lock";
    let lock = File::options().create(true).append(true).open(lock).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let called = scope.spawn(|| call.expect(verb));
        let waits = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("-> FLOCK"))
        };
        while !called.is_finished() && !waits() {
            std::thread::sleep(Duration::from_millis(5));
        }
        then();
        lock.unlock().unwrap();
        called.join().unwrap()
    })
}

/// Pods of one VLAN come and go side by side: while one is there, so is its
/// gateway with the address.
pub(crate) fn at_once() {
    let ids: Vec<String> = (0..4).map(|n| format!("p{n}")).collect();
    let pods: Vec<Call> = ids.iter().map(|id| member(id, 100)).collect();
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(move || {
                for _ in 0..8 {
                    let result: Value = pod.add();
                    assert_eq!(addresses(&find("br0.100")), ["10.1.2.1/24"]);
                    pod.after(&result).expect("CHECK");
                    pod.del();
                }
            });
        }
    });
    assert_eq!(names(), ["br0"]);
    let left = fs::read_dir("/var/lib/cni/networks/tn").unwrap();
    let left = left.map(|f| f.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = left.filter(|name| name.contains("10.1.2.")).collect();
    assert_eq!(left, [""; 0]);
}
