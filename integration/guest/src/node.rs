//! A node for one test: namespaces, and calls of CNI plugins.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use netlink::link::{Filter, LinkInfo};
use netlink::{NetNs, Socket, link};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Our program under the names of the plugins.
pub(crate) const OURS: &str = "/opt/cni/bin";
/// The Go plugins.
pub(crate) const GO: &str = "/opt/go/bin";

/// Where namespaces are bound.
const NAMESPACES: &str = "/run/netns";

/// A call of a plugin for one container.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The folder of the plugin.
    pub(crate) dir: &'static str,
    /// Its configuration.
    pub(crate) conf: Value,
    /// Container, and name of its namespace.
    pub(crate) id: String,
}

/// Runs `test` in a network and a mount namespace of its own, `/run` and
/// `/var/lib` included.
pub(crate) fn on_a_node(test: &dyn Fn()) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("unshare");
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("private mounts");
    for (kind, at) in
        [("tmpfs", "/run"), ("tmpfs", "/var/lib"), ("sysfs", "/sys")]
    {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none).expect(at);
    }
    let lo = find("lo");
    socket().request(&link::set(lo.index).up().build()).expect("lo");
    test();
}

/// A socket in the node's own namespace.
pub(crate) fn socket() -> Socket {
    Socket::open().expect("socket")
}

/// The node's link of that name.
pub(crate) fn find(name: &str) -> LinkInfo {
    link::by_name(&mut socket(), name).expect(name)
}

/// The node's links but the loopback.
pub(crate) fn links() -> Vec<LinkInfo> {
    let all = link::list(&mut socket(), Filter::default()).unwrap();
    let all = all.complete().unwrap().into_iter();
    all.filter(|link| link.name != "lo").collect()
}

/// Makes a namespace of that name, in place of one that there was.
pub(crate) fn namespace(name: &str) {
    fs::create_dir_all(NAMESPACES).unwrap();
    let path = format!("{NAMESPACES}/{name}");
    // there need not be one
    let _ = umount2(path.as_str(), MntFlags::MNT_DETACH);
    fs::write(&path, "").unwrap();
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        let own = Some("/proc/thread-self/ns/net");
        let none = None::<&str>;
        mount(own, path.as_str(), none, MsFlags::MS_BIND, none).expect("bind");
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap());
}

/// A container `id` in a namespace of its own, on the bridge `br0` without
/// addresses; `members` are added to the configuration.
pub(crate) fn pod(id: &str, members: &Value) -> Call {
    namespace(id);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "tn", "type": "bridge", "bridge": "br0",
    });
    Call { dir: OURS, conf, id: id.to_owned() }.with(members)
}

/// IPAM of these ranges.
pub(crate) fn ipam(subnets: &[&str]) -> Value {
    let range = |subnet: &&str| json!([{ "subnet": subnet }]);
    let ranges: Vec<Value> = subnets.iter().map(range).collect();
    json!({ "type": "host-local", "ranges": ranges })
}

// === impl Call ===

impl Call {
    /// With these members of the configuration instead.
    pub(crate) fn with(mut self, members: &Value) -> Self {
        for (key, value) in members.as_object().unwrap() {
            self.conf[key] = value.clone();
        }
        self
    }

    /// The same by the plugins of that folder.
    pub(crate) fn by(&self, dir: &'static str) -> Self {
        Self { dir, ..self.clone() }
    }

    /// The call again with the result of its ADD.
    pub(crate) fn after(&self, result: &Value) -> Self {
        self.clone().with(&json!({ "prevResult": result }))
    }

    /// The pod's namespace.
    pub(crate) fn netns(&self) -> NetNs {
        NetNs::open(format!("{NAMESPACES}/{}", self.id)).unwrap()
    }

    /// The plugin ready to be started.
    pub(crate) fn command(&self, verb: &str) -> Command {
        let plugin = Path::new(self.dir).join("bridge");
        let mut command = Command::new(plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", format!("{NAMESPACES}/{}", self.id))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Calls the plugin: its result, or its error.
    pub(crate) fn call(&self, verb: &str) -> Result<Value, Value> {
        let mut child = self.command(verb).spawn().expect("plugin");
        let text = self.conf.to_string();
        let mut stdin = child.stdin.take().unwrap();
        // the plugin may answer without reading
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        if !said.is_empty() {
            println!("{} {verb} {}: {said}", self.dir, self.id);
        }
        let answer = match out.stdout.as_slice() {
            [] => Value::Null,
            text => serde_json::from_slice(text).expect("JSON"),
        };
        if out.status.success() { Ok(answer) } else { Err(answer) }
    }

    /// ADD, which must succeed.
    pub(crate) fn add(&self) -> Value {
        self.expect("ADD")
    }

    /// DEL, which must succeed.
    pub(crate) fn del(&self) {
        self.expect("DEL");
    }

    /// Calls the plugin, which must succeed.
    pub(crate) fn expect(&self, verb: &str) -> Value {
        self.call(verb).unwrap_or_else(|e| panic!("{verb} of {self:?}: {e}"))
    }

    /// Code and text of the failure that the call must be.
    pub(crate) fn error(&self, verb: &str) -> (u64, String) {
        let error = match self.call(verb) {
            Ok(answer) => panic!("{verb} of {self:?}: {answer}"),
            Err(error) => error,
        };
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        let text = format!("{} {}", text("msg"), text("details"));
        (error["code"].as_u64().unwrap(), text.trim_end().to_owned())
    }

    /// GC, with these containers alive.
    pub(crate) fn gc(&self, alive: &[&Self]) {
        let one =
            |call: &&Self| json!({ "containerID": call.id, "ifname": "eth0" });
        let alive: Vec<Value> = alive.iter().map(one).collect();
        let list = json!({ "cni.dev/valid-attachments": alive });
        self.clone().with(&list).expect("GC");
    }
}
