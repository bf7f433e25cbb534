//! A node for one test: namespaces, pods, calls of the plugin.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netlink::{NetNs, Socket, link};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// One family or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    V4,
    V6,
    Dual,
}

/// A node; only within [`on_a_node`].
pub(crate) struct Node;

/// What one call answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A call of the plugin, kube-flannel's unless changed.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) conf: Value,
    pub(crate) env: Vec<(&'static str, String)>,
}

/// Every published version.
pub(crate) const VERSIONS: [&str; 7] =
    ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

pub(crate) const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// Runs `test` on a thread with a network and a mount namespace of its own,
/// `/run`, `/var/lib` and `/sys` included. All of it goes with the thread.
pub(crate) fn on_a_node(test: impl FnOnce(&Node) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the plugin's kernel tests need root: they make network namespaces"
    );
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("unshare");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("private mounts");
        for (kind, path) in
            [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("sysfs", "/sys")]
        {
            mount(Some(kind), path, Some(kind), MsFlags::empty(), none)
                .expect(path);
        }
        up("lo", &mut Socket::open().expect("socket"));
        test(&Node);
    };
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let joined = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, body)
            .expect("thread")
            .join()
    });
    if let Err(panic) = joined {
        std::panic::resume_unwind(panic);
    }
}

fn up(name: &str, socket: &mut Socket) {
    let lo = link::by_name(socket, name).expect(name);
    socket.request(&link::set(lo.index).up().build()).expect("up");
}

/// kube-flannel's entry of the list, as libcni hands it over.
pub(crate) fn kube_flannel(version: &str) -> Value {
    json!({
        "name": "cbr0",
        "cniVersion": version,
        "type": "flannel",
        "delegate": { "hairpinMode": true, "isDefaultGateway": true },
    })
}

// === impl Node ===

