//! A node with an underlay interface, in a fresh network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;

use flanneld::pass::{self, Extent, Report};
use flanneld::world::{Kernel, KernelError};
use ipam::lease::{LeaseAttrs, SubnetKey};
use ipam::netconf::{Backend, NetConf};
use ipam::{Family, PerFamily};
use netlink::link;
use nix::sched::{CloneFlags, unshare};
use overlay::{Caps, Desired, Facts, Mac, Node, Scope, vxlan};

/// The node under test.
pub(crate) struct Rig {
    pub(crate) kernel: Kernel,
    pub(crate) conf: NetConf,
    pub(crate) leases: BTreeMap<SubnetKey, LeaseAttrs>,
    /// Published addresses that are reached without the tunnel.
    pub(crate) direct: BTreeSet<IpAddr>,
}

/// Runs `job` in a network namespace that ends with it.
pub(crate) fn in_namespace(job: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare: needs root");
        job();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` (or another program) to its end; it must succeed.
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let out = Command::new(program).args(words).output().expect(program);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{line}: {}", text(&out.stderr));
    text(&out.stdout)
}

// === impl Rig ===

impl Rig {
    /// A node with both families and `peers` peers.
    pub(crate) fn new(net_conf: &str, peers: u32) -> Self {
        sh("ip link set lo up");
        sh("ip link add under0 type bridge");
        sh("ip addr add 192.168.77.1/24 dev under0");
        sh("ip addr add fd77::1/64 dev under0 nodad");
        sh("ip link set under0 up");
        let (conf, warnings) = NetConf::parse(net_conf).expect("net-conf");
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut rig = Self {
            kernel: Kernel::open().expect("kernel"),
            conf,
            leases: BTreeMap::new(),
            direct: BTreeSet::new(),
        };
        for n in 2..2 + peers {
            rig.add_peer(n);
        }
        rig
    }

    /// The lease of peer `n`.
    pub(crate) fn add_peer(&mut self, n: u32) {
        let [_, _, hi, lo] = n.to_be_bytes();
        let mut macs = PerFamily::default();
        let mut public = PerFamily::default();
        for family in self.conf.enabled.families() {
            let tag = if family == Family::V4 { 4 } else { 6 };
            macs.set(family, Some(Mac([2, tag, 0, 0, hi, lo])));
            let ip: IpAddr = match family {
                Family::V4 => format!("192.168.{hi}.{lo}").parse(),
                Family::V6 => format!("fd77:{n:x}::1").parse(),
            }
            .expect("address");
            public.set(family, Some(ip));
        }
        let attrs = vxlan::lease_attrs(&public, &macs, 1).expect("attributes");
        self.leases.insert(self.key(n), attrs);
    }

    /// The lease key of node `n`.
    pub(crate) fn key(&self, n: u32) -> SubnetKey {
        let subnets = PerFamily::from_fn(|family| {
            self.conf.is_enabled(family).then_some(())?;
            let text = match family {
                Family::V4 => format!("10.{}.{}.0/24", 64 + n / 256, n % 256),
                Family::V6 => format!("fd00:64:0:{n:x}::/64"),
            };
            text.parse().ok()
        });
        SubnetKey::new(subnets).expect("key")
    }

    /// What should be there.
    pub(crate) fn desired(&mut self) -> Desired {
        let under0 = link::by_name(self.kernel.socket(), "under0");
        let index = under0.expect("under0").index;
        let (uplink, _) =
            self.kernel.uplink(index).expect("uplink").expect("under0");
        let facts = Facts {
            uplink,
            macs: PerFamily {
                v4: Some(Mac([2, 0, 0, 0, 4, 1])),
                v6: Some(Mac([2, 0, 0, 0, 6, 1])),
            },
            direct: self.direct.clone(),
            caps: Caps { nexthop_objects: self.kernel.nexthop_objects() },
        };
        let public = PerFamily::from_fn(|family| {
            self.conf.is_enabled(family).then_some(())?;
            let text =
                if family == Family::V4 { "192.168.77.1" } else { "fd77::1" };
            text.parse().ok()
        });
        let node = Node { key: self.key(1), public };
        let Backend::Vxlan(options) = &self.conf.backend else {
            panic!("vxlan")
        };
        let plan =
            vxlan::plan(&node, &facts, &self.conf, options, &self.leases)
                .expect("plan");
        assert!(plan.skipped.is_empty(), "{:?}", plan.skipped);
        plan.desired
    }

    /// A pass over everything.
    pub(crate) fn full(&mut self) -> Report<KernelError> {
        let desired = self.desired();
        let scope = Scope::full(&desired, []);
        self.pass(&desired, &scope)
    }

    /// A pass over `scope`, of which nothing may fail.
    pub(crate) fn pass(
        &mut self,
        desired: &Desired,
        scope: &Scope,
    ) -> Report<KernelError> {
        let report = pass::run(&mut self.kernel, desired, scope, Extent::Whole)
            .expect("look");
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|(change, error)| format!("{change}: {error}"))
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        report
    }

    /// Asserts that nothing is left to do, neither in general nor looked at
    /// object by object.
    pub(crate) fn assert_settled(&mut self) {
        assert_eq!(
            self.full().changed.len(),
            0,
            "a second pass changes something"
        );
        let desired = self.desired();
        let keys = Desired::default().changed_keys(&desired);
        for chunk in keys.iter().collect::<Vec<_>>().chunks(16).take(8) {
            let scope = Scope::Keys(chunk.iter().map(|key| **key).collect());
            assert_eq!(
                self.pass(&desired, &scope).changed.len(),
                0,
                "{scope:?}"
            );
        }
    }
}
