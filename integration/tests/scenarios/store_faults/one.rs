//! The only etcd: away, compacted, emptied, with other certificates, with
//! logins that it does not know any more.

use std::time::Duration;

use anyhow::{Context, Result};
use integration::cluster::Cluster;
use integration::etcd::Security;
use integration::underlay::{STORE_V4, Wiring};

use super::{Streams, net_conf, pulse, two, wait_told, wait_well};

/// How long etcd is away (issue 3: zero packets lost in a minute of that).
const AWAY: Duration = Duration::from_secs(60);

fn dual(security: Security) -> Result<Cluster> {
    let mut cluster = Cluster::empty(Wiring::OneSegment, 2, security)?;
    cluster.configure(&net_conf())?;
    Ok(cluster)
}

/// The revision of the store.
fn compact(cluster: &Cluster) -> Result<()> {
    let text = cluster.ctl(&["get", "x", "--write-out=json"])?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let revision = json["header"]["revision"].to_string();
    cluster.ctl(&["compact", "--physical", &revision]).map(drop)
}

#[test]
fn etcd_away_and_compacted() -> Result<()> {
    let mut cluster = dual(Security::default())?;
    two(&mut cluster, &[])?;
    let streams = Streams::start(&cluster)?;

    cluster.etcd.child().kill();
    wait_told(&cluster, STORE_V4)?;
    std::thread::sleep(AWAY);
    streams.assert_untouched(&cluster)?;
    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    pulse(&cluster).context("after the outage")?;

    // While the daemons watch.
    compact(&cluster)?;
    pulse(&cluster).context("compacted while connected")?;
    streams.assert_untouched(&cluster)?;

    // While they are away: what they have not seen is gone for good.
    for n in [0, 1] {
        let host = &cluster.node(n).host;
        host.ip(&format!("route add blackhole {STORE_V4}/32"))?;
    }
    wait_told(&cluster, STORE_V4)?;
    for _ in 0..3 {
        cluster.ctl(&["put", "/coreos.com/network/other", "x"])?;
    }
    compact(&cluster)?;
    for n in [0, 1] {
        let host = &cluster.node(n).host;
        host.ip(&format!("route del blackhole {STORE_V4}/32"))?;
    }
    wait_well(&cluster)?;
    pulse(&cluster).context("compacted while away")?;
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}

/// Somebody wipes the store: every node writes its lease there again, under
/// the same key, and nobody forgets anybody.
#[test]
fn etcd_restarted_empty() -> Result<()> {
    let mut cluster = dual(Security::default())?;
    two(&mut cluster, &[])?;
    let keys = |cluster: &Cluster| -> Result<Vec<String>> {
        Ok(cluster.leases()?.into_iter().map(|(key, _)| key).collect())
    };
    let before = keys(&cluster)?;
    let streams = Streams::start(&cluster)?;

    cluster.etcd.child().kill();
    cluster.etcd.empty()?;
    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_told(&cluster, "/coreos.com/network/config does not exist")?;
    streams.assert_untouched(&cluster)?;
    cluster.configure(&net_conf())?;
    wait_well(&cluster)?;
    pulse(&cluster)?;
    assert_eq!(keys(&cluster)?, before);
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}

/// Tokens that last a second, and an auth store that changes under them.
#[test]
fn logins_that_do_not_last() -> Result<()> {
    let users = Security { users: true, ..Security::default() };
    let mut cluster = dual(users)?;
    cluster.etcd.add_flag("--auth-token-ttl=3");
    cluster.etcd.child().kill();
    cluster.etcd.start_again(cluster.underlay.middle())?;
    two(&mut cluster, &["--etcd-username=flannel", "--etcd-password=secret"])?;
    let streams = Streams::start(&cluster)?;

    std::thread::sleep(Duration::from_secs(6));
    pulse(&cluster).context("tokens have expired")?;
    for n in 0..3 {
        cluster.ctl(&["role", "add", &format!("other{n}")])?;
        pulse(&cluster).context("the auth store has changed")?;
    }
    cluster.ctl(&["auth", "disable"])?;
    pulse(&cluster).context("no more users")?;
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}

/// Another authority, in the same files: what etcd and the daemons had in
/// memory is worth nothing.
#[test]
fn certificates_renewed_on_disk() -> Result<()> {
    let mutual =
        Security { tls: true, client_certs: true, ..Security::default() };
    let mut cluster = dual(mutual)?;
    let pki = cluster.etcd.pki.clone().context("certificates")?;
    let cert = format!("--etcd-certfile={}", pki.cert.display());
    let key = format!("--etcd-keyfile={}", pki.key.display());
    two(&mut cluster, &[&cert, &key])?;
    let streams = Streams::start(&cluster)?;

    pki.renew()?;
    cluster.etcd.child().kill();
    cluster.etcd.start_again(cluster.underlay.middle())?;
    wait_well(&cluster)?;
    pulse(&cluster)?;
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}
