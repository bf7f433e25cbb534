//! Many nodes at once, and random faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam::lease::{LeaseAttrs, SubnetKey};
use proptest::prelude::*;

use super::sim::*;
use crate::own_lease::{Command, Next};
use crate::store::Kv;

const DUAL: &str = r#"{"Network": "10.5.0.0/20", "SubnetLen": 24,
    "EnableIPv6": true, "IPv6Network": "fd00::/60", "IPv6SubnetLen": 64}"#;

struct World {
    etcd: Etcd,
    nodes: Vec<Node>,
    /// Commands under way.
    asked: Vec<Option<Command>>,
    /// Commands given so far, by node.
    requests: Vec<usize>,
    now: Duration,
    seed: u64,
}

/// What a backup holds.
#[derive(Clone, Default)]
struct State {
    revision: i64,
    keys: BTreeMap<SubnetKey, Kv>,
    leases: BTreeMap<i64, Duration>,
}

impl World {
    fn new(count: usize, conf: &str, seed: u64) -> Self {
        // etcd's first revision
        let etcd = Etcd { revision: 1, ..Etcd::default() };
        let now = SECOND;
        let seed = seed.wrapping_mul(1000);
        let nodes = (0..count)
            .map(|i| {
                let public = format!("1.1.{}.{}", i / 250, 1 + i % 250);
                let seed = seed + i as u64;
                let mut node = Node::new(params(conf, &public), seed);
                node.list(&etcd, now, false);
                node
            })
            .collect();
        let seed = seed + count as u64;
        let asked = vec![None; count];
        let requests = vec![0; count];
        Self { etcd, nodes, asked, requests, now, seed }
    }

    /// One node does one thing.
    fn turn(&mut self, i: usize, fate: Fate, seen: usize) {
        let node = &mut self.nodes[i];
        node.watch(&self.etcd, self.now, seen);
        match self.asked[i].take() {
            Some(command) => {
                let outcome = self.etcd.execute(self.now, &command, fate);
                node.ledger.answered(self.now, outcome);
            }
            None => {
                if let Next::Do(command) = node.step(self.now) {
                    self.asked[i] = Some(command);
                    self.requests[i] += 1;
                }
            }
        }
        for id in node.ledger.revocations() {
            self.etcd.revoke(id);
        }
    }

    /// A node is killed, its last command on the way or not, and starts again
    /// with what it wrote to disk or without.
    fn restart(&mut self, i: usize, arrives: bool, remembers: bool) {
        if let Some(command) = self.asked[i].take()
            && arrives
        {
            self.etcd.execute(self.now, &command, Fate::Answered);
        }
        let mut params = self.nodes[i].params.clone();
        if let Some((key, id)) = self.nodes[i].saved
            && remembers
        {
            params.previous = *key.subnets();
            params.recorded = Some((key, id));
        }
        self.seed += 1;
        self.nodes[i] = Node::new(params, self.seed);
        self.nodes[i].list(&self.etcd, self.now, false);
    }

    /// The store is put back into an earlier state; everybody notices.
    fn go_back(&mut self, state: &State) {
        self.etcd.revision = state.revision;
        self.etcd.keys.clone_from(&state.keys);
        self.etcd.leases.clone_from(&state.leases);
        self.etcd.expire(self.now);
        for node in &mut self.nodes {
            node.list(&self.etcd, self.now, true);
        }
    }

