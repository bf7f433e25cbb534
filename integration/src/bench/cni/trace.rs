//! What only `strace` can count.

use anyhow::Result;

use super::node::{Call, Node, Ports};
use super::{GO, Nodes, VERBS, count};
use crate::bench::report::Report;

/// A pod that nobody else uses meanwhile.
const POD: usize = 99;

const TRACE: [&str; 5] = ["strace", "-f", "-A", "-o", "/run/trace"];

/// What a verb took.
#[derive(Clone, Copy)]
struct Trace {
    processes: usize,
    calls: usize,
    messages: usize,
}

/// The rows; none without `strace`.
pub(super) fn run(nodes: &Nodes, report: &mut Report<'_>) -> Result<()> {
    if nodes.ours.host.output(&["strace", "-V"]).is_err() {
        return Ok(());
    }
    for verb in VERBS {
        let ours = trace(&nodes.ours, verb)?;
        let go = nodes.go.as_ref().map(|go| trace(go, verb)).transpose()?;
        let floor = trace(&nodes.floor, verb)?;
        type Of = fn(&Trace) -> usize;
        let counts: [(&str, Of); 3] = [
            ("processes", |t| t.processes),
            ("system calls", |t| t.calls),
            ("netlink messages", |t| t.messages),
        ];
        for (name, of) in counts {
            let what = format!("  {name} of {verb}");
            for (trace, whose) in [(go, GO), (Some(floor), "floor")] {
                let Some(trace) = trace else { continue };
                let pair = (count(of(&ours)), count(of(&trace)));
                report.row(&what, pair.0, pair.1, whose);
            }
        }
    }
    Ok(())
}

fn trace(node: &Node, verb: &'static str) -> Result<Trace> {
    node.host.write("/run/trace", "")?;
    let call = Call { verb, pod: POD, ports: Ports::None };
    node.wrapped(call, &TRACE)?;
    let text = node.host.read("/run/trace")?;
    let started = |l: &&str| l.contains("execve") && l.ends_with("= 0");
    let called = |l: &&str| {
        !l.contains("<... ") && !l.contains(" +++ ") && !l.contains(" --- ")
    };
    let sent = text.lines().filter(|l| l.contains(" send"));
    Ok(Trace {
        processes: text.lines().filter(started).count(),
        calls: text.lines().filter(called).count(),
        messages: sent.map(|l| l.matches("nlmsg_len=").count()).sum(),
    })
}
