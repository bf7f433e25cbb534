//! One node, step by step.

use super::sim::*;
use crate::own_lease::{Command, LEASE_TTL, Next, Params};
use crate::store::{LossReason, StoreEvent};
use std::time::Duration;

fn answered() -> Fate {
    Fate::Answered
}

/// A node that holds a lease since `now` = 100 s.
fn holding(params: Params) -> (Etcd, Node, Duration) {
    let mut etcd = Etcd::default();
    let mut now = 100 * SECOND;
    let mut node = Node::new(params, 1);
    node.list(&etcd, now, false);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert!(node.held.is_some());
    node.drain();
    (etcd, node, now)
}

fn last_lost(node: &mut Node) -> Option<LossReason> {
    let mut last = None;
    for event in node.drain() {
        if let StoreEvent::Lost { why, .. } = event {
            last = Some(why);
        }
    }
    last
}

#[test]
fn nothing_is_done_before_the_store_was_listed() {
    let mut node = Node::new(params(V4, "1.1.1.1"), 1);
    assert_eq!(node.step(SECOND), Next::Wait(None));
}

#[test]
fn own_lease_is_never_among_the_peers() {
    let mut etcd = Etcd::default();
    let now = SECOND;
    etcd.put(key("10.5.7.0-24"), &attrs("1.1.1.1").encode(), 0);
    etcd.put(key("10.5.8.0-24"), &attrs("1.1.1.2").encode(), 0);
    let mut node = Node::new(params(V4, "1.1.1.1"), 1);
    node.list(&etcd, now, false);
    let mut at = now;
    node.live(&mut etcd, &mut at, now + SECOND, answered);
    let events = node.drain();
    assert!(matches!(
        &events[0],
        StoreEvent::Synced { leases, .. } if leases.len() == 1
    ));
    assert!(matches!(&events[1], StoreEvent::Held(held)
        if held.lease.key == key("10.5.7.0-24") && held.lease_id == 0));
    assert_eq!(events.len(), 2, "{events:?}");
}

/// While etcd takes no writes (it is full, the user may only read), the lease
/// of the last run does not come and go as a peer's.
#[test]
fn own_lease_is_no_peer_while_it_cannot_be_taken() {
    for fate in [Fate::Unsent, Fate::RequestLost] {
        let mut etcd = Etcd::default();
        let mut now = SECOND;
        let id = etcd.grant(now, LEASE_TTL);
        let own = key("10.5.7.0-24");
        etcd.put(own, &attrs("1.1.1.1").encode(), id);
        let recorded = Some((own, id));
        let params = Params { recorded, ..params(V4, "1.1.1.1") };
        let mut node = Node::new(params, 1);
        node.list(&etcd, now, false);
        let end = now + 600 * SECOND;
        let tries = node.live(&mut etcd, &mut now, end, || fate);
        assert!((15..=60).contains(&tries), "{tries}");
        let events = node.drain();
        assert!(
            matches!(events.as_slice(), [StoreEvent::Synced { leases, .. }]
                if leases.is_empty()),
            "{events:?}"
        );
        let end = now + 60 * SECOND;
        node.live(&mut etcd, &mut now, end, answered);
        assert_eq!(node.held_key(), Some(own));
        assert_eq!(etcd.leases.len(), 1);
    }
}

/// E-30, E-31: renewed at the margin, TTL full again, the old etcd lease
/// revoked; three days without a gap.
#[test]
fn renews_at_the_margin_for_days() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let first = node.held_key();
    let end = now + 72 * HOUR;
    let commands = node.live(&mut etcd, &mut now, end, answered);
    assert!((3..=4).contains(&commands), "{commands}");
    assert_eq!(node.held_key(), first);
    assert_eq!(etcd.leases.len(), 1, "old etcd leases are revoked");
    let expires = node.held.as_ref().unwrap().expires.unwrap();
    assert!(expires > now);
    assert!(last_lost(&mut node).is_none());
}

#[test]
fn short_lifetimes_do_not_spin() {
    let short = Params { ttl: 3 * SECOND, ..params(V4, "1.1.1.1") };
    let (mut etcd, mut node, mut now) = holding(short);
    let end = now + 60 * SECOND;
    let commands = node.live(&mut etcd, &mut now, end, answered);
    assert!((40..=80).contains(&commands), "{commands}");
    assert!(last_lost(&mut node).is_none());
}