    /// All nodes, without faults, until all hold a lease that the store
    /// agrees with.
    fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for i in 0..self.nodes.len() {
                self.turn(i, Fate::Answered, usize::MAX);
            }
            self.now += Duration::from_millis(50);
            self.etcd.expire(self.now);
            if self.settled() {
                return;
            }
        }
        let missing: Vec<_> =
            self.nodes.iter().filter_map(|n| n.ledger.reason()).collect();
        panic!("not settled: {missing:?}");
    }

    fn settled(&self) -> bool {
        self.asked.iter().all(Option::is_none)
            && self.nodes.iter().all(|node| {
                node.held.as_ref().is_some_and(|held| {
                    self.etcd.keys.get(&held.lease.key).is_some_and(|kv| {
                        kv.lease_id == held.lease_id
                            && kv.mod_revision == held.mod_revision
                    })
                })
            })
    }

    /// Every node knows every other's lease as it is. Of leases that are not
    /// there it knows only some that a store which went back has lost.
    fn assert_known(&mut self, went_back: bool) {
        for i in 0..self.nodes.len() {
            self.turn(i, Fate::Answered, usize::MAX);
        }
        for node in &self.nodes {
            let mut unknown = node.peers.clone();
            for (key, kv) in &self.etcd.keys {
                if Some(*key) == node.held_key() {
                    continue;
                }
                let attrs = LeaseAttrs::decode(&kv.value).unwrap();
                assert_eq!(unknown.remove(key), Some(attrs), "{key}");
            }
            assert!(went_back || unknown.is_empty(), "{unknown:?}");
        }
    }

    fn assert_disjoint(&self) {
        let keys: Vec<SubnetKey> =
            self.nodes.iter().filter_map(Node::held_key).collect();
        assert_eq!(keys.len(), self.nodes.len());
        for (i, a) in keys.iter().enumerate() {
            for b in keys.iter().skip(i + 1) {
                assert!(!a.overlaps(b), "{a} {b}");
            }
        }
    }
}

/// All ask before any is answered: the worst storm. Everybody gets a subnet,
/// also when there is none to spare (14 subnets, 14 nodes).
#[test]
fn join_storm_in_a_tight_range() {
    for seed in 0..20 {
        let conf = r#"{"Network": "10.5.0.0/20", "SubnetLen": 24,
            "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.14.0"}"#;
        let mut world = World::new(14, conf, seed);
        world.settle(2000);
        world.assert_disjoint();
        assert_eq!(world.etcd.leases.len(), 14, "grants in vain are revoked");
    }
}

/// W-11-like storms at scale: the writes stay within a few per node.
#[test]
fn a_large_storm_is_bounded() {
    let mut world = World::new(250, V4, 3);
    world.settle(2000);
    let keys: BTreeSet<_> =
        world.nodes.iter().filter_map(Node::held_key).collect();
    assert_eq!(keys.len(), 250);
    assert_eq!(world.etcd.writes, 250, "each lease is written once");
}

/// 1,000 nodes that all ask before any is answered. A twentieth of the subnets
/// are theirs in the end: some wish for the same, and ask again, seldom.
#[test]
fn a_thousand_nodes_at_once() {
    let conf = r#"{"Network": "10.0.0.0/8", "SubnetLen": 22}"#;
    let mut world = World::new(1000, conf, 5);
    // who holds a lease need not read all the others' here
    for _ in 0..200 {
        for i in 0..1000 {
            if world.nodes[i].held.is_none() || world.asked[i].is_some() {
                world.turn(i, Fate::Answered, usize::MAX);
            }
        }
        world.now += Duration::from_millis(50);
        if world.settled() {
            break;
        }
    }
    let keys: BTreeSet<_> =
        world.nodes.iter().filter_map(Node::held_key).collect();
    assert_eq!(keys.len(), 1000, "no subnet twice");
    assert_eq!(world.etcd.writes, 1000, "each lease is written once");
    assert_eq!(world.etcd.leases.len(), 1000, "none was granted in vain");
    let most = world.requests.iter().max().copied();
    assert!(most <= Some(4), "a node asked {most:?} times");
    let all: usize = world.requests.iter().sum();
    assert!(all <= 1100, "{all} requests for 1,000 leases");
}

