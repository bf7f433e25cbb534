//! What `/metrics` on the health port says, in Prometheus' text format 0.0.4.
//! docs/metrics.md explains each. No label has a value that grows with the
//! cluster: the number of series is bounded.

mod histogram;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use self::histogram::Histogram;
use self::text::Text;
use crate::cli;
use crate::clock::since_boot;
use crate::health::Readiness;
use crate::reconcile::Passed;
use crate::repairs::{Kind, Repairs};
use crate::store::StoreStatus;
use crate::world::KernelError;

#[cfg(test)]
mod tests;

/// The `Content-Type` of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is measured. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    readiness: Readiness,
    repairs: Repairs,
    overruns: Arc<AtomicU32>,
    inner: Arc<Mutex<Inner>>,
}

/// What the loop knows of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The store has confirmed the own lease.
    pub held: bool,
    /// When that ends, on the clock of [`since_boot`]; `None` when it is not
    /// known.
    pub ends: Option<Duration>,
    /// The other nodes' leases.
    pub peers: usize,
}

#[derive(Debug, Default)]
struct Inner {
    standing: Standing,
    /// Peers without something that the kernel refused in the last pass.
    refused: usize,
    store: Option<watch::Receiver<StoreStatus>>,
    passes: Passes,
    changes: BTreeMap<Kind, u64>,
    /// Changes that failed.
    failures: u64,
    /// Looks at the kernel's network that failed, and at traffic rules.
    blind: (u64, u64),
    event_to_kernel: Histogram,
}

#[derive(Debug, Default)]
struct Passes {
    complete: u64,
    incomplete: u64,
    failed: u64,
}

// === impl Metrics ===

impl Metrics {
    /// Nothing has happened yet. `readiness` and `repairs` are looked at when
    /// somebody asks.
    #[must_use]
    pub fn new(readiness: Readiness, repairs: Repairs) -> Self {
        let (overruns, inner) = (Arc::default(), Arc::default());
        Self { readiness, repairs, overruns, inner }
    }

    /// The repairs that are shown.
    #[must_use]
    pub const fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// To be counted up when kernel notifications were lost.
    #[must_use]
    pub const fn overruns(&self) -> &Arc<AtomicU32> {
        &self.overruns
    }

    /// Shows from now on how this store is.
    pub fn show_store(&self, status: watch::Receiver<StoreStatus>) {
        self.with(|inner| inner.store = Some(status));
    }

    /// Lease and peers are as `standing` says.
    pub fn set_standing(&self, standing: Standing) {
        self.with(|inner| inner.standing = standing);
    }

    /// Counts a pass.
    pub fn passed(&self, result: &anyhow::Result<Passed>) {
        self.with(|inner| match result {
            Ok(passed) => inner.carried_out(passed),
            Err(error) => {
                inner.passes.failed += 1;
                inner.blind.0 += u64::from(is_of_kernel(error));
            }
        });
    }

    /// Counts what a pass over traffic rules has changed, how much of it
    /// failed, and how many looks were among that.
    pub fn rules_passed(
        &self,
        changes: &BTreeMap<Kind, u64>,
        failed: usize,
        blind: usize,
    ) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.with(|inner| {
            inner.changed(changes);
            let refused = count(failed.saturating_sub(blind));
            inner.failures = inner.failures.saturating_add(refused);
            inner.blind.1 = inner.blind.1.saturating_add(count(blind));
        });
    }

    /// All of it, for Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        let (wall, boot) = (SystemTime::now(), since_boot());
        let ready = self.readiness.reason().is_none();
        let overruns = self.overruns.load(Ordering::Relaxed);
        let mut out = Text::default();
        out.family(
            "flannel_build_info",
            "gauge",
            "The version that runs; always 1.",
        );
        out.sample(&[("version", cli::VERSION)], 1);
        out.family(
            "flannel_ready",
            "gauge",
            "Whether this node's pod network works, as /readyz says.",
        );
        out.sample(&[], u8::from(ready));
        self.with(|inner| inner.render(&mut out, wall, boot));
        out.family(
            "flannel_repairs_total",
            "counter",
            "What was put right after somebody else had changed it.",
        );
        for ((kind, cause), count) in self.repairs.counts() {
            let labels = [("kind", kind.label()), ("cause", cause.label())];
            out.sample(&labels, count);
        }
        out.family(
            "flannel_netlink_overruns_total",
            "counter",
            "Times that kernel notifications were lost, and everything was \
             looked at instead.",
        );
        out.sample(&[], overruns);
        out.finish()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Inner ===