/// E-32, and on past expiry: once per minute or so, the lease is kept as long
/// as nobody says it is gone.
#[test]
fn failing_renewals_are_repeated_and_change_nothing() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let end = now + 23 * HOUR + 59 * 60 * SECOND;
    let commands = node.live(&mut etcd, &mut now, end, || Fate::Unsent);
    assert!((40..=180).contains(&commands), "{commands}");
    assert!(node.held.is_some());
    let reason = node.ledger.reason().unwrap();
    assert!(reason.contains("cannot renew lease"), "{reason}");
    assert!(reason.contains("etcd is away"), "{reason}");
    let end = now + 120 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.ledger.reason(), None);
    assert!(last_lost(&mut node).is_none());
}

/// E-33 and W-14: no exit, the same subnet again.
#[test]
fn a_deleted_lease_is_acquired_again() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    etcd.delete(before);
    let end = now + 2 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held_key(), Some(before));
    assert_eq!(last_lost(&mut node), Some(LossReason::Deleted));
    assert_eq!(node.ledger.reason(), None);
}

/// W-5: a node that slept past its expiry does not take the subnet back from
/// the node that has it now.
#[test]
fn after_a_long_sleep_another_owner_is_respected() {
    let (mut etcd, mut node, now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    let mut now = now + 30 * HOUR;
    etcd.expire(now);
    let lease = etcd.grant(now, LEASE_TTL);
    etcd.put(before, &attrs("2.2.2.2").encode(), lease);
    // the overdue renewal comes before the watch has delivered anything
    let Next::Do(command) = node.step(now) else { panic!() };
    assert!(matches!(command, Command::Write(_)));
    let outcome = etcd.execute(now, &command, Fate::Answered);
    node.ledger.answered(now, outcome);
    let end = now + 3 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_ne!(node.held_key(), Some(before));
    assert!(node.held.is_some());
    let value = String::from_utf8(etcd.keys[&before].value.clone()).unwrap();
    assert_eq!(value, attrs("2.2.2.2").encode());
    let taken = LossReason::Taken { by: Box::new(attrs("2.2.2.2")) };
    let events = node.drain();
    assert!(
        events.iter().any(
            |e| matches!(e, StoreEvent::Lost { why, .. } if *why == taken)
        ),
        "{events:?}"
    );
    // the subnet is a peer's now
    assert!(
        events
            .iter()
            .any(|e| matches!(e, StoreEvent::Upsert(l) if l.key == before)),
        "{events:?}"
    );
}

/// A store in which the own key has the revision it had, or an earlier one,
/// and is another's or on another etcd lease: until the watch breaks and says
/// so, nothing is repeated without a pause.
#[test]
fn one_revision_in_two_stores_is_no_spin() {
    for (public, kept, back) in [
        ("2.2.2.2", false, 0),
        ("1.1.1.1", true, 0),
        ("2.2.2.2", false, 1),
        ("1.1.1.1", true, 1),
    ] {
        let mut etcd = Etcd { revision: 10, ..Etcd::default() };
        let mut now = SECOND;
        let mut node = Node::new(params(V4, "1.1.1.1"), 1);
        node.list(&etcd, now, false);
        let end = now + SECOND;
        node.live(&mut etcd, &mut now, end, answered);
        let before = node.held_key().unwrap();
        now += 23 * HOUR;
        let lease_id = etcd.grant(now, LEASE_TTL);
        let kv = etcd.keys.get_mut(&before).unwrap();
        kv.lease_id = lease_id;
        kv.mod_revision -= back;
        kv.value = attrs(public).encode().into_bytes();
        let end = now + 10 * SECOND;
        let commands = node.live(&mut etcd, &mut now, end, answered);
        assert!(commands <= 3, "{commands}");
        node.list(&etcd, now, true);
        let end = now + 120 * SECOND;
        node.live(&mut etcd, &mut now, end, answered);
        assert!(node.held.is_some());
        assert_eq!(node.held_key() == Some(before), kept, "{public}");
    }
}

/// The fence also without a renewal: as soon as the watch shows it.
#[test]
fn an_overwritten_lease_is_given_up() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    let lease = etcd.grant(now, LEASE_TTL);
    etcd.put(before, &attrs("2.2.2.2").encode(), lease);
    let end = now + 3 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_ne!(node.held_key(), Some(before));
    assert!(etcd.keys.contains_key(&before));
    assert!(etcd.leases.contains_key(&lease), "not ours to revoke");
}

/// Somebody rewrites our value under our address (an operator, upstream's
/// daemon during a change-over): it is repaired, but not in a chase.
#[test]
fn a_foreign_hand_under_our_address_is_repaired_once_a_minute() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    now += 120 * SECOND;
    let mut writes = 0;
    let end = now + 600 * SECOND;
    while now < end {
        let mut other = attrs("1.1.1.1");
        other.backend_type = "vxlan".into();
        etcd.put(before, &other.encode(), 0);
        let next = now + SECOND;
        writes += node.live(&mut etcd, &mut now, next, answered);
    }
    assert_eq!(node.held_key(), Some(before));
    assert!((9..=12).contains(&writes), "{writes}");
}

