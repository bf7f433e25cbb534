//! TLS towards etcd.

use flanneld::store::etcd::{Etcd, EtcdConfig, TlsFiles};

use crate::certs::{Authority, Pair};
use crate::etcd::Server;
use crate::node::*;

async fn start(
    authority: &Authority,
    server: &Pair,
    client_auth: bool,
    admin: &TlsFiles,
) -> Server {
    let mut flags = vec![
        format!("--cert-file={}", server.cert.display()),
        format!("--key-file={}", server.key.display()),
    ];
    if client_auth {
        flags.push("--client-cert-auth".into());
        flags.push(format!("--trusted-ca-file={}", authority.ca.display()));
    }
    let admin = admin.load().unwrap();
    Server::start_with("https", &flags, Some(admin)).await
}

fn with_tls(server: &Server, tls: TlsFiles) -> EtcdConfig {
    EtcdConfig { tls, ..settings(&[server.url()]) }
}

/// What the status says about these settings.
async fn refused(config: EtcdConfig, words: &str) -> String {
    let (etcd, mut status) = Etcd::new(config).unwrap();
    let reading = tokio::spawn(async move { etcd.config().await });
    let reason = complains(&mut status, words).await;
    reading.abort();
    reason
}

/// W-58: a CA file is enough. Another CA, another name, no TLS at all: each
/// is said with what to check.
#[tokio::test]
async fn ca_only() {
    let authority = Authority::new();
    let pair = authority.issue("server", &["127.0.0.1"], false);
    let files = authority.files(None);
    let server = start(&authority, &pair, false, &files).await;
    server.configure(CONF).await;

    let config = with_tls(&server, files.clone());
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;

    // without a scheme: TLS, as TLS files are given (E-51)
    let mut config = with_tls(&server, files.clone());
    config.endpoints = vec![format!("127.0.0.1:{}", server.port)];
    let mut node = Node::start_with(config, "1.1.1.2", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;

    let stranger = Authority::new();
    let config = with_tls(&server, stranger.files(None));
    let reason = refused(config, "--etcd-cafile").await;
    assert!(reason.contains(&server.url()), "{reason}");

    let mut config = with_tls(&server, files.clone());
    config.endpoints = vec![format!("https://localhost:{}", server.port)];
    refused(config, "among the names").await;

    let mut config = with_tls(&server, TlsFiles::default());
    config.endpoints = vec![format!("http://127.0.0.1:{}", server.port)];
    refused(config, "use https://").await;
}

#[tokio::test]
async fn tls_towards_a_plain_server() {
    let server = Server::start().await;
    server.configure(CONF).await;
    let authority = Authority::new();
    let mut config = with_tls(&server, authority.files(None));
    config.endpoints = vec![format!("https://127.0.0.1:{}", server.port)];
    refused(config, "use http://").await;

    // TLS files with an http endpoint: plain as it says, but not in silence
    let log = Log::catch();
    let config = with_tls(&server, authority.files(None));
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(log.lines("WITHOUT encryption"), 1);
}

#[tokio::test]
async fn expired_server_certificate() {
    let authority = Authority::new();
    let good = authority.issue("good", &["127.0.0.1"], false);
    let files = authority.files(None);
    let mut server = start(&authority, &good, false, &files).await;
    server.configure(CONF).await;
    let mut node =
        Node::start_with(with_tls(&server, files.clone()), "1.1.1.1", |_| {})
            .await;
    node.until("a lease", |n| n.held.is_some()).await;

    // etcd reads its certificate anew for each connection
    let expired = authority.issue("good", &["127.0.0.1"], true);
    assert_eq!(expired.cert, good.cert);
    let log = Log::catch();
    refused(with_tls(&server, files.clone()), "has expired").await;
    server.stop();
    assert_eq!(log.lines("has expired"), 1, "{}", log.text());

    // a good one again: the node goes on
    authority.issue("good", &["127.0.0.1"], false);
    server.restart().await;
    server.put("10.5.1.0-24", &attrs("2.2.2.2").encode(), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
}

#[tokio::test]
async fn client_certificate() {
    let authority = Authority::new();
    let pair = authority.issue("server", &["127.0.0.1"], false);
    let client = authority.issue("client", &["node"], false);
    let files = authority.files(Some(&client));
    let mut server = start(&authority, &pair, true, &files).await;
    server.configure(CONF).await;

    let config = with_tls(&server, files.clone());
    let mut node = Node::start_with(config, "1.1.1.1", |_| {}).await;
    node.until("a lease", |n| n.held.is_some()).await;

    refused(with_tls(&server, authority.files(None)), "--etcd-certfile").await;
    let stranger = Authority::new();
    let theirs = stranger.issue("client", &["node"], false);
    let mut wrong = authority.files(Some(&theirs));
    refused(with_tls(&server, wrong.clone()), "our certificate").await;
    let expired = authority.issue("old", &["node"], true);
    wrong = authority.files(Some(&expired));
    refused(with_tls(&server, wrong), "our certificate").await;

    // a certificate renewed on disk is used without a restart
    authority.issue("client", &["node"], false);
    server.restart().await;
    server.put("10.5.1.0-24", &attrs("2.2.2.2").encode(), Some(600)).await;
    node.until("the peer", |n| n.peers.len() == 1).await;
}

#[tokio::test]
async fn unusable_files_are_refused_at_start() {
    let authority = Authority::new();
    let mut files = authority.files(None);
    files.cert = Some("/nonexistent.pem".into());
    let config = |tls| EtcdConfig {
        tls,
        ..settings(&["https://127.0.0.1:1".to_owned()])
    };
    let error = Etcd::new(config(files.clone())).err().unwrap();
    assert!(error.to_string().contains("--etcd-keyfile"), "{error}");
    files.key = Some("/nonexistent.key".into());
    let error = Etcd::new(config(files)).err().unwrap();
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
}
