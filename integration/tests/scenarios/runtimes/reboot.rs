//! The power fails on a node with pods.

use std::time::Duration;

use anyhow::{Context, Result};
use integration::cluster::Cluster;
use integration::poll::poll_until;
use integration::runtimes::boot::forget_runtime_state;
use integration::runtimes::containerd::Containerd;
use integration::runtimes::cri::Pod;
use integration::runtimes::image::SLEEP;
use integration::runtimes::prepare;
use integration::underlay::Wiring;
use serde_json::json;

use super::containerd::wait_network;
use super::{LIST, reserved};

/// Everything in /run and in the kernel is gone, the disk is not. The runtime
/// comes up before the daemon: kubelet tears the old pods down without their
/// namespaces and without subnet.env, and asks for new ones until there
/// is a network. No address of the old ones stays taken.
#[test]
fn after_a_reboot_old_pods_go_and_their_addresses_come_back() -> Result<()> {
    let net_conf = json!({
        "Network": "10.244.0.0/16",
        "EnableIPv6": true,
        "IPv6Network": "fd00:244::/48",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &net_conf)?;
    let flags = ["--iface=eth0", "--ip-masq=true"];
    cluster.start(&flags)?;
    prepare(&cluster.node(0).host, LIST)?;
    let names = ["a", "b", "c"];
    let mut old = Vec::new();
    {
        let host = &cluster.node(0).host;
        let containerd = Containerd::start(host)?;
        let cri = containerd.cri(host);
        wait_network(&cri)?;
        for name in names {
            old.push(cri.run_pod(&Pod::named(name))?);
        }
        assert_eq!(reserved(host, "cbr0")?.len(), 6);
    }

    cluster.node_mut(0).daemon = None;
    let host = &cluster.node(0).host;
    forget_runtime_state(host)?;
    assert_eq!(reserved(host, "cbr0")?.len(), 6, "these are on disk");
    let containerd = Containerd::start(host)?;
    let cri = containerd.cri(host);
    wait_network(&cri)?;
    let listed = cri.pods()?;
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|pod| !pod.ready), "{listed:?}");
    for id in &old {
        cri.stop_pod(id).context("no namespace, no subnet.env")?;
    }
    assert_eq!(reserved(host, "cbr0")?, Vec::<String>::new());
    let again = |name: &str| Pod { attempt: 1, ..Pod::named(name) };
    let refused = cri.run_pod(&again("a")).err().context("no network")?;
    let refused = format!("{refused:#}");
    assert!(refused.contains("subnet.env"), "{refused}");
    assert!(cri.pods()?.iter().all(|pod| !pod.ready));
    assert_eq!(reserved(host, "cbr0")?, Vec::<String>::new());

    cluster.start_one(0, &flags)?;
    let host = &cluster.node(0).host;
    let limit = Duration::from_secs(30);
    let first = poll_until("a pod", limit, || cri_run(&containerd, host))?;
    let mut pods = vec![first];
    for name in &names[1..] {
        pods.push(containerd.cri(host).run_pod(&again(name))?);
    }
    let cri = containerd.cri(host);
    let from = cri.start_container(&pods[0], &again("a"), &SLEEP)?;
    for id in &pods {
        for ip in cri.addresses(id)? {
            cri.ping(&from, &ip)?;
        }
    }
    for id in &old {
        cri.remove_pod(id)?;
    }
    let ready = cri.pods()?.iter().filter(|pod| pod.ready).count();
    assert_eq!(ready, 3);
    assert_eq!(reserved(host, "cbr0")?.len(), 6);
    Ok(())
}

/// As kubelet: the same pod again until it works.
fn cri_run(
    containerd: &Containerd,
    host: &integration::host::Host,
) -> Result<String> {
    let again = Pod { attempt: 1, ..Pod::named("a") };
    containerd.cri(host).run_pod(&again)
}
