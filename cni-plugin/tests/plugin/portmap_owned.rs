//! `portmap` touches what is its own: connections that others lead to a pod,
//! rules of a pod that has changed its interface.

use serde_json::json;

use crate::node::{Call, Stack, kube_flannel, on_a_node, run};
use crate::portmap::{
    BACKENDS, all_rules, ask, listen, port, portmap, serve_tcp,
};

/// A service, as kube-proxy leads it to a pod, whose ports are those of the
/// mapping: who asks it from the same node keeps its address. By the mapped
/// port the same neighbour has the node's. Both also with `masqAll`, which is
/// about mapped ports.
#[test]
fn a_service_sees_who_asks() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let each = |backend| [(backend, false), (backend, true)];
        for (backend, all) in BACKENDS.into_iter().flat_map(each) {
            let (a, b) = (node.pod("a"), node.pod("b"));
            let (to, source) = (a.add(), b.add());
            let ip = |result: &serde_json::Value| {
                let text = result["ips"][0]["address"].as_str().unwrap();
                text.split('/').next().unwrap().to_owned()
            };
            let (to_ip, source) = (ip(&to), ip(&source));
            let ports = json!([
                port(8080, 80, "tcp", ""),
                port(8081, 80, "tcp", "10.244.1.1"),
            ]);
            let call = portmap(&a, &to, ports)
                .with("backend", backend.into())
                .with("masqAll", all.into());
            call.add();
            let service = format!(
                "table ip services {{
                    chain prerouting {{
                        type nat hook prerouting priority -110;
                        ip daddr 10.96.0.1 tcp dport {{ 8080, 9090 }} \
                        dnat to {to_ip}:80
                    }}
                }}"
            );
            run("nft", &[&service]);
            let bound = listen(&a, 80);
            let seen_by = |at: &str| {
                let served = serve_tcp(&bound);
                let seen = b.open().enter(|| ask(at)).unwrap();
                served.join().unwrap();
                seen
            };
            for at in ["10.96.0.1:8080", "10.96.0.1:9090"] {
                assert_eq!(seen_by(at), source, "{backend} {all} {at}");
            }
            for at in ["10.244.1.1:8080", "10.244.1.1:8081"] {
                assert_eq!(seen_by(at), "10.244.1.1", "{backend} {all} {at}");
            }
            run("nft", &["delete", "table", "ip", "services"]);
            call.del();
            for pod in [a, b] {
                pod.del();
                node.remove_netns(&pod.id);
            }
        }
        node.assert_clean();
    });
}

/// Two interfaces of one container have one chain in iptables, as upstream
/// names it: each takes its own rules out of it, and the last one the chain.
#[test]
fn two_interfaces_of_a_container() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for backend in BACKENDS {
            let [one, other] = ["eth0", "eth1"].map(|ifname| {
                if ifname == "eth0" {
                    node.netns("a");
                }
                let pod = Call {
                    name: "flannel",
                    id: "a".into(),
                    netns: "/run/netns/a".into(),
                    ifname: ifname.into(),
                    conf: kube_flannel("1.1.0"),
                    env: Vec::new(),
                };
                let pod = pod.delegate("isDefaultGateway", false.into());
                let result = pod.add();
                // one that both have, one each has for itself
                let own = if ifname == "eth0" { 9000 } else { 9001 };
                let ports = json!([
                    port(8080, 80, "tcp", ""),
                    port(own, 81, "tcp", "")
                ]);
                let call = portmap(&pod, &result, ports)
                    .with("name", pod.conf["name"].clone())
                    .with("backend", backend.into());
                (pod, call)
            });
            let valid = |calls: &[&Call]| one.1.clone().valid(calls);
            let good = |call: &Call| {
                let answer = call.call("CHECK");
                assert!(answer.ok, "{backend} {}: {answer:?}", call.ifname);
            };
            one.1.add();
            other.1.add();
            other.1.add();
            good(&one.1);
            good(&other.1);
            assert!(valid(&[&one.1, &other.1]).call("GC").ok);
            good(&one.1);
            other.1.del();
            other.1.del();
            good(&one.1);
            assert_eq!(other.1.call("CHECK").error().0, 100, "{backend}");
            assert!(!all_rules().contains("9001"), "{backend}");
            other.1.add();
            one.1.del();
            good(&other.1);
            assert_eq!(one.1.call("CHECK").error().0, 100, "{backend}");
            assert!(!all_rules().contains("9000"), "{backend}");
            other.1.del();
            let rules = all_rules();
            assert!(!rules.contains("CNI-DN-"), "{backend}: {rules}");
            assert!(!rules.contains("8080"), "{backend}: {rules}");
            one.0.del();
            other.0.del();
            node.remove_netns("a");
        }
        node.assert_clean();
    });
}

/// A pod may rename its interface and add addresses and links: none of that
/// makes another attachment of it, whose rules would stay.
#[test]
fn a_pod_that_changed_its_interface() {
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        for backend in BACKENDS {
            let pod = node.pod("a");
            let result = pod.add();
            let ports = json!([port(8080, 80, "tcp", "")]);
            let call = portmap(&pod, &result, ports)
                .with("backend", backend.into())
                .with("name", pod.conf["name"].clone());
            call.add();
            pod.open()
                .enter(|| {
                    for line in [
                        "link set eth0 down",
                        "link set eth0 name other",
                        "link set other up",
                        "address add 10.244.1.77/24 dev other",
                        "link add eth0 type bridge",
                    ] {
                        run("ip", &line.split(' ').collect::<Vec<_>>());
                    }
                })
                .unwrap();
            assert!(all_rules().contains("8080"), "{backend}");
            call.del();
            let rules = all_rules();
            assert!(!rules.contains("CNI-DN-"), "{backend}: {rules}");
            assert!(!rules.contains("8080"), "{backend}: {rules}");
            pod.del();
            node.remove_netns("a");
        }
    });
}
