//! CNI ADD and DEL as a runtime runs them, with kube-flannel's configuration,
//! beside the Go plugins and a minimal static program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::report::{Quantity, Report, median};
use crate::cluster::SUBNET_ENV;
use crate::daemon::binary;
use crate::host::Host;
use crate::peers::Peers;
use crate::pod::kube_flannel_conf;

const PODS: usize = 50;

/// As `flanneld --ip-masq` leaves it: pods are masqueraded by the daemon, not
/// by each ADD.
const ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\n\
                   FLANNEL_SUBNET=10.244.5.1/24\n\
                   FLANNEL_MTU=1450\n\
                   FLANNEL_IPMASQ=true\n";

/// A node whose pods are plugged in one way.
struct Node {
    host: Host,
    program: PathBuf,
    /// The floor's arguments tell it what to do; a plugin's environment does.
    floor: bool,
    add: Vec<Duration>,
    del: Vec<Duration>,
}

/// The ways that are compared.
struct Nodes {
    ours: Node,
    floor: Node,
    go: Option<Node>,
}

/// One verb for one pod.
struct Call {
    verb: &'static str,
    pod: usize,
}

/// Processes started and system calls made.
#[derive(Clone, Copy)]
struct Trace {
    processes: usize,
    calls: usize,
}

const GO: &str = "Go: flannel, bridge, host-local";

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let go = peers.map(|p| Node::new("go", p.cni().join("flannel"), false));
    let mut nodes = Nodes {
        ours: Node::new("ours", binary("flannel")?, false)?,
        floor: Node::new("floor", floor_program()?, true)?,
        go: go.transpose()?,
    };
    for verb in ["ADD", "DEL"] {
        // Pod 0 makes the bridge and warms up, the last one is traced.
        for pod in 0..=PODS {
            let mut turn = nodes.all();
            // Each goes first as often as the others: a removal leaves work
            // behind that the next one may have to wait for.
            let first = pod % turn.len();
            turn.rotate_left(first);
            for node in turn {
                let took = node.time(&Call { verb, pod })?;
                if pod > 0 {
                    node.samples(verb).push(took);
                }
            }
        }
        let what = format!("CNI {verb}, `flannel`");
        let ours = median(nodes.ours.samples(verb));
        if let Some(go) = &mut nodes.go {
            report.row(&what, ours, median(go.samples(verb)), GO);
        }
        let floor = median(nodes.floor.samples(verb));
        let note = "floor: a start and the netlink work";
        report.row(&what, ours, floor, note);
        if verb == "ADD" {
            let start = median(&starts(&nodes.floor)?);
            report.row(&what, ours, start, "a start of that floor alone");
        }
    }
    for verb in ["ADD", "DEL"] {
        trace(&nodes, verb, report)?;
    }
    Ok(())
}

/// The rows that only `strace` can fill.
fn trace(
    nodes: &Nodes,
    verb: &'static str,
    report: &mut Report<'_>,
) -> Result<()> {
    let call = Call { verb, pod: PODS + 1 };
    let Some(ours) = nodes.ours.trace(&call)? else { return Ok(()) };
    let go = nodes.go.as_ref().map(|go| go.trace(&call)).transpose()?;
    let floor = nodes.floor.trace(&call)?;
    let others = [(go.flatten(), GO), (floor, "floor")];
    let (processes, calls) =
        (format!("  processes of {verb}"), format!("  system calls of {verb}"));
    for (trace, whose) in others {
        let Some(trace) = trace else { continue };
        let pair = (count(ours.processes), count(trace.processes));
        report.row(&processes, pair.0, pair.1, whose);
    }
    for (trace, whose) in others {
        let Some(trace) = trace else { continue };
        let pair = (count(ours.calls), count(trace.calls));
        report.row(&calls, pair.0, pair.1, whose);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
const fn count(n: usize) -> Quantity {
    Quantity::Count(n as f64)
}

/// `make bench` compiles it as static as the plugin.
fn floor_program() -> Result<PathBuf> {
    let path = std::env::var_os("FLANNEL_BENCH_FLOOR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/floor/floor"),
        PathBuf::from,
    );
    ensure!(path.is_file(), "{} is missing: run `make bench`", path.display());
    Ok(path)
}

/// What a start costs that does nothing.
fn starts(floor: &Node) -> Result<Vec<Duration>> {
    let program = floor.program.clone();
    floor.host.run(move || -> Result<_> {
        let mut samples = Vec::new();
        for _ in 0..PODS {
            let start = Instant::now();
            Command::new(&program).status()?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    })
}

// === impl Nodes ===

impl Nodes {
    fn all(&mut self) -> Vec<&mut Node> {
        let fixed = [&mut self.ours, &mut self.floor];
        fixed.into_iter().chain(self.go.as_mut()).collect()
    }
}

// === impl Node ===

impl Node {
    fn new(name: &str, program: PathBuf, floor: bool) -> Result<Self> {
        let host = Host::new(name)?;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.write(SUBNET_ENV, ENV)?;
        for pod in 0..PODS + 2 {
            host.add_netns(&format!("p{pod}"))?;
        }
        if floor {
            host.ip("link add cni0 type bridge")?;
            host.ip("addr add 10.244.5.1/24 dev cni0")?;
            host.ip("link set cni0 up")?;
        }
        Ok(Self { host, program, floor, add: Vec::new(), del: Vec::new() })
    }

    fn time(&self, call: &Call) -> Result<Duration> {
        let command = Command::new(&self.program);
        self.run(command, call)
    }

    fn samples(&mut self, verb: &str) -> &mut Vec<Duration> {
        if verb == "ADD" { &mut self.add } else { &mut self.del }
    }

    /// Nothing without `strace`.
    fn trace(&self, call: &Call) -> Result<Option<Trace>> {
        if self.host.output(&["strace", "-V"]).is_err() {
            return Ok(None);
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/run/trace"]).arg(&self.program);
        self.run(command, call)?;
        let text = self.host.read("/run/trace")?;
        let started = |l: &&str| l.contains("execve") && l.ends_with("= 0");
        let call = |l: &&str| {
            !l.contains("<... ") && !l.contains(" +++ ") && !l.contains(" --- ")
        };
        Ok(Some(Trace {
            processes: text.lines().filter(started).count(),
            calls: text.lines().filter(call).count(),
        }))
    }

    /// Runs `command` for this verb and pod and gives its time.
    fn run(&self, mut command: Command, call: &Call) -> Result<Duration> {
        let Call { verb, pod } = *call;
        let netns = format!("/run/netns/p{pod}");
        if self.floor && verb == "ADD" {
            let (end, ip) =
                (format!("veth{pod}"), format!("10.244.5.{}/24", pod + 2));
            command.args(["add", &netns, "cni0", &end, &ip, "10.244.5.1"]);
        } else if self.floor {
            command.args(["del", &netns]);
        }
        let folder = self.program.parent().unwrap_or(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("pod{pod}"))
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let conf = kube_flannel_conf().to_string();
        let (took, output) = self.host.run(move || -> Result<_> {
            let start = Instant::now();
            let mut child = command.spawn()?;
            if let Some(mut pipe) = child.stdin.take() {
                // The floor does not read it.
                let _ = pipe.write_all(conf.as_bytes());
            }
            let output = child.wait_with_output()?;
            Ok((start.elapsed(), output))
        })?;
        ensure!(
            output.status.success(),
            "{verb} by {}: {}{}",
            self.program.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }
}