impl Node {
    /// Writes what flanneld would, with `FLANNEL_IPMASQ=true`.
    pub(crate) fn flanneld(&self, stack: Stack) {
        let v4 = "FLANNEL_NETWORK=10.244.0.0/16\n\
                  FLANNEL_SUBNET=10.244.1.1/24\n";
        let v6 = "FLANNEL_IPV6_NETWORK=fd00:244::/48\n\
                  FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\n";
        let nets = match stack {
            Stack::V4 => v4.to_owned(),
            Stack::V6 => v6.to_owned(),
            Stack::Dual => format!("{v4}{v6}"),
        };
        self.subnet_env(&format!(
            "{nets}FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        ));
    }

    pub(crate) fn subnet_env(&self, text: &str) {
        fs::create_dir_all("/run/flannel").unwrap();
        fs::write(SUBNET_ENV, text).unwrap();
    }

    /// A pod's namespace and a call for it.
    pub(crate) fn pod(&self, id: &str) -> Call {
        self.netns(id);
        Call {
            name: "flannel",
            id: id.to_owned(),
            netns: format!("/run/netns/{id}"),
            ifname: "eth0".to_owned(),
            conf: kube_flannel("1.0.0"),
            env: Vec::new(),
        }
    }

    /// What the addresses of both families begin with that no other test on
    /// this machine uses meanwhile: what decides whether an address is in use
    /// looks into all namespaces.
    pub(crate) fn own_networks(&self) -> (String, String) {
        let id = nix::unistd::gettid().as_raw();
        let (high, low) = (128 + (id >> 8) % 100, id % 256);
        (format!("10.{high}.{low}"), format!("fd00:{high}:{low}"))
    }

    /// As [`Node::flanneld`] with [`Node::own_networks`]. Returns what the
    /// IPv4 addresses begin with.
    pub(crate) fn flanneld_alone(&self, len: u8) -> String {
        let (v4, _) = self.own_networks();
        self.subnet_env(&format!(
            "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET={v4}.1/{len}\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        ));
        v4
    }

    /// The same with both families.
    pub(crate) fn flanneld_alone_dual(&self) {
        let (v4, v6) = self.own_networks();
        self.subnet_env(&format!(
            "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET={v4}.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00::/16\nFLANNEL_IPV6_SUBNET={v6}::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        ));
    }

    pub(crate) fn netns(&self, name: &str) {
        run("ip", &["netns", "add", name]);
    }

    pub(crate) fn remove_netns(&self, name: &str) {
        run("ip", &["netns", "del", name]);
    }

    /// A socket in the node's own namespace.
    pub(crate) fn socket(&self) -> Socket {
        Socket::open().unwrap()
    }

    /// The names of the host's ends of veth pairs.
    pub(crate) fn veths(&self) -> Vec<String> {
        let veths =
            link::Filter { kind: Some("veth"), ..link::Filter::default() };
        let links = link::list(&mut self.socket(), veths).unwrap();
        links.complete().unwrap().into_iter().map(|l| l.name).collect()
    }

    /// The reserved addresses of kube-flannel's network, sorted.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let files = names("/var/lib/cni/networks/cbr0");
        files
            .into_iter()
            .filter(|f| f.parse::<std::net::IpAddr>().is_ok())
            .collect()
    }

    /// The containers with a kept configuration.
    pub(crate) fn scratch(&self) -> Vec<String> {
        names("/var/lib/cni/flannel")
    }

    /// Asserts that nothing of any attachment is there.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.veths(), [""; 0], "links");
        assert_eq!(self.reserved(), [""; 0], "addresses");
        assert_eq!(self.scratch(), [""; 0], "kept configurations");
    }

    /// A folder with executable scripts, for CNI_PATH.
    pub(crate) fn plugins(&self, scripts: &[(&str, &str)]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let folder = PathBuf::from("/run/plugins");
        fs::create_dir_all(&folder).unwrap();
        for (name, body) in scripts {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .unwrap();
        }
        folder
    }
}

/// Looks until it is so, for half a minute at most.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The files of a folder, sorted; none when it is not there.
pub(crate) fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut out: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    out.sort();
    out
}

/// Runs a program to its successful end and returns its stdout.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    assert!(
        out.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

// === impl Call ===

impl Call {
    pub(crate) fn version(mut self, version: &str) -> Self {
        self.conf["cniVersion"] = version.into();
        self
    }

    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    pub(crate) fn delegate(mut self, key: &str, value: Value) -> Self {
        self.conf["delegate"][key] = value;
        self
    }

    pub(crate) fn env(mut self, key: &'static str, value: &str) -> Self {
        self.env.push((key, value.to_owned()));
        self
    }

    /// The pod's namespace.
    pub(crate) fn open(&self) -> NetNs {
        NetNs::open(&self.netns).unwrap()
    }

    /// Calls the plugin.
    pub(crate) fn call(&self, verb: &str) -> Answer {
        let text = self.conf.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
        command.arg0(self.name);
        self.environment(&mut command, verb);
        Answer::of(&feed(&mut command, text.as_bytes()))
    }

    /// The same without one of root's capabilities (capabilities(7), in lower
    /// case and without `CAP_`).
    pub(crate) fn call_without(&self, capability: &str, verb: &str) -> Answer {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &format!("-{capability}"), "bash"]);
        self.call_by(command, "", verb)
    }

    /// The same with room for so many open files.
    pub(crate) fn call_with_files(&self, most: usize, verb: &str) -> Answer {
        let limit = format!("ulimit -n {most}; ");
        self.call_by(Command::new("bash"), &limit, verb)
    }

    /// The same by a shell, which does something before.
    fn call_by(&self, mut shell: Command, before: &str, verb: &str) -> Answer {
        shell
            .arg("-c")
            .arg(format!("{before}exec -a {} \"$0\"", self.name))
            .arg(env!("CARGO_BIN_EXE_flannel"));
        self.environment(&mut shell, verb);
        Answer::of(&feed(&mut shell, self.conf.to_string().as_bytes()))
    }

    /// The variables of a call.
    pub(crate) fn environment(&self, command: &mut Command, verb: &str) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_PATH", "/run/plugins")
            .envs(self.env.iter().map(|(k, v)| (k, v)));
    }

