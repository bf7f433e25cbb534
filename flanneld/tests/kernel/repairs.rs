//! What others do to the kernel is heard of and mended by passes over the
//! objects concerned alone: monitor and reconciler together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flanneld::facts::{InterfaceOptions, Uplink};
use flanneld::monitor::{self, Disturbance, Interest, Underlay};
use flanneld::recent::Recent;
use flanneld::reconcile::{Former, Reconciler, Setup};
use flanneld::store::{Held, StoreEvent};
use flanneld::worker::Worker;
use ipam::lease::{Lease, LeaseAttrs, SubnetKey};
use ipam::netconf::Backend;
use ipam::{Family, PerFamily};
use netlink::link;
use overlay::{IfName, Key, Mac, vxlan};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep_until, timeout};

use crate::passes::{DAMAGE, DUAL, snapshot};
use crate::support::{Rig, in_namespace, sh};

/// For a notification to come, on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

type Peers = BTreeMap<SubnetKey, LeaseAttrs>;

/// A node with three peers, after its first pass.
struct Node {
    reconciler: Reconciler,
    disturbances: Receiver<Disturbance>,
}

// === impl Node ===

impl Node {
    async fn new() -> Self {
        Self::with(DUAL).await
    }

    async fn with(conf: &str) -> Self {
        let (mut node, lease, peers) =
            Self::idle(conf, Former::default()).await;
        node.held(lease);
        let leases = peers.into();
        let synced = StoreEvent::Synced { leases, revision: 1 };
        node.reconciler.heard(synced, Instant::now());
        node.settle().await;
        node
    }

    /// One that has heard of nothing yet, with its lease and its peers'.
    async fn idle(conf: &str, former: Former) -> (Self, Lease, Peers) {
        let mut rig = Rig::new(conf, 3);
        let under0 = link::by_name(rig.kernel.socket(), "under0");
        let index = under0.expect("under0").index;
        let Rig { kernel, conf, leases, .. } = &rig;
        let Backend::Vxlan(options) = conf.backend.clone() else { panic!() };
        let ip = |text: &str| text.parse().ok();
        let addrs = PerFamily { v4: ip("192.168.77.1"), v6: ip("fd77::1") };
        let uplink = Uplink {
            index,
            name: IfName::new("under0").expect("name"),
            mtu: 1500,
            addrs,
            public: addrs,
        };
        let ways = Arc::new(AtomicBool::new(options.direct_routing));
        let devices = Family::ALL
            .map(|f| vxlan::device_name(f, options.vni).expect("a name"));
        let mut disturbances = monitor::spawn(Interest {
            devices: devices.into(),
            underlay: Underlay::new(index, uplink.name),
            networks: conf.networks.iter().map(|(_, net)| *net).collect(),
            ways: Arc::clone(&ways),
            own_port: kernel.port(),
            overruns: Arc::default(),
        })
        .expect("monitor");
        // It listens from now on.
        let first = timeout(LIMIT, disturbances.recv()).await;
        assert_eq!(first, Ok(Some(Disturbance::Everything)));
        let setup = Setup {
            conf: conf.clone(),
            vxlan: options,
            underlay: Underlay::new(index, uplink.name),
            recent: Recent::default(),
            uplink,
            ways,
            interface: InterfaceOptions::default(),
            macs: PerFamily {
                v4: Some(Mac([2, 0, 0, 0, 4, 1])),
                v6: Some(Mac([2, 0, 0, 0, 6, 1])),
            },
            former,
            blackhole: false,
        };
        let (leases, key) = (leases.clone(), rig.key(1));
        let kernel = Worker::spawn("kernel", rig.kernel).expect("thread");
        let reconciler = Reconciler::new(setup, kernel);
        let attrs = reconciler.attrs().expect("attributes");
        let lease = Lease { key, attrs };
        (Self { reconciler, disturbances }, lease, leases)
    }

    /// The store has given it that lease.
    fn held(&mut self, lease: Lease) {
        let held = Held { lease, lease_id: 1, mod_revision: 1, expires: None };
        self.reconciler.heard(StoreEvent::Held(held), Instant::now());
    }

    /// Hears and works until `done`, which is given what was mended: of some
    /// things the kernel tells only when it comes to them.
    async fn mend(&mut self, done: impl Fn(&[String]) -> bool) -> Vec<String> {
        let limit = Instant::now() + Duration::from_secs(20);
        let mut mended = self.settle().await;
        while !done(&mended) && Instant::now() < limit {
            mended.extend(self.settle().await);
        }
        mended
    }

    /// Hears and works until there is quiet; what was mended, in words.
    async fn settle(&mut self) -> Vec<String> {
        const QUIET: Duration = Duration::from_millis(60);
        let mut mended = Vec::new();
        loop {
            let heard = timeout(QUIET, self.disturbances.recv()).await;
            if let Ok(what) = heard {
                let what = what.expect("the monitor lives");
                assert_ne!(what, Disturbance::Everything, "not worth a pass");
                self.reconciler.disturbed(what, Instant::now());
                continue;
            }
            let Some(due) = self.reconciler.due() else { return mended };
            sleep_until(due.into()).await;
            let passed = self.reconciler.pass().await.expect("a pass");
            assert_eq!(passed.failed, [""; 0]);
            // Nothing was brought into the kernel.
            let echo = passed.changed == 0;
            assert!(!echo || passed.since_event.is_none());
            mended.extend(passed.mended.into_iter().map(|m| m.text));
        }
    }
}

fn on_a_node<F: Future<Output = ()>>(job: impl FnOnce() -> F + Send + 'static) {
    in_namespace(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(job());
    });
}

