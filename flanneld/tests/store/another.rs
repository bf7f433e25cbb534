//! A store that is another one than before, or an older state of it, when the
//! node comes back to it, and has more revisions than before: nothing in them
//! tells. What is missing was deleted by nobody.

use crate::etcd::Server;
use crate::node::*;
use crate::proxy::Proxy;

const WARNING: &str = "etcd is another store than before";

fn peer(i: usize) -> (String, String) {
    (format!("10.5.{i}.0-24"), attrs(&format!("2.2.2.{i}")).encode())
}

/// A node with its lease and as many peers, cut off from a server that is
/// begun anew with nothing but the configuration.
struct Cut {
    server: Server,
    proxy: Proxy,
    node: Node,
    own: String,
    log: Log,
}

impl Cut {
    async fn with_peers(count: usize) -> Self {
        let log = Log::catch();
        let mut server = Server::start().await;
        server.configure(CONF).await;
        let proxy = Proxy::start(server.port).await;
        let mut node =
            Node::start_with(settings(&[proxy.url()]), "1.1.1.1", |_| {}).await;
        node.until("a lease", |n| n.held.is_some()).await;
        for (name, value) in (1..=count).map(peer) {
            server.put(&name, &value, Some(600)).await;
        }
        node.until("the peers", |n| n.peers.len() == count).await;
        proxy.cut(true);
        node.complains("etcd").await;
        let own = node.held_key();
        server.restart_empty().await;
        server.configure(CONF).await;
        Self { server, proxy, node, own, log }
    }

    /// Lets the store overtake what the node has seen, and the node at it.
    async fn overtake(&mut self, compact: bool) {
        let mut client = self.server.client().await;
        let held = self.node.held.take().unwrap();
        for _ in 0..held.mod_revision + 20 {
            client.put("/other", "x", None).await.unwrap();
        }
        if compact {
            self.server.compact().await;
        }
        self.proxy.cut(false);
    }

    /// The own lease is written there again, `peers` are known, and it is said
    /// once.
    async fn kept(&mut self, peers: usize) {
        self.node.until("the own lease again", |n| n.held.is_some()).await;
        assert_eq!(self.node.held_key(), self.own);
        assert!(self.server.keys().await.contains(&self.own));
        assert_eq!((self.node.peers.len(), self.node.synced), (peers, 2));
        assert!(self.node.lost.is_none());
        assert_eq!(self.log.lines(WARNING), 1, "{}", self.log.text());
        // once more cut off: now it is the store that is known
        self.proxy.cut(true);
        self.node.complains("etcd").await;
        let (name, value) = peer(9);
        self.server.put(&name, &value, Some(600)).await;
        self.proxy.cut(false);
        self.node.until("a peer", |n| n.peers.len() == peers + 1).await;
        assert_eq!(self.node.synced, 2, "resumed, not listed");
        assert_eq!(self.log.lines(WARNING), 1, "{}", self.log.text());
        let (_, _, revision) = self.server.get(&self.own).await.unwrap();
        assert_eq!(self.node.held.as_ref().unwrap().mod_revision, revision);
    }
}

/// Whichever of the peers has written itself there already, if one has.
#[tokio::test]
async fn a_store_begun_anew_that_overtook() {
    for there in 0..=3 {
        let mut cut = Cut::with_peers(3).await;
        if there > 0 {
            let (name, value) = peer(there);
            cut.server.put(&name, &value, Some(600)).await;
        }
        cut.overtake(false).await;
        cut.kept(3).await;
    }
}

/// A peer that was not known: it is heard of at once.
#[tokio::test]
async fn a_store_begun_anew_with_a_new_peer() {
    let mut cut = Cut::with_peers(2).await;
    let (name, value) = peer(4);
    cut.server.put(&name, &value, Some(600)).await;
    cut.overtake(false).await;
    cut.kept(3).await;
}

/// The history that would tell is compacted there: the list tells.
#[tokio::test]
async fn a_store_begun_anew_and_compacted() {
    for there in [None, Some(1), Some(2), Some(4)] {
        let mut cut = Cut::with_peers(2).await;
        if let Some(there) = there {
            let (name, value) = peer(there);
            cut.server.put(&name, &value, Some(600)).await;
        }
        cut.overtake(true).await;
        cut.kept(if there == Some(4) { 3 } else { 2 }).await;
    }
}

/// Another node's lease is there under the own key, at the own revision.
#[tokio::test]
async fn a_store_begun_anew_with_another_under_the_own_key() {
    let mut cut = Cut::with_peers(0).await;
    let revision = cut.node.held.as_ref().unwrap().mod_revision;
    let other = attrs("2.2.2.2").encode();
    cut.server.put(&cut.own, &other, Some(600)).await;
    assert_eq!(cut.server.get(&cut.own).await.unwrap().2, revision);
    cut.overtake(false).await;
    cut.node.until("another lease", |n| n.held.is_some()).await;
    assert_ne!(cut.node.held_key(), cut.own);
    assert_eq!(cut.node.peers[&key(&cut.own)], attrs("2.2.2.2"));
    assert!(cut.node.lost.is_some());
    assert_eq!(cut.server.get(&cut.own).await.unwrap().0, other);
    assert_eq!(cut.log.lines(WARNING), 1, "{}", cut.log.text());
}