    /// The same with the list of attachments that GC must leave alone.
    pub(crate) fn valid(mut self, calls: &[&Self]) -> Self {
        let list = calls.iter().map(
            |call| json!({ "containerID": call.id, "ifname": call.ifname }),
        );
        self.conf["cni.dev/valid-attachments"] = list.collect();
        self
    }

    /// ADD, which must succeed; its result.
    pub(crate) fn add(&self) -> Value {
        self.call("ADD").result()
    }

    /// DEL, which must succeed without a word on stdout.
    pub(crate) fn del(&self) {
        let answer = self.call("DEL");
        assert!(answer.ok, "{answer:?}");
        assert_eq!(answer.stdout, "");
    }

    /// The call again with the result of its ADD, as libcni makes it.
    pub(crate) fn after(&self, result: &Value) -> Self {
        self.clone().with("prevResult", result.clone())
    }

    /// The call of the plugin `kind` behind this one in a list, which has
    /// answered `result`.
    pub(crate) fn chained(&self, kind: &'static str, result: &Value) -> Self {
        let (name, version) = (&self.conf["name"], &result["cniVersion"]);
        let conf = json!({ "name": name, "cniVersion": version, "type": kind });
        Self { name: kind, conf, ..self.clone() }.after(result)
    }

    /// Whether a ping from inside the pod is answered.
    pub(crate) fn pings(&self, target: &str) -> bool {
        self.open().enter(|| ping(target)).unwrap()
    }

    /// Whether none is answered, within a second.
    pub(crate) fn pings_in_vain(&self, target: &str) -> bool {
        !self.open().enter(|| ping_for("1", target)).unwrap()
    }
}

/// Whether a ping is answered. However busy the machine is.
pub(crate) fn ping(target: &str) -> bool {
    ping_for("30", target)
}

/// One a second until one is answered, or the time, in seconds, is up.
fn ping_for(seconds: &str, target: &str) -> bool {
    let out = Command::new("ping")
        .args(["-n", "-c1", "-w", seconds, target])
        .output()
        .expect("ping: package iputils-ping");
    out.status.success()
}

/// Runs `command` with `input` on its stdin.
pub(crate) fn feed(command: &mut Command, input: &[u8]) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    feed_no_answer(command, input).wait_with_output().unwrap()
}

/// Starts it with its input.
pub(crate) fn feed_no_answer(command: &mut Command, input: &[u8]) -> Child {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the plugin");
    // the plugin may answer without reading
    let _ = child.stdin.take().unwrap().write_all(input);
    child
}

/// The addresses of a result, whatever its version.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    match result["ips"].as_array() {
        Some(ips) => ips.iter().filter_map(|i| text(&i["address"])).collect(),
        None => ["ip4", "ip6"]
            .iter()
            .filter_map(|key| text(&result[key]["ip"]))
            .collect(),
    }
}

/// The same without the prefix lengths.
pub(crate) fn plain(result: &Value) -> Vec<String> {
    let cut = |a: &String| a.split('/').next().unwrap().to_owned();
    addresses(result).iter().map(cut).collect()
}

pub(crate) fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

// === impl Answer ===

impl Answer {
    pub(crate) fn of(out: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        Self { ok: out.status.success(), stdout, stderr }
    }

    /// The result of a success.
    pub(crate) fn result(&self) -> Value {
        assert!(self.ok, "{self:?}");
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }

    /// Code and message of a failure, details after it.
    pub(crate) fn error(&self) -> (u64, String) {
        assert!(!self.ok, "{self:?}");
        let error: Value =
            serde_json::from_str(&self.stdout).expect(&self.stdout);
        assert!(error["cniVersion"].is_string(), "{error}");
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        let msg = format!("{} {}", text("msg"), text("details"));
        (error["code"].as_u64().unwrap(), msg.trim_end().to_owned())
    }
}
