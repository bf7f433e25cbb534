//! Many nodes choosing at once, with stale lists, against a store that only
//! knows "create if absent".

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{addresses, ranges};
use super::*;

/// A small generator (xorshift), so that a case is told by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The subnets' part of etcd.
#[derive(Default)]
struct Store {
    revision: i64,
    leases: BTreeMap<SubnetKey, Listed>,
}

impl Store {
    fn list(&self) -> Vec<Listed> {
        self.leases.values().copied().collect()
    }

    /// `None` when the key is there already (E-25).
    fn create(&mut self, key: SubnetKey, node: &Node) -> Option<i64> {
        if self.leases.contains_key(&key) {
            return None;
        }
        self.revision += 1;
        let public = node.wishes.public;
        let created = self.revision;
        let lease = Listed { key, public, lease_id: created, created };
        self.leases.insert(key, lease);
        Some(created)
    }
}

enum Phase {
    Start,
    Listed(Vec<Listed>),
    Created(SubnetKey, i64),
    Holds(SubnetKey),
}

struct Node {
    wishes: Wishes,
    phase: Phase,
}

impl Node {
    fn new(n: u32) -> Self {
        let public = addresses(&format!(
            "{} fd00::{n:x}",
            std::net::Ipv4Addr::from(0xc0a8_0000 + n)
        ));
        let wishes = Wishes { public, ..Wishes::default() };
        Self { wishes, phase: Phase::Start }
    }

    /// One step of acquiring. Whether it got anywhere.
    fn step(
        &mut self,
        ranges: &PerFamily<SubnetRange>,
        store: &mut Store,
        random: &mut Random,
    ) -> bool {
        let (next, progress) = match &self.phase {
            Phase::Start => (Phase::Listed(store.list()), true),
            Phase::Listed(list) => {
                let chosen = choose(
                    ranges,
                    list,
                    &BTreeSet::new(),
                    &self.wishes,
                    &mut |below| random.below(below),
                );
                match chosen {
                    Ok(choice) => {
                        assert!(choice.release.is_empty());
                        match (choice.how, store.create(choice.key, self)) {
                            (How::Reuse { .. }, _) => {
                                (Phase::Holds(choice.key), true)
                            }
                            (How::Create { .. }, Some(created)) => {
                                (Phase::Created(choice.key, created), true)
                            }
                            (How::Create { .. }, None) => (Phase::Start, true),
                        }
                    }
                    Err(ChooseError::Exhausted { .. }) => (Phase::Start, false),
                    Err(error) => panic!("{error}"),
                }
            }
            Phase::Created(key, created) => {
                match earlier(key, *created, &store.list()) {
                    Some(_) => {
                        store.leases.remove(key);
                        (Phase::Start, true)
                    }
                    None => (Phase::Holds(*key), true),
                }
            }
            Phase::Holds(_) => return false,
        };
        self.phase = next;
        progress
    }

    fn holds(&self) -> Option<SubnetKey> {
        match self.phase {
            Phase::Holds(key) => Some(key),
            Phase::Start | Phase::Listed(_) | Phase::Created(..) => None,
        }
    }
}

/// Each family's subnets in use are in range and nobody's twice.
fn assert_disjoint(ranges: &PerFamily<SubnetRange>, nodes: &[Node]) -> usize {
    let mut count = 0;
    let mut used = BTreeSet::new();
    for key in nodes.iter().filter_map(Node::holds) {
        count += 1;
        assert_eq!(check(&key, ranges), Ok(()));
        for (_, subnet) in key.subnets().iter() {
            assert!(used.insert(*subnet), "{subnet} is given out twice");
        }
    }
    count
}

/// How many nodes fit: the smaller family's number of subnets.
fn capacity(ranges: &PerFamily<SubnetRange>) -> usize {
    let sizes =
        ranges.iter().map(|(_, range)| Free::new(range, [].into_iter()));
    sizes.map(|free| usize::try_from(free.size()).unwrap()).min().unwrap()
}