#[test]
fn whatever_a_foreign_hand_does_is_heard_and_mended() {
    let threads = DAMAGE.chunks(7).map(|some| {
        std::thread::spawn(move || {
            for damage in some {
                on_a_node(async move || is_mended(damage).await);
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn is_mended(damage: &str) {
    let mut node = Node::new().await;
    let before = snapshot();
    sh(damage);
    let mended = node.mend(|mended| !mended.is_empty()).await;
    assert!(!mended.is_empty(), "{damage}: not noticed");
    assert_eq!(snapshot(), before, "{damage}: {mended:#?}");
    assert_eq!(node.settle().await, [""; 0], "{damage}");
}

/// A failure that stays costs no look at everything with each event.
#[test]
fn what_fails_is_tried_again_by_itself() {
    on_a_node(async || {
        let mut node = Node::new().await;
        let before = snapshot();
        sh("ip link del flannel.1");
        sh("ip link add other type vxlan id 1 dstport 8472 gbp \
            local 192.168.77.1 dev under0");
        node.reconciler.mark_everything(Instant::now());
        for looks_at_all in [true, false, false] {
            let passed = node.reconciler.pass().await.expect("a pass");
            assert_eq!(passed.looked.is_none(), looks_at_all);
            let failed = passed.failed.concat();
            assert!(failed.contains("device other has VNI 1"), "{failed}");
        }
        sh("ip link del other");
        node.settle().await;
        assert_eq!(snapshot(), before);
    });
}

/// Without the store nothing is removed, and so nothing is forgotten either.
#[test]
fn what_earlier_configurations_left_waits_for_the_store() {
    on_a_node(async || {
        let left = "flannel.7";
        let former = Former {
            devices: [IfName::new(left).expect("a name")].into(),
            networks: ["10.99.0.0/16".parse().expect("a network")].into(),
        };
        let (mut node, lease, peers) = Node::idle(DUAL, former).await;
        sh("ip link add flannel.7 type vxlan id 7 dstport 8472 dev under0");
        sh("ip route add 10.99.1.0/24 via 192.168.77.9 proto 241");
        node.reconciler.remember(lease.clone(), peers, Instant::now());
        node.settle().await;
        assert!(sh("ip link").contains(left));
        assert!(!node.reconciler.is_clean());
        node.held(lease);
        node.settle().await;
        assert!(!sh("ip link").contains(left), "nobody knows of it any more");
        assert!(!sh("ip route").contains("10.99."));
        assert!(node.reconciler.is_clean());
    });
}

/// With a device or its last address the kernel drops IPv4 routes without a
/// notification, also where the device is not the underlay interface; and
/// nothing in the plan differs once it is back.
#[test]
fn direct_routes_over_any_device_are_put_back() {
    on_a_node(async || {
        sh("ip link add under1 type bridge");
        sh("ip addr add 192.168.0.1/24 dev under1");
        sh("ip link set under1 up");
        let conf = DUAL.replace("}}", r#", "DirectRouting": true}}"#);
        let mut node = Node::with(&conf).await;
        let before = sh("ip route show root 10.64.0.0/16");
        for peer in 2..5 {
            let way =
                format!("10.64.{peer}.0/24 via 192.168.0.{peer} dev under1");
            assert!(before.contains(&way), "{before}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let batch = dir.path().join("batch");
        for lines in [
            "link set under1 down\nlink set under1 up\n",
            "addr del 192.168.0.1/24 dev under1\n\
             addr add 192.168.0.1/24 dev under1\n",
        ] {
            std::fs::write(&batch, lines).expect("write");
            sh(&format!("ip -batch {}", batch.display()));
            let routes = || sh("ip route show root 10.64.0.0/16");
            assert_ne!(routes(), before, "{lines}");
            node.mend(|_| routes() == before).await;
            assert_eq!(routes(), before, "{lines}");
        }
    });
}

/// The kernel tells of a device's entries before it tells that the device is
/// deleted. Nothing fails for that.
#[test]
fn a_device_whose_entries_went_first_is_made_anew_in_the_same_pass() {
    on_a_node(async || {
        let mut node = Node::new().await;
        let before = snapshot();
        sh("ip link del flannel.1");
        let entry = loop {
            let news = timeout(LIMIT, node.disturbances.recv()).await;
            let news = news.expect("news").expect("the monitor lives");
            if let Disturbance::Object(key @ Key::Fdb(_)) = news {
                break key;
            }
        };
        let entry = Disturbance::Alone(entry);
        node.reconciler.disturbed(entry, Instant::now());
        let passed = node.reconciler.pass().await.expect("a pass");
        assert_eq!(passed.failed, [""; 0]);
        assert_eq!(passed.refused.words, [""; 0]);
        let made = passed.mended.iter().find(|m| m.text.contains("link"));
        assert!(made.is_some(), "{:?}", passed.mended);
        node.settle().await;
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn what_is_none_of_ours_leads_to_no_pass() {
    on_a_node(async || {
        let mut node = Node::new().await;
        for line in [
            "ip neigh replace 192.168.77.9 lladdr 02:00:00:00:00:09 dev under0",
            "ip link add other type bridge",
            "ip addr add 10.77.0.1/32 dev other",
            "ip link set other up",
            "ip route add 172.16.0.0/16 dev other",
            "ip link del other",
        ] {
            sh(line);
        }
        let heard =
            timeout(Duration::from_millis(200), node.disturbances.recv());
        assert!(heard.await.is_err(), "somebody else's is news");
    });
}
