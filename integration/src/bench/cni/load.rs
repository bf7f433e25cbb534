//! Many pods: at the same time, and on a node that has many already.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::node::{Call, NAMESPACES, Node, Ports, Who};
use super::{GO, Nodes, PODS};
use crate::bench::report::{Report, median};
use crate::peers::Peers;

/// ADDs that run at the same time.
const PARALLEL: usize = 16;

/// Times that each of them is run.
const ROUNDS: usize = NAMESPACES / PARALLEL;

/// Reservations of a full node, and more.
const RESERVED: usize = 4000;

/// What one ADD takes when there are always so many.
pub(super) fn parallel(nodes: &Nodes, report: &mut Report<'_>) -> Result<()> {
    let what = format!("CNI ADD, {PARALLEL} at a time, each");
    let ours = at_once(&nodes.ours)?;
    if let Some(go) = &nodes.go {
        report.row(&what, ours, at_once(go)?, GO);
    }
    let floor = at_once(&nodes.floor)?;
    report.row(&what, ours, floor, "floor: two starts, the netlink work");
    Ok(())
}

/// The whole time by the number of ADDs.
fn at_once(node: &Node) -> Result<Duration> {
    let call = |verb, pod| Call { verb, pod, ports: Ports::None };
    let mut lanes = Vec::new();
    for lane in 0..PARALLEL {
        let pods = lane * ROUNDS..(lane + 1) * ROUNDS;
        let jobs = pods.map(|pod| node.job(call("ADD", pod)));
        lanes.push(jobs.collect::<Result<Vec<_>>>()?);
    }
    let took = node.host.run(move || -> Result<Duration> {
        let start = Instant::now();
        // A thread starts where the one that starts it is: on the node.
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|jobs| {
                std::thread::spawn(move || {
                    jobs.into_iter().try_for_each(|job| job().map(drop))
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("an ADD panicked"))??;
        }
        Ok(start.elapsed())
    })?;
    for pod in 0..PARALLEL * ROUNDS {
        node.time(call("DEL", pod))?;
    }
    Ok(took / u32::try_from(PARALLEL * ROUNDS)?)
}

/// ADD on a node with thousands of reservations.
pub(super) fn reservations(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let what = format!("CNI ADD, {RESERVED} addresses reserved");
    let ours = Node::new(Who::Ours, None)?;
    let empty = adds(&ours)?;
    reserve(&ours)?;
    let full = adds(&ours)?;
    if let Some(peers) = peers {
        let go = Node::new(Who::Go, Some(peers))?;
        reserve(&go)?;
        report.row(&what, full, adds(&go)?, GO);
    }
    report.row(&what, full, empty, "ours with none");
    Ok(())
}

/// The median of ADDs, which are undone.
fn adds(node: &Node) -> Result<Duration> {
    let call = |verb, pod| Call { verb, pod, ports: Ports::None };
    let mut samples = Vec::new();
    for pod in 0..=PODS {
        let took = node.time(call("ADD", pod))?;
        if pod > 0 {
            samples.push(took);
        }
    }
    for pod in 0..=PODS {
        node.time(call("DEL", pod))?;
    }
    Ok(median(&samples))
}

/// In host-local's format, for the addresses that come first.
fn reserve(node: &Node) -> Result<()> {
    node.host.run(|| -> Result<()> {
        let folder = "/var/lib/cni/networks/cbr0";
        std::fs::create_dir_all(folder)?;
        for n in 0..RESERVED {
            let (high, low) = (100 + n / 250, 1 + n % 250);
            std::fs::write(
                format!("{folder}/10.244.{high}.{low}"),
                format!("before{n}\r\neth0"),
            )?;
        }
        Ok(())
    })
}
