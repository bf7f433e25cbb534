//! What is missing, held or shared on a host.

use integration::peers::Peers;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn without_iptables_the_rules_are_in_nftables() -> Result<()> {
    let conf = Kind::IptablesNft.net_conf();
    let mut cluster = Cluster::new(Wiring::Routed, 1, &conf)?;
    start(&mut cluster, 0, "/usr/bin", &["--ip-masq"])?;
    let node = cluster.node(0);
    let log = node.log();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("iptables")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let said = "iptables is not in PATH): traffic rules are set in nftables";
    assert!(lines[0].contains(said), "{log}");
    let pod = Pod::add(&node.host, "a")?;
    for outside in OUTSIDE {
        pod.ping(&node.host, outside)?;
    }
    cluster.assert_settled()
}

/// One family's programs are no reason to leave the other's.
#[test]
fn without_ip6tables_only_ipv6_is_in_nftables() -> Result<()> {
    let kind = Kind::IptablesNft;
    let path = Path::new(kind)?;
    for entry in std::fs::read_dir(path.dir.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ip6") {
            std::fs::remove_file(entry.path())?;
        }
    }
    let mut cluster = Cluster::new(Wiring::Routed, 1, &kind.net_conf())?;
    start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
    let node = cluster.node(0);
    let (tables, nft) = (kind.rules(&node.host)?, nft_rules(&node.host)?);
    assert!(tables.contains("-s 10."), "{tables}");
    assert!(!tables.contains("fd"), "{tables}");
    assert!(nft.contains("flannel-ipv6"), "{nft}");
    assert!(!nft.contains("flannel-ipv4"), "{nft}");
    let said = "iptables cannot be used for IPv6 (ip6tables-save is not in";
    assert!(node.log().contains(said), "{}", node.log());
    cluster.assert_settled()
}

/// A rule of somebody else's that only nft can show makes a table unreadable
/// for ip6tables. IPv4's rules do not wait until somebody has put that right.
#[test]
fn a_table_that_iptables_cannot_read_holds_up_its_family_alone() -> Result<()> {
    let kind = Kind::IptablesNft;
    let path = Path::new(kind)?;
    let mut cluster = Cluster::new(Wiring::Routed, 1, &kind.net_conf())?;
    let host = &cluster.node(0).host;
    host.write(
        "/run/theirs",
        "table ip6 nat {
           set s { type ipv6_addr; }
           chain POSTROUTING {
             type nat hook postrouting priority 100;
             ip6 daddr @s counter masquerade
           }
         }",
    )?;
    host.cmd(&["nft", "-f", "/run/theirs"])?;
    launch(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
    let reason = cluster.node_mut(0).wait_not_ready(&["ip6tables-save"])?;
    let host = &cluster.node(0).host;
    let rules = host.cmd(&[kind.program("iptables-save")])?;
    assert!(rules.contains("FLANNEL-POSTRTG -s 10."), "{reason}: {rules}");
    host.cmd(&["nft", "delete", "table", "ip6", "nat"])?;
    cluster.node_mut(0).wait_ready()?;
    cluster.assert_settled()
}

/// Two daemons that want different rules for one network: both give way to
/// each other after a while, and say so.
#[test]
fn a_fight_over_rules_is_slowed_down_and_said() -> Result<()> {
    let kind = Kind::Nftables;
    let path = Path::new(kind)?;
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &kind.net_conf())?;
    start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    let mut conf = kind.net_conf();
    conf["Backend"] = json!({ "Type": "vxlan", "VNI": 2 });
    cluster.ctl(&["put", "/other/config", &conf.to_string()])?;
    let other = [
        endpoint.as_str(),
        "--iface=eth0",
        "--etcd-prefix=/other",
        "--subnet-file=/run/flannel/other.env",
        "--healthz-port=0",
    ];
    let value = path.value();
    let host = &cluster.node(0).host;
    let mut second = Daemon::start(host, &other, &[("PATH", &value)])?;
    let said = "changes flannel's traffic rules again and again";
    second.wait_log(said, 0, Duration::from_secs(60))?;
    let first = cluster.node(0).daemon.as_ref().context("no daemon")?;
    first.wait_log(said, 0, Duration::from_secs(60))?;
    second.stop(Signal::SIGTERM)
}

/// Somebody else works on legacy iptables for longer than anybody waits.
#[test]
fn a_held_lock_is_waited_for_and_then_tried_again() -> Result<()> {
    let kind = Kind::IptablesLegacy;
    let path = Path::new(kind)?;
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &kind.net_conf())?;
    let host = &cluster.node(0).host;
    let holder = host.run(|| {
        Command::new("flock")
            .args(["/run/xtables.lock", "cat"])
            .stdin(Stdio::piped())
            .spawn()
    });
    let mut holder = holder?;
    poll_until("the lock to be held", Duration::from_secs(40), || {
        let words = ["flock", "-n", "/run/xtables.lock", "true"];
        ensure!(host.cmd(&words).is_err(), "it is free");
        Ok(())
    })?;
    launch(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
    let reason = cluster.node_mut(0).wait_not_ready(&["xtables lock"])?;
    assert!(reason.contains("iptables"), "{reason}");
    assert!(cluster.node(0).env("FLANNEL_SUBNET").is_err(), "not yet");
    drop(holder.stdin.take());
    holder.wait()?;
    cluster.node_mut(0).wait_ready()?;
    let node = cluster.node(0);
    assert!(kind.rules(&node.host)?.contains("masq"));
    assert_eq!(node.env("FLANNEL_IPMASQ")?, "true");
    cluster.assert_settled()
}

