//! etcd with TLS and users, to the end: pods' network stands. And what is
//! said when a certificate or a password is wrong.

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Node};
use integration::daemon::Daemon;
use integration::demo::Stack;
use integration::etcd::{NAME, Pki, Security};
use integration::underlay::{STORE_V4, Wiring};
use ipam::daemon_state::Phase;
use tempfile::TempDir;

const TLS: Security = Security { tls: true, client_certs: false, users: false };
const MUTUAL: Security =
    Security { tls: true, client_certs: true, users: false };

fn cluster(nodes: u8, security: Security) -> Result<Cluster> {
    let mut cluster = Cluster::empty(Wiring::OneSegment, nodes, security)?;
    cluster.configure(&Stack::V4.net_conf())?;
    Ok(cluster)
}

fn pki(cluster: &Cluster) -> Result<&Pki> {
    cluster.etcd.pki.as_ref().context("this etcd has no certificates")
}

/// The flags for a certificate of `pki`.
fn identity(pki: &Pki) -> [String; 2] {
    [
        format!("--etcd-certfile={}", pki.cert.display()),
        format!("--etcd-keyfile={}", pki.key.display()),
    ]
}

fn reaches(cluster: &Cluster) -> Result<()> {
    let [a, b] = [cluster.node(0), cluster.node(1)];
    let route = a.host.ip(&format!("route get {}", gateway(b)?))?;
    ensure!(route.contains("dev flannel.1"), "{route}");
    a.host.ping(&gateway(b)?, 2)
}

/// The address of a node's tunnel device.
fn gateway(node: &Node) -> Result<String> {
    let own = node.subnets()?.concat();
    Ok(own.split('/').next().unwrap_or_default().to_owned())
}

fn expect_waiting(node: &mut Node, texts: &[&str]) -> Result<String> {
    let said = node.wait_not_ready(texts)?;
    assert_eq!(node.state()?.phase, Phase::WaitingForStore, "{said}");
    ensure!(node.host.read("/run/flannel/subnet.env").is_err());
    Ok(said)
}

/// C-3 without C-4 and C-5 is enough (W-58: upstream ignores the authority
/// then).
#[test]
fn tls_with_an_authority_alone() -> Result<()> {
    let mut cluster = cluster(2, TLS)?;
    cluster.start(&["--iface=eth0"])?;
    reaches(&cluster)?;
    cluster.assert_settled()
}

/// C-3…C-7 together, and the password is in no place that tells about the
/// daemon, however much is logged.
#[test]
fn tls_with_client_certificates_and_users() -> Result<()> {
    let mut cluster = cluster(2, Security { users: true, ..MUTUAL })?;
    let identity = identity(pki(&cluster)?);
    cluster.start(&[
        "--iface=eth0",
        &identity[0],
        &identity[1],
        "--etcd-username=flannel",
        "--etcd-password=secret",
        "-v=10",
    ])?;
    reaches(&cluster)?;
    cluster.assert_settled()?;
    for node in &cluster.nodes {
        let log = node.log();
        assert!(log.contains("DEBUG"), "-v=10 says more: {log}");
        assert!(!log.contains("secret"), "{log}");
        let state = node.host.read("/run/flannel/state.json")?;
        assert!(!state.contains("secret"), "{state}");
        let kept = node.host.cmd(&[
            "grep",
            "-rlc",
            "secret",
            "/run/flannel",
            "/var/lib/flannel",
        ]);
        assert!(kept.is_err(), "the password is on disk: {kept:?}");
    }
    Ok(())
}

/// A daemon waits while the file holds the wrong authority, says which flag
/// to look at, and goes on once the right one is there.
#[test]
fn a_wrong_authority_is_told_and_can_be_replaced() -> Result<()> {
    let mut cluster = cluster(1, TLS)?;
    let dir = TempDir::new()?;
    let foreign = Pki::make(&dir)?;
    let flag = format!("--etcd-cafile={}", foreign.ca.display());
    cluster.start_one(0, &["--iface=eth0", &flag])?;
    expect_waiting(
        cluster.node_mut(0),
        &[
            "https://10.99.0.1:2379: ",
            "the server's certificate is not signed by a trusted authority: \
             check --etcd-cafile",
        ],
    )?;
    std::fs::copy(&pki(&cluster)?.ca, &foreign.ca)?;
    cluster.node_mut(0).wait_ready()?;
    cluster.assert_settled()
}

