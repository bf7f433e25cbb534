//! A node: the store under test, and what it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Once;
use std::time::Duration;

use flanneld::own_lease::{LEASE_TTL, Params};
use flanneld::store::etcd::{Config, Etcd, EtcdConfig, Store};
use flanneld::store::{Held, LossReason, StoreEvent, StoreStatus};
use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::{Family, PerFamily};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::etcd::{PREFIX, Server};

/// No test waits longer for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A configuration of whose subnets no test's node gets one that a test writes
/// for another (`10.5.1.0-24` and the like).
pub(crate) const CONF: &str = r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetMin": "10.5.100.0"}"#;

pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) status: watch::Receiver<StoreStatus>,
    /// The peers as the events tell them.
    pub(crate) peers: BTreeMap<SubnetKey, LeaseAttrs>,
    pub(crate) synced: usize,
    pub(crate) held: Option<Held>,
    pub(crate) lost: Option<LossReason>,
}

pub(crate) fn settings(urls: &[String]) -> EtcdConfig {
    EtcdConfig {
        endpoints: urls.to_vec(),
        prefix: PREFIX.into(),
        ..EtcdConfig::default()
    }
}

pub(crate) fn attrs(public: &str) -> LeaseAttrs {
    let ip: std::net::IpAddr = public.parse().unwrap();
    LeaseAttrs {
        public: PerFamily::one(Family::of(ip), ip),
        ..LeaseAttrs::default()
    }
}

pub(crate) fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

pub(crate) fn params(config: &Config, public: &str) -> Params {
    Params {
        ranges: config.ranges,
        attrs: attrs(public),
        previous: PerFamily::default(),
        recorded: None,
        margin: Duration::from_secs(3600),
        ttl: LEASE_TTL,
    }
}

impl Node {
    /// A node with that public address.
    pub(crate) async fn start(server: &Server, public: &str) -> Self {
        Self::start_with(settings(&[server.url()]), public, |_| {}).await
    }

    pub(crate) async fn start_with(
        settings: EtcdConfig,
        public: &str,
        change: impl FnOnce(&mut Params),
    ) -> Self {
        let (etcd, status) = Etcd::new(settings).unwrap();
        let config = timeout(LIMIT, etcd.config()).await.unwrap_or_else(|_| {
            panic!("no config: {:?}", status.borrow().reason())
        });
        let mut params = params(&config, public);
        change(&mut params);
        let store = etcd.run(params, config.text);
        Self {
            store,
            status,
            peers: BTreeMap::new(),
            synced: 0,
            held: None,
            lost: None,
        }
    }

    /// A node that holds its lease.
    pub(crate) async fn join(server: &Server, public: &str) -> Self {
        let mut node = Self::start(server, public).await;
        node.until("a lease", |n| n.held.is_some()).await;
        node
    }

    /// Publishes another address and waits until it is in etcd.
    pub(crate) async fn publish(&mut self, public: &str) {
        let next = attrs(public);
        self.store.publisher.publish(next.clone());
        self.until("the change", |n| {
            n.held.as_ref().is_some_and(|h| h.lease.attrs == next)
        })
        .await;
    }

    pub(crate) fn held_key(&self) -> String {
        self.held.as_ref().unwrap().lease.key.to_string()
    }

    /// Takes in events until `condition` holds.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) {
        let waited = timeout(LIMIT, async {
            while !condition(self) {
                let event = self.store.events.recv().await;
                self.take(event.expect("the store's task has ended"));
            }
        })
        .await;
        assert!(
            waited.is_ok(),
            "no {what}; held {:?}, peers {:?}, status {:?}",
            self.held,
            self.peers,
            self.status.borrow().reason()
        );
    }

    /// Takes in what comes within `time`; how many events.
    pub(crate) async fn during(&mut self, time: Duration) -> usize {
        let mut count = 0;
        let end = tokio::time::Instant::now() + time;
        while let Ok(event) =
            tokio::time::timeout_at(end, self.store.events.recv()).await
        {
            self.take(event.expect("the store's task has ended"));
            count += 1;
        }
        count
    }

    fn take(&mut self, event: StoreEvent) {
        let own = self.held.as_ref().map(|h| h.lease.key);
        match event {
            StoreEvent::Synced { leases, revision } => {
                assert!(revision > 0);
                self.peers = BTreeMap::clone(&leases);
                self.synced += 1;
            }
            StoreEvent::Upsert(lease) => {
                assert_ne!(Some(lease.key), own, "the own lease as a peer");
                let old = self.peers.insert(lease.key, lease.attrs.clone());
                assert_ne!(old, Some(lease.attrs), "{} twice", lease.key);
            }
            StoreEvent::Remove(key) => {
                assert!(self.peers.remove(&key).is_some(), "unknown {key}");
            }
            StoreEvent::Held(held) => self.held = Some(held),
            StoreEvent::Lost { why, .. } => {
                self.held = None;
                self.lost = Some(why);
            }
        }
    }

    /// Waits until the status says something with `words`.
    pub(crate) async fn complains(&mut self, words: &str) -> String {
        complains(&mut self.status, words).await
    }
}

/// Waits until the status says something with `words`.
pub(crate) async fn complains(
    status: &mut watch::Receiver<StoreStatus>,
    words: &str,
) -> String {
    let seen = status
        .wait_for(|s| s.reason().is_some_and(|reason| reason.contains(words)));
    let found = timeout(LIMIT, seen).await.map(|s| s.unwrap().reason());
    match found {
        Ok(reason) => reason.unwrap(),
        Err(_) => panic!("no {words:?}: {:?}", status.borrow().reason()),
    }
}

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is logged on this thread, from WARN on.
pub(crate) struct Log(());

impl Log {
    /// From now on.
    pub(crate) fn catch() -> Self {
        // One subscriber for all threads. Were there one for each test, a
        // message given first on a thread without any would be taken for one
        // that nobody wants, and be lost on all threads.
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::WARN)
                .with_writer(|| Writer)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        LOGGED.with_borrow_mut(Vec::clear);
        Self(())
    }

    pub(crate) fn lines(&self, words: &str) -> usize {
        self.text().lines().filter(|line| line.contains(words)).count()
    }

    #[expect(clippy::unused_self, reason = "there is none before `catch`")]
    pub(crate) fn text(&self) -> String {
        LOGGED.with_borrow(|text| String::from_utf8_lossy(text).into_owned())
    }
}

struct Writer;

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|text| text.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