/// An operator makes the held lease a reservation: it is one from then on.
#[test]
fn a_lease_made_a_reservation_stays_one() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    let value = attrs("1.1.1.1").encode();
    etcd.put(before, &value, 0);
    let end = now + 72 * HOUR;
    let commands = node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(commands, 0);
    let held = node.held.unwrap();
    assert_eq!((held.lease_id, held.expires), (0, None));
    assert_eq!(etcd.keys[&before].lease_id, 0);
}

/// W-1 for the own key: garbage there is replaced, not taken for a stranger.
#[test]
fn garbage_under_the_own_key_is_replaced() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    etcd.put(before, "{", 0);
    let end = now + 120 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held_key(), Some(before));
    let value = String::from_utf8(etcd.keys[&before].value.clone()).unwrap();
    assert_eq!(value, attrs("1.1.1.1").encode());
}

#[test]
fn new_attributes_are_published_at_once_and_guarded() {
    let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
    let before = node.held_key().unwrap();
    node.ledger.publish(now, attrs("3.3.3.3"));
    let end = now + SECOND;
    let commands = node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(commands, 1);
    assert_eq!(node.held.as_ref().unwrap().lease.attrs, attrs("3.3.3.3"));
    assert_eq!(node.held_key(), Some(before));
    assert_eq!(etcd.leases.len(), 1);
    // published while a write is under way: another one follows
    node.ledger.publish(now, attrs("4.4.4.4"));
    let Next::Do(command) = node.step(now) else { panic!() };
    node.ledger.publish(now, attrs("5.5.5.5"));
    let outcome = etcd.execute(now, &command, Fate::Answered);
    node.ledger.answered(now, outcome);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held.as_ref().unwrap().lease.attrs, attrs("5.5.5.5"));
}

/// Whether a create with a lost answer was carried out or not, there is one
/// lease in the end, and no etcd lease too many.
#[test]
fn a_create_without_an_answer_is_cleared_up() {
    for fate in [Fate::AnswerLost, Fate::RequestLost, Fate::Unsent] {
        for watch_first in [false, true] {
            let mut etcd = Etcd::default();
            let mut now = SECOND;
            let mut node = Node::new(params(V4, "1.1.1.1"), 5);
            node.list(&etcd, now, false);
            let Next::Do(command) = node.step(now) else { panic!() };
            let outcome = etcd.execute(now, &command, fate);
            if watch_first {
                node.watch(&etcd, now, usize::MAX);
            }
            node.ledger.answered(now, outcome);
            let end = now + 60 * SECOND;
            node.live(&mut etcd, &mut now, end, answered);
            let Command::Write(write) = command else { panic!() };
            let case = format!("{fate:?} {watch_first}");
            assert_eq!(etcd.keys.len(), 1, "{case}");
            assert_eq!(etcd.leases.len(), 1, "{case}");
            let held = node.held.unwrap();
            if fate != Fate::Unsent {
                assert_eq!(held.lease.key, write.lease.key, "{case}");
            }
            assert_eq!(etcd.keys[&held.lease.key].lease_id, held.lease_id);
            assert_eq!(node.ledger.reason(), None, "{case}");
        }
    }
}

#[test]
fn a_renewal_without_an_answer_is_cleared_up() {
    for fate in [Fate::AnswerLost, Fate::RequestLost] {
        let (mut etcd, mut node, mut now) = holding(params(V4, "1.1.1.1"));
        let before = node.held_key();
        let mut left = 1;
        let end = now + 25 * HOUR;
        node.live(&mut etcd, &mut now, end, || {
            left -= 1;
            if left == 0 { fate } else { Fate::Answered }
        });
        assert_eq!(node.held_key(), before, "{fate:?}");
        assert_eq!(etcd.leases.len(), 1, "{fate:?}");
        assert!(last_lost(&mut node).is_none(), "{fate:?}");
    }
}

/// A list or an event older than our own last write says nothing about it.
#[test]
fn old_news_do_not_cost_the_lease() {
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    let mut node = Node::new(params(V4, "1.1.1.1"), 5);
    node.list(&etcd, now, false);
    let old = (Vec::new(), etcd.revision);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    node.drain();
    node.ledger.listed(now, old.0, old.1, false);
    node.step(now);
    assert!(last_lost(&mut node).is_none());
    assert!(node.held.is_some());
}

