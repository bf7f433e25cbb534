//! Reading the network configuration.

use std::time::Duration;

use flanneld::store::etcd::{Config, Etcd};
use tokio::time::timeout;

use crate::etcd::{PREFIX, Server};
use crate::node::*;
use crate::proxy::Proxy;

const CONF: &str = r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetMin": "10.5.3.0"}"#;

/// Q-49: a missing config is reported with what to do, and waited for; one
/// that cannot be used likewise, with the field at fault.
#[tokio::test]
async fn missing_then_bad_then_good() {
    let server = Server::start().await;
    let log = Log::catch();
    let (etcd, mut status) = Etcd::new(settings(&[server.url()])).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });

    let reason = complains(&mut status, "does not exist").await;
    assert!(reason.contains(&format!("{PREFIX}/config")), "{reason}");
    assert!(reason.contains(&server.url()), "{reason}");
    assert!(reason.contains("etcdctl put"), "{reason}");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(log.lines("does not exist"), 1, "once, not each second");

    server
        .configure(
            r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/99"}"#,
        )
        .await;
    complains(&mut status, "10.5.0.0/99").await;
    server.configure(r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetLen": 5}"#).await;
    complains(&mut status, "SubnetLen").await;

    server.configure(CONF).await;
    let config = timeout(LIMIT, reading).await.unwrap().unwrap();
    assert_eq!(config.text.reveal(), CONF);
    let range = config.ranges.v4.unwrap();
    assert_eq!(range.min.to_string(), "10.5.3.0/24");
    assert_eq!(status.borrow().reason(), None);
}

/// A key that nobody reads is named when the configuration is read first, and
/// again with another configuration, but not whenever it is looked at.
#[tokio::test]
async fn ignored_keys_are_named_once() {
    let log = Log::catch();
    let server = Server::start().await;
    server.configure(r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetLenn": 25}"#).await;
    let proxy = Proxy::start(server.port).await;
    let settings = settings(&[proxy.url()]);
    let mut node = Node::start_with(settings, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    proxy.cut(true);
    node.complains("etcd").await;
    proxy.cut(false);
    let fine = node.status.wait_for(|s| s.reason().is_none());
    assert!(timeout(LIMIT, fine).await.is_ok());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(log.lines("SubnetLenn"), 1, "{}", log.text());
    server.configure(r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetLenn": 26}"#).await;
    let news = node.store.config.wait_for(Option::is_some);
    assert!(timeout(LIMIT, news).await.is_ok());
    assert_eq!(log.lines("SubnetLenn"), 2, "{}", log.text());
}

/// Run with a remembered configuration, the store is not said to be all right
/// before it answers.
#[tokio::test]
async fn a_start_without_the_store() {
    let mut server = Server::start().await;
    server.configure(CONF).await;
    server.stop();
    let (etcd, mut status) = Etcd::new(settings(&[server.url()])).unwrap();
    let waited = timeout(Duration::from_secs(2), etcd.config()).await;
    assert!(waited.is_err());
    assert!(status.borrow().store.is_some());
    let config = Config::parse(CONF.into(), 0).unwrap();
    let store = etcd.run(params(&config, "1.1.1.1"), config.text);
    complains(&mut status, "no etcd endpoint answers").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(status.borrow().store.is_some());
    server.restart().await;
    let fine = status.wait_for(|s| s.reason().is_none());
    assert!(timeout(LIMIT, fine).await.is_ok());
    drop(store);
}

/// Go takes a stray byte in a string, here in a key that nobody reads. And
/// what may hold a secret is not shown.
#[tokio::test]
async fn latin_1() {
    let server = Server::start().await;
    let conf = b"{\"Network\": \"10.5.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}, \"note\": \"f\xfcr PSK\"}";
    server.configure(conf.as_slice()).await;
    let (etcd, _status) = Etcd::new(settings(&[server.url()])).unwrap();
    let config = timeout(LIMIT, etcd.config()).await.unwrap();
    assert!(config.text.reveal().contains("PSK"));
    assert!(!format!("{config:?}").contains("PSK"), "{config:?}");
}

/// C-2: a prefix is joined like a path.
#[tokio::test]
async fn prefix_is_cleaned() {
    let server = Server::start().await;
    server.configure(CONF).await;
    let mut settings = settings(&[server.url()]);
    settings.prefix = "/coreos.com//network/".into();
    let mut node = Node::start_with(settings, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(server.keys().await, [node.held_key()]);
}
