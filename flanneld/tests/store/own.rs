//! Keeping the own lease.

use std::time::Duration;

use flanneld::store::LossReason;

use crate::acquire::ttl;
use crate::etcd::Server;
use crate::node::*;

async fn server() -> Server {
    let server = Server::start().await;
    server.configure(CONF).await;
    server
}

/// Q-60, E-30: renewed by a put (upstream's peers need one, W-1) with the TTL
/// full again, the attributes unchanged, the old etcd lease revoked.
#[tokio::test]
async fn renewal() {
    let server = server().await;
    let settings = settings(&[server.url()]);
    let mut node = Node::start_with(settings, "1.2.3.4", |params| {
        params.margin = params.ttl - Duration::from_secs(2);
    })
    .await;
    node.until("a lease", |n| n.held.is_some()).await;
    let first = node.held.clone().unwrap();
    node.until("a renewal", |n| {
        n.held.as_ref().is_some_and(|h| h.mod_revision > first.mod_revision)
    })
    .await;
    let second = node.held.clone().unwrap();
    assert_eq!(second.lease, first.lease);
    assert_ne!(second.lease_id, first.lease_id);
    assert!(second.expires > first.expires);
    let stored = server.get(&node.held_key()).await.unwrap();
    assert_eq!(stored.0, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
    assert_eq!(stored.1, second.lease_id);
    let left = ttl(&server, second.lease_id).await;
    assert!((86_390..=86_400).contains(&left), "{left}");
    for _ in 0..100 {
        if ttl(&server, first.lease_id).await == -1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the old etcd lease is not revoked");
}

/// Q-59, and W-14: deleted, it is acquired again, the same subnet.
#[tokio::test]
async fn deleted_lease_is_acquired_again() {
    let server = server().await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    let before = node.held_key();
    server.delete(&before).await;
    node.until("the loss", |n| n.lost.is_some()).await;
    assert_eq!(node.lost, Some(LossReason::Deleted));
    node.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(node.held_key(), before);
    assert!(node.peers.is_empty());
}

/// Fencing: taken by another node, it is theirs; ours is another one.
#[tokio::test]
async fn taken_lease_is_given_up() {
    let server = server().await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    let before = node.held_key();
    let value = r#"{"PublicIP":"9.9.9.9","PublicIPv6":null}"#;
    server.put(&before, value, Some(600)).await;
    node.until("the loss", |n| n.lost.is_some()).await;
    let taken = LossReason::Taken { by: Box::new(attrs("9.9.9.9")) };
    assert_eq!(node.lost, Some(taken));
    node.until("another lease", |n| n.held.is_some()).await;
    assert_ne!(node.held_key(), before);
    node.until("the peer", |n| n.peers.contains_key(&key(&before))).await;
    let (stored, ..) = server.get(&before).await.unwrap();
    assert_eq!(stored, value, "never overwritten");
}

/// Two daemons with one public address: neither takes the other for a
/// stranger, and a person is told.
#[tokio::test]
async fn another_daemon_with_our_address_is_named() {
    let log = Log::catch();
    let server = server().await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    let key = node.held_key();
    let (value, ..) = server.get(&key).await.unwrap();
    for _ in 0..2 {
        let id = server.put(&key, &value, Some(600)).await;
        node.until("the write", |n| {
            n.held.as_ref().is_some_and(|h| h.lease_id == id)
        })
        .await;
    }
    assert_eq!(log.lines("only one daemon may run"), 1, "{}", log.text());
    assert!(node.lost.is_none());
}

/// New attributes (another public address) replace the old ones.
#[tokio::test]
async fn published_attributes_change() {
    let server = server().await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    let before = node.held_key();
    node.publish("4.3.2.1").await;
    assert_eq!(node.held_key(), before);
    let (value, ..) = server.get(&before).await.unwrap();
    assert_eq!(value, r#"{"PublicIP":"4.3.2.1","PublicIPv6":null}"#);
    assert!(node.lost.is_none());

    // and the lease is recognised by its recorded id after a restart with
    // yet another address
    let held = node.held.clone().unwrap();
    drop(node);
    let settings = settings(&[server.url()]);
    let mut node = Node::start_with(settings, "7.7.7.7", |params| {
        params.recorded = Some((held.lease.key, held.lease_id));
    })
    .await;
    node.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(node.held_key(), before);
    assert_eq!(server.keys().await, [before]);
}

/// The lease is lost while etcd is away (restarted, with the lease expired
/// and another node in its place meanwhile): noticed after the return.
#[tokio::test]
async fn etcd_restart_keeps_the_lease() {
    let mut server = server().await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    let before = node.held.clone();
    server.stop();
    node.complains("no etcd endpoint answers").await;
    server.restart().await;
    let waited = tokio::time::timeout(
        LIMIT,
        node.status.wait_for(|s| s.reason().is_none()),
    );
    assert!(waited.await.is_ok());
    node.during(Duration::from_millis(200)).await;
    assert_eq!(node.held, before, "nothing was written");
    assert!(node.lost.is_none());
}

/// An etcd that comes back empty: the lease is put there again, the same
/// subnet, and no peer is dropped.
#[tokio::test]
async fn emptied_etcd_is_filled_again() {
    let mut server = server().await;
    let value = r#"{"PublicIP":"9.9.9.9","PublicIPv6":null}"#;
    server.put("10.5.200.0-24", value, Some(600)).await;
    let mut node = Node::join(&server, "1.2.3.4").await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    let before = node.held_key();
    server.restart_empty().await;
    let revision = node.held.as_ref().unwrap().mod_revision;
    node.until("the lease put again", |n| {
        n.held.as_ref().is_some_and(|h| h.mod_revision < revision)
    })
    .await;
    assert_eq!(node.held_key(), before);
    assert!(node.lost.is_none());
    assert_eq!(node.peers.len(), 1);
    assert_eq!(server.keys().await, [before]);
}