/// The server's certificate has expired, then carries another name, then is
/// renewed; the daemon follows without a restart.
#[test]
fn a_wrong_server_certificate_is_told_and_can_be_renewed() -> Result<()> {
    let mut cluster = cluster(1, TLS)?;
    let names = [STORE_V4, "127.0.0.1", NAME];
    pki(&cluster)?.certify_server(&names, 2020)?;
    cluster.start_one(0, &["--iface=eth0"])?;
    expect_waiting(
        cluster.node_mut(0),
        &[
            "https://10.99.0.1:2379: ",
            "the server's certificate has expired: renew it, and check this \
             node's clock",
        ],
    )?;
    pki(&cluster)?.certify_server(&["10.99.0.2", "127.0.0.1"], 2096)?;
    expect_waiting(
        cluster.node_mut(0),
        &["the endpoint's host must be among the names in the server's \
             certificate"],
    )?;
    pki(&cluster)?.certify_server(&names, 2096)?;
    cluster.node_mut(0).wait_ready()?;
    // Reasons whose text has the time in it are not logged again and again.
    let log = cluster.node(0).log();
    assert_eq!(log.matches("has expired").count(), 1, "{log}");
    cluster.assert_settled()
}

/// The server says so only after the handshake (TLS 1.3), and not every attempt
/// hears it: what is said points to the flags in any case.
#[test]
fn a_missing_or_foreign_client_certificate_is_told() -> Result<()> {
    let mut cluster = cluster(2, MUTUAL)?;
    let dir = TempDir::new()?;
    let foreign = identity(&Pki::make(&dir)?);
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.start_one(1, &["--iface=eth0", &foreign[0], &foreign[1]])?;
    for n in [0, 1] {
        expect_waiting(
            cluster.node_mut(n),
            &[
                "https://10.99.0.1:2379: ",
                "the server does not accept our certificate, or wants one \
                 and got none: check --etcd-certfile and --etcd-keyfile",
            ],
        )?;
    }
    // The missing one appears.
    let right = pki(&cluster)?.clone();
    for (from, to) in [(&right.cert, &foreign[0]), (&right.key, &foreign[1])] {
        let (_, path) = to.split_once('=').context("no flag")?;
        std::fs::copy(from, path)?;
    }
    cluster.node_mut(1).wait_ready()?;
    for node in &cluster.nodes {
        let log = node.log();
        for line in log.lines().filter(|l| l.contains("no etcd endpoint")) {
            assert!(line.contains("check --etcd-certfile"), "{log}");
        }
    }
    Ok(())
}

#[test]
fn a_wrong_password_is_told() -> Result<()> {
    let users = Security { users: true, ..Security::default() };
    let mut cluster = cluster(2, users)?;
    cluster.start_one(
        0,
        &[
            "--iface=eth0",
            "--etcd-username=flannel",
            "--etcd-password=guessed",
            "-v=10",
        ],
    )?;
    cluster.start_one(1, &["--iface=eth0"])?;
    expect_waiting(
        cluster.node_mut(0),
        &[
            "http://10.99.0.1:2379: ",
            "wrong user or password: check --etcd-username and \
             --etcd-password",
        ],
    )?;
    expect_waiting(
        cluster.node_mut(1),
        &["authentication is on: set --etcd-username and --etcd-password"],
    )?;
    assert!(!cluster.node(0).log().contains("guessed"));

    // By the environment, as a manifest gives it.
    let node = cluster.node_mut(0);
    let endpoint = "--etcd-endpoints=http://10.99.0.1:2379";
    node.daemon = None;
    node.daemon = Some(Daemon::start(
        &node.host,
        &["--iface=eth0", endpoint],
        &[
            ("FLANNELD_ETCD_USERNAME", "flannel"),
            ("FLANNELD_ETCD_PASSWORD", "secret"),
        ],
    )?);
    node.wait_ready()
}

/// The operator believes that the connection is encrypted.
#[test]
fn plain_text_in_spite_of_certificates_is_warned_of() -> Result<()> {
    let mut cluster = cluster(1, Security::default())?;
    let dir = TempDir::new()?;
    let flag = format!("--etcd-cafile={}", Pki::make(&dir)?.ca.display());
    cluster.start(&["--iface=eth0", &flag])?;
    let line = cluster
        .node(0)
        .log()
        .lines()
        .find(|line| line.contains("WITHOUT encryption"))
        .context("no warning")?
        .to_owned();
    assert!(line.contains("WARN"), "{line}");
    assert!(line.contains("http://10.99.0.1:2379"), "{line}");
    cluster.assert_settled()
}

/// A file that cannot be used ends the start: waiting would not mend a flag.
#[test]
fn a_certificate_that_is_none_ends_the_start() -> Result<()> {
    let cluster = cluster(1, TLS)?;
    let node = cluster.node(0);
    node.host.write("/run/not.pem", "hello")?;
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    for (flag, text) in [
        ("--etcd-cafile=/run/none.pem", "--etcd-cafile /run/none.pem: No such"),
        (
            "--etcd-cafile=/run/not.pem",
            "--etcd-cafile /run/not.pem: no CERTIFICATE in PEM form in it",
        ),
        (
            "--etcd-certfile=/run/not.pem",
            "--etcd-certfile and --etcd-keyfile belong together: only \
             --etcd-certfile is given",
        ),
    ] {
        let ended = integration::daemon::run_to_end(
            &node.host,
            &[&endpoint, flag],
            &[],
        )?;
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains(text), "{}", ended.text);
        assert_eq!(node.state()?.phase, Phase::Failed);
    }
    Ok(())
}
