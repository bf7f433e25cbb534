//! A node whose pods are plugged in by one set of programs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::SUBNET_ENV;
use crate::daemon::binary;
use crate::host::Host;
use crate::peers::Peers;
use crate::pod::kube_flannel_conf;

/// Namespaces on each node.
pub(super) const NAMESPACES: usize = 100;

/// On each node's own `/run`, so that all programs lie on the same disk.
const PROGRAMS: &str = "/run/programs";

/// As `flanneld --ip-masq` leaves it: pods are masqueraded by the daemon, not
/// by each ADD. Room for thousands.
const ENV: &str = "FLANNEL_NETWORK=10.0.0.0/8\n\
                   FLANNEL_SUBNET=10.244.0.1/16\n\
                   FLANNEL_MTU=1450\n\
                   FLANNEL_IPMASQ=true\n";

/// Whose programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Ours,
    Floor,
    /// The same program, its cables with one queue.
    Lean,
    Go,
}

/// Whether a pod has a port of the node, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    None,
    Nftables,
    Iptables,
}

/// One verb for one pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    pub(super) pod: usize,
    pub(super) ports: Ports,
}

/// One way.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: Host,
    pub(super) who: Who,
}

/// One process of a call.
struct Start {
    program: PathBuf,
    args: Vec<String>,
    conf: Value,
}

// === impl Node ===

impl Node {
    pub(super) fn new(who: Who, peers: Option<&Peers>) -> Result<Self> {
        let host = Host::new(&format!("{who:?}"))?;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        host.write(SUBNET_ENV, ENV)?;
        for pod in 0..NAMESPACES {
            host.add_netns(&format!("p{pod}"))?;
        }
        host.run(|| std::fs::create_dir_all(PROGRAMS))?;
        match who {
            Who::Ours => {
                let flannel = binary("flannel")?.display().to_string();
                host.cmd(&[&flannel, "install", "--dir", PROGRAMS])?;
            }
            Who::Go => {
                let folder = peers.context("no Go plugins")?.cni();
                let all = format!("{}/.", folder.display());
                host.cmd(&["cp", "-r", &all, PROGRAMS])?;
            }
            Who::Floor | Who::Lean => {
                let floor = floor_program()?.display().to_string();
                host.cmd(&["cp", &floor, PROGRAMS])?;
                host.ip("link add cni0 type bridge")?;
                host.ip("addr add 10.244.0.1/16 dev cni0")?;
                host.ip("link set cni0 up")?;
                host.cmd(&["nft", "add table ip floor"])?;
                host.cmd(&["nft", "add chain ip floor ports"])?;
            }
        }
        Ok(Self { host, who })
    }

    /// What the processes of a call take.
    pub(super) fn time(&self, call: Call) -> Result<Duration> {
        self.wrapped(call, &[])
    }

    /// The same with each process started by `wrap`.
    pub(super) fn wrapped(
        &self,
        call: Call,
        wrap: &[&str],
    ) -> Result<Duration> {
        let starts = self.starts(call)?;
        let wrap: Vec<String> = wrap.iter().map(|&w| w.to_owned()).collect();
        self.host.run(move || run(starts, call, &wrap))
    }

    /// A job that runs a call in the calling thread's namespaces, which must
    /// be those of this node.
    pub(super) fn job(
        &self,
        call: Call,
    ) -> Result<impl FnOnce() -> Result<Duration> + Send + use<>> {
        let starts = self.starts(call)?;
        Ok(move || run(starts, call, &[]))
    }

    /// In the order of the list; DEL goes backwards.
    fn starts(&self, call: Call) -> Result<Vec<Start>> {
        let mut starts = match self.who {
            Who::Floor | Who::Lean => self.floor_starts(call)?,
            Who::Ours | Who::Go => {
                let start = |name: &str, conf: Value| Start {
                    program: Path::new(PROGRAMS).join(name),
                    args: Vec::new(),
                    conf,
                };
                vec![
                    start("flannel", kube_flannel_conf()),
                    start("portmap", portmap_conf(call)),
                ]
            }
        };
        if call.verb == "DEL" {
            starts.reverse();
        }
        Ok(starts)
    }

    fn floor_starts(&self, call: Call) -> Result<Vec<Start>> {
        let Call { verb, pod, ports } = call;
        let netns = netns(pod);
        let link = if verb == "ADD" {
            let queues = if self.who == Who::Lean { " 1" } else { "" };
            format!(
                "add {netns} cni0 veth{pod} 10.244.1.{pod}/16 10.244.0.1{queues}"
            )
        } else {
            format!("del {netns}")
        };
        let port = match (ports, verb) {
            (Ports::None, _) => String::new(),
            (_, "ADD") => "rule".to_owned(),
            _ => format!("unrule {}", self.a_rule()?),
        };
        let start = |args: String| Start {
            program: Path::new(PROGRAMS).join("floor"),
            args: args.split_whitespace().map(str::to_owned).collect(),
            conf: Value::Null,
        };
        Ok(vec![start(link), start(port)])
    }

    /// The handle of a rule that is there.
    fn a_rule(&self) -> Result<String> {
        let words = ["nft", "--handle", "list chain ip floor ports"];
        let text = self.host.cmd(&words)?;
        let rule = text.lines().find(|line| line.contains("accept #"));
        let handle = rule.and_then(|line| line.rsplit(' ').next());
        handle.map(str::to_owned).with_context(|| format!("no rule in {text}"))
    }
}

fn netns(pod: usize) -> String {
    format!("/run/netns/p{pod}")
}

/// `portmap`'s entry of kube-flannel's list, as a runtime completes it.
fn portmap_conf(call: Call) -> Value {
    let mut conf = json!({
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "portmap",
        "capabilities": { "portMappings": true },
    });
    let backend = match call.ports {
        Ports::None => return conf,
        Ports::Nftables => "nftables",
        Ports::Iptables => "iptables",
    };
    conf["backend"] = backend.into();
    conf["runtimeConfig"] = json!({ "portMappings": [{
        "hostPort": 10_000 + call.pod,
        "containerPort": 80,
        "protocol": "tcp",
    }] });
    conf
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

/// Runs the processes of a call one after the other, as libcni does, and
/// gives the time that passed between each one's start and its end.
fn run(starts: Vec<Start>, call: Call, wrap: &[String]) -> Result<Duration> {
    let (mut took, mut result) = (Duration::ZERO, None);
    for Start { program, args, mut conf } in starts {
        if let (Some(result), "ADD") = (result.take(), call.verb) {
            conf["prevResult"] = result;
        }
        let mut words = wrap.iter().cloned();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", call.verb)
            .env("CNI_CONTAINERID", format!("pod{}", call.pod))
            .env("CNI_NETNS", netns(call.pod))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PROGRAMS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let text = conf.to_string();
        let start = Instant::now();
        let mut child = command.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // The floor does not read it.
            let _ = pipe.write_all(text.as_bytes());
        }
        let output = child.wait_with_output()?;
        took += start.elapsed();
        ensure!(
            output.status.success(),
            "{} by {}: {}{}",
            call.verb,
            program.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        // The floor prints nothing.
        result = serde_json::from_slice(&output.stdout).ok();
    }
    Ok(took)
}
