//! The loop: what the store, the kernel, the clock and the user say goes into
//! the reconciler, and passes come out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use ipam::daemon_state::Phase;
use ipam::lease::SubnetKey;
use ipam::netconf::NetConf;
use ipam::subnet_env::{Networks, SubnetEnv};
use ipam::{Family, PerFamily};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::clock;
use crate::files::{Saved, SavedLease, StateDir, SubnetFile};
use crate::monitor::Disturbance;
use crate::reconcile::{Passed, Reconciler};
use crate::report::Reporter;
use crate::rules::Keeper;
use crate::store::etcd::Store;
use crate::store::{Held, LossReason, StoreEvent, StoreStatus};
use crate::worker::Worker;

/// Everything is compared this often although nothing said that it changed.
const SLOW_CHECK: Duration = Duration::from_secs(60);

/// The loop's state besides the reconciler's.
pub(super) struct Loop<'a> {
    pub(super) conf: NetConf,
    pub(super) reconciler: Reconciler,
    pub(super) rules: Keeper,
    /// What the options ask for: it is true once the rules are complete.
    pub(super) ip_masq: bool,
    pub(super) store: Store,
    pub(super) status: watch::Receiver<StoreStatus>,
    pub(super) disturbances: mpsc::Receiver<Disturbance>,
    pub(super) hangup: Signal,
    pub(super) reporter: &'a mut Reporter,
    pub(super) disk: Worker<StateDir>,
    pub(super) saved: Saved,
    pub(super) subnet_file: SubnetFile,
    /// What the last complete pass wants the subnet file to say.
    pub(super) env: Option<(SubnetKey, SubnetEnv)>,
    pub(super) health: Health,
}

/// How the node is, part by part.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The lease for which there was a complete pass, traffic rules included,
    /// whose outcome the subnet file says.
    complete: Option<SubnetKey>,
    /// Why the last pass was not complete.
    pass: Option<String>,
    /// Why traffic rules are not.
    rules: Option<String>,
    /// Why the subnet file could not be written.
    file: Option<String>,
    /// How the own lease was lost, until there is another.
    lease: Option<String>,
}

// === impl Loop ===

impl Loop<'_> {
    /// Runs for ever.
    ///
    /// # Errors
    /// When the store's task ended, which it does not by itself.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut slow = interval(SLOW_CHECK);
        slow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        slow.reset();
        let mut asked = false;
        loop {
            let due = self.reconciler.due();
            let alarm = due_at(due);
            tokio::select! {
                // A pass that is due is not put off by a stream of events.
                biased;
                () = alarm, if due.is_some() => {
                    let result = self.reconciler.pass().await;
                    self.passed(&result, std::mem::take(&mut asked));
                    // An address of this node may be another by now.
                    self.store.publisher.publish(self.reconciler.attrs()?);
                }
                event = self.store.events.recv() => {
                    self.heard(event.ok_or_else(|| anyhow!("the store ended"))?);
                }
                Some(news) = self.disturbances.recv() => {
                    tracing::debug!("changed by somebody: {news:?}");
                    self.reconciler.disturbed(news, Instant::now());
                }
                Ok(()) = self.status.changed() => self.report(),
                Ok(()) = self.rules.changed() => self.conclude(),
                Some(()) = self.hangup.recv() => {
                    asked = true;
                    self.rules.look();
                    self.reconciler.mark_everything(Instant::now());
                }
                _ = slow.tick() => self.reconciler.mark_everything(Instant::now()),
            }
        }
    }

    fn heard(&mut self, event: StoreEvent) {
        match &event {
            StoreEvent::Held(held) => {
                self.health.lease = None;
                self.saved.lease = Some(saved_lease(held));
                self.save();
                self.rules.lease(held.lease.key);
            }
            StoreEvent::Lost { key, why } => {
                // Another lease may follow before anybody reads the reason.
                if is_mixed(*key, why) {
                    tracing::warn!("{MIXED}");
                }
                self.health.lease = Some(lost(*key, why));
            }
            StoreEvent::Synced { leases, revision } => {
                let peers = leases.len();
                tracing::info!("{peers} other leases at revision {revision}");
            }
            StoreEvent::Upsert(lease) => tracing::info!("peer {}", lease.key),
            StoreEvent::Remove(key) => tracing::info!("peer {key} is gone"),
        }
        self.reconciler.heard(event, Instant::now());
        self.report();
    }

    fn passed(&mut self, result: &Result<Passed>, asked: bool) {
        let failure = match result {
            Ok(passed) => self.finish(passed, asked).err(),
            Err(error) => Some(format!("{error:#}")),
        };
        match (&self.health.pass, &failure) {
            (before, Some(failure)) if before.as_ref() != Some(failure) => {
                tracing::warn!("a pass failed, another follows: {failure}");
            }
            (Some(_), None) => tracing::info!("passes succeed again"),
            _ => {}
        }
        self.health.pass = failure;
        self.conclude();
    }

    /// Writes the subnet file when kernel and traffic rules are as the lease
    /// wants them (T-45), and tells how far that is.
    fn conclude(&mut self) {
        let rules = self.rules.outcome();
        self.health.rules = rules.failure;
        if self.health.pass.is_none()
            && let Some((key, env)) = &self.env
            && rules.complete == Some(*key)
        {
            let failure = match self.subnet_file.write(env) {
                Ok(written) => {
                    if written {
                        tracing::info!("wrote the subnet file for lease {key}");
                    }
                    self.health.complete = Some(*key);
                    if !std::mem::take(&mut self.saved.former).is_empty() {
                        self.save();
                    }
                    None
                }
                Err(error) => {
                    self.reconciler.try_again(Instant::now());
                    Some(error.to_string())
                }
            };
            if let Some(text) = &failure
                && failure != self.health.file
            {
                tracing::warn!("{text}");
            }
            self.health.file = failure;
        }
        self.report();
    }

    /// Writes what a restart needs to know, on the thread that waits for the
    /// disk.
    fn save(&self) {
        let saved = self.saved.clone();
        self.disk.post(move |disk| disk.save(&saved));
    }

    /// Logs what a pass did, and keeps what the subnet file is to say when it
    /// was complete. The error says what is missing.
    fn finish(&mut self, passed: &Passed, asked: bool) -> Result<(), String> {
        let Passed { lease, mtu, peers, changed, mended, failed } = passed;
        if asked {
            tracing::info!(
                "pass on request: changes={changed} failed={} peers={peers}",
                failed.len()
            );
        } else if *changed > mended.len() {
            tracing::info!("pass: changes={changed} peers={peers}");
        }
        match failed.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            [first, rest @ ..] => {
                return Err(format!("{first} (and {} more)", rest.len()));
            }
        }
        let env = SubnetEnv {
            families: PerFamily::from_fn(|family| {
                Some(Networks {
                    network: *self.conf.networks.get(family)?,
                    subnet: lease.key.get(family)?,
                })
            }),
            mtu: *mtu,
            ip_masq: self.ip_masq,
        };
        self.env = Some((lease.key, env));
        Ok(())
    }

    /// Tells how far the daemon is.
    fn report(&mut self) {
        let store = self.status.borrow_and_update().reason();
        let Health { complete, pass, rules, file, lease } = &self.health;
        let key = self.reconciler.lease();
        let complete = key.is_some() && *complete == key;
        let trouble = pass.as_ref().or(rules.as_ref()).or(file.as_ref());
        let (phase, usually) = if lease.is_some() {
            (Phase::LeaseLost, "")
        } else if complete && trouble.is_some() {
            (Phase::Degraded, "")
        } else if complete {
            // A store that does not answer leaves the data plane working.
            (Phase::Ready, "")
        } else if key.is_some() {
            (Phase::Programming, "waiting for the first complete pass")
        } else {
            (Phase::AcquiringLease, "taking a subnet in etcd")
        };
        let why = lease.as_ref().or(trouble).or(store.as_ref());
        self.reporter.say(phase, why.map_or(usually, String::as_str));
    }
}

