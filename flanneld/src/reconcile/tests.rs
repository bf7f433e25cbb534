use ipam::netconf::Backend;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::store::{Held, LossReason};

fn reconciler() -> Reconciler {
    let text = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    let (conf, _) = NetConf::parse(text).unwrap();
    let Backend::Vxlan(vxlan) = conf.backend else { panic!() };
    let uplink = Uplink {
        index: 2,
        name: IfName::new("eth0").unwrap(),
        mtu: 1500,
        addrs: PerFamily::default(),
        public: PerFamily::default(),
    };
    let setup = Setup {
        conf,
        vxlan,
        ways: Arc::default(),
        underlay: Underlay::new(uplink.index, uplink.name),
        recent: Recent::default(),
        interface: InterfaceOptions::default(),
        macs: PerFamily::default(),
        former: Former::default(),
        blackhole: false,
        uplink,
    };
    let kernel = Worker::spawn("test", Kernel::open().unwrap()).unwrap();
    Reconciler::new(setup, kernel)
}

fn lease(key: &str, public: &str) -> Lease {
    let value = format!(r#"{{"PublicIP":"{public}"}}"#);
    Lease::decode(key, value.as_bytes()).unwrap()
}

fn held(key: &str) -> StoreEvent {
    StoreEvent::Held(Held {
        lease: lease(key, "192.168.1.1"),
        lease_id: 1,
        mod_revision: 1,
        expires: None,
    })
}

fn synced(leases: &[Lease]) -> StoreEvent {
    let leases = leases.iter().map(|l| (l.key, l.attrs.clone())).collect();
    StoreEvent::Synced { leases: Arc::new(leases), revision: 1 }
}

/// Whether `event` makes a pass due that was not due before.
fn news(reconciler: &mut Reconciler, event: StoreEvent) -> bool {
    let now = Instant::now();
    reconciler.pace = Pace::default();
    reconciler.heard(event, now);
    reconciler.due().is_some()
}

/// The node that took this node's lease is a peer like any other as soon as
/// there is another lease; the store tells of it only once.
#[test]
fn whoever_took_the_lease_is_a_peer() {
    let mut node = reconciler();
    let now = Instant::now();
    node.heard(synced(&[]), now);
    node.heard(held("10.5.1.0-24"), now);
    let thief = lease("10.5.1.0-24", "192.168.1.9");
    let by = Box::new(thief.attrs.clone());
    let why = LossReason::Taken { by };
    node.heard(StoreEvent::Lost { key: thief.key, why }, now);
    node.heard(StoreEvent::Upsert(thief.clone()), now);
    node.heard(held("10.5.2.0-24"), now);
    assert_eq!(node.peers.get(&thief.key), Some(&thief.attrs));
}

/// W-3, E-62: any difference is news, and nothing else is.
#[test]
fn only_differences_are_news() {
    let mut node = reconciler();
    let peer = lease("10.5.9.0-24", "192.168.1.9");
    assert!(!news(&mut node, held("10.5.1.0-24")), "nothing was synced");
    assert!(news(&mut node, synced(&[])), "the first list, though empty");
    assert!(!news(&mut node, held("10.5.1.0-24")));
    assert!(news(&mut node, StoreEvent::Upsert(peer.clone())));
    assert!(!news(&mut node, StoreEvent::Upsert(peer.clone())));
    assert!(!news(&mut node, synced(std::slice::from_ref(&peer))));
    let moved = lease("10.5.9.0-24", "192.168.1.8");
    assert!(news(&mut node, synced(std::slice::from_ref(&moved))));
    assert!(news(&mut node, StoreEvent::Upsert(peer.clone())));
    assert!(news(&mut node, StoreEvent::Remove(peer.key)));
    assert!(!news(&mut node, StoreEvent::Remove(peer.key)));
    assert!(news(&mut node, held("10.5.2.0-24")));
    assert!(!news(
        &mut node,
        StoreEvent::Lost { key: peer.key, why: LossReason::Deleted }
    ));
}

/// The lease and the list of the others come right after each other.
#[test]
fn the_first_pass_is_due_at_once() {
    for first in [held("10.5.1.0-24"), synced(&[])] {
        let mut node = reconciler();
        let now = Instant::now();
        node.disturbed(Disturbance::Everything, now);
        node.heard(first, now);
        assert_eq!(node.due(), None, "one of the two is missing");
        let later = now + Duration::from_millis(3);
        node.heard(synced(&[]), later);
        node.heard(held("10.5.1.0-24"), later);
        assert_eq!(node.due(), Some(later));
    }
}

/// What is waited for 30 s is not looked for after a minute.
#[test]
fn the_end_of_patience_is_not_slept_through() {
    let mut node = reconciler();
    let now = Instant::now();
    node.missed = Some(now);
    node.retry = Some(Duration::from_secs(16));
    node.try_again(now + Duration::from_secs(15));
    assert_eq!(node.due(), Some(now + PATIENCE));
    node.pace = Pace::default();
    let over = now + PATIENCE;
    node.try_again(over);
    assert_eq!(node.due(), Some(over + RETRY_LONGEST));
}

/// Another program may hold the kernel's network lock for minutes.
#[tokio::test]
async fn what_is_heard_while_the_kernel_does_not_answer_is_for_the_next_pass() {
    let mut node = reconciler();
    // Nothing of the machine's own is looked at.
    let alone = || unshare(CloneFlags::CLONE_NEWNET);
    node.kernel = std::thread::spawn(move || {
        alone().unwrap();
        Worker::spawn("test", Kernel::open().unwrap()).unwrap()
    })
    .join()
    .unwrap();
    let (go, held_up) = std::sync::mpsc::channel::<()>();
    node.kernel.post(move |_| {
        alone().unwrap();
        let _ = held_up.recv();
    });
    let now = Instant::now();
    node.heard(synced(&[]), now);
    node.heard(held("10.5.1.0-24"), now);
    let soon = Duration::from_millis(20);
    for _ in 0..2 {
        assert!(tokio::time::timeout(soon, node.pass()).await.is_err());
    }
    assert!(node.stuck_at().unwrap() >= now + STUCK);
    assert_eq!(node.due(), None);
    let peer = lease("10.5.9.0-24", "192.168.1.9");
    node.heard(StoreEvent::Upsert(peer), Instant::now());
    assert_eq!(node.peer_count(), 1);
    assert!(node.due().is_some());

    drop(go);
    let error = node.pass().await.unwrap_err();
    assert!(format!("{error:#}").contains("the interface eth0"), "{error:#}");
    assert_eq!(node.stuck_at(), None);
    assert!(node.due().is_some() && node.dirty.everything);
}
