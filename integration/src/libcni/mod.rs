//! A small container runtime's half of CNI: what libcni does with a network
//! configuration list, from its file to the plugins' processes and the kept
//! results (S-39 … S-43, S-66). The runtimes that Debian packages predate GC
//! and STATUS; and with this one, a test chooses every value a plugin sees.
//!
//! Left out, as no plugin can tell: the validation that libcni does of what
//! the *runtime* says, and the conversion of kept results of CNI versions
//! before 0.3.0, which no verb reads again.

mod cache;
mod invoke;
mod list;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

pub use cache::Kept;
pub use invoke::{Failure, failure};
pub use list::{List, at_least};

use crate::host::Host;
use invoke::{Call, Verb};

/// Where libcni keeps results (S-43).
pub const CACHE: &str = "/var/lib/cni/results";

/// The JSON type of configurations and results.
pub type Object = Map<String, Value>;

/// One container on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Container id.
    pub id: String,
    /// Path of its namespace; empty when it is gone.
    pub netns: String,
    /// Interface name.
    pub ifname: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// What the runtime has for each capability a plugin may declare.
    pub capabilities: Object,
}

/// Runs lists of plugins on a host.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// `CNI_PATH`: where plugins are looked for, in order.
    pub path: Vec<PathBuf>,
    /// Where results are kept from ADD on.
    pub cache: PathBuf,
}

// === impl Attachment ===

impl Attachment {
    /// `eth0` of container `id`, with what containerd says of a pod.
    #[must_use]
    pub fn new(id: &str, netns: &str) -> Self {
        let pod = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", "test"),
            ("K8S_POD_NAME", id),
            ("K8S_POD_INFRA_CONTAINER_ID", id),
        ];
        Self {
            id: id.to_owned(),
            netns: netns.to_owned(),
            ifname: "eth0".to_owned(),
            args: pod.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            capabilities: Object::new(),
        }
    }

    /// The same with a value for a capability.
    #[must_use]
    pub fn with(mut self, capability: &str, value: Value) -> Self {
        self.capabilities.insert(capability.to_owned(), value);
        self
    }

    /// As it is listed for GC (S-29).
    fn valid(&self) -> Value {
        json!({ "containerID": self.id, "ifname": self.ifname })
    }
}

// === impl Runtime ===

