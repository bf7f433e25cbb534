//! Three members: one freezes, the leader dies, one is cut off from the
//! others. The daemons go on with those that work while the fault lasts.

use anyhow::{Context, Result};
use integration::cluster::Cluster;
use integration::daemon::Daemon;
use integration::demo::Stack;
use integration::etcd::Security;
use integration::members::Members;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use nix::sys::signal::Signal;

use super::{RECOVERY, Streams, pulse, wait_well};

/// The member a node's daemon has connected to last.
fn member_of(cluster: &Cluster, members: &Members, n: usize) -> Result<usize> {
    let log = cluster.node(n).log();
    let line = log.lines().rev().find(|l| l.contains("connected to etcd at"));
    line.and_then(|line| members.named_in(line)).context(log)
}

fn pulse_by(cluster: &Cluster, members: &Members, n: usize) -> Result<()> {
    pulse(cluster, |key, value| {
        // While they elect, a write may fail.
        poll_until("a write", RECOVERY, || {
            match value {
                Some(value) => members.ctl(n, &["put", key, value]),
                None => members.ctl(n, &["del", key]),
            }
            .map(drop)
        })
    })
}

#[test]
fn one_of_three_members_fails_in_every_way() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 2, Security::default())?;
    cluster.etcd.child().kill();
    let mut members = Members::start(&cluster.underlay, 3)?;
    let conf = Stack::Dual.net_conf().to_string();
    members.ctl(0, &["put", "/coreos.com/network/config", &conf])?;
    let endpoints = format!("--etcd-endpoints={}", members.urls());
    for n in [0, 1] {
        let node = cluster.node_mut(n);
        let flags = ["--iface=eth0", endpoints.as_str()];
        node.daemon = Some(Daemon::start(&node.host, &flags, &[])?);
    }
    for n in [0, 1] {
        cluster.node_mut(n).wait_ready()?;
    }
    cluster.wait_joined()?;
    pulse_by(&cluster, &members, 0)?;
    let streams = Streams::start(&cluster)?;

    // Frozen: it holds its connections and says nothing.
    let frozen = member_of(&cluster, &members, 0)?;
    let other = (frozen + 1) % 3;
    members.signal(frozen, Signal::SIGSTOP)?;
    let heard = pulse_by(&cluster, &members, other);
    members.signal(frozen, Signal::SIGCONT)?;
    heard.context("frozen")?;
    members.wait_well(frozen)?;
    streams.assert_untouched(&cluster)?;

    // Dead, and it led.
    let leader = poll_until("a leader", RECOVERY, || members.leader())?;
    members.kill(leader)?;
    pulse_by(&cluster, &members, (leader + 1) % 3).context("leader lost")?;
    members.start_again(leader)?;
    streams.assert_untouched(&cluster)?;

    // Cut off with one other's clients: it answers them, but knows nothing.
    let alone = member_of(&cluster, &members, 0)?;
    members.cut(alone)?;
    pulse_by(&cluster, &members, (alone + 1) % 3).context("minority")?;
    streams.assert_untouched(&cluster)?;
    members.heal(alone)?;
    members.wait_well(alone)?;

    pulse_by(&cluster, &members, alone)?;
    wait_well(&cluster)?;
    streams.assert_untouched(&cluster)?;
    streams.finish(&mut cluster)?;
    cluster.assert_settled()
}
