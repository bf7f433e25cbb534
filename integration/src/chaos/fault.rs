//! What is done to a cluster.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Chaos, MOST_NODES, MOST_PODS, NODES, drift};
use crate::members::Members;
use crate::underlay::Underlay;

/// The daemons' flags.
pub(super) const FLAGS: [&str; 2] = ["--iface=eth0", "--ip-masq"];

/// A node's second address is that of the node so many places on.
const OTHERS: u8 = 20;
const SUBNETS: &str = "/coreos.com/network/subnets/";

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undo {
    /// Starts the node's daemon.
    Start(usize),
    /// Continues the node's frozen daemon.
    Thaw(usize),
    /// Sets the node's port up.
    Plug(usize),
    /// Sets the node's interface up, with the addresses and routes it lost.
    Uplink(usize),
    /// Attaches the node's interface, which was deleted, anew.
    Attach(usize),
    /// Ends whatever was done to etcd's members.
    Store,
}

/// How well etcd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// All members are well.
    Well,
    /// Those that are left have a leader, or elect one.
    Hurt,
    /// It answers nobody.
    Away,
    /// … and has lost everything.
    Emptied,
}

/// A kind of fault: its share among the others, and what it does. `None`
/// when it is not possible now.
type Kind = (&'static str, usize, fn(&mut Chaos) -> Result<Option<String>>);

const KINDS: [Kind; 20] = [
    ("drift", 10, touched),
    ("restart", 3, restarted),
    ("stop", 3, stopped),
    ("freeze", 3, frozen),
    ("cut", 3, cut),
    ("uplink", 2, downed),
    ("uplink replaced", 2, replaced),
    ("sysctl", 2, set),
    ("member", 3, member_failed),
    ("quorum", 1, quorum_lost),
    ("store stop", 1, store_stopped),
    ("store freeze", 1, store_frozen),
    ("store emptied", 1, store_emptied),
    ("certificates", 1, certified),
    ("compaction", 1, compacted),
    ("garbage", 2, littered),
    ("lease deleted", 2, lease_deleted),
    ("leave", 2, left),
    ("join", 1, joined),
    ("pods", 5, pods_changed),
];

// === impl Chaos ===

impl Chaos {
    /// Does something: its kind, and in words what was done.
    pub(super) fn fault(&mut self) -> Result<(&'static str, String)> {
        let sum = KINDS.iter().map(|(_, share, _)| share).sum();
        loop {
            let mut at = self.rng.below(sum);
            for (name, share, act) in KINDS {
                if at < share {
                    let done = act(self).with_context(|| name.to_owned())?;
                    if let Some(said) = done {
                        return Ok((name, said));
                    }
                    break;
                }
                at -= share;
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) -> Result<()> {
        match undo {
            Undo::Start(n) => {
                let node = self.cluster.node_mut(n);
                let daemon = node.daemon.as_mut().context("no daemon")?;
                daemon.start_again(&node.host)?;
                self.stopped.remove(&n);
                self.say(&format!("node{} starts", n + 1));
            }
            Undo::Thaw(n) => {
                self.signal(n, Signal::SIGCONT)?;
                self.say(&format!("node{} goes on", n + 1));
            }
            Undo::Plug(n) => {
                self.port(n, "up")?;
                self.say(&format!("node{} is connected", n + 1));
            }
            Undo::Uplink(n) => {
                let node = self.cluster.node(n);
                self.cluster.underlay.lift(&node.host, &node.uplink)?;
                self.say(&format!("node{}: eth0 is up", n + 1));
            }
            Undo::Attach(n) => {
                let place = u8::try_from(n + 1)?;
                // Every other time with other addresses, too.
                let moves = self.rng.below(2) == 0;
                let node = self.cluster.nodes.get_mut(n).context("no node")?;
                let first = node.uplink.v4.ends_with(&format!(".{place}"));
                let other = place + if first == moves { OTHERS } else { 0 };
                let underlay = &self.cluster.underlay;
                node.uplink = underlay.attach_as(&node.host, place, other)?;
                let address = node.uplink.v4.clone();
                self.say(&format!("node{}: another eth0, {address}", n + 1));
            }
            Undo::Store => {
                self.cluster.members()?.mend()?;
                let before = std::mem::replace(&mut self.store, Store::Well);
                if before == Store::Emptied {
                    let conf = self.conf.clone();
                    self.cluster.configure(&conf)?;
                    self.garbage.clear();
                }
                self.say("etcd is well");
            }
        }
        Ok(())
    }

    /// Undoes it before the fault that is a few from now.
    fn later(&mut self, undo: Undo) {
        let after = 1 + self.rng.below(5);
        self.pending.push((after, undo));
    }

    /// A node whose daemon runs.
    fn running(&mut self) -> Option<usize> {
        let busy = |n: usize| {
            let thaws = |undo: &Undo| matches!(undo, Undo::Thaw(m) if *m == n);
            self.stopped.contains(&n)
                || self.pending.iter().any(|(_, undo)| thaws(undo))
        };
        let all: Vec<_> =
            (0..self.cluster.nodes.len()).filter(|n| !busy(*n)).collect();
        self.rng.pick(&all).copied()
    }

    pub(super) fn signal(&self, n: usize, signal: Signal) -> Result<()> {
        let daemon = self.cluster.node(n).daemon.as_ref();
        daemon.context("no daemon")?.signal(signal)
    }

    /// A node whose daemon runs and may be ended: not the first, whose memory
    /// is watched.
    fn mortal(&mut self) -> Option<usize> {
        self.running().filter(|n| *n > 0)
    }

    /// Whether etcd takes requests.
    fn answers(&self) -> bool {
        matches!(self.store, Store::Well | Store::Hurt)
    }

    /// Whether nothing is done to the node's interface at the moment.
    fn attached(&self, n: usize) -> bool {
        !self.pending.iter().any(|(_, undo)| {
            matches!(undo, Undo::Plug(m) | Undo::Uplink(m) | Undo::Attach(m)
                if *m == n)
        })
    }

    fn stop(&mut self, n: usize, signal: Signal) -> Result<()> {
        self.stopped.insert(n);
        let daemon = self.cluster.node_mut(n).daemon.as_mut();
        daemon.context("no daemon")?.stop(signal)?;
        self.later(Undo::Start(n));
        Ok(())
    }

    fn port(&self, n: usize, state: &str) -> Result<()> {
        let port = Underlay::port(u8::try_from(n + 1)?);
        let middle = self.cluster.underlay.middle();
        middle.ip(&format!("link set {port} {state}")).map(drop)
    }

    /// The key of the node's lease, if it has one now.
    fn key_of(&self, n: usize) -> Result<Option<String>> {
        let own = &self.cluster.node(n).uplink.v4;
        let is_own = |value: &str| {
            serde_json::from_str(value)
                .is_ok_and(|v: Value| v["PublicIP"] == own.as_str())
        };
        let mut leases = self.cluster.leases()?.into_iter();
        Ok(leases.find(|(_, value)| is_own(value)).map(|(key, _)| key))
    }

    fn either_signal(&mut self) -> Signal {
        if self.rng.below(2) == 0 { Signal::SIGTERM } else { Signal::SIGKILL }
    }
}

// === the kinds ===

/// Somebody else changes a node's kernel, whatever its daemon does meanwhile.
fn touched(chaos: &mut Chaos) -> Result<Option<String>> {
    let n = chaos.rng.below(chaos.cluster.nodes.len());
    let host = &chaos.cluster.node(n).host;
    let said = drift::touch(host, &mut chaos.rng)?;
    Ok(Some(format!("node{}: {said}", n + 1)))
}

fn restarted(chaos: &mut Chaos) -> Result<Option<String>> {
    let signal = chaos.either_signal();
    let Some(n) = chaos.mortal() else { return Ok(None) };
    let node = chaos.cluster.node_mut(n);
    let daemon = node.daemon.as_mut().context("no daemon")?;
    daemon.restart(&node.host, signal)?;
    Ok(Some(format!("node{} is restarted by {signal}", n + 1)))
}

fn stopped(chaos: &mut Chaos) -> Result<Option<String>> {
    let signal = chaos.either_signal();
    let Some(n) = chaos.mortal() else { return Ok(None) };
    chaos.stop(n, signal)?;
    Ok(Some(format!("node{} is stopped by {signal}", n + 1)))
}

fn frozen(chaos: &mut Chaos) -> Result<Option<String>> {
    let Some(n) = chaos.running() else { return Ok(None) };
    chaos.signal(n, Signal::SIGSTOP)?;
    chaos.later(Undo::Thaw(n));
    Ok(Some(format!("node{} is frozen", n + 1)))
}

fn cut(chaos: &mut Chaos) -> Result<Option<String>> {
    let n = chaos.rng.below(chaos.cluster.nodes.len());
    if !chaos.attached(n) {
        return Ok(None);
    }
    chaos.port(n, "down")?;
    chaos.later(Undo::Plug(n));
    Ok(Some(format!("node{} is cut off", n + 1)))
}

/// The interface under the tunnels goes down, which loses its IPv6 address
/// and all routes over it.
fn downed(chaos: &mut Chaos) -> Result<Option<String>> {
    let n = chaos.rng.below(chaos.cluster.nodes.len());
    if !chaos.attached(n) {
        return Ok(None);
    }
    chaos.cluster.node(n).host.ip("link set eth0 down")?;
    chaos.later(Undo::Uplink(n));
    Ok(Some(format!("node{}: eth0 is down", n + 1)))
}

/// The interface goes, and the tunnels with it. It comes back with another
/// index.
fn replaced(chaos: &mut Chaos) -> Result<Option<String>> {
    let n = chaos.rng.below(chaos.cluster.nodes.len());
    if !chaos.attached(n) {
        return Ok(None);
    }
    chaos.cluster.node(n).host.ip("link del eth0")?;
    chaos.later(Undo::Attach(n));
    Ok(Some(format!("node{}: eth0 is deleted", n + 1)))
}

/// Somebody sets what the daemon keeps set. Of most of it the kernel tells
/// nobody: the slow check finds it.
fn set(chaos: &mut Chaos) -> Result<Option<String>> {
    const SETTINGS: [&str; 3] = [
        "net/ipv6/conf/flannel.1/accept_ra=1",
        "net/ipv6/conf/flannel-v6.1/accept_ra=2",
        "net/ipv6/conf/flannel-v6.1/disable_ipv6=1",
    ];
    let n = chaos.rng.below(chaos.cluster.nodes.len());
    let Some(setting) = chaos.rng.pick(&SETTINGS) else { return Ok(None) };
    // A device that is not there just now has no settings.
    let words = ["sysctl", "-qw", setting];
    let done = chaos.cluster.node(n).host.output(&words)?.status.success();
    Ok(done.then(|| format!("node{}: {setting}", n + 1)))
}

/// One of three members fails, every other time the one that leads.
fn member_failed(chaos: &mut Chaos) -> Result<Option<String>> {
    if chaos.store != Store::Well {
        return Ok(None);
    }
    let (any, how) = (chaos.rng.below(3), chaos.rng.below(3));
    let leader = chaos.rng.below(2) == 0;
    let members = chaos.cluster.members()?;
    let n = match members.leader() {
        Ok(leading) if leader => leading,
        _ => any,
    };
    let what = match how {
        0 => members.kill(n).map(|()| "killed"),
        1 => members.freeze(n).map(|()| "frozen"),
        _ => members.cut(n).map(|()| "cut off from the others"),
    }?;
    chaos.store = Store::Hurt;
    chaos.later(Undo::Store);
    Ok(Some(format!("member {n} of etcd is {what}")))
}

/// Each member hears its clients and none of the others.
fn quorum_lost(chaos: &mut Chaos) -> Result<Option<String>> {
    let done = all_members(chaos, Store::Away, Members::cut)?;
    Ok(done.then(|| "the members of etcd are cut off".to_owned()))
}

fn store_stopped(chaos: &mut Chaos) -> Result<Option<String>> {
    let done = all_members(chaos, Store::Away, Members::kill)?;
    Ok(done.then(|| "etcd is killed".to_owned()))
}

fn store_frozen(chaos: &mut Chaos) -> Result<Option<String>> {
    let done = all_members(chaos, Store::Away, Members::freeze)?;
    Ok(done.then(|| "etcd is frozen".to_owned()))
}

/// etcd begins anew, with the configuration and nothing else: once, as its
/// history is short from then on.
fn store_emptied(chaos: &mut Chaos) -> Result<Option<String>> {
    if chaos.emptied || !all_members(chaos, Store::Emptied, Members::kill)? {
        return Ok(None);
    }
    chaos.emptied = true;
    chaos.cluster.members()?.empty()?;
    Ok(Some("etcd is killed and loses its data".to_owned()))
}

/// Does `what` to all members if all are well.
fn all_members(
    chaos: &mut Chaos,
    store: Store,
    what: fn(&mut Members, usize) -> Result<()>,
) -> Result<bool> {
    if chaos.store != Store::Well {
        return Ok(false);
    }
    let members = chaos.cluster.members()?;
    (0..members.count()).try_for_each(|n| what(members, n))?;
    chaos.store = store;
    chaos.later(Undo::Store);
    Ok(true)
}

/// Servers and clients get other certificates of the same authority.
fn certified(chaos: &mut Chaos) -> Result<Option<String>> {
    let Some(pki) = &chaos.cluster.members()?.pki else { return Ok(None) };
    pki.certify_all()?;
    Ok(Some("all certificates are renewed".to_owned()))
}

fn compacted(chaos: &mut Chaos) -> Result<Option<String>> {
    if !chaos.answers() {
        return Ok(None);
    }
    let words = ["get", "/coreos.com/network/config", "-w", "json"];
    let now: Value = serde_json::from_str(&chaos.cluster.ctl(&words)?)?;
    let revision = now["header"]["revision"].to_string();
    // Nothing has changed since the last time, or all is compacted already.
    let done = chaos.cluster.ctl(&["compact", &revision]).is_ok();
    Ok(done.then(|| format!("etcd is compacted at {revision}")))
}

fn littered(chaos: &mut Chaos) -> Result<Option<String>> {
    const LITTER: [(&str, &str); 6] = [
        ("hello", "world"),
        ("10.244.300.0-24", "{}"),
        ("10.244.253.9-24", r#"{"PublicIP":"192.168.77.200"}"#),
        ("10.244.254.0-24&fd00:244:0:fe::-64", "{}x"),
        (
            "10.244.255.0-24&fd00:244:0:ff::-64",
            r#"{"PublicIP":"192.168.77.201","PublicIPv6":"fd77::c9","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"none"},"BackendV6Data":{}}"#,
        ),
        ("10.244.252.0-24&fd00:244:0:fc::-64", ""),
    ];
    if !chaos.answers() {
        return Ok(None);
    }
    let Some((name, value)) = chaos.rng.pick(&LITTER) else { return Ok(None) };
    let key = format!("{SUBNETS}{name}");
    if chaos.garbage.remove(&key) {
        chaos.cluster.ctl(&["del", &key])?;
        return Ok(Some(format!("{key} is deleted")));
    }
    chaos.cluster.ctl(&["put", &key, value])?;
    let said = format!("{key} = {value:?}");
    chaos.garbage.insert(key);
    Ok(Some(said))
}

/// Somebody deletes the lease of a running node.
fn lease_deleted(chaos: &mut Chaos) -> Result<Option<String>> {
    let Some(n) = chaos.running().filter(|_| chaos.answers()) else {
        return Ok(None);
    };
    let Some(key) = chaos.key_of(n)? else { return Ok(None) };
    chaos.cluster.ctl(&["del", &key])?;
    Ok(Some(format!("lease {key} of node{} is deleted", n + 1)))
}

/// A node goes, with its pods and its lease, and comes back later.
fn left(chaos: &mut Chaos) -> Result<Option<String>> {
    let Some(n) = chaos.mortal().filter(|_| chaos.answers()) else {
        return Ok(None);
    };
    let Some(key) = chaos.key_of(n)? else { return Ok(None) };
    let mut pods = Vec::new();
    for (at, pod) in std::mem::take(&mut chaos.pods) {
        if at == n {
            pod.del(&chaos.cluster.node(n).host)?;
        } else {
            pods.push((at, pod));
        }
    }
    chaos.pods = pods;
    chaos.stop(n, Signal::SIGTERM)?;
    chaos.cluster.ctl(&["del", &key])?;
    Ok(Some(format!("node{} leaves, and {key} goes", n + 1)))
}

fn joined(chaos: &mut Chaos) -> Result<Option<String>> {
    if chaos.cluster.nodes.len() >= MOST_NODES {
        return Ok(None);
    }
    let n = chaos.cluster.add_node()?;
    chaos.cluster.start_one(n, &FLAGS)?;
    Ok(Some(format!("node{} joins", n + 1)))
}

/// A pod comes or goes, whatever the daemon does meanwhile.
fn pods_changed(chaos: &mut Chaos) -> Result<Option<String>> {
    // Nodes that have had a subnet from the beginning.
    let n = chaos.rng.below(usize::from(NODES));
    let own = chaos.pods.iter().filter(|(at, _)| *at == n).count();
    if own < MOST_PODS && chaos.rng.below(2) == 0 {
        return match chaos.plug(n) {
            // Its lease is deleted, and a runtime would try again.
            Err(e) if format!("{e:#}").contains(r#""code":11"#) => Ok(None),
            done => {
                let id = chaos.plugged;
                done.map(|()| Some(format!("chaos{id} on node{}", n + 1)))
            }
        };
    }
    let Some(place) = chaos.pods.iter().position(|(at, _)| *at == n) else {
        return Ok(None);
    };
    let (_, pod) = chaos.pods.remove(place);
    pod.del(&chaos.cluster.node(n).host)?;
    Ok(Some(format!("{} on node{} goes", pod.id, n + 1)))
}