impl Runtime {
    /// One that finds plugins in `folder`, and keeps results where libcni
    /// does.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { path: vec![folder.to_owned()], cache: PathBuf::from(CACHE) }
    }

    /// ADD through the whole list; the last plugin's result is kept. When a
    /// plugin fails nothing else is called: DEL is the caller's duty (S-61).
    ///
    /// # Errors
    /// With the plugin's [`Failure`].
    pub fn add(
        &self,
        host: &Host,
        list: &List,
        to: &Attachment,
    ) -> Result<Value> {
        let (own, list, to) = (self.clone(), list.clone(), to.clone());
        host.run(move || {
            let mut result = None;
            for plugin in &list.plugins {
                let conf = conf(&list, plugin, result.as_ref(), Some(&to));
                let answer = own.call(Verb::Add, plugin, conf, Some(&to))?;
                ensure!(!answer.is_null(), "ADD gave no result");
                result = Some(answer);
            }
            let result = result.context("a list without plugins")?;
            Kept::of(&list, &to, &result).write(&own.cache)?;
            Ok(result)
        })
    }

    /// CHECK, with the kept result. Nothing when the list switches it off.
    ///
    /// # Errors
    /// With the plugin's [`Failure`]; without a kept result.
    pub fn check(
        &self,
        host: &Host,
        list: &List,
        of: &Attachment,
    ) -> Result<()> {
        ensure!(at_least(&list.version, "0.4.0"), "no CHECK in this version");
        if list.disable_check {
            return Ok(());
        }
        let (own, list, of) = (self.clone(), list.clone(), of.clone());
        host.run(move || {
            let kept = Kept::read(&own.cache, &list, &of)?;
            let result =
                kept.context("no kept result")?.result_as(&list.version)?;
            for plugin in &list.plugins {
                let conf = conf(&list, plugin, Some(&result), Some(&of));
                own.call(Verb::Check, plugin, conf, Some(&of))?;
            }
            Ok(())
        })
    }

    /// DEL in reverse order, up to the first failure; then the kept result
    /// goes. Plugins see it from CNI 0.4.0 on.
    ///
    /// # Errors
    /// With the plugin's [`Failure`].
    pub fn del(&self, host: &Host, list: &List, of: &Attachment) -> Result<()> {
        let (own, list, of) = (self.clone(), list.clone(), of.clone());
        host.run(move || own.del_here(&list, &of))
    }

    fn del_here(&self, list: &List, of: &Attachment) -> Result<()> {
        let kept = if at_least(&list.version, "0.4.0") {
            Kept::read(&self.cache, list, of)?
        } else {
            None
        };
        let result = kept.map(|k| k.result_as(&list.version)).transpose()?;
        for plugin in list.plugins.iter().rev() {
            let conf = conf(list, plugin, result.as_ref(), Some(of));
            self.call(Verb::Del, plugin, conf, Some(of))?;
        }
        Kept::remove(&self.cache, list, of)
    }

    /// GC: DEL of every kept attachment that is not in `valid`, then, from CNI
    /// 1.1.0 on, the verb to every plugin. Goes on after a failure. A runtime
    /// that gives no list of them has all kept ones deleted.
    ///
    /// # Errors
    /// With all that failed; the first plugin's [`Failure`] is in the chain.
    pub fn gc(
        &self,
        host: &Host,
        list: &List,
        valid: Option<&[Attachment]>,
    ) -> Result<()> {
        if list.disable_gc {
            return Ok(());
        }
        let (own, list) = (self.clone(), list.clone());
        let valid = valid.map(<[_]>::to_vec);
        host.run(move || {
            let mut failed = Vec::new();
            let is_valid = |a: &Attachment| {
                let mut all = valid.iter().flatten();
                all.any(|v| v.id == a.id && v.ifname == a.ifname)
            };
            for kept in Kept::all(&own.cache, &list.name)? {
                let attachment = kept.attachment();
                if !is_valid(&attachment) {
                    failed.extend(own.del_here(&list, &attachment).err());
                }
            }
            if at_least(&list.version, "1.1.0") {
                let listed = valid.as_ref().map(|valid| {
                    valid.iter().map(Attachment::valid).collect::<Vec<_>>()
                });
                for plugin in &list.plugins {
                    let mut conf = conf(&list, plugin, None, None);
                    if let Some(listed) = &listed {
                        for key in ["valid-attachments", "attachments"] {
                            let key = format!("cni.dev/{key}");
                            conf.insert(key, json!(listed));
                        }
                    }
                    failed.extend(own.call(Verb::Gc, plugin, conf, None).err());
                }
            }
            let mut failed = failed.into_iter();
            let Some(first) = failed.next() else { return Ok(()) };
            Err(failed.fold(first, |all, next| {
                let text = format!("and {next:#}");
                all.context(text)
            }))
        })
    }

    /// STATUS of every plugin, up to the first that cannot serve. Nothing
    /// before CNI 1.1.0.
    ///
    /// # Errors
    /// With the plugin's [`Failure`].
    pub fn status(&self, host: &Host, list: &List) -> Result<()> {
        if !at_least(&list.version, "1.1.0") {
            return Ok(());
        }
        let (own, list) = (self.clone(), list.clone());
        host.run(move || {
            for plugin in &list.plugins {
                let conf = conf(&list, plugin, None, None);
                own.call(Verb::Status, plugin, conf, None)?;
            }
            Ok(())
        })
    }

    /// The versions that the plugin `kind` says it supports (S-20).
    ///
    /// # Errors
    /// When it does not say.
    pub fn versions(&self, host: &Host, kind: &str) -> Result<Vec<String>> {
        let plugin = Object::from_iter([("type".to_owned(), json!(kind))]);
        let own = self.clone();
        let conf = Object::from_iter([("cniVersion".into(), json!("1.1.0"))]);
        let said = host
            .run(move || own.call(Verb::Version, &plugin, conf, None))
            .with_context(|| format!("VERSION of {kind}"))?;
        ensure!(said["cniVersion"].is_string(), "no cniVersion in {said}");
        let list = said["supportedVersions"].as_array();
        let list = list.with_context(|| format!("no list in {said}"))?;
        Ok(list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
    }

    /// One process.
    fn call(
        &self,
        verb: Verb,
        plugin: &Object,
        conf: Object,
        of: Option<&Attachment>,
    ) -> Result<Value> {
        let kind = plugin.get("type").and_then(Value::as_str);
        let kind = kind.unwrap_or_default();
        Call {
            program: &self.find(kind)?,
            verb,
            conf: &Value::Object(conf),
            of: of.unwrap_or(&Attachment::default()),
            path: &self.path,
        }
        .run()
    }

    /// The first regular file of this name (S-5).
    fn find(&self, kind: &str) -> Result<PathBuf> {
        if kind.is_empty() || kind.contains('/') {
            bail!("{kind:?} is no name of a plugin");
        }
        let files = self.path.iter().map(|folder| folder.join(kind));
        let mut found = files.filter(|file| file.is_file());
        found
            .next()
            .with_context(|| format!("no plugin {kind} in {:?}", self.path))
    }
}

/// What a plugin reads on stdin: its entry as it stands, and what the runtime
/// adds: the list's name and version, the result so far, and of what it has
/// for capabilities what the entry declares (S-22 … S-28).
fn conf(
    list: &List,
    plugin: &Object,
    result: Option<&Value>,
    of: Option<&Attachment>,
) -> Object {
    let mut conf = plugin.clone();
    conf.insert("name".into(), json!(list.name));
    conf.insert("cniVersion".into(), json!(list.version));
    if let Some(result) = result {
        conf.insert("prevResult".into(), result.clone());
    }
    let declared = plugin.get("capabilities").and_then(Value::as_object);
    let wanted = |name: &str| {
        declared.and_then(|d| d.get(name)).and_then(Value::as_bool)
            == Some(true)
    };
    let supplied = of.into_iter().flat_map(|of| &of.capabilities);
    let runtime: Object = supplied
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !runtime.is_empty() {
        conf.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    conf
}
