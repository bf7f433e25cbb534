//! Lists run as libcni runs them (S-39 … S-43, S-66), for the verbs and
//! versions that packaged runtimes do not know: kube-flannel's list as it is
//! shipped, every CNI version, STATUS of a node that is not ready, GC after
//! pods that vanished.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, SUBNET_ENV};
use integration::host::Host;
use integration::libcni::{Attachment, CACHE, Failure, List, Runtime, failure};
use integration::runtimes::{PLUGINS, prepare_plugins};
use integration::underlay::Wiring;
use serde_json::{Value, json};

const VERSIONS: [&str; 7] =
    ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

const ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\n\
                   FLANNEL_SUBNET=10.244.5.1/24\n\
                   FLANNEL_IPV6_NETWORK=fd00:244::/48\n\
                   FLANNEL_IPV6_SUBNET=fd00:244:0:5::1/64\n\
                   FLANNEL_MTU=1400\n\
                   FLANNEL_IPMASQ=true\n";

/// kube-flannel's list with other versions.
fn list(versions: &Value) -> Result<List> {
    let mut list = json!({
        "name": "cbr0",
        "plugins": [
            { "type": "flannel",
              "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    let key = if versions.is_array() { "cniVersions" } else { "cniVersion" };
    list[key] = versions.clone();
    List::parse(&list.to_string(), None)
}

/// A node with our plugins, without a daemon.
struct Node {
    host: Host,
    runtime: Runtime,
}

// === impl Node ===

impl Node {
    fn new(name: &str) -> Result<Self> {
        let host = Host::new(name)?;
        host.write(SUBNET_ENV, ENV)?;
        prepare_plugins(&host)?;
        Ok(Self { host, runtime: Runtime::new(Path::new(PLUGINS)) })
    }

    fn pod(&self, id: &str) -> Result<Attachment> {
        Ok(Attachment::new(id, &self.host.add_netns(id)?))
    }

    fn add(&self, list: &List, pod: &Attachment) -> Result<Value> {
        self.runtime.add(&self.host, list, pod)
    }

    fn del(&self, list: &List, pod: &Attachment) -> Result<()> {
        self.runtime.del(&self.host, list, pod)
    }

    fn ping(&self, from: &Attachment, to: &str) -> Result<()> {
        let netns = format!("--net={}", from.netns);
        let ping = ["ping", "-n", "-q", "-i0.1", "-W10", "-c2", to];
        let words = [&["nsenter", &netns][..], &ping].concat();
        let said = self.host.cmd(&words)?;
        ensure!(said.contains(" 2 received"), "{said}");
        Ok(())
    }

    /// No address, cable, rule or kept result is left.
    fn assert_clean(&self) -> Result<()> {
        assert_eq!(self.reserved()?, Vec::<String>::new());
        assert_eq!(self.host.ip("-o link show type veth")?, "");
        let rules = self.host.cmd(&["nft", "list", "ruleset"])?;
        assert!(!rules.contains("dnat"), "{rules}");
        let kept = self.host.run(|| files(CACHE));
        assert_eq!(kept, Vec::<String>::new());
        Ok(())
    }

    fn reserved(&self) -> Result<Vec<String>> {
        let names = self.host.run(|| files("/var/lib/cni/networks/cbr0"));
        let is_ip = |n: &String| n.parse::<std::net::IpAddr>().is_ok();
        Ok(names.into_iter().filter(is_ip).collect())
    }
}

/// The names in a folder, in order; none without it.
fn files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The addresses in a result, whatever its version.
fn addresses(result: &Value) -> Vec<String> {
    let new = result["ips"].as_array().into_iter().flatten();
    let new = new.filter_map(|ip| ip["address"].as_str());
    let old = ["ip4", "ip6"].into_iter();
    let old = old.filter_map(|family| result[family]["ip"].as_str());
    let ip = |text: &str| text.split('/').next().unwrap_or(text).to_owned();
    new.chain(old).map(ip).collect()
}

fn failed(result: Result<()>) -> Result<Failure> {
    let error = result.err().context("it did not fail")?;
    failure(&error).cloned().with_context(|| format!("{error:#}"))
}

/// Two pods in each version; both reach each other, and nothing stays.
#[test]
fn every_version_attaches_checks_and_detaches() -> Result<()> {
    let node = Node::new("versions")?;
    for version in VERSIONS {
        let mut list = list(&json!(version))?;
        let chained = !["0.1.0", "0.2.0"].contains(&version);
        if !chained {
            // A chain needs prevResult, which came with 0.3.0 (S-21).
            list.plugins.truncate(1);
        }
        let (a, b) = (
            node.pod(&format!("a{version}"))?,
            node.pod(&format!("b{version}"))?,
        );
        let ports = json!([{
            "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp",
        }]);
        let a = a.with("portMappings", ports);
        node.add(&list, &a).context(version)?;
        let result = node.add(&list, &b).context(version)?;
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"].is_array(), chained, "{result}");
        for ip in addresses(&result) {
            node.ping(&a, &ip).context(version)?;
        }
        let rules = node.host.cmd(&["nft", "list", "ruleset"])?;
        assert_eq!(rules.contains("dnat"), chained, "{rules}");
        let check = node.runtime.check(&node.host, &list, &a);
        let has_check = ["0.4.0", "1.0.0", "1.1.0"].contains(&version);
        assert_eq!(check.is_ok(), has_check, "{version}: {check:?}");
        node.runtime.status(&node.host, &list).context(version)?;
        for pod in [&a, &b] {
            node.del(&list, pod).context(version)?;
            node.del(&list, pod).context("again")?;
        }
        node.assert_clean().context(version)?;
    }
    for plugin in ["flannel", "portmap", "loopback"] {
        assert_eq!(node.runtime.versions(&node.host, plugin)?, VERSIONS);
    }
    Ok(())
}

/// With 0.3.1, DEL has no prevResult; after a reboot, no namespace either.
#[test]
fn kube_flannels_list_detaches_without_result_and_namespace() -> Result<()> {
    let node = Node::new("shipped")?;
    let list = list(&json!("0.3.1"))?;
    let ports = json!([{
        "hostPort": 8080, "containerPort": 80, "protocol": "udp",
    }]);
    let pod = node.pod("gone")?.with("portMappings", ports);
    node.add(&list, &pod)?;
    node.host.remove_netns("gone")?;
    node.host.cmd(&["rm", SUBNET_ENV])?;
    let pod = Attachment { netns: String::new(), ..pod };
    node.del(&list, &pod)?;
    node.assert_clean()
}

/// The node's list becomes one of 1.1.0 while pods live.
#[test]
fn pods_outlive_a_change_of_the_lists_version() -> Result<()> {
    let node = Node::new("upgrade")?;
    let (old, new) = (list(&json!("0.3.1"))?, list(&json!(VERSIONS))?);
    assert_eq!(new.version, "1.1.0");
    let pod = node.pod("pod")?;
    node.add(&old, &pod)?;
    node.runtime.check(&node.host, &new, &pod)?;
    node.del(&new, &pod)?;
    node.assert_clean()?;
    node.add(&new, &pod)?;
    node.del(&old, &pod)?;
    node.assert_clean()
}

/// STATUS says what ADD would: not before the daemon has a subnet.
#[test]
fn status_follows_the_daemon() -> Result<()> {
    let net_conf = json!({
        "Network": "10.244.0.0/16",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf)?;
    let list = list(&json!("1.1.0"))?;
    let runtime = Runtime::new(Path::new(PLUGINS));
    let host = &cluster.node(0).host;
    prepare_plugins(host)?;
    let not_yet = failed(runtime.status(host, &list))?;
    assert_eq!(not_yet.code, 50, "{not_yet}");
    assert!(not_yet.msg.contains("subnet.env"), "{not_yet}");
    cluster.start(&["--iface=eth0", "--ip-masq=true"])?;
    runtime.status(&cluster.node(0).host, &list)
}

/// Pods that went without DEL, with and without a kept result: GC takes all
/// that is left of them, and nothing of those that are valid (S-64).
#[test]
fn gc_takes_what_is_left_of_pods_that_vanished() -> Result<()> {
    let node = Node::new("gc")?;
    let list = list(&json!(VERSIONS))?;
    let with_port = |id: &str, port: u16| -> Result<Attachment> {
        let ports = json!([{
            "hostPort": port, "containerPort": 80, "protocol": "tcp",
        }]);
        Ok(node.pod(id)?.with("portMappings", ports))
    };
    let stays = with_port("stays", 8080)?;
    let result = node.add(&list, &stays)?;
    for (id, port) in [("vanished", 8081), ("forgotten", 8082)] {
        node.add(&list, &with_port(id, port)?)?;
        node.host.remove_netns(id)?;
    }
    let forgotten = format!("{CACHE}/cbr0-forgotten-eth0");
    node.host.cmd(&["rm", &forgotten])?;
    assert_eq!(node.reserved()?.len(), 6);

    let valid = [stays.clone()];
    node.runtime.gc(&node.host, &list, Some(&valid))?;
    let mut own = addresses(&result);
    own.sort();
    assert_eq!(node.reserved()?, own);
    let rules = node.host.cmd(&["nft", "list", "ruleset"])?;
    assert!(rules.contains("8080"), "{rules}");
    assert!(!rules.contains("8081") && !rules.contains("8082"), "{rules}");
    let kept = node.host.run(|| files(CACHE));
    assert_eq!(kept, ["cbr0-stays-eth0"]);
    node.runtime.check(&node.host, &list, &stays)?;
    node.ping(&stays, "10.244.5.1")?;
    // A second one finds nothing to do.
    node.runtime.gc(&node.host, &list, Some(&valid))?;
    assert_eq!(node.reserved()?, own);
    node.del(&list, &stays)?;
    node.assert_clean()
}

/// A runtime that gives no list has not said that no pod is valid.
#[test]
fn gc_without_a_list_takes_nothing() -> Result<()> {
    let node = Node::new("nolist")?;
    let list = list(&json!("1.1.0"))?;
    let pod = node.pod("lives")?;
    node.add(&list, &pod)?;
    let kept = format!("{CACHE}/cbr0-lives-eth0");
    node.host.cmd(&["mv", &kept, "/run/kept"])?;
    failed(node.runtime.gc(&node.host, &list, None))?;
    node.host.cmd(&["mv", "/run/kept", &kept])?;
    node.runtime.check(&node.host, &list, &pod)?;
    // With an empty list, none is.
    node.runtime.gc(&node.host, &list, Some(&[]))?;
    node.assert_clean()
}