const CONFIGS: [&str; 4] = [
    // 15 subnets
    r#"{"Network": "10.3.0.0/20"}"#,
    r#"{"EnableIPv4": false, "EnableIPv6": true,
        "IPv6Network": "fc00::/60", "IPv6SubnetLen": 64}"#,
    // 15 and 7
    r#"{"EnableIPv6": true, "Network": "10.3.0.0/20",
        "IPv6Network": "fc00::/61", "IPv6SubnetLen": 64}"#,
    // 6 and 15
    r#"{"EnableIPv6": true, "Network": "10.3.0.0/20",
        "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.10.0",
        "IPv6Network": "fc00::/60", "IPv6SubnetLen": 64}"#,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any interleaving of up to 24 nodes for 6 to 15 subnets.
    #[test]
    fn racing_nodes_share_nothing_and_use_everything(
        config in 0usize..CONFIGS.len(),
        count in 1u32..24,
        seed in 1u64..,
    ) {
        let ranges = ranges(CONFIGS[config]);
        let mut store = Store::default();
        let mut random = Random(seed);
        let mut nodes: Vec<_> = (0..count).map(Node::new).collect();
        // the nodes step in any order, some often, some rarely
        for _ in 0..count * 8 {
            let n = usize::try_from(random.below(count.into())).unwrap();
            nodes[n].step(&ranges, &mut store, &mut random);
            assert_disjoint(&ranges, &nodes);
        }
        // then each until nothing moves but the retries of the exhausted
        for _ in 0..count * 4 {
            for node in &mut nodes {
                node.step(&ranges, &mut store, &mut random);
            }
        }
        let held = assert_disjoint(&ranges, &nodes);
        let expected = capacity(&ranges).min(nodes.len());
        prop_assert_eq!(held, expected, "no subnet is wasted");

        // whoever restarts finds its lease again, however much is used
        for node in &mut nodes {
            let Some(before) = node.holds() else { continue };
            node.phase = Phase::Start;
            node.step(&ranges, &mut store, &mut random);
            node.step(&ranges, &mut store, &mut random);
            prop_assert_eq!(node.holds(), Some(before));
        }

        // and if its lease has run out, it gets the subnet from its file
        // back before others can have it
        for node in &mut nodes {
            let Some(before) = node.holds() else { continue };
            store.leases.remove(&before);
            node.phase = Phase::Start;
            node.wishes.previous = *before.subnets();
            for _ in 0..3 {
                node.step(&ranges, &mut store, &mut random);
            }
            prop_assert_eq!(node.holds(), Some(before));
        }
    }
}

/// One after the other, until the range is full: 2,047 nodes in each family.
#[test]
fn thousands_of_nodes_fill_the_range_to_the_last_subnet() {
    let ranges = ranges(
        r#"{"EnableIPv6": true, "Network": "10.0.0.0/13",
            "SubnetLen": 24, "IPv6Network": "fc00::/53"}"#,
    );
    let mut store = Store::default();
    let mut random = Random(0x5eed);
    let mut nodes = Vec::new();
    for n in 0..2047 {
        let mut node = Node::new(n);
        for _ in 0..3 {
            assert!(node.step(&ranges, &mut store, &mut random), "node {n}");
        }
        nodes.push(node);
    }
    assert_eq!(assert_disjoint(&ranges, &nodes), 2047);
    let mut late = Node::new(2047);
    assert!(late.step(&ranges, &mut store, &mut random));
    assert!(!late.step(&ranges, &mut store, &mut random), "full");
}

/// All from one stale list: no two choices of the same subnet succeed, and
/// few rounds are enough as the draw is from all that is free.
#[test]
fn a_cluster_that_starts_all_at_once_settles_in_few_rounds() {
    let ranges = ranges(r#"{"Network": "10.0.0.0/8"}"#);
    let mut store = Store::default();
    let mut random = Random(0x5eed);
    let mut nodes: Vec<_> = (0..2000).map(Node::new).collect();
    let mut rounds = 0;
    while nodes.iter().any(|node| node.holds().is_none()) {
        rounds += 1;
        let list = store.list();
        for node in &mut nodes {
            if let Phase::Start = node.phase {
                node.phase = Phase::Listed(list.clone());
                node.step(&ranges, &mut store, &mut random);
            }
            if let Phase::Created(key, _) = node.phase {
                node.phase = Phase::Holds(key);
            }
        }
    }
    assert_eq!(assert_disjoint(&ranges, &nodes), 2000);
    assert!(rounds <= 5, "{rounds} rounds");
}

/// 5,000 leases in ranges of 2^22 and 2^62 subnets, and a wish that is
/// taken: nothing here may walk the range.
#[test]
fn large_ranges_are_not_walked() {
    let ranges = ranges(
        r#"{"EnableIPv6": true, "Network": "10.0.0.0/8", "SubnetLen": 30,
            "IPv6Network": "fc00::/64", "IPv6SubnetLen": 126}"#,
    );
    let mut random = Random(0x5eed);
    let mut list = Vec::new();
    for n in 0..5000 {
        let node = Node::new(n);
        let chosen = choose(
            &ranges,
            &[],
            &BTreeSet::new(),
            &node.wishes,
            &mut |below| random.below(below),
        );
        let key = chosen.unwrap().key;
        let public = node.wishes.public;
        list.push(Listed { key, public, lease_id: 1, created: n.into() });
    }
    let started = std::time::Instant::now();
    let mut wishes = Node::new(6000).wishes;
    wishes.previous = *list[2500].key.subnets();
    let choice =
        choose(&ranges, &list, &BTreeSet::new(), &wishes, &mut |below| {
            random.below(below)
        })
        .unwrap();
    assert!(list.iter().all(|lease| !lease.key.overlaps(&choice.key)));
    assert_eq!(choice.refused.len(), 2);
    // milliseconds; a walk would take minutes
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