/// A store that begins anew: the lease is written there again, peers stay.
#[test]
fn a_store_that_was_emptied_is_filled_again() {
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    for i in 0..20 {
        let public = format!("9.9.9.{i}");
        etcd.put(
            key(&format!("10.5.{}.0-24", 100 + i)),
            &attrs(&public).encode(),
            0,
        );
    }
    let mut node = Node::new(params(V4, "1.1.1.1"), 5);
    node.list(&etcd, now, false);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    let before = node.held_key();
    node.drain();

    let mut etcd = Etcd { revision: 1, ..Etcd::default() };
    node.list(&etcd, now, true);
    let end = now + 2 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held_key(), before);
    assert_eq!(etcd.keys.len(), 1);
    let events = node.drain();
    let mut peers = None;
    for event in &events {
        if let StoreEvent::Synced { leases, .. } = event {
            peers = Some(leases.len());
        }
    }
    assert_eq!(peers, Some(20), "nothing is deleted on doubt");
    let end = now + 25 * HOUR;
    node.live(&mut etcd, &mut now, end, answered);
    let removed = node
        .drain()
        .iter()
        .filter(|event| matches!(event, StoreEvent::Remove(_)))
        .count();
    assert_eq!(removed, 20, "but not for ever");
}

/// Q-56: an own lease that no longer fits the configuration is deleted.
#[test]
fn an_own_lease_outside_the_range_is_released() {
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    etcd.put(key("10.6.1.0-24"), &attrs("1.1.1.1").encode(), 77);
    let mut node = Node::new(params(V4, "1.1.1.1"), 5);
    node.list(&etcd, now, false);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert!(!etcd.keys.contains_key(&key("10.6.1.0-24")));
    assert!(node.held_key().unwrap().to_string().starts_with("10.5."));
}

/// design.md §4: the recorded lease id tells the own lease although the
/// address has changed since.
#[test]
fn a_changed_address_is_not_taken_for_a_stranger() {
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    let old = key("10.5.9.0-24");
    let id = etcd.grant(now, LEASE_TTL);
    etcd.put(old, &attrs("1.1.1.1").encode(), id);
    let recorded = Some((old, id));
    let params = Params { recorded, ..params(V4, "6.6.6.6") };
    let mut node = Node::new(params, 5);
    node.list(&etcd, now, false);
    let end = now + SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held_key(), Some(old));
    assert_eq!(node.held.unwrap().lease.attrs, attrs("6.6.6.6"));
    assert!(!etcd.leases.contains_key(&id), "the old etcd lease is revoked");
    assert_eq!(etcd.keys.len(), 1);
}

/// Exhausted: says so, asks nothing of etcd, goes on when one is free.
#[test]
fn a_full_range_is_waited_out() {
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    let conf = r#"{"Network": "10.5.0.0/22", "SubnetLen": 24}"#;
    for i in 1..=3 {
        let text = format!("10.5.{i}.0-24");
        etcd.put(key(&text), &attrs(&format!("2.2.2.{i}")).encode(), 0);
    }
    let mut node = Node::new(params(conf, "1.1.1.1"), 5);
    node.list(&etcd, now, false);
    let end = now + HOUR;
    let commands = node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(commands, 0);
    let reason = node.ledger.reason().unwrap();
    assert!(reason.contains("10.5.0.0/22"), "{reason}");
    etcd.delete(key("10.5.2.0-24"));
    let end = now + 2 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    assert_eq!(node.held_key(), Some(key("10.5.2.0-24")));
}

/// Dual stack: two keys that share a subnet; the later one gives way.
#[test]
fn the_later_of_two_overlapping_creates_gives_way() {
    let conf = r#"{"Network": "10.5.0.0/16", "EnableIPv6": true,
        "IPv6Network": "fd00::/48"}"#;
    let mut etcd = Etcd::default();
    let mut now = SECOND;
    let mut node = Node::new(params(conf, "1.1.1.1"), 5);
    node.list(&etcd, now, false);
    let Next::Do(command) = node.step(now) else { panic!() };
    let Command::Write(write) = &command else { panic!() };
    // just before, another node creates one with the same IPv6 subnet
    let mine = write.lease.key;
    let v6 = mine.get(ipam::Family::V6).unwrap();
    let theirs = key(&format!("10.5.200.0-24&{}-{}", v6.base(), v6.len()));
    etcd.put(theirs, &attrs("2.2.2.2").encode(), 0);
    let outcome = etcd.execute(now, &command, Fate::Answered);
    node.ledger.answered(now, outcome);
    let end = now + 3 * SECOND;
    node.live(&mut etcd, &mut now, end, answered);
    let held = node.held_key().unwrap();
    assert!(!held.overlaps(&theirs), "{held} {theirs}");
    assert_eq!(etcd.keys.len(), 2, "the first attempt is gone");
    assert!(last_lost(&mut node).is_none(), "it was never said to be held");
}
