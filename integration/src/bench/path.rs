//! Traffic between pods of two nodes: the tunnel our daemon made, beside one
//! made by hand with `ip`. The packets' way is the kernel's in both.

use std::time::Duration;

use anyhow::{Result, bail};
use ipam::Family;

use super::report::{Quantity, Report, median};
use super::{FLAGS, net_conf};
use crate::cluster::Cluster;
use crate::demo::Stack;
use crate::host::Host;
use crate::pod::{Pod, kube_flannel_conf};
use crate::underlay::{Underlay, Wiring};

mod ends;

use ends::End;

const ROUNDS: usize = 11;

/// Of one way in one family: bytes and packets a second, round trips.
#[derive(Default)]
struct Samples {
    bytes: Vec<f64>,
    packets: Vec<f64>,
    times: Vec<Duration>,
}

pub(super) fn run(report: &mut Report<'_>) -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 2, &net_conf(Stack::Dual))?;
    cluster.start(&FLAGS)?;
    // Neither daemon nor plugin masquerades: what is measured is the tunnel,
    // and connection tracking costs a fifth of the packets by itself.
    let mut conf = kube_flannel_conf();
    if let Some(delegate) = conf.get_mut("delegate") {
        delegate["ipMasq"] = false.into();
    }
    let pods = [0, 1]
        .map(|n| Pod::add_with(&cluster.node(n).host, "pod", conf.clone()));
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    let underlay = Underlay::new(Wiring::OneSegment)?;
    let hosts = [by_hand(&underlay, 1)?, by_hand(&underlay, 2)?];
    for family in Family::ALL {
        let mut ours = Vec::new();
        for (node, pod) in cluster.nodes.iter().zip(&pods) {
            let (host, netns) = (&node.host, pod.netns.clone());
            ours.push(End { host, netns, ip: pod.address(family)?.parse()? });
        }
        let mut hand = Vec::new();
        for (n, host) in (1..).zip(&hosts) {
            let netns = "/run/netns/pod".to_owned();
            let ip = inside(family, n, 2).parse()?;
            hand.push(End { host, netns, ip });
        }
        compare(family, &ours, &hand, report)?;
    }
    Ok(())
}

fn compare(
    family: Family,
    ours: &[End<'_>],
    hand: &[End<'_>],
    report: &mut Report<'_>,
) -> Result<()> {
    let mut all = [Samples::default(), Samples::default()];
    for round in 0..=ROUNDS {
        for (ends, samples) in [ours, hand].into_iter().zip(&mut all) {
            let [from, to] = ends else { bail!("two ends each") };
            let bytes = ends::transfer(from, to)?;
            let packets = ends::packets(from, to)?;
            let time = ends::round_trip(from, to)?;
            // The first round warms up.
            if round > 0 {
                samples.bytes.push(bytes);
                samples.packets.push(packets);
                samples.times.push(time);
            }
        }
    }
    let whose = "a vxlan made by hand";
    let [a, b] = &all;
    let mut row = |what: &str, a: Quantity, b: Quantity| {
        report.row(&format!("{family}: pod to pod, {what}"), a, b, whose);
    };
    let bytes = |s: &Samples| Quantity::Rate(median(&s.bytes));
    row("TCP, bytes a second", bytes(a), bytes(b));
    let packets = |s: &Samples| Quantity::Packets(median(&s.packets));
    row("UDP, 18 bytes each", packets(a), packets(b));
    let time = |s: &Samples| median(&s.times).into();
    row("UDP round trip, one core", time(a), time(b));
    Ok(())
}

/// Pod or gateway `host` of node `n`.
fn inside(family: Family, n: u8, host: u8) -> String {
    match family {
        Family::V4 => format!("10.1.{n}.{host}"),
        Family::V6 => format!("fd10:0:0:{n}::{host}"),
    }
}

/// Node `n` of two with a pod, as the daemon and the plugin make them.
fn by_hand(underlay: &Underlay, n: u8) -> Result<Host> {
    let (host, other) = (Host::new(&format!("hand{n}"))?, 3 - n);
    let uplink = underlay.attach(&host, n)?;
    host.sysctl("net/ipv4/ip_forward", "1")?;
    host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    host.ip("link add cni0 mtu 1430 type bridge")?;
    host.ip("link set cni0 up")?;
    host.ip("netns add pod")?;
    let ends = "veth0 mtu 1430 type veth peer name eth0 mtu 1430 netns pod";
    host.ip(&format!("link add {ends}"))?;
    host.ip("link set veth0 master cni0 up")?;
    host.ip("-n pod link set eth0 up")?;
    // As kube-flannel's list asks for it.
    host.cmd(&["bridge", "link", "set", "dev", "veth0", "hairpin", "on"])?;
    for family in Family::ALL {
        let (uplink, device, net, len) = match family {
            Family::V4 => (&uplink.v4, "vx4", 24, 32),
            Family::V6 => (&uplink.v6, "vx6", 64, 128),
        };
        let mac = |n: u8| format!("02:00:00:00:{:02x}:0{n}", family.bits());
        let (own, peer) = (inside(family, n, 0), inside(family, other, 0));
        let gateway = inside(family, n, 1);
        let nodad = if family == Family::V6 { "nodad" } else { "" };
        for words in [
            format!(
                "link add {device} address {} mtu 1430 type vxlan id 1 \
                 local {uplink} dev eth0 dstport 8472 nolearning",
                mac(n)
            ),
            format!("addr add {own}/{len} dev {device} {nodad}"),
            format!("link set {device} up"),
            format!("neigh add {peer} lladdr {} dev {device}", mac(other)),
            format!("route add {peer}/{net} via {peer} dev {device} onlink"),
            format!("addr add {gateway}/{net} dev cni0 {nodad}"),
            format!(
                "-n pod addr add {}/{net} dev eth0 {nodad}",
                inside(family, n, 2)
            ),
            format!("-n pod route add default via {gateway}"),
        ] {
            host.ip(&words)?;
        }
        let peer = match family {
            Family::V4 => format!("192.168.77.{other}"),
            Family::V6 => format!("fd77::{other}"),
        };
        let fdb =
            format!("bridge fdb add {} dev {device} dst {peer}", mac(other));
        host.cmd(&fdb.split(' ').collect::<Vec<_>>())?;
    }
    Ok(host)
}
