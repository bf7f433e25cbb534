//! Hours and days in which etcd does not answer, or the node sleeps.

use std::time::Duration;

use super::sim::*;
use crate::own_lease::{Command, LEASE_TTL, Next};
use crate::store::{LossReason, StoreEvent};

/// A node that holds a lease since `now` = 100 s.
fn holding() -> (Etcd, Node, Duration) {
    let mut etcd = Etcd::default();
    let mut now = 100 * SECOND;
    let mut node = Node::new(params(V4, "1.1.1.1"), 1);
    node.list(&etcd, now, false);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    assert!(node.held.is_some());
    node.drain();
    (etcd, node, now)
}

/// Until `end` the node hears nothing, and nothing of it arrives. How often it
/// asked.
fn away(
    node: &mut Node,
    etcd: &mut Etcd,
    now: &mut Duration,
    end: Duration,
) -> usize {
    let mut asked = 0;
    while *now < end {
        match node.step(*now) {
            Next::Do(command) => {
                asked += 1;
                let outcome = etcd.execute(*now, &command, Fate::Unsent);
                node.ledger.answered(*now, outcome);
            }
            Next::Wait(at) => {
                let wake = at.unwrap_or(end).clamp(*now + SECOND, end);
                *now = wake;
            }
        }
    }
    etcd.expire(*now);
    asked
}

/// The watch is there again after an outage that it could not bridge.
fn back(node: &mut Node, etcd: &mut Etcd, now: &mut Duration) {
    node.list(etcd, *now, false);
    node.ledger.reachable(*now);
    let end = *now + 120 * SECOND;
    node.live(etcd, now, end, || Fate::Answered);
}

/// The lease is over in etcd, and nobody has taken it: the same subnet again,
/// and the daemon asked seldom. Until it heard of the end it did not say that
/// the lease is lost; that its time is over it did say.
#[test]
fn a_day_without_etcd() {
    let (mut etcd, mut node, mut now) = holding();
    let before = node.held_key();
    let end = now + 25 * HOUR;
    let asked = away(&mut node, &mut etcd, &mut now, end);
    assert!((20..=300).contains(&asked), "{asked}");
    assert!(etcd.keys.is_empty(), "it has expired");
    assert!(node.drain().is_empty(), "nobody said anything");
    let reason = node.ledger.reason().unwrap_or_default().to_owned();
    assert!(reason.contains("its time is over"), "{reason}");

    back(&mut node, &mut etcd, &mut now);
    assert_eq!(node.held_key(), before);
    assert!(node.drain().iter().any(|event| matches!(
        event,
        StoreEvent::Lost { why: LossReason::Expired, .. }
    )));
    assert_eq!(etcd.leases.len(), 1);
    assert_eq!(node.ledger.reason(), None);
}

/// … and somebody has: nothing of theirs is touched.
#[test]
fn a_day_without_etcd_and_another_owner() {
    let (mut etcd, mut node, mut now) = holding();
    let before = node.held_key().unwrap();
    let end = now + 25 * HOUR;
    away(&mut node, &mut etcd, &mut now, end);
    let id = etcd.grant(now, LEASE_TTL);
    let theirs = attrs("9.9.9.9").encode();
    etcd.put(before, &theirs, id);

    back(&mut node, &mut etcd, &mut now);
    assert_ne!(node.held_key(), Some(before));
    assert!(node.held.is_some());
    let kept = etcd.keys.get(&before).unwrap();
    assert_eq!(kept.value, theirs.as_bytes());
    assert_eq!(kept.lease_id, id);
    assert!(node.peers.contains_key(&before), "it is a peer now");
}

/// The clock counts the time asleep: a renewal that became due meanwhile is
/// the first thing done, whatever else was to be waited for.
#[test]
fn a_suspended_node_renews_at_once() {
    let (mut etcd, mut node, mut now) = holding();
    let before = node.held.clone().unwrap();
    now += 23 * HOUR + 50 * 60 * SECOND;
    etcd.expire(now);
    let Next::Do(command) = node.step(now) else { panic!("it waits") };
    assert!(matches!(&command, Command::Write(write)
        if write.lease.key == before.lease.key && write.ttl.is_some()));
    let outcome = etcd.execute(now, &command, Fate::Answered);
    node.ledger.answered(now, outcome);
    let end = now + 60 * SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    let after = node.held.clone().unwrap();
    assert_eq!(after.lease.key, before.lease.key);
    assert!(after.expires > before.expires);
    assert!(!node.drain().iter().any(|e| matches!(e, StoreEvent::Lost { .. })));
}

/// Somebody revokes the etcd lease, and the key goes with it.
#[test]
fn a_revoked_lease_is_acquired_again() {
    let (mut etcd, mut node, mut now) = holding();
    let before = node.held.clone().unwrap();
    etcd.revoke(before.lease_id);
    let end = now + 60 * SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    let after = node.held.clone().unwrap();
    assert_eq!(after.lease.key, before.lease.key);
    assert_ne!(after.lease_id, before.lease_id);
}

/// A configuration with another span of subnets: a lease that is held stays,
/// also over renewals; the next one is taken from the new span.
#[test]
fn another_span_is_for_later_leases() {
    let (mut etcd, mut node, mut now) = holding();
    let before = node.held_key().unwrap();
    let narrow = r#"{"Network": "10.5.0.0/16",
        "SubnetMin": "10.5.200.0", "SubnetMax": "10.5.201.0"}"#;
    let ranges = params(narrow, "1.1.1.1").ranges;
    node.ledger.choose_from(now, ranges);
    let end = now + 48 * HOUR;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    assert_eq!(node.held_key(), Some(before));

    etcd.put(before, &attrs("9.9.9.9").encode(), 0);
    let end = now + 60 * SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    let after = node.held_key().unwrap().to_string();
    assert!(["10.5.200.0-24", "10.5.201.0-24"].contains(&after.as_str()));
}

/// Nothing is free until the span is widened: then a lease is taken at once,
/// not after the next look.
#[test]
fn a_wider_span_is_used_at_once() {
    let narrow = r#"{"Network": "10.5.0.0/16",
        "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.1.0"}"#;
    let mut etcd = Etcd::default();
    etcd.put(key("10.5.1.0-24"), &attrs("9.9.9.9").encode(), 0);
    let mut now = SECOND;
    let mut node = Node::new(params(narrow, "1.1.1.1"), 1);
    node.list(&etcd, now, false);
    let end = now + 3 * SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    assert!(node.held.is_none());
    node.ledger.choose_from(now, params(V4, "1.1.1.1").ranges);
    let end = now + 2 * SECOND;
    node.live(&mut etcd, &mut now, end, || Fate::Answered);
    assert!(node.held.is_some(), "{:?}", node.ledger.reason());
}
