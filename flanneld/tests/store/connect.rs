//! Several endpoints, of which some do not work.

use std::time::{Duration, Instant};

use flanneld::store::etcd::{Etcd, EtcdConfig};

use crate::etcd::{Server, free_ports};
use crate::node::*;
use crate::proxy::Proxy;
use crate::stranger::Stranger;

async fn server() -> Server {
    let server = Server::start().await;
    server.configure(CONF).await;
    server
}

/// Nothing listens there.
fn refusing() -> String {
    format!("http://127.0.0.1:{}", free_ports().0)
}

/// Accepts and never answers: a frozen member.
fn silent() -> (String, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

/// A dead endpoint first, and second: neither start nor work is disturbed.
#[tokio::test]
async fn one_endpoint_is_dead() {
    let server = server().await;
    let (silent, _listener) = silent();
    for dead in [refusing(), silent] {
        for urls in [[dead.clone(), server.url()], [server.url(), dead.clone()]]
        {
            let start = Instant::now();
            let mut node =
                Node::start_with(settings(&urls), "1.1.1.1", |_| {}).await;
            node.until("a lease", |n| n.held.is_some()).await;
            assert!(start.elapsed() < Duration::from_secs(10), "{urls:?}");
            // every request in a row works, not every second one
            for i in 0..6 {
                node.publish(&format!("1.1.1.{i}")).await;
            }
            assert_eq!(node.status.borrow().reason(), None);
            server.delete(&node.held_key()).await;
        }
    }
}

/// The member in use goes away: the next one is taken, without a gap.
#[tokio::test]
async fn member_in_use_goes_away() {
    let server = server().await;
    let (a, b) =
        (Proxy::start(server.port).await, Proxy::start(server.port).await);
    let urls = [a.url(), b.url()];
    let mut node = Node::start_with(settings(&urls), "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    for i in 1..=4 {
        let (up, down) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        up.cut(false);
        down.cut(true);
        let value = attrs(&format!("2.2.2.{i}")).encode();
        server.put(&format!("10.5.{i}.0-24"), &value, Some(600)).await;
        node.until("the peer", |n| n.peers.len() == i).await;
    }
    assert_eq!(node.synced, 1);
    assert!(node.lost.is_none());
}

/// A member that freezes under an open watch is noticed by pings, and left.
#[tokio::test]
async fn frozen_member_is_left() {
    let server = server().await;
    let mut node = Node::join(&server, "1.1.1.1").await;
    server.freeze(true);
    let start = Instant::now();
    node.complains("etcd").await;
    assert!(start.elapsed() < Duration::from_secs(25));
    server.freeze(false);
    server.put("10.5.1.0-24", &attrs("2.2.2.2").encode(), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
    assert!(node.lost.is_none());
}

/// By name: resolved, all addresses tried (`localhost` is `::1` as well,
/// where nothing listens).
#[tokio::test]
async fn endpoint_by_name() {
    let server = server().await;
    let url = format!("http://localhost:{}", server.port);
    let mut node = Node::start_with(settings(&[url]), "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
}

/// An endpoint that answers and is no etcd: said if it is the only one, and
/// passed over if there is another.
#[tokio::test]
async fn endpoint_of_something_else() {
    let stranger = Stranger::start().await;
    let urls = [stranger.url.clone()];
    let (etcd, mut status) = Etcd::new(settings(&urls)).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });
    complains(&mut status, "check --etcd-endpoints").await;
    reading.abort();

    let server = server().await;
    for i in 1..=4 {
        let urls = [stranger.url.clone(), server.url()];
        let public = format!("1.1.1.{i}");
        let mut node = Node::start_with(settings(&urls), &public, |_| {}).await;
        node.until("a lease", |n| n.held.is_some()).await;
    }
}

/// Each endpoint is named with its own reason, once.
#[tokio::test]
async fn no_endpoint_answers() {
    let log = Log::catch();
    let urls = [refusing(), "http://no-such-host.invalid:2379".to_owned()];
    let (etcd, mut status) = Etcd::new(settings(&urls)).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });
    let reason = complains(&mut status, "no etcd endpoint answers").await;
    for url in &urls {
        assert!(reason.contains(url), "{reason}");
    }
    assert!(reason.contains("refused"), "{reason}");
    assert!(reason.contains("cannot be resolved"), "{reason}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(log.lines("no etcd endpoint"), 1, "{}", log.text());
    reading.abort();
}

/// E-53: an etcd that is not there yet is waited for.
#[tokio::test]
async fn etcd_comes_late() {
    let mut server = server().await;
    server.stop();
    let (etcd, mut status) = Etcd::new(settings(&[server.url()])).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });
    complains(&mut status, "refused").await;
    server.restart().await;
    let config = tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
    assert_eq!(config.text.reveal(), CONF);
}

#[tokio::test]
async fn bad_settings_are_refused() {
    let error = |endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|e| (*e).into()).collect();
        let config = EtcdConfig { endpoints, ..EtcdConfig::default() };
        Etcd::new(config).err().unwrap().to_string()
    };
    assert!(error(&[]).contains("--etcd-endpoints"), "E-55");
    assert!(error(&["unix:///run/etcd.sock"]).contains("not supported"));
    assert!(error(&["http://a:1", "nonsense://"]).contains("nonsense://"));
}
