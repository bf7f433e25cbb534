//! Living beside and after the Go plugins: what they left is taken over,
//! what we leave they can take over (FL-12).

use std::fs;

use crate::node::{Stack, on_a_node, plain, run};

/// A pod as the Go plugins leave it: link, reservation, kept configuration,
/// their bridge.
#[test]
fn a_pod_of_the_go_plugins_is_deleted() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pod = node.pod("gopod");
        for line in [
            "link add cni0 mtu 1450 type bridge",
            "link set cni0 up",
            "address add 10.244.1.1/24 dev cni0",
            "link add vethgopod mtu 1450 type veth peer name eth0 netns gopod",
            "link set vethgopod master cni0 up",
            "-n gopod address add 10.244.1.2/24 dev eth0",
            "-n gopod link set eth0 up",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>());
        }
        let pool = "/var/lib/cni/networks/cbr0";
        fs::create_dir_all(pool).unwrap();
        for (file, text) in [
            ("10.244.1.2", "gopod\r\neth0"),
            ("last_reserved_ip.0", "10.244.1.2"),
            ("lock", ""),
        ] {
            fs::write(format!("{pool}/{file}"), text).unwrap();
        }
        fs::create_dir_all("/var/lib/cni/flannel").unwrap();
        fs::write(
            "/var/lib/cni/flannel/gopod",
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#,
        )
        .unwrap();
        // beside it, one of ours on their bridge, from their pool
        let ours = node.pod("ours").version("0.3.1");
        assert_eq!(plain(&ours.add()), ["10.244.1.3"]);
        assert!(pod.version("0.3.1").call("DEL").ok);
        assert_eq!(node.scratch(), ["ours"]);
        assert_eq!(node.reserved(), ["10.244.1.3"]);
        assert_eq!(node.veths().len(), 1);
        assert!(ours.pings("10.244.1.1"));
    });
}

/// A network's folder on a file system of its own, which a restart empties:
/// a reservation cannot be linked to from outside.
#[test]
fn a_pool_on_another_file_system() {
    use nix::mount::{MsFlags, mount};
    on_a_node(|node| {
        node.flanneld(Stack::Dual);
        let pool = "/var/lib/cni/networks/cbr0";
        fs::create_dir_all(pool).unwrap();
        let kind = Some("tmpfs");
        mount(kind, pool, kind, MsFlags::empty(), None::<&str>).unwrap();
        let (a, b) = (node.pod("a"), node.pod("b"));
        assert_eq!(plain(&a.add()), ["10.244.1.2", "fd00:244:0:1::2"]);
        assert_eq!(plain(&b.add()), ["10.244.1.3", "fd00:244:0:1::3"]);
        assert_eq!(
            crate::node::names(&format!("{pool}/.flannel")),
            ["a@eth0", "b@eth0", "stamp"]
        );
        for pod in [&a, &b] {
            pod.del();
        }
        node.assert_clean();
    });
}

/// HL-28: reservations that name the container only.
#[test]
fn an_old_reservation_is_released() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let pool = "/var/lib/cni/networks/cbr0";
        fs::create_dir_all(pool).unwrap();
        fs::write(format!("{pool}/10.244.1.9"), "old\n").unwrap();
        node.pod("old").del();
        node.assert_clean();
    });
}

/// FL-6, P-22: upstream's default for masquerading is kept, and carried out.
#[test]
fn without_the_daemon_each_pod_is_masqueraded() {
    on_a_node(|node| {
        node.flanneld(Stack::V4);
        let env = fs::read_to_string("/run/flannel/subnet.env").unwrap();
        node.subnet_env(&env.replace("IPMASQ=true", "IPMASQ=false"));
        let pod = node.pod("a");
        let result = pod.add();
        let kept = fs::read_to_string("/var/lib/cni/flannel/a").unwrap();
        assert!(kept.contains(r#""ipMasq":true"#), "{kept}");
        let rules = || run("iptables-save", &["-t", "nat"]);
        assert!(rules().contains("-A POSTROUTING -s 10.244.1.2/32"));
        assert!(pod.after(&result).call("CHECK").ok);
        pod.del();
        assert!(!rules().contains("CNI-"), "{}", rules());
        node.assert_clean();
    });
}
