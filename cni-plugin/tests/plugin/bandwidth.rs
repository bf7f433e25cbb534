//! `bandwidth`: limits as the Go plugin sets them, but for its defects
//! (CT-35).

use std::sync::atomic::{AtomicBool, Ordering};

use netlink::{Dump, link, tc};
use serde_json::{Value, json};

use crate::node::{Call, Node, Stack, on_a_node, run};

/// All devices of the kind that the plugin makes.
const IFB: link::Filter<'_> = link::Filter { kind: Some("ifb"), master: None };
/// The index and the alias of somebody else's. The index is one as the plugin
/// itself chooses: for a moment the device is there without its alias.
const OTHERS: u32 = 2_000_000_000;
const OTHER: &str = "somebody's";

/// The call that follows the pod's ADD in the list.
fn bandwidth(pod: &Call, result: &Value, limits: Value) -> Call {
    let mut conf = json!({
        "name": pod.conf["name"],
        "cniVersion": result["cniVersion"],
        "type": "bandwidth",
        "prevResult": result,
    });
    for (key, value) in limits.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Call { name: "bandwidth", conf, ..pod.clone() }
}

/// 8 Mbit/s and 16 Mbit at once, both ways (BW-7).
fn both_ways() -> Value {
    json!({
        "ingressRate": 8_000_000, "ingressBurst": 16_000_000,
        "egressRate": 8_000_000, "egressBurst": 16_000_000,
    })
}

fn ifbs(node: &Node) -> Vec<String> {
    let all = link::list(&mut node.socket(), IFB);
    let all = all.and_then(Dump::complete).unwrap();
    all.into_iter().map(|link| link.name).collect()
}

fn tc_show(what: &str, dev: &str) -> String {
    run("tc", &[what, "show", "dev", dev])
}

/// For each version that has chains.
#[test]
fn both_limits() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.pod("dummy").version(version);
            let result = pod.add();
            let mut call = bandwidth(&pod, &result, both_ways());
            call.conf["name"] = "cni-plugin-bandwidth-test".into();
            let out = call.add();
            let ifb = "bwpa8eda89404b7";
            assert_eq!(ifbs(node), [ifb], "BW-7");
            let last = out["interfaces"].as_array().unwrap().last().unwrap();
            assert_eq!(last["name"], ifb);
            assert_eq!(last["mac"].as_str().unwrap().len(), 17);
            assert_eq!(out["ips"], result["ips"]);
            let veth = node.veths().remove(0);
            for dev in [&*veth, ifb] {
                let shown = tc_show("qdisc", dev);
                let want = "tbf 1: root refcnt";
                assert!(shown.contains(want), "{shown}");
                let want = "rate 8Mbit burst 2000000b lat 25ms";
                assert!(shown.contains(want), "{shown}");
            }
            let filter =
                run("tc", &["filter", "show", "dev", &veth, "parent", "ffff:"]);
            assert_eq!(filter.matches("mirred").count(), 1, "{filter}");
            assert!(filter.contains(ifb), "{filter}");
            // again is no error and changes nothing
            assert_eq!(call.add(), out);
            assert_eq!(ifbs(node), [ifb]);
            let later = call.after(&out);
            if !version.starts_with("0.3") {
                let answer = later.call("CHECK");
                assert!(answer.ok, "{version}: {answer:?}");
                run("tc", &["qdisc", "del", "dev", ifb, "root"]);
                let (code, msg) = later.call("CHECK").error();
                assert_eq!(code, 100);
                assert_eq!(msg, format!("{ifb} has no limit"));
            }
            assert!(pod.pings("10.244.1.1") && pod.pings("fd00:244:0:1::1"));
            // by owner, without the pod
            let mut blind = later;
            blind.netns = String::new();
            blind.conf.as_object_mut().unwrap().remove("prevResult");
            blind.del();
            blind.del();
            assert_eq!(ifbs(node), [""; 0]);
            pod.del();
            node.remove_netns("dummy");
        }
        let old = bandwidth(&node.pod("o"), &json!({}), both_ways());
        assert_eq!(old.version("0.2.0").call("ADD").error().0, 1, "BW-8");
    });
}

