//! CNI ADD and DEL as a runtime runs them, with kube-flannel's configuration,
//! beside the Go plugins and a minimal static program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

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

/// One verb for one pod.
struct Call {
    verb: &'static str,
    pod: usize,
}

pub(super) fn run(
    peers: Option<&Peers>,
    report: &mut Report<'_>,
) -> Result<()> {
    let mut nodes = vec![Node::new("floor", floor_program()?, true)?];
    nodes.push(Node::new("ours", binary("flannel")?, false)?);
    if let Some(peers) = peers {
        nodes.push(Node::new("go", peers.cni().join("flannel"), false)?);
    }
    // Pod 0 makes the bridge and warms up, the last one is traced.
    for verb in ["ADD", "DEL"] {
        for pod in 0..=PODS {
            for node in &mut nodes {
                let took = node.time(&Call { verb, pod })?;
                let samples = match verb {
                    "ADD" => &mut node.add,
                    _ => &mut node.del,
                };
                if pod > 0 {
                    samples.push(took);
                }
            }
        }
    }
    let starts = starts(&nodes)?;
    let chain = "Go: flannel, bridge, host-local";
    for verb in ["ADD", "DEL"] {
        let times: Vec<_> = nodes
            .iter()
            .map(|n| median(if verb == "ADD" { &n.add } else { &n.del }))
            .collect();
        let what = format!("CNI {verb}, `flannel`");
        if let Some(go) = times.get(2) {
            report.row(&what, times[1], *go, chain);
        }
        let note = "floor: a start and the netlink work";
        report.row(&what, times[1], times[0], note);
        if verb == "ADD" {
            report.row(&what, times[1], starts, "a start of that floor alone");
        }
    }
    for verb in ["ADD", "DEL"] {
        let mut traces = Vec::new();
        for node in &nodes {
            let call = Call { verb, pod: PODS + 1 };
            traces.push(node.trace(&call)?);
        }
        // Without strace there are no such rows.
        let Some(Some(ours)) = traces.get(1).copied() else { return Ok(()) };
        let others = [(2, chain), (0, "floor")];
        for (kind, pick) in [("processes", 0), ("system calls", 1)] {
            let what = format!("  {kind} of {verb}");
            for (n, whose) in others {
                if let Some(Some(other)) = traces.get(n) {
                    let pair = [ours, *other].map(|t| [t.0, t.1][pick]);
                    let [a, b] = pair.map(Quantity::Count);
                    report.row(&what, a, b, whose);
                }
            }
        }
    }
    Ok(())
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
fn starts(nodes: &[Node]) -> Result<Duration> {
    let node = nodes.first().context("no floor")?;
    let program = node.program.clone();
    let samples = node.host.run(move || -> Result<Vec<_>> {
        let mut samples = Vec::new();
        for _ in 0..PODS {
            let start = Instant::now();
            Command::new(&program).status()?;
            samples.push(start.elapsed());
        }
        Ok(samples)
    })?;
    Ok(median(&samples))
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

    /// Processes started and system calls made; nothing without `strace`.
    fn trace(&self, call: &Call) -> Result<Option<(f64, f64)>> {
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
        #[expect(
            clippy::cast_precision_loss,
            reason = "some thousands at most"
        )]
        let count = |n: usize| n as f64;
        Ok(Some((
            count(text.lines().filter(started).count()),
            count(text.lines().filter(call).count()),
        )))
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
