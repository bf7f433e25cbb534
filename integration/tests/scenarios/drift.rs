//! Others touch the kernel and the files of a running node: it is put right
//! on notification, said once, counted, and kept among the recent events.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Node, SUBNET_ENV};
use integration::daemon::run_to_end;
use integration::demo::Stack;
use integration::host::Host;
use integration::kernel;
use integration::pod::Pod;
use integration::poll::poll_until;
use integration::underlay::Wiring;
use nix::sys::signal::Signal;

/// For a notification to have led to a repair, on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// After so long everything is looked at.
const MINUTE: Duration = Duration::from_secs(60);

/// What somebody else does to node 1, and what the log says of it. `{peer}`
/// and `{own}` are the IPv4 subnets without their length, `{peer6}` and
/// `{own6}` the IPv6 ones, `{mac}` is the peer's Ethernet address.
const DAMAGE: &[(&str, &str)] = &[
    ("ip route del {peer}/24", "route {peer}/24 was missing"),
    ("ip -6 route del {peer6}/64", "route {peer6}/64 was missing"),
    (
        "ip route replace {peer}/24 via 192.168.77.9 dev eth0 onlink",
        "route {peer}/24 was altered",
    ),
    ("ip nexthop flush", "route {peer}/24 was missing"),
    (
        "ip route add 10.244.222.0/24 via 10.244.222.0 dev flannel.1 onlink",
        "route 10.244.222.0/24 is not flannel's",
    ),
    (
        "ip neigh add 10.99.9.9 lladdr 02:00:00:00:99:98 dev flannel.1 nud permanent",
        "neighbour 10.99.9.9 on flannel.1 is not flannel's",
    ),
    (
        "ip neigh del {peer} dev flannel.1",
        "neighbour {peer} on flannel.1 was missing",
    ),
    (
        "ip neigh replace {peer} lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent",
        "neighbour {peer} on flannel.1 was altered",
    ),
    (
        "bridge fdb del {mac} dev flannel.1",
        "forwarding entry {mac} on flannel.1 was missing",
    ),
    (
        "bridge fdb replace {mac} dev flannel.1 dst 192.168.9.9 self permanent",
        "forwarding entry {mac} on flannel.1 was altered",
    ),
    (
        "bridge fdb add 02:99:00:00:00:02 dev flannel.1 dst 192.168.9.9 self permanent",
        "forwarding entry 02:99:00:00:00:02 on flannel.1 is not flannel's",
    ),
    (
        "ip addr del {own}/32 dev flannel.1",
        "address {own}/32 on flannel.1 was missing",
    ),
    (
        "ip addr add {own}/16 dev flannel.1",
        "address {own}/16 on flannel.1 is not flannel's",
    ),
    (
        "ip -6 addr del {own6}/128 dev flannel-v6.1",
        "address {own6}/128 on flannel-v6.1 was missing",
    ),
    (
        "ip -6 addr add fd55::5/64 dev flannel-v6.1",
        "address fd55::5/64 on flannel-v6.1 is not flannel's",
    ),
    ("ip link set flannel.1 down", "link flannel.1 was altered"),
    ("ip link set flannel-v6.1 down", "link flannel-v6.1 was altered"),
    ("ip link set flannel.1 mtu 1300", "link flannel.1 was altered"),
    ("ip link set flannel-v6.1 mtu 1200", "link flannel-v6.1 was altered"),
    (
        "ip link set flannel.1 address 02:11:11:11:11:11",
        "link flannel.1 was altered",
    ),
    ("ip link set flannel.1 type vxlan learning", "link flannel.1 was altered"),
    ("ip link del flannel.1", "link flannel.1 was missing"),
    ("ip link del flannel-v6.1", "link flannel-v6.1 was missing"),
    ("ip link set flannel.1 name stolen", "link flannel.1 was missing"),
    (
        "sysctl -qw net/ipv6/conf/flannel-v6.1/disable_ipv6=1",
        "disable_ipv6 was 1",
    ),
];