#[test]
fn one_limit_or_none() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let result = pod.add();
        let veth = node.veths().remove(0);
        assert_eq!(bandwidth(&pod, &result, json!({})).add(), result, "BW-2");
        let towards = json!({ "ingressRate": 8000, "ingressBurst": 80000 });
        let call = bandwidth(&pod, &result, towards);
        assert_eq!(call.add(), result, "no device");
        assert_eq!(ifbs(node), [""; 0]);
        assert!(tc_show("qdisc", &veth).contains("tbf 1: root"));
        assert!(call.call("CHECK").ok);
        run("tc", &["qdisc", "del", "dev", &veth, "root"]);
        let from = json!({ "runtimeConfig": { "bandWidth":
            { "EgressRate": 8000, "EgressBurst": 80000 } } });
        let call = bandwidth(&pod, &result, from);
        let out = call.add();
        assert!(!tc_show("qdisc", &veth).contains("tbf"));
        assert_eq!(ifbs(node).len(), 1);
        assert!(call.after(&out).call("CHECK").ok);
        call.del();
        // CW-15: without limits and prevResult
        let mut call = bandwidth(&pod, &result, json!({}));
        call.conf.as_object_mut().unwrap().remove("prevResult");
        assert_eq!(call.call("ADD").error().0, 7);
        assert!(call.call("STATUS").error().0 == 1, "1.0.0 has none");
        assert!(call.version("1.1.0").call("STATUS").ok);
    });
}

/// CW-15: the burst that containerd sends is kept whole.
#[test]
fn a_burst_of_more_than_32_bits_of_ticks() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let result = pod.add();
        let call = bandwidth(
            &pod,
            &result,
            json!({ "ingressRate": 1_000_000, "ingressBurst": 4_294_967_295_u64 }),
        );
        call.add();
        assert!(call.call("CHECK").ok);
        let mut socket = node.socket();
        let veth = link::by_name(&mut socket, &node.veths()[0]).unwrap();
        let all = tc::list(&mut socket, veth.index).unwrap().items;
        let is = all[0].bucket.unwrap();
        assert_eq!(is.rate, 125_000);
        // upstream's has 21474835 bytes there
        let whole =
            tc::Bucket { rate: 125_000, burst: 536_870_911, limit: is.limit };
        let wrapped = tc::Bucket { burst: 21_474_835, ..whole };
        assert!(whole.is(&is) && !wrapped.is(&is), "{is:?}");
    });
}

#[test]
fn links_it_cannot_find() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let result = pod.add();
        let error = |result: &Value| {
            bandwidth(&pod, result, both_ways()).call("ADD").error()
        };
        let mut none = result.clone();
        none["interfaces"] = json!([]);
        assert_eq!(error(&none), (7, "no interfaces provided".into()));
        let mut other = result.clone();
        other["interfaces"][1]["name"] = "veth0".into();
        let (code, msg) = error(&other);
        assert_eq!(code, 7);
        let want = "no veth peer of container interface found in host ns";
        assert!(msg.starts_with(want), "{msg}");
        let mut lo = pod.clone();
        lo.ifname = "lo".into();
        let (_, msg) = bandwidth(&lo, &result, both_ways()).call("ADD").error();
        let want = "container interface lo has no veth peer";
        assert!(msg.starts_with(want), "{msg}");
        assert_eq!(ifbs(node), [""; 0]);
    });
}

/// S-64, CW-15: several pods and networks, two interfaces of one container.
#[test]
fn gc_and_several_interfaces() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let calls: Vec<Call> = [("a", "eth0"), ("a", "eth1"), ("b", "eth0")]
            .into_iter()
            .map(|(id, ifname)| {
                let pod = match ifname {
                    "eth1" => {
                        Call { ifname: ifname.to_owned(), ..node_call(id) }
                    }
                    _ => node.pod(id),
                };
                let pod = pod
                    .version("1.1.0")
                    .delegate("isDefaultGateway", false.into());
                let call = bandwidth(&pod, &pod.add(), both_ways());
                call.add();
                call
            })
            .collect();
        assert_eq!(ifbs(node).len(), 3);
        let other =
            node_call("b").version("1.1.0").with("name", "other".into());
        let result = &calls[2].conf["prevResult"];
        bandwidth(&other, result, both_ways()).add();
        assert_eq!(calls[0].call("GC").error().0, 7, "R-17");
        let answer = calls[0].clone().valid(&[&calls[1]]).call("GC");
        assert!(answer.ok, "{answer:?}");
        let left = ifbs(node);
        assert_eq!(left.len(), 2, "eth1's and the other network's: {left:?}");
        assert!(calls[1].call("CHECK").ok);
        calls[0].del();
        assert_eq!(ifbs(node).len(), 2, "eth1 keeps its own");
        calls[1].del();
        assert_eq!(ifbs(node).len(), 1);
    });
}

