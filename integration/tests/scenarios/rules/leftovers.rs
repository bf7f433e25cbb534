//! What is left of rules when the mode, the network or a flag changes, and
//! what becomes of upstream's.

use super::*;

/// Nothing of ours is anywhere but where `kind` has it.
fn wait_only_there(host: &Host, kind: Kind) -> Result<()> {
    let what = format!("nothing to be left but {kind:?}");
    poll_until(&what, Duration::from_secs(40), || {
        let left = elsewhere(host, kind)?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

#[test]
fn a_change_of_mode_leaves_nothing_behind() -> Result<()> {
    use Kind::{IptablesLegacy as L, IptablesNft as I, Nftables as N};
    let mut cluster = Cluster::new(Wiring::OneSegment, 1, &N.net_conf())?;
    let mut before = None;
    for kind in [N, I, L, N, L, I, N] {
        cluster.configure(&kind.net_conf())?;
        let path = Path::new(kind)?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        let host = &cluster.node(0).host;
        wait_only_there(host, kind)
            .with_context(|| format!("from {before:?} to {kind:?}"))?;
        let rules = kind.rules(host)?;
        assert!(rules.contains("masq") && rules.contains("10."), "{rules}");
        cluster.assert_settled()?;
        daemon(&mut cluster, 0)?.stop(Signal::SIGTERM)?;
        before = Some(kind);
    }
    Ok(())
}

/// W-25
#[test]
fn flags_that_are_dropped_drop_their_rules() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 1, &kind.net_conf())?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        daemon(&mut cluster, 0)?.stop(Signal::SIGTERM)?;
        let off = "--iptables-forward-rules=false";
        start(&mut cluster, 0, &path.value(), &[off])?;
        let node = cluster.node(0);
        poll_until("no rules", Duration::from_secs(40), || {
            let rules = kind.rules(&node.host)?;
            ensure!(rules.is_empty(), "{rules}");
            Ok(())
        })?;
        assert_eq!(node.env("FLANNEL_IPMASQ")?, "false");
        wait_only_there(&node.host, kind)?;
        cluster.assert_settled()?;
    }
    Ok(())
}

/// T-20 to T-32 for network 10.`n`.0.0/16, as upstream's daemon feeds them to
/// `iptables-restore`.
fn upstream_iptables(n: u8) -> String {
    let masq = r#"-m comment --comment "flanneld masq""#;
    let fwd = r#"-m comment --comment "flanneld forward""#;
    let (net, own) = (format!("10.{n}.0.0/16"), format!("10.{n}.7.0/24"));
    format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {own} -d {net} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {net} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {net} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {net} ! -d 224.0.0.0/4 {masq} \
         -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {net} -d {net} {masq} \
         -j MASQUERADE --random-fully\n\
         COMMIT\n*filter\n:FLANNEL-FWD - [0:0]\n\
         -A FORWARD {fwd} -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {net} {fwd} -j ACCEPT\n\
         -A FLANNEL-FWD -d {net} {fwd} -j ACCEPT\nCOMMIT\n"
    )
}

/// T-51 to T-53, as `nft -f` takes it.
fn upstream_nft(n: u8) -> String {
    let (net, own) = (format!("10.{n}.0.0/16"), format!("10.{n}.7.0/24"));
    format!(
        "table ip6 flannel-ipv6 {{ comment \"rules for flannel-ipv6\"; }}
         table ip flannel-ipv4 {{
           comment \"rules for flannel-ipv4\"
           chain forward {{
             comment \"chain to accept flannel traffic\"
             type filter hook forward priority 0
             ip saddr {net} accept
             ip daddr {net} accept
           }}
           chain postrtg {{
             comment \"chain to manage traffic masquerading by flannel\"
             type nat hook postrouting priority 100
             meta mark 0x4000 return
             ip saddr {own} ip daddr {net} return
             ip saddr {net} ip daddr {own} return
             ip saddr != {own} ip daddr {net} return
             ip saddr {net} ip daddr != 224.0.0.0/4 masquerade fully-random
             ip saddr != {net} ip daddr {net} masquerade fully-random
           }}
         }}"
    )
}

/// Upstream's rules for network `n`, wherever it could have left them, and
/// the subnet file it wrote.
fn leave(host: &Host, n: u8, kinds: &[Kind]) -> Result<()> {
    host.write("/run/left.iptables", &upstream_iptables(n))?;
    host.write("/run/left.nft", &upstream_nft(n))?;
    for kind in kinds {
        match kind {
            Kind::Nftables => {
                host.cmd(&["nft", "-f", "/run/left.nft"])?;
            }
            Kind::IptablesNft | Kind::IptablesLegacy => {
                let restore = kind.program("iptables-restore");
                let words = [&*restore, "--noflush", "/run/left.iptables"];
                host.cmd(&words)?;
            }
        }
    }
    host.cmd(&["mkdir", "-p", "/run/flannel"])?;
    host.write(
        SUBNET_ENV,
        &format!(
            "FLANNEL_NETWORK=10.{n}.0.0/16\nFLANNEL_SUBNET=10.{n}.7.1/24\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        ),
    )
}

fn v4_conf(kind: Kind, network: &str) -> Value {
    json!({
        "Network": network,
        "EnableNFTables": kind == Kind::Nftables,
        "Backend": { "Type": "vxlan" },
    })
}

#[test]
fn what_upstream_left_for_another_network_is_removed() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let conf = v4_conf(kind, "10.5.0.0/16");
        let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf)?;
        leave(&cluster.node(0).host, 77, &Kind::ALL)?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        let host = &cluster.node(0).host;
        wait_only_there(host, kind)?;
        let rules = kind.rules(host)?;
        assert!(
            !rules.contains("10.77.") && rules.contains("10.5."),
            "{rules}"
        );
        cluster.assert_settled()?;
    }
    Ok(())
}

#[test]
fn what_upstream_left_for_this_network_is_adopted() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let conf = v4_conf(kind, "10.5.0.0/16");
        let mut cluster = Cluster::new(Wiring::OneSegment, 1, &conf)?;
        let host = &cluster.node(0).host;
        leave(host, 5, &[kind])?;
        let left = kind.rules(host)?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        let node = cluster.node(0);
        assert_eq!(node.env("FLANNEL_SUBNET")?, "10.5.7.1/24");
        cluster.assert_settled()?;
        let node = cluster.node(0);
        let rules = kind.rules(&node.host)?;
        match kind {
            // W-24: two of upstream's rules mean something else
            Kind::Nftables => assert!(
                rules.contains("mark & 0x00004000 == 0x00004000 return")
                    && !rules.contains("saddr != 10.5.7.0/24"),
                "{rules}"
            ),
            Kind::IptablesNft | Kind::IptablesLegacy => {
                assert_eq!(rules, left);
                let log = node.log();
                assert!(!log.contains("traffic rules: changes"), "{log}");
            }
        }
    }
    Ok(())
}
