//! Many calls at random, sixteen at a time, with faults: no address is given
//! twice, nothing is left at the end. Most pods have plugins of a chain behind
//! `flannel`. `FLANNEL_SOAK_CALLS` says how many calls (`make soak`: 10,000),
//! `FLANNEL_SOAK_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Call, Node, feed_no_answer, names, on_a_node, plain, run};

const WORKERS: usize = 16;
const PODS: usize = 40;
/// Enough for a smoke test.
const CALLS: usize = 400;
const POOL: &str = "/var/lib/cni/networks/cbr0";

/// What the runtime knows of a pod.
#[derive(Clone, Debug)]
enum Known {
    /// Nothing was asked for since the last DEL that succeeded.
    Detached,
    /// The result of ADD.
    Attached(Value),
    /// An ADD or DEL that failed or was killed: only DEL or GC may follow.
    Unclear,
}

/// A sequence of numbers from a seed (xorshift64*).
struct Random(u64);

/// What all workers share.
struct Shared {
    /// The plugins of each pod's list, in order.
    pods: Vec<Mutex<(Vec<Call>, Known)>>,
    /// Who has which address, from ADD's answer to DEL's call.
    taken: Mutex<BTreeMap<String, usize>>,
    /// GC is never called beside another verb (S-64).
    gc: RwLock<()>,
    left: AtomicUsize,
    added: AtomicUsize,
    failed: AtomicUsize,
    killed: AtomicUsize,
    net: String,
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn in_100(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

// === impl Shared ===

impl Shared {
    fn work(&self, random: &mut Random) {
        let more = |left: usize| left.checked_sub(1);
        while self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
        {
            if random.in_100(3) {
                self.disturb(random);
            }
            if random.in_100(1) {
                self.collect();
                continue;
            }
            let _verbs = self.gc.read().unwrap();
            let at = usize::try_from(random.below(PODS as u64)).unwrap();
            // busy: another worker's; the spec allows one call at a time
            let Ok(mut pod) = self.pods[at].try_lock() else {
                self.left.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            let known = self.step(at, &pod, random);
            pod.1 = known;
        }
    }

    /// One call about a pod, and what is known of it then.
    fn step(
        &self,
        at: usize,
        pod: &(Vec<Call>, Known),
        random: &mut Random,
    ) -> Known {
        let (chain, known) = pod;
        match known {
            Known::Detached => self.add(at, chain, random),
            Known::Attached(result) if random.in_100(35) => {
                for call in chain {
                    let check = call.after(result).call("CHECK");
                    assert!(check.ok, "pod {at}: {}: {check:?}", call.name);
                }
                known.clone()
            }
            Known::Attached(_) | Known::Unclear => {
                self.taken.lock().unwrap().retain(|_, of| *of != at);
                self.del(at, chain, known, random)
            }
        }
    }

    /// The first plugin that fails ends it, as with libcni.
    fn add(&self, at: usize, chain: &[Call], random: &mut Random) -> Known {
        let killed = victim(chain, random);
        let mut result = Value::Null;
        for (n, call) in chain.iter().enumerate() {
            let mut call = match n {
                0 => call.clone(),
                _ => call.after(&result),
            };
            if killed == Some(n) {
                self.kill(&call, "ADD", random);
                return Known::Unclear;
            }
            // fails when all but the routes is done
            if n == 0 && random.in_100(10) {
                let route =
                    json!({ "dst": "192.168.5.0/24", "gw": "172.31.0.1" });
                call = call.with("ipam", json!({ "routes": [route] }));
            }
            let answer = call.call("ADD");
            if !answer.ok {
                assert!(n == 0, "pod {at}: {}: {answer:?}", call.name);
                self.failed.fetch_add(1, Ordering::SeqCst);
                return Known::Unclear;
            }
            result = answer.result();
        }
        let mut taken = self.taken.lock().unwrap();
        for ip in plain(&result) {
            let other = taken.insert(ip.clone(), at);
            assert_eq!(other, None, "{ip} is pod {at}'s too");
        }
        self.added.fetch_add(1, Ordering::SeqCst);
        Known::Attached(result)
    }

    /// In reverse, with the result where it is known.
    fn del(
        &self,
        at: usize,
        chain: &[Call],
        known: &Known,
        random: &mut Random,
    ) -> Known {
        let killed = victim(chain, random);
        let without = random.in_100(20);
        for (n, call) in chain.iter().enumerate().rev() {
            let mut call = match known {
                Known::Attached(result) => call.after(result),
                Known::Detached | Known::Unclear => call.clone(),
            };
            if killed == Some(n) {
                self.kill(&call, "DEL", random);
                return Known::Unclear;
            }
            if without {
                call.netns = String::new();
            }
            let answer = call.call("DEL");
            assert!(answer.ok, "pod {at}: {}: {answer:?}", call.name);
        }
        Known::Detached
    }

    /// Starts a verb and kills it at some time.
    fn kill(&self, call: &Call, verb: &str, random: &mut Random) {
        self.killed.fetch_add(1, Ordering::SeqCst);
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
        command.arg0(call.name);
        call.environment(&mut command, verb);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let text = call.conf.to_string();
        let mut child = feed_no_answer(&mut command, text.as_bytes());
        // whatever it has done by then; what it has started goes on
        let most = match call.conf["backend"] == "iptables" {
            true => 60_000,
            false => 12_000,
        };
        std::thread::sleep(Duration::from_micros(random.below(most)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What others do to the pool's files.
    fn disturb(&self, random: &mut Random) {
        match random.below(4) {
            0 => drop(fs::remove_file(format!("{POOL}/lock"))),
            1 => {
                drop(fs::remove_dir_all("/var/lib/cni/networks/.flannel-cbr0"))
            }
            // a crash of Go's host-local, under the lock
            2 => {
                let ip = format!("{}.{}", self.net, 2 + random.below(60));
                let path = format!("{POOL}/{ip}");
                drop(fs::File::create_new(path));
            }
            _ => drop(fs::write(format!("{POOL}/last_reserved_ip.0"), "x")),
        }
    }

    /// GC with the pods that are attached; the others are clean then.
    fn collect(&self) {
        let _alone = self.gc.write().unwrap();
        let mut pods: Vec<_> =
            self.pods.iter().map(|pod| pod.lock().unwrap()).collect();
        let attached = |pod: &&MutexGuard<'_, (Vec<Call>, Known)>| {
            matches!(pod.1, Known::Attached(_))
        };
        let chains = pods.iter().filter(attached);
        let valid: Vec<&Call> = chains.map(|pod| &pod.0[0]).collect();
        collect(pods.iter().flat_map(|pod| &pod.0), &valid);
        for pod in &mut pods {
            if matches!(pod.1, Known::Unclear) {
                pod.1 = Known::Detached;
            }
        }
    }
}

/// GC of each plugin once.
fn collect<'a>(calls: impl Iterator<Item = &'a Call>, valid: &[&Call]) {
    let kinds: BTreeMap<&str, &Call> =
        calls.map(|call| (call.name, call)).collect();
    for (kind, call) in kinds {
        let answer = call.clone().valid(valid).call("GC");
        assert!(answer.ok, "{kind}: {answer:?}");
    }
}

/// Which of the plugins is to be killed, if one is.
fn victim(chain: &[Call], random: &mut Random) -> Option<usize> {
    let at = random.below(chain.len() as u64);
    random.in_100(10).then(|| usize::try_from(at).unwrap())
}

/// Sixteen wait for each other's turn with iptables: longer than the usual time
/// on a machine that has much else to do.
const SECONDS: u32 = 900;

/// Each with one of four lists.
fn pods(node: &Node) -> Vec<Mutex<(Vec<Call>, Known)>> {
    let pod = |n: usize| {
        let first = node
            .pod(&format!("p{n}"))
            .version("1.1.0")
            .with("timeoutSeconds", SECONDS.into());
        let ports = json!([
            { "hostPort": 8000 + n, "containerPort": 80 },
            { "hostPort": 8000 + n, "containerPort": 53, "protocol": "udp" },
        ]);
        let any = json!({ "cniVersion": "1.1.0" });
        let plugin = |kind, members: Value| {
            let call = first.chained(kind, &any);
            let mut call = call.with("timeoutSeconds", SECONDS.into());
            let conf = call.conf.as_object_mut().unwrap();
            conf.remove("prevResult");
            conf.extend(members.as_object().unwrap().clone());
            call
        };
        let portmap = |backend: &str| {
            let runtime = json!({ "portMappings": ports });
            let members =
                json!({ "backend": backend, "runtimeConfig": runtime });
            plugin("portmap", members)
        };
        let limits =
            json!({ "egressRate": 80_000_000, "egressBurst": 8_000_000 });
        let bandwidth = plugin("bandwidth", limits);
        let rest = match n % 4 {
            0 => vec![],
            1 => vec![portmap("nftables"), bandwidth],
            2 => {
                let members = json!({ "backend": "iptables" });
                vec![portmap("iptables"), plugin("firewall", members)]
            }
            _ => {
                let tuning = plugin("tuning", json!({ "txQLen": 555 }));
                vec![tuning, bandwidth, portmap("nftables")]
            }
        };
        let chain = [vec![first.clone()], rest].concat();
        Mutex::new((chain, Known::Detached))
    };
    (0..PODS).map(pod).collect()
}

/// Nothing of any plugin is left but what pods share.
fn assert_clean(node: &Node, net: &str) {
    node.assert_clean();
    let bridge = run("ip", &["-br", "link", "show", "master", "cni0"]);
    assert_eq!(bridge, "");
    assert_eq!(run("ip", &["-br", "link", "show", "type", "ifb"]), "");
    let rules = run("nft", &["list", "ruleset"]);
    let own = |line: &&str| {
        ["comment \"p", "CNI-DN-", net].iter().any(|word| line.contains(word))
    };
    assert_eq!(rules.lines().find(own), None, "{rules}");
    for folder in ["/run/flannel/firewall/cbr0", "/run/cni/tuning"] {
        assert_eq!(names(folder), [""; 0], "{folder}");
    }
}

fn number(name: &str, usual: usize) -> usize {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(usual)
}

#[test]
fn random_calls_with_faults() {
    let calls = number("FLANNEL_SOAK_CALLS", CALLS);
    let usual = usize::try_from(std::process::id()).unwrap();
    let seed = number("FLANNEL_SOAK_SEED", usual);
    println!("{calls} calls, seed {seed}");
    on_a_node(|node| {
        let net = node.flanneld_alone(26);
        let shared = Shared {
            pods: pods(node),
            taken: Mutex::default(),
            gc: RwLock::default(),
            left: AtomicUsize::new(calls),
            added: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            killed: AtomicUsize::new(0),
            net,
        };
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let seed = (seed * WORKERS + worker + 1) as u64;
                let shared = &shared;
                scope.spawn(move || shared.work(&mut Random(seed << 20 | 1)));
            }
        });
        let (added, failed) = (
            shared.added.load(Ordering::SeqCst),
            shared.failed.load(Ordering::SeqCst),
        );
        let killed = shared.killed.load(Ordering::SeqCst);
        println!("{added} added, {failed} failed, {killed} killed");
        assert!(added * 10 > calls && killed * 100 > calls);
        // half of the pods end without a word, as after a restart
        let mut all = Vec::new();
        for (n, pod) in shared.pods.iter().enumerate() {
            let (chain, _) = &*pod.lock().unwrap();
            match n % 8 < 4 {
                true => chain.iter().rev().for_each(Call::del),
                false => node.remove_netns(&chain[0].id),
            }
            all.extend(chain.clone());
        }
        collect(all.iter(), &[]);
        assert_clean(node, &shared.net);
    });
}