/// A device without an alias, as the Go plugin makes it, is the interface's
/// from which packets are led there, whoever else has its name.
#[test]
fn the_device_of_another_interface() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let [one, other] = ["eth0", "eth1"].map(|ifname| {
            if ifname == "eth0" {
                node.netns("a");
            }
            let pod = Call { ifname: ifname.to_owned(), ..node_call("a") }
                .delegate("isDefaultGateway", false.into());
            bandwidth(&pod, &pod.add(), both_ways())
        });
        // what the Go plugin makes, with the same name
        let gos = |call: &Call| {
            let before = node.veths();
            let out = call.add();
            let interfaces = out["interfaces"].as_array().unwrap();
            let named = |at: usize| interfaces[at]["name"].as_str().unwrap();
            let (veth, ifb) = (named(1), named(interfaces.len() - 1));
            assert!(before.iter().any(|name| name == veth), "{out}");
            let ip = |args: &str| run("ip", &words(args));
            let tc = |args: &str| run("tc", &words(args));
            ip(&format!("link del {ifb}"));
            ip(&format!("link add {ifb} type ifb"));
            let limit = "root tbf rate 8mbit burst 2000000 limit 2025000";
            tc(&format!("qdisc add dev {ifb} {limit}"));
            tc(&format!("qdisc del dev {veth} ingress"));
            tc(&format!("qdisc add dev {veth} ingress"));
            let to = format!("action mirred egress redirect dev {ifb}");
            let every = "parent ffff: protocol all u32 match u32 0 0";
            tc(&format!("filter add dev {veth} {every} {to}"));
            ifb.to_owned()
        };
        let ifb = gos(&one);
        other.del();
        assert_eq!(ifbs(node), [&*ifb], "eth1 has none");
        other.add();
        assert_eq!(ifbs(node).len(), 2);
        assert!(one.call("CHECK").ok && other.call("CHECK").ok);
        other.del();
        assert_eq!(ifbs(node), [&*ifb]);
        // all that is known of eth0 is what the runtime has kept
        let mut blind = one.clone();
        blind.netns = String::new();
        blind.del();
        assert_eq!(ifbs(node), [""; 0]);
        // nobody is led there any more
        gos(&one);
        let eth0 = Call { name: "flannel", conf: node_call("a").conf, ..one };
        eth0.del();
        other.del();
        assert_eq!(ifbs(node), [""; 0]);
        // for a moment the cable is there longer than the namespace, and the
        // Go plugins' says nothing
        node.netns("b");
        let pod = node_call("b");
        let mut gone = bandwidth(&pod, &pod.add(), both_ways());
        gos(&gone);
        for veth in node.veths() {
            run("ip", &["link", "set", &veth, "alias", ""]);
        }
        gone.netns = "/run/netns/gone".into();
        gone.conf.as_object_mut().unwrap().remove("prevResult");
        gone.del();
        assert_eq!(ifbs(node), [""; 0]);
    });
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A call for a namespace that is there.
fn node_call(id: &str) -> Call {
    Call {
        name: "flannel",
        id: id.to_owned(),
        netns: format!("/run/netns/{id}"),
        ifname: "eth0".to_owned(),
        conf: crate::node::kube_flannel("1.0.0"),
        env: Vec::new(),
    }
}

/// All at once, two interfaces of each container, which want the same name
/// first: each gets a device of its own with its own mark, and DEL of half of
/// them leaves the others' alone.
#[test]
fn many_at_once() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let calls: Vec<Call> = ["a", "b", "c"]
            .into_iter()
            .flat_map(|id| {
                node.netns(id);
                ["eth0", "eth1"].map(|ifname| {
                    let pod = Call { ifname: ifname.into(), ..node_call(id) }
                        .delegate("isDefaultGateway", false.into());
                    bandwidth(&pod, &pod.add(), both_ways())
                })
            })
            .collect();
        for round in 0..5 {
            let outs = at_once(&calls, Call::add);
            let named = |out: &Value| {
                let last = out["interfaces"].as_array().unwrap().last();
                last.unwrap()["name"].as_str().unwrap().to_owned()
            };
            let mut names: Vec<String> = outs.iter().map(named).collect();
            let all = link::list(&mut node.socket(), IFB);
            for ifb in all.and_then(Dump::complete).unwrap() {
                let at = names.iter().position(|name| *name == ifb.name);
                let call = &calls[at.expect("in a result")];
                let want = format!("flannel:cbr0:{}:{}", call.id, call.ifname);
                assert_eq!(ifb.alias, Some(want), "round {round}");
            }
            names.sort();
            let mut is = ifbs(node);
            is.sort();
            assert_eq!(is, names, "round {round}");
            at_once(&calls, |call| assert!(call.call("CHECK").ok));
            let (gone, kept) = calls.split_at(3);
            at_once(gone, Call::del);
            assert_eq!(ifbs(node).len(), 3, "round {round}");
            at_once(kept, |call| assert!(call.call("CHECK").ok));
            at_once(kept, Call::del);
            assert_eq!(ifbs(node), [""; 0], "round {round}");
        }
    });
}