#[test]
fn dual_stack_storm_shares_no_subnet() {
    for seed in 0..20 {
        let mut world = World::new(8, DUAL, seed);
        world.settle(4000);
        world.assert_disjoint();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Turn { node: usize, fate: Fate, seen: usize },
    Pass(u64),
    Delete(usize),
    Steal(usize),
    Restart { node: usize, arrives: bool, remembers: bool },
    Relist(usize),
    Reset,
    Backup,
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Unsent),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::AnswerLost),
    ];
    let seen = prop_oneof![Just(0usize), Just(1), Just(usize::MAX)];
    prop_oneof![
        20 => (0usize..4, fate, seen)
            .prop_map(|(node, fate, seen)| Op::Turn { node, fate, seen }),
        3 => prop_oneof![1u64..200, 1000u64..100_000, Just(90_000_000u64)]
            .prop_map(Op::Pass),
        1 => (0usize..4).prop_map(Op::Delete),
        1 => (0usize..4).prop_map(Op::Steal),
        2 => (0usize..4, any::<bool>(), any::<bool>()).prop_map(
            |(node, arrives, remembers)| {
                Op::Restart { node, arrives, remembers }
            }
        ),
        1 => (0usize..4).prop_map(Op::Relist),
        1 => Just(Op::Reset),
        1 => Just(Op::Backup),
        1 => Just(Op::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever was lost, delayed, deleted, stolen or expired: once the
    /// faults stop, every node holds a lease that the store agrees with, and
    /// no two share a subnet. Nobody ever wrote over a stranger.
    #[test]
    fn faults_end_well(
        ops in prop::collection::vec(op(), 1..120),
        seed in 0u64..1000,
        dual in any::<bool>(),
    ) {
        let mut world = World::new(4, if dual { DUAL } else { V4 }, seed);
        let mut stolen = BTreeSet::new();
        let mut backup = None;
        let mut went_back = false;
        for op in ops {
            match op {
                Op::Turn { node, fate, seen } => {
                    world.turn(node, fate, seen);
                }
                Op::Pass(millis) => {
                    world.now += Duration::from_millis(millis);
                    world.etcd.expire(world.now);
                }
                Op::Delete(node) => {
                    if let Some(key) = world.nodes[node].held_key() {
                        world.etcd.delete(key);
                    }
                }
                Op::Steal(node) => {
                    if let Some(key) = world.nodes[node].held_key() {
                        let value = attrs("8.8.8.8").encode();
                        world.etcd.put(key, &value, 0);
                        stolen.insert(key);
                    }
                }
                Op::Restart { node, arrives, remembers } => {
                    world.restart(node, arrives, remembers);
                }
                Op::Relist(node) => {
                    let World { etcd, nodes, now, .. } = &mut world;
                    nodes[node].list(etcd, *now, false);
                }
                Op::Reset => {
                    went_back = true;
                    stolen.clear();
                    world.go_back(&State { revision: 1, ..State::default() });
                }
                Op::Backup => {
                    let Etcd { revision, keys, leases, .. } = &world.etcd;
                    backup = Some(State {
                        revision: *revision,
                        keys: keys.clone(),
                        leases: leases.clone(),
                    });
                }
                Op::Restore => {
                    if let Some(state) = &backup {
                        went_back = true;
                        stolen.clear();
                        world.go_back(state);
                    }
                }
            }
        }
        for key in &stolen {
            // a thief that was deleted since is no thief
            if let Some(kv) = world.etcd.keys.get(key) {
                let ours = kv.lease_id != 0;
                if !ours {
                    prop_assert_eq!(
                        String::from_utf8_lossy(&kv.value).into_owned(),
                        attrs("8.8.8.8").encode()
                    );
                }
            }
        }
        world.settle(10_000);
        world.assert_disjoint();
        world.assert_known(went_back);
        for key in &stolen {
            if world.etcd.keys.get(key).is_some_and(|kv| kv.lease_id == 0) {
                prop_assert!(
                    world.nodes.iter().all(|n| n.held_key() != Some(*key))
                );
            }
        }
    }
}