/// A cluster of two with a pod on each.
struct Rig {
    cluster: Cluster,
    pods: [Pod; 2],
}

// === impl Rig ===

impl Rig {
    fn new(flags: &[&str]) -> Result<Self> {
        let mut cluster =
            Cluster::new(Wiring::OneSegment, 2, &Stack::Dual.net_conf())?;
        let mut all = vec!["--iface=eth0", "--v=2"];
        all.extend(flags);
        cluster.start(&all)?;
        let pods = [
            Pod::add(&cluster.node(0).host, "a")?,
            Pod::add(&cluster.node(1).host, "b")?,
        ];
        Ok(Self { cluster, pods })
    }

    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn overlay(&self) -> Result<String> {
        // An index is no part of what traffic sees.
        let text = kernel::overlay(&self.node().host)?;
        let lines = text.lines().map(|line| match line.split_once(": ") {
            Some((n, rest)) if n.parse::<u32>().is_ok() => rest,
            _ => line,
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// Fills the places in a line of [`DAMAGE`].
    fn fill(&self, line: &str) -> Result<String> {
        let base = |n: usize, name: &str| -> Result<String> {
            let subnet: ipam::Subnet =
                self.cluster.node(n).env(name)?.parse()?;
            Ok(subnet.base().to_string())
        };
        let link = self.cluster.node(1).host.ip("-o link show flannel.1")?;
        let mut words = link.split_whitespace();
        let mac = words.find(|w| *w == "link/ether").and(words.next());
        let mac = mac.with_context(|| link.clone())?;
        Ok(line
            .replace("{own}", &base(0, "FLANNEL_SUBNET")?)
            .replace("{own6}", &base(0, "FLANNEL_IPV6_SUBNET")?)
            .replace("{peer}", &base(1, "FLANNEL_SUBNET")?)
            .replace("{peer6}", &base(1, "FLANNEL_IPV6_SUBNET")?)
            .replace("{mac}", mac))
    }

    /// Runs a command on node 1.
    fn damage(&self, line: &str) -> Result<()> {
        let line = self.fill(line)?;
        let words: Vec<_> = line.split_whitespace().collect();
        self.node().host.cmd(&words).map(drop)
    }

    /// Waits until the kernel is as `before`.
    fn mended(&self, what: &str, before: &str) -> Result<()> {
        poll_until(&format!("{what} to be mended"), SOON, || {
            let now = self.overlay()?;
            ensure!(
                now == before,
                "{now}\n--- instead of\n{before}\nlog:\n{}",
                self.node().log()
            );
            Ok(())
        })
    }

    fn pods_reach_each_other(&self) -> Result<()> {
        let [a, b] = &self.pods;
        for to in Stack::Dual.addresses(b)? {
            a.ping(&self.node().host, &to)?;
        }
        Ok(())
    }

    fn count(&self, series: &str) -> Result<f64> {
        let daemon = self.node().daemon.as_ref().context("daemon")?;
        daemon.metric(&self.node().host, series)
    }

    fn events(&self) -> Result<String> {
        let daemon = self.node().daemon.as_ref().context("daemon")?;
        let (status, body) = daemon.get(&self.node().host, "/events")?;
        ensure!(status == 200, "{status}: {body}");
        Ok(body)
    }
}

/// The counter of a repair of that kind and cause.
fn repairs(kind: &str, cause: &str) -> String {
    format!("flannel_repairs_total{{kind=\"{kind}\",cause=\"{cause}\"}}")
}

/// The counter of what the log says.
fn series(said: &str) -> Result<String> {
    let kinds = [
        ("route ", "route"),
        ("neighbour ", "neighbour"),
        ("forwarding entry ", "fdb"),
        ("address ", "address"),
        ("link ", "link"),
        ("disable_ipv6 ", "sysctl"),
    ];
    let causes = [
        ("missing", "missing"),
        ("altered", "altered"),
        ("is not flannel's", "surplus"),
        // what a setting was
        (" was 1", "altered"),
    ];
    let kind = kinds.iter().find(|(word, _)| said.starts_with(word));
    let cause = causes.iter().find(|(word, _)| said.ends_with(word));
    let ((_, kind), (_, cause)) = kind.zip(cause).context(said.to_owned())?;
    Ok(repairs(kind, cause))
}

#[test]
fn whatever_others_do_is_put_right_and_said_once() -> Result<()> {
    let rig = Rig::new(&[])?;
    let before = rig.overlay()?;
    for (damage, said) in DAMAGE {
        // Nothing of the last one is under way.
        rig.cluster.assert_settled().with_context(|| (*damage).to_owned())?;
        let from = rig.node().log().len();
        let series = series(said)?;
        let count = rig.count(&series)?;
        rig.damage(damage)?;
        rig.mended(damage, &before)?;
        let said = rig.fill(said)?;
        let daemon = rig.node().daemon.as_ref().context("daemon")?;
        daemon
            .wait_log("repaired: ", from, SOON)
            .with_context(|| (*damage).to_owned())?;
        rig.cluster.assert_settled().with_context(|| {
            format!("{damage}:\n{}", &rig.node().log()[from..])
        })?;
        let log = rig.node().log();
        let lines: Vec<_> = log[from..]
            .lines()
            .filter(|l| l.contains("repaired: ") && l.contains(&said))
            .collect();
        ensure!(lines.len() == 1, "{damage}: {lines:#?}\n{}", &log[from..]);
        ensure!(rig.events()?.contains(&said), "{damage}: {}", rig.events()?);
        let now = rig.count(&series)?;
        ensure!(now > count, "{damage}: {series} is {now} as before");
    }
    // with the routes
    ensure!(rig.count(&repairs("nexthop", "missing"))? > 0.0);
    rig.pods_reach_each_other()
}

/// One object is looked at, not the whole node.
#[test]
fn a_repair_looks_at_what_was_touched() -> Result<()> {
    let rig = Rig::new(&[])?;
    for (damage, looked) in [
        // With its nexthop object.
        ("ip route del {peer}/24", 2),
        ("ip neigh del {peer} dev flannel.1", 1),
        ("bridge fdb del {mac} dev flannel.1", 1),
        ("ip link set flannel.1 mtu 1300", 1),
    ] {
        rig.cluster.assert_settled()?;
        let from = rig.node().log().len();
        rig.damage(damage)?;
        let daemon = rig.node().daemon.as_ref().context("daemon")?;
        let line = daemon.wait_log("pass: changes=1", from, SOON)?;
        ensure!(
            line.contains(&format!("looked={looked} ")),
            "{damage}: {line}"
        );
    }
    Ok(())
}

/// What no notification tells of is found by the check of everything, which
/// SIGHUP asks for.
#[test]
fn the_check_of_everything_finds_what_nobody_tells() -> Result<()> {
    let rig = Rig::new(&[])?;
    let path = "/proc/sys/net/ipv6/conf/flannel.1/accept_ra";
    rig.node().host.write(path, "2")?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.wait_log("accept_ra was 2: set 0", 0, SOON)?;
    ensure!(rig.node().host.read(path)?.trim() == "0");
    rig.cluster.assert_settled()
}

/// … and each minute, though nobody asks.
#[test]
fn the_check_of_each_minute_finds_what_nobody_tells() -> Result<()> {
    let rig = Rig::new(&[])?;
    let path = "/proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra";
    let host = &rig.node().host;
    host.write(path, "2")?;
    host.write(
        "/run/theirs",
        "table inet theirs {
           chain mine { type filter hook forward priority 5; policy drop; }
         }",
    )?;
    host.cmd(&["nft", "-f", "/run/theirs"])?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    let found = "flannel-v6.1/accept_ra was 2: set 0";
    daemon.wait_log(found, 0, 2 * MINUTE)?;
    ensure!(host.read(path)?.trim() == "0");
    // rules of others, in which a policy drops what ours accept
    let found = "chain inet theirs mine of nf_tables drops";
    daemon.wait_log(found, 0, 2 * MINUTE)?;
    host.cmd(&["nft", "delete", "table", "inet", "theirs"])?;
    rig.cluster.assert_settled()
}

/// More happens than the kernel keeps notifications of.
#[test]
fn lost_notifications_lose_no_repair() -> Result<()> {
    let rig = Rig::new(&[])?;
    let before = rig.overlay()?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    let from = daemon.log().len();
    daemon.signal(Signal::SIGSTOP)?;
    let mut batch = String::new();
    for n in 0..20_000 {
        batch += &format!(
            "route add 172.{}.{}.{}/32 dev eth0\n",
            16 + n / 65_536,
            n / 256 % 256,
            n % 256
        );
    }
    rig.node().host.write("/run/batch", &batch)?;
    rig.node().host.cmd(&["ip", "-batch", "/run/batch"])?;
    rig.damage("ip route del {peer}/24")?;
    rig.damage("bridge fdb del {mac} dev flannel.1")?;
    let undo = batch.replace("route add", "route del");
    rig.node().host.write("/run/batch", &undo)?;
    rig.node().host.cmd(&["ip", "-batch", "/run/batch"])?;
    daemon.signal(Signal::SIGCONT)?;
    rig.mended("what happened meanwhile", &before)?;
    let lost = "changed by somebody: Everything";
    daemon.wait_log(lost, from, SOON)?;
    let (_, metrics) = daemon.get(&rig.node().host, "/metrics")?;
    let overruns = metrics
        .lines()
        .find_map(|line| line.strip_prefix("flannel_netlink_overruns_total "));
    ensure!(overruns.is_some_and(|n| n != "0"), "{metrics}");
    rig.cluster.assert_settled()?;
    rig.pods_reach_each_other()
}

/// Our name, another kind of device, or another tunnel.
#[test]
fn a_foreign_device_of_our_name_is_replaced() -> Result<()> {
    let rig = Rig::new(&[])?;
    let before = rig.overlay()?;
    for (made, cause) in [
        ("ip link add flannel.1 type bridge", "foreign"),
        (
            "ip link add flannel.1 type vxlan id 77 dstport 8472 dev eth0",
            "altered",
        ),
    ] {
        let series = repairs("link", cause);
        let count = rig.count(&series)?;
        let from = rig.node().log().len();
        // In one breath: ours may be back already when the other comes.
        let line = format!("ip link del flannel.1; {made}");
        let daemon = rig.node().daemon.as_ref().context("daemon")?;
        daemon.signal(Signal::SIGSTOP)?;
        rig.node().host.cmd(&["sh", "-c", &line])?;
        daemon.signal(Signal::SIGCONT)?;
        rig.mended(made, &before)?;
        daemon.wait_log("flannel's by name but was", from, SOON)?;
        rig.cluster.assert_settled()?;
        let now = rig.count(&series)?;
        ensure!(now > count, "{made}: {series} is {now} as before");
    }
    rig.cluster.assert_settled()?;
    rig.pods_reach_each_other()
}

/// Another device that has our VNI is not ours to remove: it is named.
#[test]
fn a_foreign_device_with_our_vni_is_named() -> Result<()> {
    let mut rig = Rig::new(&[])?;
    let before = rig.overlay()?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    daemon.signal(Signal::SIGSTOP)?;
    rig.damage("ip link del flannel.1")?;
    rig.damage("ip link add other type vxlan id 1 dstport 8472 local 192.168.77.1 dev eth0")?;
    daemon.signal(Signal::SIGCONT)?;
    let texts = ["device other has VNI 1 on port 8472 already"];
    rig.cluster.node_mut(0).wait_not_ready(&texts)?;
    rig.damage("ip link del other")?;
    rig.mended("the device", &before)?;
    rig.cluster.node_mut(0).wait_ready()?;
    rig.pods_reach_each_other()
}

#[test]
fn the_subnet_file_is_kept() -> Result<()> {
    let rig = Rig::new(&[])?;
    let host = &rig.node().host;
    let before = host.read(SUBNET_ENV)?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    for (damage, said) in [
        ("rm /run/flannel/subnet.env", "missing"),
        ("echo FLANNEL_MTU=9000 > /run/flannel/subnet.env", "altered"),
        (
            "echo x > /run/flannel/y; mv /run/flannel/y /run/flannel/subnet.env",
            "altered",
        ),
        (": > /run/flannel/subnet.env", "altered"),
        // The daemon may be faster than `rm`.
        ("rm -r /run/flannel || true", "missing"),
        ("rm /run/flannel/subnet.env", "missing"),
        ("mv /run/flannel /run/elsewhere", "missing"),
        ("rm /run/flannel/subnet.env", "missing"),
    ] {
        let from = rig.node().log().len();
        let series = repairs("subnet_file", said);
        let count = rig.count(&series)?;
        host.cmd(&["sh", "-c", damage])?;
        daemon
            .wait_log(&format!("the subnet file was {said}"), from, SOON)
            .with_context(|| damage.to_owned())?;
        poll_until(&format!("{damage} to be mended"), SOON, || {
            let now = host.read(SUBNET_ENV)?;
            ensure!(now == before, "{now}");
            host.read("/run/flannel/state.json")?;
            let now = rig.count(&series)?;
            ensure!(now > count, "{series} is {now} as before");
            Ok(())
        })?;
        // The new directory is watched by now.
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// The card is pulled and plugged in again, as another index, with another
/// MTU and another address: the node publishes that one, and all is well.
#[test]
fn the_underlay_comes_back_as_another() -> Result<()> {
    let mut rig = Rig::new(&[])?;
    let host = &rig.node().host;
    let index = |host: &Host| -> Result<String> {
        let link = host.ip("-o link show eth0")?;
        Ok(link.split(':').next().unwrap_or_default().to_owned())
    };
    let before = index(host)?;
    // MTU first, on the living interface.
    host.ip("link set eth0 mtu 1400")?;
    poll_until("the MTU to be followed", SOON, || {
        let mtu = rig.node().env("FLANNEL_MTU")?;
        ensure!(mtu == "1330", "{mtu}");
        let link = host.ip("-o link show flannel.1")?;
        ensure!(link.contains("mtu 1350"), "{link}");
        Ok(())
    })?;
    rig.pods_reach_each_other()?;

    host.ip("link del eth0")?;
    let texts = ["looking at the interface eth0"];
    rig.cluster.node_mut(0).wait_not_ready(&texts)?;
    // Node 9's place, so that the addresses are others.
    let host = &rig.cluster.node(0).host;
    rig.cluster.underlay.attach(host, 9)?;
    poll_until("the new address to be published", SOON, || {
        let leases = rig.cluster.leases()?;
        let fits = leases.iter().any(|(_, value)| {
            value.contains(r#""PublicIP":"192.168.77.9""#)
                && value.contains(r#""PublicIPv6":"fd77::9""#)
        });
        ensure!(fits && leases.len() == 2, "{leases:?}\n{}", rig.node().log());
        Ok(())
    })?;
    rig.cluster.node_mut(0).wait_ready()?;
    let host = &rig.node().host;
    assert_ne!(index(host)?, before);
    let link = host.ip("-d -o link show flannel.1")?;
    ensure!(
        link.contains("local 192.168.77.9 dev eth0")
            && link.contains("mtu 1450"),
        "{link}"
    );
    poll_until("MTU of the file", SOON, || {
        let mtu = rig.node().env("FLANNEL_MTU")?;
        ensure!(mtu == "1430", "{mtu}");
        Ok(())
    })?;
    poll_until("the other node to follow", SOON, || {
        rig.pods_reach_each_other()
    })?;
    rig.cluster.assert_settled()
}

/// The address changes on the living interface; the name does not.
#[test]
fn an_address_that_was_chosen_is_chosen_again() -> Result<()> {
    let rig = Rig::new(&[])?;
    let host = &rig.node().host;
    // Another one beside it changes nothing.
    host.sysctl("net/ipv4/conf/eth0/promote_secondaries", "1")?;
    host.ip("addr add 192.168.77.50/24 dev eth0")?;
    rig.cluster.assert_settled()?;
    host.ip("addr del 192.168.77.1/24 dev eth0")?;
    host.ip("route replace default via 192.168.77.254")?;
    poll_until("the new address to be published", SOON, || {
        let leases = rig.cluster.leases()?;
        let fits = leases
            .iter()
            .any(|(_, value)| value.contains(r#""PublicIP":"192.168.77.50""#));
        ensure!(fits && leases.len() == 2, "{leases:?}\n{}", rig.node().log());
        Ok(())
    })?;
    poll_until("the other node to follow", SOON, || {
        rig.pods_reach_each_other()
    })?;
    rig.cluster.assert_settled()
}

/// C-130, W-36: there at once, and after the bridge's own route.
#[test]
fn the_blackhole_route_is_kept_and_disturbs_nobody() -> Result<()> {
    let mut rig = Rig::new(&["--ip-blackhole-route"])?;
    let routes = |rig: &Rig| -> Result<String> {
        let host = &rig.node().host;
        Ok(host.ip("route show type blackhole")?
            + &host.ip("-6 route show type blackhole")?)
    };
    let before = routes(&rig)?;
    for subnet in rig.node().subnets()? {
        ensure!(before.contains(&format!("blackhole {subnet}")), "{before}");
    }
    rig.pods_reach_each_other()?;
    rig.cluster.assert_settled()?;
    let own = rig.fill("{own}/24")?;
    let from = rig.node().log().len();
    rig.node().host.ip(&format!("route del blackhole {own} metric 1024"))?;
    poll_until("the route to be back", SOON, || {
        let now = routes(&rig)?;
        ensure!(now == before, "{now}\n{}", rig.node().log());
        Ok(())
    })?;
    let daemon = rig.node().daemon.as_ref().context("daemon")?;
    daemon.wait_log("blackhole route", from, SOON)?;
    // Switched off, nothing is left.
    let node = rig.cluster.node_mut(0);
    if let Some(mut daemon) = node.daemon.take() {
        daemon.stop(Signal::SIGTERM)?;
    }
    rig.cluster.start_one(0, &["--iface=eth0"])?;
    rig.cluster.node_mut(0).wait_ready()?;
    ensure!(routes(&rig)?.is_empty(), "{}", routes(&rig)?);
    Ok(())
}

/// A second daemon says who holds the lock and ends, or waits when asked to.
#[test]
fn a_second_daemon_ends_or_waits() -> Result<()> {
    let mut rig = Rig::new(&[])?;
    let endpoint = format!("--etcd-endpoints={}", rig.cluster.etcd.url());
    let host = &rig.node().host;
    let ended = run_to_end(host, &[&endpoint, "--iface=eth0"], &[])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(ended.text.contains("another flanneld (pid "), "{}", ended.text);
    let first = rig.cluster.node_mut(0).daemon.take();
    let mut first = first.context("daemon")?;
    rig.cluster.start_one(0, &["--iface=eth0", "--wait-for-lock"])?;
    let second = rig.node().daemon.as_ref().context("daemon")?;
    let line = second.wait_log("waiting for the end of the other", 0, SOON)?;
    ensure!(line.contains("(pid "), "{line}");
    // It ends by a signal meanwhile, and in good order.
    let waiting = rig.cluster.node_mut(0).daemon.as_mut().context("daemon")?;
    waiting.signal(Signal::SIGTERM)?;
    let status = waiting.child().wait(SOON)?;
    ensure!(status.code() == Some(0), "{status}: {}", waiting.log());
    rig.cluster.start_one(0, &["--iface=eth0", "--wait-for-lock"])?;
    let third = rig.node().daemon.as_ref().context("daemon")?;
    third.wait_log("waiting for the end of the other", 0, SOON)?;
    first.stop(Signal::SIGTERM)?;
    rig.cluster.node_mut(0).wait_ready()?;
    rig.pods_reach_each_other()
}