/// What each call of `one` returns, all running at the same time.
fn at_once<T: Send>(calls: &[Call], one: impl Fn(&Call) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let one = &one;
        let begun: Vec<_> =
            calls.iter().map(|call| scope.spawn(move || one(call))).collect();
        begun.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

/// Somebody else's device may have the name, or get it while ADD runs: it is
/// neither marked nor removed. Where others have both names ADD says so.
#[test]
fn devices_of_others() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let call = bandwidth(&pod, &pod.add(), both_ways());
        call.add();
        let [first] = <[String; 1]>::try_from(ifbs(node)).unwrap();
        call.del();
        let others = |name: &str| {
            let mut socket = node.socket();
            let made = socket.batch(&[
                link::ifb::add(OTHERS, name, 1500),
                link::set(OTHERS).alias(OTHER).build(),
            ]);
            made.into_iter().all(|made| made.is_ok())
        };
        let is_theirs = || {
            let link = link::by_index(&mut node.socket(), OTHERS);
            assert_eq!(link.expect("stays").alias.as_deref(), Some(OTHER));
        };
        let remove = || {
            let done = node.socket().request(&link::delete(OTHERS));
            done.expect("theirs");
        };
        // there before
        assert!(others(&first));
        call.add();
        is_theirs();
        let names = ifbs(node);
        let second = names.iter().find(|name| **name != first).unwrap();
        call.del();
        assert_eq!(ifbs(node), [&*first]);
        run("ip", &["link", "add", second, "type", "ifb"]);
        run("ip", &["link", "set", second, "alias", OTHER]);
        let veth = node.veths().remove(0);
        // stays at DEL, as it goes with the cable
        run("tc", &["qdisc", "del", "dev", &veth, "root"]);
        let (_, msg) = call.call("ADD").error();
        assert!(msg.contains(&first) && msg.contains(&**second), "{msg}");
        assert_eq!(ifbs(node).len(), 2, "both are others'");
        assert!(!tc_show("qdisc", &veth).contains("tbf"), "undone");
        run("ip", &["link", "del", second]);
        remove();
        // comes and goes meanwhile
        let done = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                let mut times = 0;
                while !done.load(Ordering::Relaxed) {
                    if others(&first) {
                        times += 1;
                        for _ in 0..20 {
                            is_theirs();
                        }
                        remove();
                    }
                }
                times
            });
            let ended = scope
                .spawn(|| {
                    for _ in 0..20 {
                        call.add();
                        call.del();
                    }
                })
                .join();
            done.store(true, Ordering::Relaxed);
            ended.unwrap();
            churn.join().unwrap()
        });
        assert!(times > 0);
        assert_eq!(ifbs(node), [""; 0]);
    });
}

/// A repeated ADD leaves what works as it is, and when it fails, it takes back
/// nothing of the one before: the pod may be running.
#[test]
fn a_repeated_add_takes_nothing_back() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("a");
        let call = bandwidth(&pod, &pod.add(), both_ways());
        let veth = node.veths().remove(0);
        let tc = |args: &str| run("tc", &words(args));
        let filters = || tc(&format!("filter show dev {veth} parent ffff:"));
        call.add();
        let [first] = <[String; 1]>::try_from(ifbs(node)).unwrap();
        // goes with the ingress that it is on
        let other = "u32 match u32 0 0 flowid 1:1";
        tc(&format!("filter add dev {veth} parent ffff: pref 7 {other}"));
        call.add();
        assert!(filters().contains("pref 7"), "{}", filters());
        assert_eq!(filters().matches("mirred").count(), 1, "{}", filters());
        // as one leaves it that is killed
        tc(&format!("filter del dev {veth} parent ffff: pref 1"));
        call.add();
        assert_eq!(filters().matches("mirred").count(), 1, "{}", filters());
        // others get the names
        let ip = |args: &str| run("ip", &words(args));
        let others = |name: &str| {
            ip(&format!("link del {name}"));
            ip(&format!("link add {name} type ifb"));
            ip(&format!("link set {name} alias {OTHER}"));
        };
        others(&first);
        call.add();
        let names = ifbs(node);
        let second = names.iter().find(|name| **name != first).unwrap();
        others(second);
        let (_, msg) = call.call("ADD").error();
        assert!(msg.contains("others' links"), "{msg}");
        let shown = tc_show("qdisc", &veth);
        for kind in ["tbf 1: root", "ingress ffff:"] {
            assert!(shown.contains(kind), "{shown}");
        }
    });
}
