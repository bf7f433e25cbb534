//! etcd with users.

use std::time::Duration;

use flanneld::store::etcd::{Credentials, Etcd, EtcdConfig};
use ipam::Secret;

use crate::etcd::{PREFIX, Server};
use crate::node::*;

const ROOT: Option<(&str, &str)> = Some(("root", "rootpw"));

/// A server with users `root` and `flannel`, authentication on.
async fn server(extra: &[&str]) -> Server {
    // the least: a busy machine takes seconds for etcd's usual cost
    let extra: Vec<String> =
        ["--bcrypt-cost=4"].iter().chain(extra).map(|e| (*e).into()).collect();
    let server = Server::start_with("http", &extra, None).await;
    server.configure(CONF).await;
    enable(&server).await;
    server
}

async fn enable(server: &Server) {
    let mut auth = server.client().await.auth_client();
    auth.user_add("root", "rootpw", None).await.unwrap();
    auth.role_add("root").await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.user_add("flannel", "secretpw", None).await.unwrap();
    auth.user_add("nobody", "nopw", None).await.unwrap();
    auth.role_add("network").await.unwrap();
    let all = etcd_client::Permission::read_write(PREFIX).with_prefix();
    auth.role_grant_permission("network", all).await.unwrap();
    auth.user_grant_role("flannel", "network").await.unwrap();
    auth.auth_enable().await.unwrap();
}

fn as_user(server: &Server, user: &str, password: &str) -> EtcdConfig {
    let password = Secret::new(password.into());
    let credentials = Some(Credentials { user: user.into(), password });
    EtcdConfig { credentials, ..settings(&[server.url()]) }
}

async fn refused(config: EtcdConfig, words: &str) {
    let (etcd, mut status) = Etcd::new(config).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });
    complains(&mut status, words).await;
    reading.abort();
}

/// W-52: the password appears in no message.
#[tokio::test]
async fn user_and_password() {
    let log = Log::catch();
    let server = server(&[]).await;
    let config = as_user(&server, "flannel", "secretpw");
    assert!(!format!("{config:?}").contains("secretpw"));
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;

    let wrong = as_user(&server, "flannel", "wrongpw");
    refused(wrong, "check --etcd-username and --etcd-password").await;
    refused(settings(&[server.url()]), "authentication is on").await;
    refused(as_user(&server, "nobody", "nopw"), "permission denied").await;
    assert!(!log.text().contains("wrongpw"), "{}", log.text());
    assert!(!log.text().contains("secretpw"), "{}", log.text());
}

/// E-54: a server without authentication needs no user. When it wants one
/// later, the node logs in.
#[tokio::test]
async fn authentication_is_switched_on_later() {
    let server = Server::start().await;
    server.configure(CONF).await;
    let config = as_user(&server, "flannel", "secretpw");
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    enable(&server).await;
    node.publish("1.1.1.2").await;
    assert_eq!(node.status.borrow().reason(), None);
}

/// A JWT token ends with each change of any user or role.
#[tokio::test]
async fn signed_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let (public, private) = (dir.path().join("pub"), dir.path().join("key"));
    std::fs::write(&public, key.public_key_pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let flag = format!(
        "--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl=10m",
        public.display(),
        private.display()
    );
    let log = Log::catch();
    let server = server(&[&flag]).await;
    let config = as_user(&server, "flannel", "secretpw");
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    for i in 2..=4 {
        let mut auth = server.client_as(ROOT).await.auth_client();
        auth.user_add(format!("another{i}"), "x", None).await.unwrap();
        node.publish(&format!("1.1.1.{i}")).await;
    }
    assert_eq!(log.lines("cannot renew"), 0, "{}", log.text());
}

/// Tokens that expire, users that change, and a restart that forgets all
/// tokens: the node goes on by itself, its lease is written all the while.
#[tokio::test]
async fn tokens_do_not_last() {
    let log = Log::catch();
    let mut server = server(&["--auth-token-ttl=2"]).await;
    let config = as_user(&server, "flannel", "secretpw");
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    for i in 1..=3 {
        match i {
            1 => tokio::time::sleep(Duration::from_secs(4)).await,
            2 => {
                let mut auth = server.client_as(ROOT).await.auth_client();
                auth.user_add("another", "x", None).await.unwrap();
                auth.role_add("another").await.unwrap();
            }
            _ => server.restart().await,
        }
        node.publish(&format!("1.1.2.{i}")).await;
        let mut root = server.client_as(ROOT).await;
        let key = format!("{PREFIX}/subnets/10.5.{i}.0-24");
        let value = attrs(&format!("2.2.2.{i}")).encode();
        root.put(key, value, None).await.unwrap();
        node.until("the peer", |n| n.peers.len() == i).await;
    }
    assert_eq!(node.lost, None, "{}", log.text());
}
