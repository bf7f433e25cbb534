//! What cannot work is refused in words that help; what somebody else can
//! mend is waited out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, SUBNET_ENV};
use integration::daemon::{HEALTH_PORT, run_to_end};
use integration::demo::Stack;
use integration::etcd::Security;
use integration::host::Host;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use ipam::daemon_state::Phase;
use serde_json::{Value, json};

const CONFIG: &str = "/coreos.com/network/config";

/// Nothing was set up, and nobody is told that it was.
fn assert_untouched(host: &Host) -> Result<()> {
    ensure!(host.read(SUBNET_ENV).is_err(), "there is a subnet.env");
    let links = host.ip("-o link")?;
    ensure!(!links.contains("flannel"), "{links}");
    Ok(())
}

/// Upstream exits with 0, or ignores the word and every flag after it (C-34,
/// W-65).
#[test]
fn what_is_not_understood_exits_with_2() -> Result<()> {
    let host = Host::new("node")?;
    for (flags, text) in [
        (
            &["-ip-mask"][..],
            "flag provided but not defined: -ip-mask (did you mean -ip-masq?)",
        ),
        (&["--frobnicate=1"], "flag provided but not defined: -frobnicate\n"),
        (&["-ip-masq", "true"], "unexpected word \"true\""),
        (&["-v"], "flag needs an argument: -v"),
        (
            &["-healthz-port=many"],
            "invalid value \"many\" for flag -healthz-port: not an integer",
        ),
        (&["-public-ip", "fd00::1"], "an IPv6 one is given by --public-ipv6"),
        (&["-iface-regex=("], "invalid --iface-regex \"(\""),
    ] {
        let ended = run_to_end(&host, flags, &[])?;
        assert_eq!(ended.code, Some(2), "{flags:?}: {}", ended.text);
        assert!(ended.text.contains(text), "{flags:?}: {}", ended.text);
        let hint = "\n`flanneld -h` lists the flags\n";
        assert!(ended.text.ends_with(hint), "{flags:?}: {}", ended.text);
    }
    let flag = "-etcd-endpoints=http://root:hunter2@10.0.0.1:2379";
    let ended = run_to_end(&host, &[flag], &[])?;
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    let text = "an endpoint holds no credentials: give them by --etcd-username";
    assert!(ended.text.contains(text), "{}", ended.text);
    assert!(!ended.text.contains("hunter2"), "{}", ended.text);
    let ended = run_to_end(&host, &[], &[("FLANNELD_V", "loud")])?;
    assert_eq!(ended.code, Some(2));
    let text = "invalid value \"loud\" in the environment variable FLANNELD_V: \
         not an integer";
    assert!(ended.text.contains(text), "{}", ended.text);
    assert_untouched(&host)
}

#[test]
fn help_and_version_are_answered() -> Result<()> {
    let host = Host::new("node")?;
    for flag in ["-h", "--help"] {
        let ended = run_to_end(&host, &[flag], &[])?;
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        assert!(ended.text.contains("--etcd-endpoints"), "{}", ended.text);
        assert!(ended.text.contains("FLANNELD_"), "{}", ended.text);
    }
    let ended = run_to_end(&host, &["--version"], &[])?;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert_eq!(ended.text.lines().count(), 1, "{}", ended.text);
    Ok(())
}

/// What no waiting can mend ends the start.
#[test]
fn an_endpoint_that_is_none_ends_the_start() -> Result<()> {
    let host = Host::new("node")?;
    for (endpoint, text) in [
        ("ftp://10.99.0.1:2379", "is not a URL: give http://host:port or"),
        ("unix:///run/etcd.sock", "sockets in the file system are not"),
        ("http://10.99.0.1:2379/v2", "is not a URL: give http://host:port or"),
    ] {
        let flag = format!("--etcd-endpoints={endpoint}");
        let ended = run_to_end(&host, &[&flag], &[])?;
        assert_eq!(ended.code, Some(1), "{endpoint}: {}", ended.text);
        let line = format!("etcd endpoint {endpoint:?}");
        assert!(ended.text.contains(&line), "{}", ended.text);
        assert!(ended.text.contains(text), "{}", ended.text);
    }
    assert_untouched(&host)
}