/// D-80: two flannels on one host, each with its own network and files.
#[test]
fn two_flannels_on_a_host_leave_each_others_rules() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let first = json!({
            "Network": "10.5.0.0/16",
            "EnableNFTables": kind == Kind::Nftables,
            "Backend": { "Type": "vxlan" },
        });
        let mut cluster = Cluster::new(Wiring::OneSegment, 1, &first)?;
        let mut conf = first.clone();
        conf["Network"] = json!("10.6.0.0/16");
        conf["Backend"]["VNI"] = json!(2);
        let conf = conf.to_string();
        cluster.ctl(&["put", "/other/config", &conf])?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;

        let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
        let other = [
            endpoint.as_str(),
            "--iface=eth0",
            "--ip-masq",
            "--etcd-prefix=/other",
            "--subnet-file=/run/flannel/other.env",
            "--healthz-port=0",
        ];
        let value = path.value();
        let env = [("PATH", value.as_str())];
        let host = &cluster.node(0).host;
        let mut second = Daemon::start(host, &other, &env)?;
        let wait_written = || {
            poll_until("the second to be done", Duration::from_secs(20), || {
                host.read("/run/flannel/other.env").map(drop)
            })
        };
        wait_written()?;
        let has =
            |net: &str| -> Result<bool> { Ok(kind.rules(host)?.contains(net)) };
        assert!(has("10.5.")? && has("10.6.")?, "{}", kind.rules(host)?);
        cluster.assert_settled()?;
        second.assert_settled()?;

        // The second goes away with its rules; the first's stay.
        second.stop(Signal::SIGTERM)?;
        let mut without = other.to_vec();
        without.extend(["--ip-masq=false", "--iptables-forward-rules=false"]);
        drop(second);
        host.cmd(&["rm", "/run/flannel/other.env"])?;
        let second = Daemon::start(host, &without, &env)?;
        wait_written()?;
        poll_until("its rules to go", Duration::from_secs(40), || {
            let rules = kind.rules(host)?;
            ensure!(!rules.contains("10.6."), "{rules}");
            ensure!(rules.contains("10.5.0.0/16"), "{rules}");
            Ok(())
        })?;
        second.assert_settled()?;
        cluster.assert_settled()?;
        let log = cluster.node(0).log();
        // Nothing of the first's was ever missing.
        assert_eq!(log.matches("traffic rules: changes").count(), 1, "{log}");
        assert!(!log.contains("repaired: "), "{log}");
    }
    Ok(())
}

/// Upstream's own daemon and ours, in turns, each with all rules.
#[test]
fn upstream_and_ours_take_turns() -> Result<()> {
    let Some(peers) = Peers::or_skip("upstream_and_ours_take_turns") else {
        return Ok(());
    };
    for kind in [Kind::IptablesNft, Kind::Nftables] {
        let path = Path::new(kind)?;
        // It calls `nft`, which is in /usr/sbin beside an iptables.
        let theirs =
            format!("{}:/usr/sbin:/usr/bin", path.dir.path().display());
        let conf = json!({
            "Network": "10.5.0.0/16",
            "EnableNFTables": kind == Kind::Nftables,
            "Backend": { "Type": "vxlan" },
        });
        let mut cluster = Cluster::new(Wiring::Routed, 1, &conf)?;
        let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
        let flags = [endpoint.as_str(), "--iface=eth0", "--ip-masq"];
        let upstream = |cluster: &mut Cluster| -> Result<()> {
            let node = cluster.node_mut(0);
            let mut daemon = Daemon::start_program(
                &peers.flanneld(),
                &node.host,
                &flags,
                &[("PATH", &theirs)],
            )?;
            // It logs harmless things at that level.
            daemon.expect_errors();
            daemon.wait_ready(&node.host)?;
            node.daemon = Some(daemon);
            Ok(())
        };
        upstream(&mut cluster)?;
        let host = &cluster.node(0).host;
        let left = kind.rules(host)?;
        let pod = Pod::add(host, "a")?;
        pod.ping(host, STORE_V4)?;
        daemon(&mut cluster, 0)?.end()?;

        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        cluster.assert_settled()?;
        let node = cluster.node(0);
        pod.ping(&node.host, STORE_V4)?;
        if kind == Kind::IptablesNft {
            assert_eq!(kind.rules(&node.host)?, left);
            assert!(!node.log().contains("traffic rules: changes"));
            assert!(!node.log().contains("repaired: "));
        }
        daemon(&mut cluster, 0)?.stop(Signal::SIGTERM)?;
        upstream(&mut cluster)?;
        let host = &cluster.node(0).host;
        pod.ping(host, STORE_V4)?;
        assert_eq!(kind.rules(host)?, left, "as it left it before");
    }
    Ok(())
}
