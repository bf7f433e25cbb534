//! Traffic rules: what pods reach with them, who repairs them, and what is
//! left of them. In nftables and in both flavours of iptables.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, SUBNET_ENV};
use integration::daemon::Daemon;
use integration::demo::Stack;
use integration::host::Host;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::probe::At;
use integration::underlay::{STORE_V4, STORE_V6, Wiring};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

mod leftovers;
mod ports;
mod rivals;

/// Where the rules are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

/// A folder that is all of PATH in which there is an iptables.
struct Path {
    dir: TempDir,
}

// === impl Kind ===

impl Kind {
    const ALL: [Self; 3] =
        [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy];

    fn net_conf(self) -> Value {
        let mut conf = Stack::Dual.net_conf();
        conf["EnableNFTables"] = json!(self == Self::Nftables);
        conf
    }

    /// What `iptables` is on a host of that kind.
    const fn multi(self) -> &'static str {
        match self {
            Self::Nftables | Self::IptablesNft => "xtables-nft-multi",
            Self::IptablesLegacy => "xtables-legacy-multi",
        }
    }

    /// A program of this kind's iptables.
    fn program(self, name: &str) -> String {
        let flavour = match self {
            Self::Nftables | Self::IptablesNft => "nft",
            Self::IptablesLegacy => "legacy",
        };
        name.replace("tables", &format!("tables-{flavour}"))
    }

    /// The rules of ours that are there, and what leads to them.
    fn rules(self, host: &Host) -> Result<String> {
        match self {
            Self::Nftables => nft_rules(host),
            Self::IptablesNft | Self::IptablesLegacy => {
                iptables_rules(host, self)
            }
        }
    }
}

/// Tables and chains by name: after a repair they are in another order.
fn nft_rules(host: &Host) -> Result<String> {
    let tables = host.cmd(&["nft", "list", "tables"])?;
    let ours = tables.lines().filter(|table| table.contains("flannel"));
    let mut out = Vec::new();
    for table in ours {
        let words: Vec<_> =
            ["nft", "list"].into_iter().chain(table.split(' ')).collect();
        let text = host.cmd(&words)?;
        let chains = text.split("\tchain ").enumerate();
        out.extend(chains.map(|(n, chain)| {
            let of = if n == 0 { "" } else { table };
            let lines = chain.lines().map(str::trim);
            let lines = lines.filter(|l| !["}", ""].contains(l));
            format!("{of} {}", lines.collect::<Vec<_>>().join("\n"))
        }));
    }
    out.sort();
    Ok(out.concat())
}

fn iptables_rules(host: &Host, kind: Kind) -> Result<String> {
    let mut out = String::new();
    for save in ["iptables-save", "ip6tables-save"] {
        let text = host.cmd(&[kind.program(save)])?;
        let ours = text.lines().filter(|l| l.contains("FLANNEL"));
        // with the counters of packets left out
        let ours = ours.map(|l| l.split(" [").next().unwrap_or(l));
        out.extend(ours.map(|line| format!("{line}\n")));
    }
    Ok(out)
}

/// What of ours is in the firewalls that `kind` does not use.
fn elsewhere(host: &Host, kind: Kind) -> Result<String> {
    let others = Kind::ALL.into_iter().filter(|other| *other != kind);
    others.map(|other| other.rules(host)).collect()
}

impl Path {
    /// Has a host's daemon find an `iptables` of that kind, with the other
    /// one under its full name.
    fn new(kind: Kind) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        for six in ["", "6"] {
            for verb in ["", "-save", "-restore"] {
                let link = |name: String, multi: &str| {
                    symlink(format!("/usr/sbin/{multi}"), dir.path().join(name))
                };
                link(format!("ip{six}tables{verb}"), kind.multi())?;
                link(
                    format!("ip{six}tables-legacy{verb}"),
                    "xtables-legacy-multi",
                )?;
                link(format!("ip{six}tables-nft{verb}"), "xtables-nft-multi")?;
            }
        }
        Ok(Self { dir })
    }

    /// The value of PATH. /usr/bin has the programs that start the daemon,
    /// and none of iptables.
    fn value(&self) -> String {
        format!("{}:/usr/bin", self.dir.path().display())
    }
}

/// Starts node `n`'s daemon with `flags` on a host whose iptables is of that
/// kind, and waits until it is ready.
fn start(
    cluster: &mut Cluster,
    n: usize,
    path: &str,
    flags: &[&str],
) -> Result<()> {
    launch(cluster, n, path, flags)?;
    cluster.node_mut(n).wait_ready()
}

fn launch(
    cluster: &mut Cluster,
    n: usize,
    path: &str,
    flags: &[&str],
) -> Result<()> {
    let endpoint = format!("--etcd-endpoints={}", cluster.etcd.url());
    let mut all = vec![endpoint.as_str(), "--iface=eth0"];
    all.extend(flags);
    let node = cluster.node_mut(n);
    node.daemon = Some(Daemon::start(&node.host, &all, &[("PATH", path)])?);
    Ok(())
}

