//! A pod: a namespace plugged in through the CNI binary, the way a container
//! runtime does it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use ipam::Family;
use serde_json::{Value, json};

use crate::daemon::binary;
use crate::host::Host;

/// The list entry kube-flannel ships (D-7, R-19).
#[must_use]
pub fn kube_flannel_conf() -> Value {
    json!({
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "flannel",
        "delegate": { "hairpinMode": true, "isDefaultGateway": true },
    })
}

/// What a CNI call answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit status 0.
    pub ok: bool,
    /// What it printed on stdout, as JSON; null when empty.
    pub json: Value,
    /// What it printed on stderr.
    pub stderr: String,
}

/// One plugged-in pod.
#[derive(Debug)]
pub struct Pod {
    /// Container id.
    pub id: String,
    /// Path of the namespace on its node.
    pub netns: String,
    /// The configuration it was plugged in with.
    pub conf: Value,
    /// The ADD result.
    pub result: Value,
}

/// Runs one verb of the plugin called `name` on `node`.
///
/// # Errors
/// When the binary cannot be run or answers something that is not JSON.
pub fn cni(
    node: &Host,
    name: &str,
    verb: &str,
    conf: &Value,
    id: &str,
    netns: &str,
) -> Result<Answer> {
    let binary = binary("flannel")?;
    let (name, verb, id, netns) =
        (name.to_owned(), verb.to_owned(), id.to_owned(), netns.to_owned());
    let stdin = conf.to_string();
    let ifname = if name == "loopback" { "lo" } else { "eth0" };
    let output = node.run(move || -> Result<std::process::Output> {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new(&binary)
            .arg0(&name)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", binary.parent().unwrap_or(&binary))
            .env(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=pod",
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = if stdout.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&stdout)
            .with_context(|| format!("answer {stdout:?}"))?
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Answer { ok: output.status.success(), json, stderr })
}

// === impl Pod ===

impl Pod {
    /// A new pod on `node` with kube-flannel's configuration.
    ///
    /// # Errors
    /// With the plugin's answer.
    pub fn add(node: &Host, id: &str) -> Result<Self> {
        Self::add_with(node, id, kube_flannel_conf())
    }

    /// A new pod on `node` with `conf`.
    ///
    /// # Errors
    /// With the plugin's answer.
    pub fn add_with(node: &Host, id: &str, conf: Value) -> Result<Self> {
        let netns = node.add_netns(id)?;
        let lo =
            json!({ "name": "lo", "cniVersion": "0.3.1", "type": "loopback" });
        for (name, conf) in [("loopback", &lo), ("flannel", &conf)] {
            let answer = cni(node, name, "ADD", conf, id, &netns)?;
            if !answer.ok {
                bail!(
                    "{name} ADD on {}: {} {}",
                    node.name(),
                    answer.json,
                    answer.stderr
                );
            }
            if name == "flannel" {
                return Ok(Self {
                    id: id.to_owned(),
                    netns,
                    conf: conf.clone(),
                    result: answer.json,
                });
            }
        }
        bail!("no plugin ran")
    }

    /// Unplugs it and removes its namespace.
    ///
    /// # Errors
    /// With the plugin's answer.
    pub fn del(&self, node: &Host) -> Result<()> {
        let answer =
            cni(node, "flannel", "DEL", &self.conf, &self.id, &self.netns)?;
        if !answer.ok {
            bail!("DEL on {}: {} {}", node.name(), answer.json, answer.stderr);
        }
        node.remove_netns(&self.id)
    }

    /// Its address of that family.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, family: Family) -> Result<String> {
        let mark = match family {
            Family::V4 => '.',
            Family::V6 => ':',
        };
        self.result
            .get("ips")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next())
            .find(|ip| ip.contains(mark))
            .map(str::to_owned)
            .with_context(|| {
                format!("pod {} has no such address: {}", self.id, self.result)
            })
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn v4(&self) -> Result<String> {
        self.address(Family::V4)
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn v6(&self) -> Result<String> {
        self.address(Family::V6)
    }

    /// Runs a program inside.
    ///
    /// # Errors
    /// When it fails.
    pub fn cmd(&self, node: &Host, words: &[&str]) -> Result<String> {
        let mut all =
            vec!["nsenter".to_owned(), format!("--net={}", self.netns)];
        all.extend(words.iter().map(|w| (*w).to_owned()));
        node.cmd(&all)
    }

    /// Pings `to` from inside; every answer must come, the first included.
    ///
    /// # Errors
    /// When one does not.
    pub fn ping(&self, node: &Host, to: &str) -> Result<()> {
        let ping = ["ping", "-n", "-q", "-i", "0.1", "-W", "10", "-c", "3", to];
        let said = self.cmd(node, &ping)?;
        ensure!(said.contains(" 3 received"), "ping {to}: {said}");
        Ok(())
    }

    /// Starts a thread inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        node: &Host,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        node.spawn_in(&self.netns, job)
    }
}