/// Ends when `due` is there. A timer's own resolution of a millisecond would
/// be most of the time from a peer's lease to its route: what is due already
/// does not wait for one.
async fn due_at(due: Option<Instant>) {
    if let Some(due) = due
        && due > Instant::now()
    {
        sleep_until(due.into()).await;
    }
}

/// W-9: every upstream node without IPv4 publishes 0.0.0.0, and takes the
/// first lease that says so for its own.
const MIXED: &str = "upstream's daemon with IPv6 only takes over any lease: it \
                     cannot be mixed with this one in an IPv6-only cluster";

/// Whether that can be how the lease was lost.
fn is_mixed(key: SubnetKey, why: &LossReason) -> bool {
    matches!(why, LossReason::Taken { .. }) && key.get(Family::V4).is_none()
}

/// What a person should know of a lost lease.
fn lost(key: SubnetKey, why: &LossReason) -> String {
    let hint =
        if is_mixed(key, why) { format!("; {MIXED}") } else { String::new() };
    format!(
        "lease {key} is lost: {why}{hint}; another is being acquired, running \
         pods stay as they are"
    )
}

/// What a restart needs to know of the lease. Its end is remembered by wall
/// clock: no other clock outlives the machine.
fn saved_lease(held: &Held) -> SavedLease {
    let expires = held.expires.map(|at| {
        let left = at.saturating_sub(clock::since_boot());
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now + left).as_secs()
    });
    SavedLease {
        key: held.lease.key,
        lease_id: held.lease_id,
        mod_revision: held.mod_revision,
        expires,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::lease::LeaseAttrs;

    fn taken(key: &str) -> String {
        let value = br#"{"PublicIP":"192.168.1.9","PublicIPv6":"fd00::9"}"#;
        let by = Box::new(LeaseAttrs::decode(value).unwrap());
        lost(SubnetKey::parse(key).unwrap(), &LossReason::Taken { by })
    }

    #[test]
    fn a_mix_with_upstream_is_named_where_it_can_be_the_cause() {
        let text = taken("0.0.0.0-0&fd00:0:0:1::-64");
        assert!(text.contains("cannot be mixed"), "{text}");
        assert!(text.contains("the node at 192.168.1.9, fd00::9"), "{text}");
        let text = taken("10.5.1.0-24&fd00:0:0:1::-64");
        assert!(!text.contains("mixed"), "{text}");
    }
}
