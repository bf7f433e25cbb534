use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;

/// One of a handful of keys: small domains make collisions.
fn key(n: u8) -> SubnetKey {
    SubnetKey::parse(&format!("10.5.{n}.0-24")).unwrap()
}

fn attrs(n: u8) -> LeaseAttrs {
    let text = format!(r#"{{"PublicIP":"192.168.0.{}"}}"#, u16::from(n) + 1);
    LeaseAttrs::decode(text.as_bytes()).unwrap()
}

fn lease(k: u8, a: u8) -> Lease {
    Lease { key: key(k), attrs: attrs(a) }
}

fn list(pairs: &[(u8, u8)]) -> BTreeMap<SubnetKey, LeaseAttrs> {
    pairs.iter().map(|(k, a)| (key(*k), attrs(*a))).collect()
}

#[test]
fn a_changed_attribute_is_a_change_also_in_a_list() {
    let mut table = LeaseTable::new();
    assert_eq!(table.upsert(lease(1, 1)), Some(LeaseEvent::Added(lease(1, 1))));
    assert_eq!(table.upsert(lease(1, 1)), None, "renewal (E-30)");
    let events = table.replace(list(&[(1, 2)]), &BTreeSet::new());
    let changed = LeaseEvent::Changed { lease: lease(1, 2), old: attrs(1) };
    assert_eq!(events, [changed]);
    assert_eq!(table.replace(list(&[(1, 2)]), &BTreeSet::new()), []);
}

/// W-2, E-62: lists contain the own lease; nothing ever comes out of it.
#[test]
fn the_own_lease_neither_comes_nor_goes() {
    let mut table = LeaseTable::new();
    assert_eq!(table.set_own(Some(key(1))), None);
    assert_eq!(table.upsert(lease(1, 1)), None);
    let added = LeaseEvent::Added(lease(2, 2));
    let both = list(&[(1, 1), (2, 2)]);
    assert_eq!(table.replace(both.clone(), &BTreeSet::new()), [added]);
    assert_eq!(table.replace(both, &BTreeSet::new()), []);
    assert_eq!(table.replace(list(&[(2, 2)]), &BTreeSet::new()), []);
    assert_eq!(table.remove(&key(1)), None);
    assert_eq!(table.leases(), &list(&[(2, 2)]));
}

#[test]
fn a_peers_lease_that_becomes_the_own_one_is_the_peers_no_more() {
    let mut table = LeaseTable::new();
    table.upsert(lease(1, 1));
    let event = table.set_own(Some(key(1)));
    assert_eq!(event, Some(LeaseEvent::Removed(lease(1, 1))));
    // and the other way round: given up, then taken by a peer
    assert_eq!(table.set_own(None), None);
    let added = LeaseEvent::Added(lease(1, 3));
    assert_eq!(table.upsert(lease(1, 3)), Some(added));
}

/// W-1: an unreadable value hides the news about one peer, not the peer.
#[test]
fn an_unreadable_value_leaves_what_was_known() {
    let mut table = LeaseTable::new();
    table.replace(list(&[(1, 1), (2, 2)]), &BTreeSet::new());
    let events = table.replace(list(&[(2, 2)]), &[key(1)].into());
    assert_eq!(events, []);
    assert_eq!(table.leases(), &list(&[(1, 1), (2, 2)]));
    let events = table.replace(list(&[(2, 2)]), &BTreeSet::new());
    assert_eq!(events, [LeaseEvent::Removed(lease(1, 1))]);
}

/// E-61: a removal carries the attributes that were last known.
#[test]
fn a_removal_says_what_is_gone() {
    let mut table = LeaseTable::new();
    table.upsert(lease(1, 1));
    table.upsert(lease(1, 2));
    let removed = LeaseEvent::Removed(lease(1, 2));
    assert_eq!(table.remove(&key(1)), Some(removed));
    assert_eq!(table.remove(&key(1)), None, "unknown: nothing to undo");
}

#[derive(Clone, Debug)]
enum Op {
    Upsert(u8, u8),
    Remove(u8),
    Replace(BTreeMap<u8, u8>, BTreeSet<u8>),
    Own(Option<u8>),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u8..4, 0u8..3).prop_map(|(k, a)| Op::Upsert(k, a)),
        (0u8..4).prop_map(Op::Remove),
        (btree_map(0u8..4, 0u8..3, 0..4), btree_set(0u8..4, 0..2))
            .prop_map(|(list, bad)| Op::Replace(list, bad)),
        proptest::option::of(0u8..4).prop_map(Op::Own),
    ]
}

proptest! {
    /// A listener that only follows the events always holds what the table
    /// holds, and each event fits what it holds.
    #[test]
    fn the_events_are_the_whole_difference(ops in vec(any_op(), 1..40)) {
        let mut table = LeaseTable::new();
        let mut mirror: BTreeMap<SubnetKey, LeaseAttrs> = BTreeMap::new();
        for op in ops {
            let events = match op {
                Op::Upsert(k, a) => {
                    table.upsert(lease(k, a)).into_iter().collect()
                }
                Op::Remove(k) => table.remove(&key(k)).into_iter().collect(),
                Op::Replace(leases, bad) => table.replace(
                    leases.iter().map(|(k, a)| (key(*k), attrs(*a))).collect(),
                    &bad.into_iter().map(key).collect(),
                ),
                Op::Own(own) => {
                    table.set_own(own.map(key)).into_iter().collect()
                }
            };
            for event in events {
                match event {
                    LeaseEvent::Added(l) => {
                        prop_assert_eq!(mirror.insert(l.key, l.attrs), None);
                    }
                    LeaseEvent::Changed { lease, old } => {
                        prop_assert_ne!(&lease.attrs, &old);
                        let was = mirror.insert(lease.key, lease.attrs);
                        prop_assert_eq!(was, Some(old));
                    }
                    LeaseEvent::Removed(l) => {
                        prop_assert_eq!(mirror.remove(&l.key), Some(l.attrs));
                    }
                }
            }
            prop_assert_eq!(table.leases(), &mirror);
            if let Some(own) = table.own() {
                prop_assert!(!mirror.contains_key(&own));
            }
        }
    }
}
