//! Random operations, ours and foreign ones, against a model that looks at
//! everything every time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::super::disk::Disk;
use super::super::store::Store;
use super::super::{Allocated, RangeSet};
use super::mem::{Clock, Mem};
use super::{eth0, range};

const REST: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Op {
    /// Who, and which of [`addrs`] is requested.
    Allocate(u8, Option<u8>),
    Release(u8),
    Find(u8),
    /// Which address, and whose: content of any form.
    ForeignWrite(u8, u8),
    ForeignRemove(u8),
    ForeignTurn(u8),
    /// An allocation that is killed after one of its steps.
    Killed(u8, u8),
    Tick,
    Rest,
    Reboot,
}

/// What must be in the folder, but for the lock, and when each address was
/// released.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<String, String>, BTreeMap<IpAddr, Duration>);

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6u8, proptest::option::weighted(0.2, any::<u8>()))
            .prop_map(|(who, req)| Op::Allocate(who, req)),
        4 => (0..6u8).prop_map(Op::Release),
        2 => (0..6u8).prop_map(Op::Find),
        2 => (any::<u8>(), any::<u8>())
            .prop_map(|(at, who)| Op::ForeignWrite(at, who)),
        2 => any::<u8>().prop_map(Op::ForeignRemove),
        1 => any::<u8>().prop_map(Op::ForeignTurn),
        2 => (0..6u8, any::<u8>()).prop_map(|(who, at)| Op::Killed(who, at)),
        1 => Just(Op::Tick),
        1 => Just(Op::Rest),
        1 => Just(Op::Reboot),
    ]
}

fn sets() -> Vec<RangeSet> {
    RangeSet::from_conf(
        &[
            vec![
                range("10.1.0.0/29"),
                range("10.2.0.0/30 10.2.0.0 10.2.0.3 10.2.0.2"),
            ],
            vec![range("fd00::/125 - fd00::6 fd00::4")],
        ],
        "1.0.0",
    )
    .unwrap()
}

/// Every address of every set in order, gateways left out.
fn addrs() -> Vec<Vec<IpAddr>> {
    let v4 = ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"];
    let more = ["10.2.0.0", "10.2.0.1", "10.2.0.3"];
    let v6 = ["fd00::1", "fd00::2", "fd00::3", "fd00::5", "fd00::6"];
    vec![super::ips(&[&v4[..], &more].concat()), super::ips(&v6)]
}

fn any_addr(at: u8) -> String {
    let all = addrs().concat();
    all[usize::from(at) % all.len()].to_string()
}

fn id(who: u8) -> String {
    format!("c{who}")
}

fn exact(who: u8) -> String {
    format!("{}\r\neth0", id(who))
}

// === impl Model ===

impl Model {
    /// The addresses in whose file `content` is, in the order of addresses.
    fn of(&self, content: &str) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = self
            .0
            .iter()
            .filter(|(_, c)| c.trim() == content)
            .filter_map(|(name, _)| name.parse().ok())
            .collect();
        ips.sort_unstable();
        ips
    }

    fn releasable(&self, who: u8) -> Vec<IpAddr> {
        match self.of(&exact(who)) {
            none if none.is_empty() => self.of(&id(who)),
            some => some,
        }
    }

    /// `None` when the allocation must fail; the model is then as it was.
    fn allocate(
        &mut self,
        who: u8,
        request: Option<IpAddr>,
        now: Duration,
    ) -> Option<Vec<IpAddr>> {
        let mut after = self.clone();
        let mut got = vec![];
        for (number, all) in addrs().iter().enumerate() {
            let requested = request.filter(|ip| all.contains(ip));
            let turn = format!("last_reserved_ip.{number}");
            let ip = match requested {
                Some(ip) => Some(ip).filter(|ip| after.free(*ip)),
                None => {
                    let mut mine = self.of(&exact(who));
                    mine.extend(self.of(&id(who)));
                    if mine.iter().any(|ip| all.contains(ip)) {
                        return None;
                    }
                    let start = self
                        .0
                        .get(&turn)
                        .and_then(|last| last.parse::<IpAddr>().ok())
                        .and_then(|last| all.iter().position(|i| *i == last))
                        .map_or(0, |at| at + 1);
                    let order = all[start..].iter().chain(&all[..start]);
                    let free = order.copied().filter(|ip| after.free(*ip));
                    let rest = |ip: &IpAddr| match self.1.get(ip) {
                        Some(at) if now - *at < REST => *at,
                        _ => Duration::ZERO,
                    };
                    // of equal ones the first in turn
                    free.min_by_key(rest)
                }
            }?;
            after.0.insert(ip.to_string(), exact(who));
            after.0.insert(turn, ip.to_string());
            got.push(ip);
        }
        *self = after;
        Some(got)
    }

    fn free(&self, ip: IpAddr) -> bool {
        !self.0.contains_key(&ip.to_string())
    }
}

