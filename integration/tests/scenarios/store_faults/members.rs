//! Three members, in the open and with certificates among each other and of
//! every client: one freezes, the leader dies, one is cut off from the others.
//! The daemons go on with those that work while the fault lasts.

use anyhow::{Context, Result};
use integration::cluster::Cluster;
use integration::etcd::Security;
use integration::poll::poll_until;

use super::{RECOVERY, Streams, net_conf, pulse, two, wait_well};

/// The member a node's daemon has connected to last.
fn member_of(cluster: &mut Cluster, n: usize) -> Result<usize> {
    let log = cluster.node(n).log();
    let members = cluster.members()?;
    let line = log.lines().rev().find(|l| l.contains("connected to etcd at"));
    line.and_then(|line| members.named_in(line)).context(log)
}

/// Two nodes that go on whatever one of three members does.
fn one_of_three_members_fails(security: Security) -> Result<()> {
    let mut cluster = Cluster::of_three_members(2, security)?;
    cluster.configure(&net_conf())?;
    two(&mut cluster, &[])?;
    pulse(&cluster)?;
    let streams = Streams::start(&cluster)?;

    // Frozen: it holds its connections and says nothing.
    let frozen = member_of(&mut cluster, 0)?;
    cluster.members()?.freeze(frozen)?;
    pulse(&cluster).context("frozen")?;
    cluster.members()?.mend()?;
    streams.assert_untouched(&cluster)?;

    // What was in use is worth nothing for the next connection.
    if let Some(pki) = &cluster.members()?.pki {
        pki.certify_all()?;
    }

    // Dead, and it led.
    let members = cluster.members()?;
    let leader = poll_until("a leader", RECOVERY, || members.leader())?;
    members.kill(leader)?;
    pulse(&cluster).context("leader lost")?;
    cluster.members()?.mend()?;
    streams.assert_untouched(&cluster)?;

    // Cut off with one node's client: it answers that, but knows nothing.
    let alone = member_of(&mut cluster, 0)?;
    cluster.members()?.cut(alone)?;
    pulse(&cluster).context("minority")?;
    streams.assert_untouched(&cluster)?;
    cluster.members()?.mend()?;

    // Another authority, in the same files.
    if let Some(pki) = cluster.members()?.pki.clone() {
        pki.renew()?;
        for n in 0..3 {
            cluster.members()?.kill(n)?;
        }
        cluster.members()?.mend()?;
    }
    pulse(&cluster)?;
    wait_well(&cluster)?;
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}

#[test]
fn one_of_three_members_fails_in_every_way() -> Result<()> {
    one_of_three_members_fails(Security::default())
}

#[test]
fn one_of_three_members_with_certificates_fails_in_every_way() -> Result<()> {
    let mutual =
        Security { tls: true, client_certs: true, ..Security::default() };
    one_of_three_members_fails(mutual)
}