fn daemon(cluster: &mut Cluster, n: usize) -> Result<&mut Daemon> {
    cluster.node_mut(n).daemon.as_mut().context("no daemon")
}

/// From which address a datagram from `from` to `to` (an address of `at`)
/// seems to come.
fn seen_source(from: At<'_>, at: At<'_>, to: &str) -> Result<IpAddr> {
    let target = SocketAddr::new(to.parse()?, 5006);
    let (ready, bound) = std::sync::mpsc::channel();
    let receiver =
        at.pod.spawn(at.node, move || -> std::io::Result<IpAddr> {
            let socket = UdpSocket::bind(target);
            let _ = ready.send(());
            let socket = socket?;
            socket.set_read_timeout(Some(Duration::from_secs(40)))?;
            Ok(socket.recv_from(&mut [0; 4])?.1.ip())
        })?;
    bound.recv().context("the receiver ended")?;
    let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let sender = from.pod.spawn(from.node, move || {
        UdpSocket::bind(any)?.send_to(b"hey", target)
    })?;
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let seen = receiver.join();
    Ok(seen.map_err(|_| anyhow::anyhow!("the receiver panicked"))??)
}

/// Whether a pod gets an answer; asked once.
fn answered(pod: &Pod, node: &Host, to: &str) -> bool {
    let words = ["ping", "-n", "-q", "-W", "2", "-c", "1", to];
    pod.cmd(node, &words).is_ok()
}

/// Behind the router, which knows no way back to pods.
const OUTSIDE: [&str; 2] = [STORE_V4, STORE_V6];

#[test]
fn pods_reach_the_outside_masqueraded_and_each_other_as_they_are() -> Result<()>
{
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let mut cluster = Cluster::new(Wiring::Routed, 2, &kind.net_conf())?;
        for n in [0, 1] {
            start(&mut cluster, n, &path.value(), &["--ip-masq"])?;
        }
        cluster.wait_joined()?;
        let [a, b] = [cluster.node(0), cluster.node(1)];
        assert_eq!(a.env("FLANNEL_IPMASQ")?, "true");
        let (from, to) = (Pod::add(&a.host, "a")?, Pod::add(&b.host, "b")?);
        for outside in OUTSIDE {
            from.ping(&a.host, outside).with_context(|| format!("{kind:?}"))?;
        }
        let ends =
            (At { node: &a.host, pod: &from }, At { node: &b.host, pod: &to });
        let own = Stack::Dual.addresses(&from)?;
        for (own, address) in own.iter().zip(Stack::Dual.addresses(&to)?) {
            let seen = seen_source(ends.0, ends.1, &address)?;
            assert_eq!(seen, own.parse::<IpAddr>()?, "{kind:?}");
            // from the node itself, and T-26
            a.host.ping(&address, 2)?;
        }
        // kube-proxy's mark, among others' bits (T-21)
        let outside = [("ip", from.v4()?), ("ip6", from.v6()?)];
        for ((family, pod), to) in outside.into_iter().zip(OUTSIDE) {
            for (mark, answers) in
                [("0x4000", false), ("0x14000", false), ("0x18000", true)]
            {
                let name = format!("{family} marks");
                let table = format!(
                    "table {name} {{}}; delete table {name}; table {name} \
                     {{ chain pre {{ type filter hook prerouting priority \
                     -150; {family} saddr {pod} meta mark set {mark}; }}; }}"
                );
                a.host.write("/run/marks.nft", &table)?;
                a.host.cmd(&["nft", "-f", "/run/marks.nft"])?;
                let what = format!("{kind:?}: {family} mark {mark}");
                if answers {
                    from.ping(&a.host, to).context(what)?;
                } else {
                    assert!(!answered(&from, &a.host, to), "{what}");
                }
            }
        }
        assert_eq!(elsewhere(&a.host, kind)?, "", "{kind:?}");
        cluster.assert_settled()?;
        // and without the rules, as a check of all this
        let daemon = daemon(&mut cluster, 0)?;
        daemon.stop(Signal::SIGTERM)?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq=false"])?;
        let a = cluster.node(0);
        assert_eq!(a.env("FLANNEL_IPMASQ")?, "false");
        poll_until("no masquerading", Duration::from_secs(40), || {
            let rules = kind.rules(&a.host)?;
            ensure!(!rules.to_lowercase().contains("masq"), "{rules}");
            Ok(())
        })?;
        assert!(!answered(&from, &a.host, STORE_V6), "{kind:?}");
    }
    Ok(())
}