fn folder(mem: &Mem) -> BTreeMap<String, String> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let mut folder = mem.folder();
    folder.remove("lock");
    folder.into_iter().map(|(name, c)| (name, text(c))).collect()
}

fn got(made: &[Allocated]) -> Vec<IpAddr> {
    made.iter().map(|a| a.ip).collect()
}

fn sorted(mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
    ips.sort_unstable();
    ips
}

fn run(clock: Clock, ops: &[Op]) {
    let mem = Mem::new(clock);
    let mut model = Model::default();
    for op in ops {
        let mut store = Store::open(mem.clone());
        match op {
            Op::Allocate(who, req) => {
                let req = req.map(|at| super::ip(&any_addr(at)));
                let made =
                    store.allocate(&eth0(&id(*who)), &sets(), req.as_slice());
                let expected = model.allocate(*who, req, mem.uptime());
                assert_eq!(made.ok().map(|m| got(&m)), expected);
            }
            Op::Release(who) => {
                let released = store.release(&eth0(&id(*who))).unwrap();
                let expected = model.releasable(*who);
                for ip in &expected {
                    model.0.remove(&ip.to_string());
                    model.1.insert(*ip, mem.uptime());
                }
                assert_eq!(sorted(released), expected);
            }
            Op::Find(who) => {
                let found = store.find(&eth0(&id(*who))).unwrap();
                assert_eq!(sorted(found), model.releasable(*who));
            }
            Op::ForeignWrite(at, who) => {
                let content = match who % 8 {
                    0 => String::new(),
                    1 => format!("  {}\n", id(who / 8 % 6)),
                    _ => exact(who / 8 % 6),
                };
                mem.foreign_write(&any_addr(*at), &content);
                model.0.insert(any_addr(*at), content);
            }
            Op::ForeignRemove(at) => {
                mem.foreign_remove(&any_addr(*at));
                model.0.remove(&any_addr(*at));
            }
            Op::ForeignTurn(at) => {
                mem.foreign_write("last_reserved_ip.0", &any_addr(*at));
                model.0.insert("last_reserved_ip.0".into(), any_addr(*at));
            }
            Op::Killed(who, at) => {
                let begun = mem.state();
                mem.record();
                let made = store.allocate(&eth0(&id(*who)), &sets(), &[]);
                let steps = mem.steps();
                let at = usize::from(*at) % (steps.len() + 1);
                let state = match at.checked_sub(1) {
                    Some(last) => steps[last].state.clone(),
                    None => begun,
                };
                mem.set_state(state);
                let left = folder(&mem);
                let new =
                    left.iter().filter(|(n, _)| !model.0.contains_key(*n));
                for (name, content) in new.filter(|(n, _)| !n.contains("last"))
                {
                    assert_eq!(content, &exact(*who), "{}", name);
                }
                if made.is_ok() && at == steps.len() {
                    assert!(left.len() >= model.0.len() + 2);
                }
                model.0 = left;
            }
            Op::Tick => mem.tick(),
            Op::Rest => mem.pass(REST / 2),
            Op::Reboot => {
                mem.reboot();
                model.1.clear();
            }
        }
        assert_eq!(&folder(&mem), &model.0, "after {:?}", op);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_pool_does_what_the_model_does(
        clock in prop::sample::select(
            vec![Clock::Fine, Clock::Seconds, Clock::Untold]
        ),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        run(clock, &ops);
    }
}