impl Inner {
    fn carried_out(&mut self, passed: &Passed) {
        let failures = passed.failed.len() + passed.refused.words.len();
        if failures == 0 {
            self.passes.complete += 1;
        } else {
            self.passes.incomplete += 1;
        }
        self.refused = passed.refused.peers;
        let failures = u64::try_from(failures).unwrap_or(u64::MAX);
        self.failures = self.failures.saturating_add(failures);
        self.changed(&passed.kinds);
        if let Some(took) = passed.since_event {
            self.event_to_kernel.observe(took);
        }
    }

    fn changed(&mut self, kinds: &BTreeMap<Kind, u64>) {
        for (kind, count) in kinds {
            let sum = self.changes.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    fn render(&self, out: &mut Text, wall: SystemTime, boot: Duration) {
        let Standing { held, ends, peers } = self.standing;
        out.family(
            "flannel_lease_held",
            "gauge",
            "Whether the store has confirmed this node's lease, and it has \
             not been lost since.",
        );
        out.sample(&[], u8::from(held));
        if let Some(ends) = ends {
            out.family(
                "flannel_lease_expiry_timestamp_seconds",
                "gauge",
                "When the lease ends unless it is renewed; absent when that \
                 is not known.",
            );
            out.sample(&[], on_the_wall(ends, wall, boot));
        }
        out.family("flannel_peers", "gauge", "Other nodes' leases known.");
        out.sample(&[], peers);
        out.family(
            "flannel_peers_refused",
            "gauge",
            "Peers that cannot be reached as the kernel refuses something.",
        );
        out.sample(&[], self.refused);

        out.family(
            "flannel_passes_total",
            "counter",
            "Comparisons of the kernel with what is wanted.",
        );
        let Passes { complete, incomplete, failed } = &self.passes;
        for (result, count) in [
            ("complete", complete),
            ("incomplete", incomplete),
            ("failed", failed),
        ] {
            out.sample(&[("result", result)], count);
        }
        out.family(
            "flannel_changes_total",
            "counter",
            "Changes that passes made, repairs included.",
        );
        for (kind, count) in &self.changes {
            out.sample(&[("kind", kind.label())], count);
        }
        out.family(
            "flannel_change_failures_total",
            "counter",
            "Changes that the kernel refused or did not answer.",
        );
        out.sample(&[], self.failures);
        out.family(
            "flannel_look_failures_total",
            "counter",
            "Looks at the kernel that failed, after which nothing is changed.",
        );
        out.sample(&[("at", "network")], self.blind.0);
        out.sample(&[("at", "rules")], self.blind.1);
        self.event_to_kernel.render(
            out,
            "flannel_event_to_kernel_seconds",
            "From the first event that a pass is for to the end of the pass \
             that brought it all into the kernel.",
        );
        if let Some(store) = &self.store {
            render_store(&store.borrow(), out, wall, boot);
        }
    }
}

/// Whether a pass failed as the kernel could not be looked at.
fn is_of_kernel(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.is::<KernelError>() || e.is::<netlink::Error>())
}

fn render_store(
    status: &StoreStatus,
    out: &mut Text,
    wall: SystemTime,
    boot: Duration,
) {
    out.family(
        "flannel_store_up",
        "gauge",
        "Whether the leases in the store are followed.",
    );
    out.sample(&[], u8::from(status.followed_since.is_some()));
    if let Some(since) = status.followed_since {
        out.family(
            "flannel_store_up_since_timestamp_seconds",
            "gauge",
            "Since when they are followed without a break; absent when they \
             are not.",
        );
        out.sample(&[], on_the_wall(since, wall, boot));
    }
    out.family(
        "flannel_store_errors_total",
        "counter",
        "Attempts to reach the store that failed.",
    );
    out.sample(&[], status.errors);
}

/// A time on the clock of [`since_boot`] in seconds since 1970.
fn on_the_wall(at: Duration, wall: SystemTime, boot: Duration) -> f64 {
    // a clock before 1970 is not set yet
    let now = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = (now + at).saturating_sub(boot).as_secs_f64();
    (seconds * 1000.0).round() / 1000.0
}
