//! `bandwidth` limits what it says, in the direction that it says, and nobody
//! else (CT-42): by what is dropped of more than a bucket holds, not by time.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Call, Stack, on_a_node, plain, run, wait_until};

/// So many datagrams of so many bytes each.
const SENT: usize = 200;
const SIZE: usize = 1000;
const GATEWAY: &str = "10.244.1.1";

/// 1000 bytes a second and 5 of the datagrams at once: a machine would have to
/// stand still for minutes to let all of them through.
const RATE: u64 = 8_000;
const BURST: u64 = 48_000;
/// What passes at least, and what is dropped at least.
const PASSES: usize = 3;
const DROPPED: u64 = 100;

/// A socket in the pod and one of the node, as sender and receiver.
fn sockets(pod: &Call, ip: &str, to_pod: bool) -> (UdpSocket, UdpSocket) {
    let inside = pod.open().enter(|| UdpSocket::bind((ip, 0)).unwrap());
    let outside = UdpSocket::bind((GATEWAY, 0)).unwrap();
    let (from, to) = match to_pod {
        true => (outside, inside.unwrap()),
        false => (inside.unwrap(), outside),
    };
    from.connect(to.local_addr().unwrap()).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (from, to)
}

/// One after the other, each when the one before has arrived: all arrive.
fn all_pass(pod: &Call, ip: &str, to_pod: bool) {
    let (from, to) = sockets(pod, ip, to_pod);
    for n in 0..SENT {
        from.send(&[0; SIZE]).unwrap();
        let got = to.recv(&mut [0; SIZE]);
        assert!(got.is_ok(), "{n} to pod: {to_pod}: {got:?}");
    }
}

/// All at once: what the bucket on `dev` holds arrives, the rest is dropped.
fn most_are_dropped(pod: &Call, ip: &str, to_pod: bool, dev: &str) {
    let (from, to) = sockets(pod, ip, to_pod);
    let before = Counters::of(dev);
    for _ in 0..SENT {
        from.send(&[0; SIZE]).unwrap();
    }
    wait_until("the bucket has seen them", || {
        Counters::of(dev).seen >= before.seen + SENT as u64
    });
    let dropped = Counters::of(dev).dropped - before.dropped;
    assert!(dropped >= DROPPED, "{dropped} on {dev}, to pod: {to_pod}");
    for n in 0..PASSES {
        let got = to.recv(&mut [0; SIZE]);
        assert!(got.is_ok(), "{n} on {dev}, to pod: {to_pod}: {got:?}");
    }
}

/// Of the bucket on a device, in packets.
struct Counters {
    /// Passed, waiting or dropped.
    seen: u64,
    dropped: u64,
}

// === impl Counters ===

impl Counters {
    fn of(dev: &str) -> Self {
        let text = run("tc", &["-s", "-j", "qdisc", "show", "dev", dev]);
        let all: Value = serde_json::from_str(&text).expect(&text);
        let mut all = all.as_array().unwrap().iter();
        let tbf = all.find(|q| q["kind"] == "tbf").expect(&text);
        let [passed, dropped, waiting] = ["packets", "drops", "qlen"]
            .map(|key| tbf[key].as_u64().expect(&text));
        Self { seen: passed + dropped + waiting, dropped }
    }
}

/// The pod, limited by `limits`, and the devices with its buckets.
fn limited(pod: &Call, result: &Value, limits: Value) -> [String; 2] {
    let mut call = pod.chained("bandwidth", result);
    for (key, value) in limits.as_object().unwrap() {
        call = call.with(key, value.clone());
    }
    let out = call.add();
    let interfaces = out["interfaces"].as_array().unwrap();
    let name = |at: usize| interfaces[at]["name"].as_str().unwrap().to_owned();
    let is_host_end = |i: &Value| {
        let name = i["name"].as_str().unwrap();
        i["sandbox"].is_null() && name.starts_with("veth")
    };
    let host_end = interfaces.iter().position(is_host_end).unwrap();
    [name(host_end), name(interfaces.len() - 1)]
}

/// Behind a bridge, beside a pod without limits.
#[test]
fn both_directions_of_a_bridged_pod() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let [slow, other] = ["slow", "other"].map(|id| node.pod(id));
        let [result, of_other] = [slow.add(), other.add()];
        let [ip, other_ip] =
            [&result, &of_other].map(|result| plain(result).remove(0));
        let limits = json!({
            "ingressRate": RATE, "ingressBurst": BURST,
            "egressRate": RATE, "egressBurst": BURST,
        });
        let [host_end, ifb] = limited(&slow, &result, limits);
        for pod in [&slow, &other] {
            assert!(pod.pings(GATEWAY));
        }
        most_are_dropped(&slow, &ip, true, &host_end);
        most_are_dropped(&slow, &ip, false, &ifb);
        all_pass(&other, &other_ip, true);
        all_pass(&other, &other_ip, false);
    });
}

/// Without a bridge, one direction at a time: the other has no limit.
#[test]
fn one_direction_of_a_routed_pod() {
    on_a_node(|node| {
        for to_pod in [true, false] {
            let conf = json!({ "name": "tn", "cniVersion": "1.0.0",
                "type": "ptp", "ipam": { "type": "host-local",
                    "ranges": [[{ "subnet": "10.244.1.0/24" }]] } });
            let pod = Call { name: "ptp", conf, ..node.pod("a") };
            let result = pod.add();
            let ip = plain(&result).remove(0);
            let side = if to_pod { "ingress" } else { "egress" };
            let limits = json!({ format!("{side}Rate"): RATE,
                format!("{side}Burst"): BURST });
            let [host_end, ifb] = limited(&pod, &result, limits);
            assert!(pod.pings(GATEWAY));
            let dev = if to_pod { host_end } else { ifb };
            most_are_dropped(&pod, &ip, to_pod, &dev);
            all_pass(&pod, &ip, !to_pod);
            pod.chained("bandwidth", &result).del();
            pod.del();
            node.remove_netns("a");
        }
    });
}

/// CW-15, R-7, R-12: what containerd and CRI-O allow at once is more than the
/// datagrams are, at any rate. Of their times 32 bits would be some seconds'
/// worth of 100 bytes.
#[test]
fn the_bursts_of_runtimes() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        for burst in [u64::from(u32::MAX), u64::from(u32::MAX) * 8 - 1] {
            let pod = node.pod("a");
            let result = pod.add();
            let limits = json!({ "runtimeConfig": { "bandwidth": {
                "IngressRate": 800, "IngressBurst": burst,
                "EgressRate": 800, "EgressBurst": burst,
            } } });
            limited(&pod, &result, limits);
            let ip = plain(&result).remove(0);
            all_pass(&pod, &ip, true);
            all_pass(&pod, &ip, false);
            pod.chained("bandwidth", &result).del();
            pod.del();
            node.remove_netns("a");
        }
    });
}