/// A flag whose function does not exist refuses the start in one line.
#[test]
fn what_this_version_has_not_is_not_pretended() -> Result<()> {
    let host = Host::new("node")?;
    let kube = "this version has no Kubernetes mode";
    for (word, line) in [
        ("--kube-subnet-mgr", format!("--kube-subnet-mgr: {kube}").as_str()),
        ("--kube-api-url=https://k", &format!("--kube-api-url: {kube}")),
        ("--kubeconfig-file=/k", &format!("--kubeconfig-file: {kube}")),
        ("--net-config-path=/n", &format!("--net-config-path: {kube}")),
        (
            "--kube-annotation-prefix=x",
            &format!("--kube-annotation-prefix: {kube}"),
        ),
        (
            "--set-node-network-unavailable=false",
            &format!("--set-node-network-unavailable=false: {kube}"),
        ),
    ] {
        let ended = run_to_end(&host, &[word], &[])?;
        assert_eq!(ended.code, Some(1), "{word}: {}", ended.text);
        assert!(ended.text.starts_with(line), "{word}: {}", ended.text);
        assert_eq!(ended.text.lines().count(), 1, "{word}: {}", ended.text);
    }
    let kube = [("FLANNELD_KUBE_SUBNET_MGR", "true")];
    let ended = run_to_end(&host, &[], &kube)?;
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.starts_with("--kube-subnet-mgr: "), "{}", ended.text);
    assert_untouched(&host)
}

/// N-22: each backend that upstream has and this version has not, also the
/// one that is meant when none is named, is waited out like any other
/// configuration that cannot be used; so is a VNI that makes no device's name.
#[test]
fn a_network_configuration_for_others_is_waited_out() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    cluster.start_one(0, &["--iface=eth0"])?;
    let psk = "0123456789abcdef".repeat(6);
    let absent = |name: &str| {
        format!(
            "Backend.Type is {name}, which this version does not have: set it \
             to vxlan"
        )
    };
    let long = |name: &str| format!("makes the device name {name}, which is");
    for (backend, wrong) in [
        (Value::Null, absent("udp")),
        (json!({ "Type": "host-gw" }), absent("host-gw")),
        (json!({ "Type": "udp" }), absent("udp")),
        (json!({ "Type": "ipip" }), absent("ipip")),
        (json!({ "Type": "wireguard" }), absent("wireguard")),
        (json!({ "Type": "ipsec", "PSK": psk }), absent("ipsec")),
        (json!({ "Type": "alloc" }), absent("alloc")),
        (json!({ "Type": "extension" }), absent("extension")),
        (json!({ "Type": "tencent-vpc" }), absent("tencent-vpc")),
        (
            json!({ "Type": "vxlan", "VNI": 12_345_678 }),
            long("flannel.12345678"),
        ),
        (json!({ "Type": "vxlan", "VNI": 12_345 }), long("flannel-v6.12345")),
    ] {
        let mut conf = Stack::Dual.net_conf();
        conf["Backend"] = backend;
        if conf["Backend"].is_null() {
            conf.as_object_mut().context("object")?.remove("Backend");
        }
        cluster.configure(&conf)?;
        let texts = ["waiting for the network configuration: ", &wrong];
        cluster.node_mut(0).wait_not_ready(&texts)?;
        let node = cluster.node(0);
        assert_eq!(node.state()?.phase, Phase::WaitingForConfig);
        assert_untouched(&node.host)?;
        let log = node.log();
        assert!(log.contains(&wrong), "{log}");
    }
    cluster.configure(&Stack::Dual.net_conf())?;
    cluster.node_mut(0).wait_ready()?;
    let log = cluster.node(0).log();
    assert!(!log.contains(&psk) && !log.contains("ERROR"), "{log}");

    // One that is in use stays in use.
    let mut conf = Stack::Dual.net_conf();
    conf["Backend"]["VNI"] = json!(12_345);
    cluster.configure(&conf)?;
    poll_until("the wrong one to be said", Duration::from_secs(40), || {
        let reason = cluster.node(0).state()?.reason;
        ensure!(reason.contains("; the one in use stays in use"), "{reason}");
        Ok(())
    })?;
    cluster.node_mut(0).wait_ready()
}

