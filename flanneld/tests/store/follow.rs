//! Following the other nodes' leases.

use std::time::Duration;

use crate::etcd::Server;
use crate::node::*;
use crate::proxy::Proxy;

fn value(public: &str) -> String {
    attrs(public).encode()
}

async fn server() -> Server {
    let server = Server::start().await;
    server.configure(CONF).await;
    server
}

/// Q-57: a new lease comes once, the own never (asserted by [`Node`]).
#[tokio::test]
async fn added_lease_comes_once() {
    let server = server().await;
    let mut node = Node::join(&server, "1.1.1.1").await;
    node.during(Duration::from_millis(200)).await;
    server.put("10.5.1.0-24", &value("2.2.2.2"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    assert_eq!(node.during(Duration::from_millis(300)).await, 0);
    assert_eq!(node.peers[&key("10.5.1.0-24")], attrs("2.2.2.2"));
    // W-3: changed attributes come too
    server.put("10.5.1.0-24", &value("2.2.2.3"), Some(600)).await;
    node.until("the change", |n| {
        n.peers.get(&key("10.5.1.0-24")) == Some(&attrs("2.2.2.3"))
    })
    .await;
    assert_eq!(node.synced, 1);
}

/// Q-58: a lease of 3 s comes and goes.
#[tokio::test]
async fn expired_lease_goes() {
    let server = server().await;
    let mut node = Node::join(&server, "1.1.1.1").await;
    server.put("10.5.1.0-24", &value("2.2.2.2"), Some(3)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    node.until("its end", |n| n.peers.is_empty()).await;
}

/// W-1: a bad key and a bad value are said once, and hurt nobody.
#[tokio::test]
async fn bad_entries_hide_only_themselves() {
    let log = Log::catch();
    let server = server().await;
    server.put("10.5.1.0-24", &value("2.2.2.2"), Some(600)).await;
    server.put("nonsense", "x", None).await;
    let proxy = Proxy::start(server.port).await;
    let mut node =
        Node::start_with(settings(&[proxy.url()]), "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(node.peers.len(), 1);
    server.put("nonsense", "y", None).await;
    server.put("10.5.2.0-24", "{broken", None).await;
    server.put("10.5.3.0-24", &value("2.2.2.3"), Some(600)).await;
    node.until("the good one", |n| n.peers.len() == 2).await;
    // a known one becomes bad: what was known stays
    server.put("10.5.1.0-24", "{}}", None).await;
    server.put("10.5.4.0-24", &value("2.2.2.4"), Some(600)).await;
    node.until("the good one", |n| n.peers.len() == 3).await;
    assert_eq!(node.peers[&key("10.5.1.0-24")], attrs("2.2.2.2"));
    // listed again: not said again
    proxy.cut(true);
    node.complains("etcd").await;
    server.compact().await;
    proxy.cut(false);
    node.until("a list", |n| n.synced == 2).await;
    assert_eq!(node.peers.len(), 3);
    assert_eq!(log.lines("nonsense"), 1, "{}", log.text());
    assert_eq!(log.lines("10.5.2.0-24"), 1, "{}", log.text());
    assert_eq!(log.lines("10.5.1.0-24"), 1, "{}", log.text());
    // E-4: a sibling folder is not ours
    let mut client = server.client().await;
    let sibling = format!("{}/subnetsfoo/10.5.9.0-24", crate::etcd::PREFIX);
    client.put(sibling, value("2.2.2.9"), None).await.unwrap();
    assert_eq!(node.during(Duration::from_millis(300)).await, 0);
}

/// Events while the connection is away are not lost, and no list is needed.
#[tokio::test]
async fn cut_connection_resumes_without_a_gap() {
    let server = server().await;
    let proxy = Proxy::start(server.port).await;
    let mut node =
        Node::start_with(settings(&[proxy.url()]), "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    server.put("10.5.1.0-24", &value("2.2.2.1"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    proxy.cut(true);
    node.complains("etcd").await;
    server.delete("10.5.1.0-24").await;
    server.put("10.5.2.0-24", &value("2.2.2.2"), Some(600)).await;
    assert_eq!(node.peers.len(), 1, "an outage empties nothing");
    proxy.cut(false);
    node.until("the change", |n| {
        n.peers.len() == 1 && n.peers.contains_key(&key("10.5.2.0-24"))
    })
    .await;
    assert_eq!(node.synced, 1, "resumed, not listed");
}

/// Q-50, Q-52: compaction while away, with a lease gone, others renewed, come
/// and begun anew in the part of the history that is lost: the store is the
/// same.
#[tokio::test]
async fn compaction_while_away() {
    let log = Log::catch();
    let server = server().await;
    let proxy = Proxy::start(server.port).await;
    let mut node =
        Node::start_with(settings(&[proxy.url()]), "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    for i in 1..=4 {
        let (name, public) = (format!("10.5.{i}.0-24"), format!("2.2.2.{i}"));
        server.put(&name, &value(&public), Some(600)).await;
    }
    node.until("the peers", |n| n.peers.len() == 4).await;
    proxy.cut(true);
    node.complains("etcd").await;
    server.delete("10.5.1.0-24").await;
    server.put("10.5.2.0-24", &value("2.2.2.2"), Some(600)).await;
    server.delete("10.5.3.0-24").await;
    server.put("10.5.3.0-24", &value("2.2.2.3"), Some(600)).await;
    server.put("10.5.5.0-24", &value("2.2.2.5"), Some(600)).await;
    server.compact().await;
    proxy.cut(false);
    node.until("a new list", |n| n.synced == 2).await;
    let names: Vec<String> = node.peers.keys().map(|k| k.to_string()).collect();
    let there = [2, 3, 4, 5].map(|i| format!("10.5.{i}.0-24"));
    assert_eq!(names, there);
    // and live events
    server.put("10.5.6.0-24", &value("2.2.2.6"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 5).await;
    assert!(node.lost.is_none());
    assert_eq!(log.lines("another store"), 0, "{}", log.text());
}

/// Q-51, Q-53: compaction while connected disturbs nothing; after a restart
/// on top of it there is a list, and live events.
#[tokio::test]
async fn compaction_while_connected_then_restart() {
    let mut server = server().await;
    let mut node = Node::join(&server, "1.1.1.1").await;
    server.put("10.5.1.0-24", &value("2.2.2.1"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    server.compact().await;
    server.put("10.5.2.0-24", &value("2.2.2.2"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 2).await;
    assert_eq!(node.synced, 1);
    server.compact().await;
    server.restart().await;
    server.put("10.5.3.0-24", &value("2.2.2.3"), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 3).await;
    assert!(node.lost.is_none());
}

/// W-50: a thousand leases in one read; a message larger than the library's
/// own limit of 4 MiB is taken.
#[tokio::test]
async fn many_leases() {
    let server = server().await;
    let mut client = server.client().await;
    let data = format!(r#""BackendData":"{}""#, "x".repeat(6000));
    for chunk in 0..10 {
        let puts: Vec<_> = (0..100)
            .map(|i| {
                let n: u32 = chunk * 100 + i;
                etcd_client::TxnOp::put(
                    format!(
                        "{}/subnets/10.{}.{}.0-24",
                        crate::etcd::PREFIX,
                        100 + n / 250,
                        n % 250
                    ),
                    format!(
                        r#"{{"PublicIP":"3.3.{}.{}","PublicIPv6":null,{data}}}"#,
                        n / 250,
                        n % 250
                    ),
                    None,
                )
            })
            .collect();
        let txn = etcd_client::Txn::new().and_then(puts);
        client.txn(txn).await.unwrap();
    }
    let mut node = Node::join(&server, "1.1.1.1").await;
    node.until("all", |n| n.peers.len() == 1000).await;
}
