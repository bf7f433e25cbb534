//! CNI ADD and DEL of kube-flannel's list, `flannel` and `portmap`, as a
//! runtime runs them, beside the Go plugins and beside a minimal static
//! program that is started as often and does the kernel work only.

mod load;
mod node;
mod trace;

use std::time::Duration;

use anyhow::Result;

use super::report::{Quantity, Report, median};
use crate::peers::Peers;
use node::{Call, Node, Ports, Who};

/// Pods in turns; pod 0 makes the bridge and warms up.
const PODS: usize = 50;

/// Pods with ports, which take the Go plugins longer.
const PODS_WITH_PORTS: usize = 20;

const GO: &str = "Go: flannel, bridge, host-local, portmap";
const FLOOR: &str = "floor: two starts, one does the netlink work";

const LEAN: &str = "the same floor, its cables with one queue as ours";

const VERBS: [&str; 2] = ["ADD", "DEL"];

/// The ways that are compared.
struct Nodes {
    ours: Node,
    floor: Node,
    lean: Node,
    go: Option<Node>,
}

/// The samples of one verb.
#[derive(Clone, Default)]
struct Taken {
    ours: Vec<Duration>,
    floor: Vec<Duration>,
    go: Vec<Duration>,
}

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let nodes = Nodes::new(peers)?;
    let [plain] = nodes.measure(&nodes.floor, [Ports::None], PODS)?;
    for (verb, taken) in VERBS.into_iter().zip(&plain) {
        let what = format!("CNI {verb}, kube-flannel's list");
        taken.go_row(&what, report);
        taken.floor_row(&what, FLOOR, report);
    }
    // Not in the same turns: two of a kind would warm the caches for each
    // other.
    let [[lean, _]] = nodes.measure(&nodes.lean, [Ports::None], PODS)?;
    lean.floor_row("CNI ADD, kube-flannel's list", LEAN, report);
    let kinds = [Ports::None, Ports::Nftables, Ports::Iptables];
    let [none, nftables, iptables] =
        nodes.measure(&nodes.floor, kinds, PODS_WITH_PORTS)?;
    for (n, verb) in VERBS.into_iter().enumerate() {
        let what = format!("CNI {verb}, one hostPort (nf_tables)");
        nftables[n].go_row(&what, report);
        let what = format!("what that port adds to {verb}");
        let more = nftables[n].minus(&none[n]);
        more.go_row(&what, report);
        if verb == "DEL" {
            // To add one rule costs the floor less than can be told.
            more.floor_row(&what, "floor: one start deletes a rule", report);
        }
        let what = format!("CNI {verb}, one hostPort (iptables)");
        iptables[n].go_row(&what, report);
    }
    load::parallel(&nodes, report)?;
    trace::run(&nodes, report)?;
    load::reservations(peers, report)
}

#[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
const fn count(n: usize) -> Quantity {
    Quantity::Count(n as f64)
}

/// `all` in one of their orders: as many numbers as there are orders make
/// every one of them.
fn ordered<T>(mut all: Vec<T>, mut number: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(all.len());
    while !all.is_empty() {
        let left = all.len();
        out.push(all.remove(number % left));
        number /= left;
    }
    out
}

// === impl Taken ===

impl Taken {
    fn of(&mut self, who: Who) -> &mut Vec<Duration> {
        match who {
            Who::Ours => &mut self.ours,
            Who::Floor | Who::Lean => &mut self.floor,
            Who::Go => &mut self.go,
        }
    }

    fn go_row(&self, what: &str, report: &mut Report<'_>) {
        if !self.go.is_empty() {
            report.row(what, median(&self.ours), median(&self.go), GO);
        }
    }

    fn floor_row(&self, what: &str, floor: &str, report: &mut Report<'_>) {
        report.row(what, median(&self.ours), median(&self.floor), floor);
    }

    /// What each took more than its neighbour in time among `other`; the
    /// least that can be told is a microsecond.
    fn minus(&self, other: &Self) -> Self {
        let less = |a: &[Duration], b: &[Duration]| {
            let more = a.iter().zip(b).map(|(a, b)| a.saturating_sub(*b));
            more.map(|more| more.max(Duration::from_micros(1))).collect()
        };
        Self {
            ours: less(&self.ours, &other.ours),
            floor: less(&self.floor, &other.floor),
            go: less(&self.go, &other.go),
        }
    }
}

// === impl Nodes ===

impl Nodes {
    fn new(peers: Option<&Peers>) -> Result<Self> {
        Ok(Self {
            ours: Node::new(Who::Ours, None)?,
            floor: Node::new(Who::Floor, None)?,
            lean: Node::new(Who::Lean, None)?,
            go: peers.map(|p| Node::new(Who::Go, Some(p))).transpose()?,
        })
    }

    /// For each kind of pod, ADD and then DEL of `pods` pods and one to warm
    /// up; ours, the Go plugins and `floor` in turns.
    fn measure<const KINDS: usize>(
        &self,
        floor: &Node,
        kinds: [Ports; KINDS],
        pods: usize,
    ) -> Result<[[Taken; 2]; KINDS]> {
        let mut out = kinds.map(|_| [Taken::default(), Taken::default()]);
        for (n, verb) in VERBS.into_iter().enumerate() {
            for round in 0..=pods {
                for (kind, (&ports, taken)) in
                    kinds.iter().zip(&mut out).enumerate()
                {
                    let pod = round * KINDS + kind;
                    // In every order: a removal leaves work behind that the
                    // next one may wait for, and whoever is before takes the
                    // caches for itself or leaves its kernel code there.
                    let all = [&self.ours, floor].into_iter().chain(&self.go);
                    for node in ordered(all.collect(), round) {
                        let took = node.time(Call { verb, pod, ports })?;
                        if round > 0 {
                            taken[n].of(node.who).push(took);
                        }
                    }
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_order() {
        let orders =
            (0..24).map(|n| super::ordered(vec!['a', 'b', 'c', 'd'], n));
        assert_eq!(orders.collect::<BTreeSet<_>>().len(), 24);
    }
}
