//! containerd, as kubelet uses it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::poll::poll_until;
use integration::runtimes::containerd::Containerd;
use integration::runtimes::cri::{Cri, Pod};
use integration::runtimes::image::SLEEP;
use serde_json::{Value, json};

use super::{LIST, SHIPPED, prepared, reserved};

/// Waits until it has read the list.
pub(super) fn wait_network(cri: &Cri<'_>) -> Result<()> {
    poll_until("the network to be ready", Duration::from_secs(20), || {
        let conditions = cri.conditions()?;
        ensure!(conditions.iter().all(|c| c.1), "{conditions:?}");
        Ok(())
    })
}

/// RunPodSandbox, containers, ExecSync, StopPodSandbox, RemovePodSandbox.
#[test]
fn pods_of_containerd_reach_each_other_and_leave_nothing() -> Result<()> {
    let host = prepared("cri", LIST)?;
    let containerd = Containerd::start(&host)?;
    let cri = containerd.cri(&host);
    wait_network(&cri)?;
    let mut containers = Vec::new();
    let mut addresses = Vec::new();
    for name in ["a", "b"] {
        let pod = Pod::named(name);
        let id = cri.run_pod(&pod)?;
        let ips = cri.addresses(&id)?;
        assert_eq!(ips.len(), 2, "both families: {ips:?}");
        addresses.push(ips);
        containers.push(cri.start_container(&id, &pod, &SLEEP)?);
    }
    for (from, to) in [(0, 1), (1, 0)] {
        for ip in &addresses[to] {
            cri.ping(&containers[from], ip)?;
        }
    }
    let mut all: Vec<String> = addresses.concat();
    all.sort();
    assert_eq!(reserved(&host, "cbr0")?, all);

    for pod in cri.pods()? {
        assert!(pod.ready, "{pod:?}");
        cri.stop_pod(&pod.id)?;
        // Kubelet says it again until the pod is gone.
        cri.stop_pod(&pod.id)?;
        cri.remove_pod(&pod.id)?;
    }
    assert_eq!(cri.pods()?, []);
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    assert!(!host.ip("-o link show type veth")?.contains("veth"));
    Ok(())
}

/// What kubelet's annotations become: an amount that no 32 bits of bytes hold
/// comes with every limit.
#[test]
fn a_pods_bandwidth_is_limited_until_it_stops() -> Result<()> {
    let mut list: Value = serde_json::from_str(LIST)?;
    let plugins = list["plugins"].as_array_mut().context("a list")?;
    let capabilities = json!({ "bandwidth": true });
    plugins.push(json!({ "type": "bandwidth", "capabilities": capabilities }));
    let host = prepared("limits", &list.to_string())?;
    let containerd = Containerd::start(&host)?;
    let cri = containerd.cri(&host);
    wait_network(&cri)?;
    let annotations = vec![
        ("kubernetes.io/ingress-bandwidth", "8M"),
        ("kubernetes.io/egress-bandwidth", "16M"),
    ];
    let id = cri.run_pod(&Pod { annotations, ..Pod::named("slow") })?;
    let limits = host.cmd(&["tc", "qdisc", "show"])?;
    for rate in ["8Mbit", "16Mbit"] {
        let text = format!("rate {rate} ");
        let limited = |l: &str| l.contains("tbf") && l.contains(&text);
        assert!(limits.lines().any(limited), "{limits}");
    }
    cri.stop_pod(&id)?;
    let left = host.cmd(&["tc", "qdisc", "show"])?;
    assert!(!left.contains("tbf"), "{left}");
    assert_eq!(host.ip("-o link show type ifb")?, "");
    cri.remove_pod(&id)
}

/// `ctr run --cni`: the namespace is that of a process.
#[test]
fn a_container_of_ctr_is_on_the_network_until_it_ends() -> Result<()> {
    let host = prepared("ctr", SHIPPED)?;
    let containerd = Containerd::start(&host)?;
    let address = ["ip", "-o", "address", "show", "dev", "eth0"];
    let said = containerd.ctr_run(&host, "one", &address)?;
    assert!(said.contains("inet 10.244.5.2/24"), "{said}");
    assert!(said.contains("inet6 fd00:244:0:5::2/64"), "{said}");
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    let words = ["ping", "-c", "1", "-W", "2", "10.244.5.1"];
    let said = containerd.ctr_run(&host, "two", &words)?;
    assert!(said.contains("1 packets received"), "{said}");
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    Ok(())
}