/// E-1: the daemon stays, says what is wrong with which field and what would
/// be accepted, and goes on by itself once the operator has mended it.
#[test]
fn a_wrong_network_configuration_is_waited_out() -> Result<()> {
    let mut cluster =
        Cluster::empty(Wiring::OneSegment, 1, Security::default())?;
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.node_mut(0).wait_not_ready(&[
        "waiting for the network configuration: key \
         /coreos.com/network/config does not exist in etcd",
        "etcdctl put /coreos.com/network/config '{\"Network\": ",
    ])?;
    let vxlan = r#""Backend": {"Type": "vxlan"}"#;
    for (rest, wrong) in [
        (r#""Network": "10.244.0.0/16" "SubnetLen": 24"#, "not valid JSON"),
        (vxlan, "Network is missing: an IPv4 network longer than /0 is needed"),
        (
            r#""Network": "10.244.0.0""#,
            r#"Network is "10.244.0.0", but must be an IPv4 network such as "10.244.0.0/16""#,
        ),
        (
            r#""Network": "10.244.0.0/16", "SubnetLen": 31"#,
            "SubnetLen is 31, but must be from 18 (four subnets in 10.244.0.0/16) to 30",
        ),
        (
            r#""Network": "10.244.0.0/16", "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.5.0""#,
            "SubnetMin is 10.244.9.0, but must be no more than SubnetMax, which is 10.244.5.0",
        ),
        (
            r#""Network": "10.244.0.0/16", "SubnetMin": "10.245.0.0""#,
            "SubnetMin is 10.245.0.0, but must be inside Network, which is 10.244.0.0/16",
        ),
        (
            r#""EnableIPv4": false"#,
            "EnableIPv4 is false, but must be true unless EnableIPv6 is true",
        ),
        (
            r#""Network": "10.244.0.0/16", "Backend": {"Type": "vxlam"}"#,
            r#"Backend.Type is "vxlam", but must be one of alloc, "#,
        ),
        (
            r#""Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777216}"#,
            "Backend.VNI is 16777216, but must be a whole number from 0 to 16777215",
        ),
    ] {
        cluster.ctl(&["put", CONFIG, &format!("{{{rest}}}")])?;
        let text = format!("the network config in {CONFIG}: ");
        let said = cluster
            .node_mut(0)
            .wait_not_ready(&["waiting for the network configuration: "])?;
        cluster
            .node_mut(0)
            .wait_not_ready(&[&text, wrong])
            .with_context(|| format!("{rest}; before: {said}"))?;
        let node = cluster.node(0);
        let state = node.state()?;
        assert_eq!(state.phase, Phase::WaitingForConfig);
        assert!(state.reason.contains(wrong), "{state:?}");
        assert_untouched(&node.host)?;
    }
    // A slip of the pen beside a configuration that works.
    let fixed =
        format!(r#"{{"Network": "10.244.0.0/16", "SubnetLenn": 26, {vxlan}}}"#);
    cluster.ctl(&["put", CONFIG, &fixed])?;
    cluster.node_mut(0).wait_ready()?;
    let log = cluster.node(0).log();
    let slip = "key \"SubnetLenn\" is ignored; did you mean \"SubnetLen\"?";
    assert_eq!(log.matches(slip).count(), 1, "{log}");
    assert_eq!(log.matches("SubnetLen is 31").count(), 1, "once each: {log}");
    assert_eq!(cluster.node(0).env("FLANNEL_IPMASQ")?, "false");
    cluster.assert_settled()
}

/// E-24: of a range of three subnets the fourth node gets none, and says what
/// can be done; a lease that goes makes room.
#[test]
fn a_full_range_is_told_and_waited_out() -> Result<()> {
    let conf = json!({
        "Network": "10.244.0.0/22",
        "Backend": { "Type": "vxlan" },
    });
    let mut cluster = Cluster::new(Wiring::OneSegment, 3, &conf)?;
    cluster.start(&["--iface=eth0"])?;
    let n = cluster.add_node()?;
    cluster.start_one(n, &["--iface=eth0"])?;
    cluster.node_mut(n).wait_not_ready(&[
        "taking a subnet: no IPv4 subnet is free: the 3 leases leave none of \
         the 3 /24 subnets from 10.244.1.0 to 10.244.3.0 in 10.244.0.0/22",
        "widen Network or the span from SubnetMin to SubnetMax",
        "delete the leases of nodes that are gone",
    ])?;
    assert_eq!(cluster.node(n).state()?.phase, Phase::AcquiringLease);
    assert_untouched(&cluster.node(n).host)?;

    let freed = cluster.node(2).subnets()?;
    cluster.node_mut(2).daemon = None;
    let key = format!(
        "/coreos.com/network/subnets/{}",
        freed.concat().replace('/', "-")
    );
    assert_eq!(cluster.ctl(&["del", &key])?, "1\n");
    cluster.node_mut(n).wait_ready()?;
    assert_eq!(cluster.node(n).subnets()?, freed);
    cluster.wait_joined()?;
    // The route may still be the one to the node before.
    let device = freed.concat().replace("/24", "");
    for n in [0, 1] {
        poll_until("the new node to answer", Duration::from_secs(20), || {
            cluster.node(n).host.ping(&device, 1)
        })?;
    }
    cluster.assert_settled()
}

/// C-110…C-118: what was looked at and why it did not fit, and what there is.
#[test]
fn an_interface_that_does_not_fit_ends_the_start() -> Result<()> {
    let cluster = Cluster::new(Wiring::OneSegment, 1, &Stack::Dual.net_conf())?;
    let host = &cluster.node(0).host;
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    let fails = |flag: &str, texts: &[&str]| -> Result<()> {
        let ended = run_to_end(host, &[&endpoint, flag], &[])?;
        assert_eq!(ended.code, Some(1), "{flag}: {}", ended.text);
        let last = ended.text.lines().last().unwrap_or_default();
        for text in texts {
            assert!(last.contains(text), "{flag}: {last}");
        }
        assert!(last.contains("ERROR"), "{last}");
        assert!(
            last.contains("interfaces of this host: ")
                && last.contains("eth0")
                && last.ends_with("; name one with --iface"),
            "{flag}: {last}"
        );
        assert_untouched(host)
    };
    fails("--iface=eth7", &["--iface=eth7: "])?;
    fails(
        "--iface=192.0.2.7",
        &["--iface=192.0.2.7: no interface has the address 192.0.2.7"],
    )?;
    fails(
        "--iface-regex=^wlan",
        &["--iface-regex=^wlan: matches no interface's name"],
    )?;
    host.ip("-6 route del default")?;
    fails(
        "-v=0",
        &["default route: the main table has no IPv6 default route"],
    )?;
    host.ip("-6 addr flush dev eth0")?;
    fails(
        "--iface=eth0",
        &["--iface=eth0: interface eth0 has no usable IPv6 address"],
    )
}

/// D-80, C-22: what a second daemon would share with the first.
#[test]
fn a_second_daemon_is_told_about_the_first() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.start(&["--iface=eth0"])?;
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    let node = cluster.node_mut(0);
    let pid = node.daemon.as_mut().context("daemon")?.child().pid();
    let state = node.state()?;

    let ended = run_to_end(&node.host, &[&endpoint], &[])?;
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    let text = format!(
        "another flanneld (pid {pid}) already serves {SUBNET_ENV}: stop it, \
         or give this one its own --subnet-file"
    );
    assert!(ended.text.contains(&text), "{}", ended.text);

    let port = format!("--healthz-port={HEALTH_PORT}");
    let ended = run_to_end(
        &node.host,
        &[&endpoint, &port, "--subnet-file=/run/flannel/b.env"],
        &[],
    )?;
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    let text =
        format!("the health server cannot listen on 0.0.0.0:{HEALTH_PORT}: ");
    assert!(ended.text.contains(&text), "{}", ended.text);
    assert!(ended.text.contains("--healthz-port"), "{}", ended.text);

    // The first has not noticed.
    node.wait_ready()?;
    assert_eq!(node.state()?, state);
    cluster.assert_settled()
}

#[test]
fn a_store_that_comes_later_is_waited_for() -> Result<()> {
    let mut cluster =
        Cluster::new(Wiring::OneSegment, 1, &Stack::V4.net_conf())?;
    cluster.etcd.child().kill();
    cluster.start_one(0, &["--iface=eth0"])?;
    cluster.node_mut(0).wait_not_ready(&[
        "waiting for the store: ",
        "no etcd endpoint answers: http://10.99.0.1:2379: ",
        "Connection refused",
    ])?;
    let state = cluster.node(0).state()?;
    assert_eq!(state.phase, Phase::WaitingForStore);
    assert!(state.reason.contains("10.99.0.1:2379"), "{state:?}");
    assert_untouched(&cluster.node(0).host)?;

    cluster.etcd.start_again(cluster.underlay.middle())?;
    cluster.node_mut(0).wait_ready()?;
    let log = cluster.node(0).log();
    assert_eq!(log.matches("no etcd endpoint answers").count(), 1, "{log}");
    cluster.assert_settled()
}