/// As Docker leaves it (P58).
#[test]
fn pods_are_heard_where_forward_drops() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 2, &kind.net_conf())?;
        for iptables in ["iptables", "ip6tables"] {
            let program = kind.program(iptables);
            let host = &cluster.node(0).host;
            host.cmd(&[program.as_str(), "-P", "FORWARD", "DROP"])?;
        }
        for n in [0, 1] {
            start(&mut cluster, n, &path.value(), &[])?;
        }
        cluster.wait_joined()?;
        if kind == Kind::Nftables {
            // An accept elsewhere cannot change that, which is said.
            let daemon = daemon(&mut cluster, 0)?;
            let limit = Duration::from_secs(40);
            for chain in ["ip filter FORWARD", "ip6 filter FORWARD"] {
                let line = daemon.wait_log(chain, 0, limit)?;
                assert!(line.contains("WARN"), "{line}");
            }
            continue;
        }
        let [a, b] = [cluster.node(0), cluster.node(1)];
        let (from, to) = (Pod::add(&a.host, "a")?, Pod::add(&b.host, "b")?);
        for address in Stack::Dual.addresses(&to)? {
            from.ping(&a.host, &address)?;
        }
        assert!(!a.log().contains("WARN"), "{}", a.log());
        cluster.assert_settled()?;
        daemon(&mut cluster, 0)?.stop(Signal::SIGTERM)?;
        let off = "--iptables-forward-rules=false";
        start(&mut cluster, 0, &path.value(), &[off])?;
        let a = cluster.node(0);
        poll_until("no accept rules", Duration::from_secs(40), || {
            let rules = kind.rules(&a.host)?;
            ensure!(rules.is_empty(), "{rules}");
            Ok(())
        })?;
        for address in Stack::Dual.addresses(&to)? {
            assert!(!answered(&from, &a.host, &address), "{kind:?}");
        }
    }
    Ok(())
}

#[test]
fn whatever_happens_to_rules_is_repaired() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 1, &kind.net_conf())?;
        let flags = ["--ip-masq", "--iptables-resync=1"];
        start(&mut cluster, 0, &path.value(), &flags)?;
        let node = cluster.node(0);
        let before = kind.rules(&node.host)?;
        assert!(before.contains("masq"), "{before}");
        let faults: &[&str] = match kind {
            Kind::Nftables => &[
                "nft flush ruleset",
                "nft delete table ip flannel-ipv4",
                "nft flush chain ip6 flannel-ipv6 postrtg",
                "nft delete chain ip flannel-ipv4 forward",
                "nft insert rule ip flannel-ipv4 postrtg accept",
            ],
            Kind::IptablesNft => &[
                "nft flush ruleset",
                "nft delete table ip nat",
                "iptables -t nat -F",
                "iptables -F FORWARD",
                "ip6tables -t nat -D FLANNEL-POSTRTG 2",
                "ip6tables -I FLANNEL-FWD -j DROP",
            ],
            Kind::IptablesLegacy => &[
                "iptables -t nat -F",
                "iptables -F FORWARD",
                "ip6tables -t nat -D FLANNEL-POSTRTG 2",
                "ip6tables -I FLANNEL-FWD -j DROP",
            ],
        };
        cluster.assert_settled()?;
        let node = cluster.node(0);
        for fault in faults {
            let words: Vec<_> = fault
                .split(' ')
                .map(|word| match word {
                    "iptables" | "ip6tables" => kind.program(word),
                    word => word.to_owned(),
                })
                .collect();
            let from = node.log().len();
            node.host.cmd(&words)?;
            let limit = Duration::from_secs(40);
            poll_until(&format!("{fault} to be repaired"), limit, || {
                let now = kind.rules(&node.host)?;
                ensure!(now == before, "{now}");
                Ok(())
            })
            .with_context(|| format!("{kind:?}: {}", node.log()))?;
            let daemon = node.daemon.as_ref().context("no daemon")?;
            daemon.wait_log("repaired: ", from, limit)?;
        }
        cluster.assert_settled()?;
        // Told like any other drift.
        let label = match kind {
            Kind::Nftables => "nftables",
            Kind::IptablesNft | Kind::IptablesLegacy => "iptables",
        };
        let node = cluster.node(0);
        let daemon = node.daemon.as_ref().context("no daemon")?;
        let (_, metrics) = daemon.get(&node.host, "/metrics")?;
        for cause in ["missing", "altered"] {
            let series = format!(
                "flannel_repairs_total{{kind=\"{label}\",cause=\"{cause}\"}} "
            );
            ensure!(metrics.contains(&series), "{series}:\n{metrics}");
        }
        let changes = format!("flannel_changes_total{{kind=\"{label}\"}} ");
        ensure!(metrics.contains(&changes), "{metrics}");
        let (_, events) = daemon.get(&node.host, "/events")?;
        ensure!(
            events.contains(r#""kind":"repair","text":"chain "#),
            "{events}"
        );
    }
    Ok(())
}
