//! The loop: what the store, the kernel, the clock and the user say goes into
//! the reconciler, and passes come out.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use ipam::daemon_state::Phase;
use ipam::lease::SubnetKey;
use ipam::subnet_env::{Networks, SubnetEnv};
use ipam::{Family, PerFamily};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::reconfigure::live;
use super::remember::{lapsed, saved_lease};
use crate::busy::THREADS;
use crate::clock::since_boot;
use crate::files::{Found, PeersFile, Saved, StateDir, WriteError};
use crate::metrics::{Metrics, Standing};
use crate::monitor::{self, Disturbance, Interest};
use crate::notify::Watchdog;
use crate::reconcile::{Passed, Reconciler, stuck, until};
use crate::repairs::{Cause, Kind, Repair, Repairs};
use crate::report::Reporter;
use crate::rules::Keeper;
use crate::store::etcd::{Config, Store};
use crate::store::{LossReason, StoreEvent, StoreStatus};
use crate::worker::{Newest, Worker};

/// Everything is compared this often although nothing said that it changed.
const SLOW_CHECK: Duration = Duration::from_secs(60);
/// Timers do not run while the node is suspended; so long after its wake-up
/// at most it is noticed that the lease's time is over.
const LEASE_CHECK: Duration = Duration::from_secs(30);
/// A lease whose end is not known (somebody else has written it) is made sure
/// of within this time.
const UNKNOWN_END: Duration = Duration::from_secs(180);
/// From a change of the peers to the file that says so.
const PEERS_PAUSE: Duration = Duration::from_secs(10);
/// Before what the store says.
const FROM_DISK: &str = "it goes on with the lease and the peers of its last \
                         run, as etcd has not answered yet: ";

/// The loop's state besides the reconciler's.
pub(super) struct Loop<'a> {
    pub(super) config: Config,
    pub(super) reconciler: Reconciler,
    pub(super) rules: Keeper,
    /// What the options ask for: it is true once the rules are complete.
    pub(super) ip_masq: bool,
    pub(super) store: Store,
    pub(super) status: watch::Receiver<StoreStatus>,
    /// What the kernel's notifications are listened to for, until that is
    /// done.
    pub(super) deaf: Option<Interest>,
    pub(super) disturbances: mpsc::Receiver<Disturbance>,
    pub(super) hangup: Signal,
    pub(super) reporter: &'a mut Reporter,
    pub(super) disk: Worker<StateDir>,
    /// What waits for the disk.
    pub(super) saves: Newest<Saved>,
    pub(super) peer_saves: Newest<Vec<u8>>,
    pub(super) saved: Saved,
    /// What the last complete pass wants the subnet file to say.
    pub(super) env: Option<(SubnetKey, SubnetEnv)>,
    /// When the peers are to be written to disk.
    pub(super) peers_due: Option<Instant>,
    /// What the file says unless somebody has touched it.
    pub(super) written: Option<SubnetEnv>,
    /// Somebody may have touched it.
    pub(super) subnet_news: mpsc::Receiver<()>,
    pub(super) repairs: Repairs,
    pub(super) metrics: Metrics,
    pub(super) watchdog: Watchdog,
    pub(super) health: Health,
}

/// How the node is, part by part.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The lease for which there was a complete pass, traffic rules included,
    /// whose outcome the subnet file says.
    complete: Option<SubnetKey>,
    /// That the pass under way does not come to its end.
    stuck: Option<String>,
    /// Why the last pass did not give pods their network.
    pass: Option<Trouble>,
    /// Which peers it left without what leads to them.
    refused: Option<Trouble>,
    /// Why traffic rules are not.
    rules: Option<String>,
    /// Why the subnet file could not be written.
    file: Option<String>,
    /// Which threads stand still.
    still: Option<String>,
    /// How the own lease was lost, until there is another and the subnet file
    /// says so.
    lease: Option<String>,
    /// There is one.
    held: bool,
    /// All that the last pass did to the node's own devices worked, whatever
    /// became of the peers'.
    own: bool,
    /// The lease that is held, and when it ends on the clock of
    /// [`since_boot`].
    ends: Option<(SubnetKey, Duration)>,
    /// The lease is the last run's: the store has not answered yet.
    from_disk: bool,
    /// Why the configuration in the store is not the one that is used.
    config: Option<String>,
}

/// What went wrong in a pass, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    text: String,
    /// The part of it that makes it another trouble: not how many there are.
    first: String,
}

// === impl Trouble ===

impl Trouble {
    /// Of several failures: the first, and how many more there are.
    fn of(failed: &[String]) -> Option<Self> {
        let (first, rest) = failed.split_first()?;
        let text = match rest.len() {
            0 => first.clone(),
            more => format!("{first} (and {more} more)"),
        };
        Some(Self { text, first: first.clone() })
    }

    /// Whether it is worth a line after `before`.
    fn is_news(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| before.first != self.first)
    }
}

// === impl Health ===

impl Health {
    /// `why` tells how the last run's lease was lost, if it was.
    pub(super) fn was_lost(&mut self, why: Option<String>) {
        self.lease = why;
    }

    /// The last run's lease is used, until `ends` at most.
    pub(super) fn remembered(
        &mut self,
        key: SubnetKey,
        ends: Option<Duration>,
    ) {
        self.from_disk = true;
        self.ends = ends.map(|at| (key, at));
    }

    /// Whether the time of the lease has run out at `now`; told once.
    fn lapse(&mut self, now: Duration) -> Option<SubnetKey> {
        let (key, _) = self.ends.take_if(|(_, at)| *at <= now)?;
        Some(key)
    }

    /// How long nobody need look whether it has.
    fn look(&self, now: Duration) -> Duration {
        let left = self.ends.map(|(_, at)| at.saturating_sub(now));
        left.unwrap_or(LEASE_CHECK).min(LEASE_CHECK)
    }

    /// A lease that follows a lost one counts once the subnet file is its:
    /// until then the CNI plugin would read the old subnet. Whether one was
    /// lost before.
    fn recover(&mut self, key: SubnetKey) -> bool {
        let follows = self.held && self.complete == Some(key);
        follows && self.lease.take().is_some()
    }
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
        loop {
            self.check_lease();
            let stuck = self.reconciler.stuck_at();
            let stuck = stuck.filter(|_| self.health.stuck.is_none());
            let peers = self.peers_due;
            let remember = until(peers);
            let look = sleep(self.health.look(since_boot()));
            tokio::select! {
                // A pass that is due is not put off by a stream of events.
                biased;
                result = self.reconciler.pass() => {
                    self.passed(&result);
                    self.listen();
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
                () = until(stuck) => self.stuck(),
                Ok(()) = self.status.changed() => self.report(),
                Ok(()) = self.store.config.changed() => self.configured(),
                Ok(()) = self.rules.changed() => self.conclude(),
                Some(()) = self.subnet_news.recv() => self.restore_files(),
                () = self.watchdog.feed() => {}
                Some(()) = self.hangup.recv() => {
                    self.rules.look();
                    self.reconciler.asked(Instant::now());
                }
                () = remember => self.save_peers(),
                () = look => {}
                _ = slow.tick() => {
                    self.reporter.files().look();
                    self.look_at_threads(Instant::now());
                    self.repairs.tick(Instant::now());
                    self.reconciler.mark_everything(Instant::now());
                }
            }
        }
    }

    /// Listens to the kernel once there was a pass. What the first one makes
    /// for thousands of peers would come back as so many notifications, at
    /// half the price of making it. Another look at everything, once they come,
    /// finds what others have changed until then.
    fn listen(&mut self) {
        let Some(interest) = self.deaf.take() else { return };
        match monitor::spawn(interest.clone()) {
            Ok(disturbances) => self.disturbances = disturbances,
            Err(error) => {
                tracing::warn!("the kernel cannot be listened to: {error}");
                self.deaf = Some(interest);
                self.reconciler.try_again(Instant::now());
            }
        }
    }

    /// The configuration in the store is another one.
    fn configured(&mut self) {
        let Some(new) = self.store.config.borrow_and_update().clone() else {
            return;
        };
        let reason = match live(&self.config, &new) {
            Ok(_) if new.netconf == self.config.netconf => None,
            Ok(options) => {
                let text = "the network config has changed, and is used";
                tracing::info!("{text}");
                self.remember("config", text);
                self.saved.set_config(new.text.reveal());
                self.save();
                self.store.publisher.choose_from(new.ranges);
                let conf = new.netconf.clone();
                self.reconciler.reconfigure(conf, options, Instant::now());
                self.config = new;
                None
            }
            Err(reason) => Some(reason),
        };
        if let Some(reason) = &reason
            && self.health.config.as_ref() != Some(reason)
        {
            tracing::warn!("{reason}");
            self.remember("config", reason);
        }
        self.health.config = reason;
        self.report();
    }

    /// Remembers the peers for a start without the store.
    fn save_peers(&mut self) {
        // those of the last run are in the file already
        self.peers_due = None;
        if let Some(peers) = self.reconciler.peers() {
            let bytes = PeersFile::render(peers);
            let save = |disk: &mut StateDir, bytes: Vec<u8>| {
                disk.save_peers(&bytes);
            };
            self.peer_saves.post(&self.disk, bytes, save);
        }
    }

    /// A lease that nobody renewed is no lease, though nobody says so. What
    /// is in the kernel stays; the CNI plugin hands out no more addresses.
    fn check_lease(&mut self) {
        if let Some(key) = self.health.lapse(since_boot()) {
            let why = lapsed(key);
            tracing::warn!("{why}");
            self.lose(why);
            self.report();
        }
    }

    fn lose(&mut self, why: String) {
        self.saved.lost = Some(why.clone());
        self.save();
        self.health.ends = None;
        self.reporter.lease_ends(None);
        self.health.held = false;
        self.health.lease = Some(why);
    }

    fn recover(&mut self, key: SubnetKey) {
        if self.health.recover(key) {
            self.saved.lost = None;
            self.save();
        }
    }

    fn heard(&mut self, event: StoreEvent) {
        match &event {
            StoreEvent::Held(held) => {
                let now = since_boot();
                let end = |at| if at > now { at } else { now + UNKNOWN_END };
                let ends = held.expires.map(|at| (held.lease.key, end(at)));
                self.health.ends = ends;
                self.reporter.lease_ends(ends.map(|(_, at)| at));
                self.health.from_disk = false;
                self.health.held = true;
                self.recover(held.lease.key);
                self.saved.lease = Some(saved_lease(held));
                self.save();
                self.rules.lease(held.lease.key);
            }
            StoreEvent::Lost { key, why } => {
                // Another lease may follow before anybody reads the reason.
                if is_mixed(*key, why) {
                    tracing::warn!("{MIXED}");
                }
                let text = lost(*key, why);
                self.remember("lease", &text);
                self.lose(text);
            }
            StoreEvent::Synced { leases, revision } => {
                let peers = leases.len();
                tracing::info!("{peers} other leases at revision {revision}");
            }
            StoreEvent::Upsert(lease) => tracing::info!("peer {}", lease.key),
            StoreEvent::Remove(key) => tracing::info!("peer {key} is gone"),
        }
        if !matches!(event, StoreEvent::Held(_) | StoreEvent::Lost { .. }) {
            let soon = Instant::now() + PEERS_PAUSE;
            self.peers_due.get_or_insert(soon);
        }
        self.reconciler.heard(event, Instant::now());
        self.report();
    }

    /// The pass under way waits for the kernel.
    fn stuck(&mut self) {
        let text = stuck();
        tracing::warn!("{text}");
        self.remember("pass", &text);
        self.health.stuck = Some(text);
        self.report();
    }

    fn passed(&mut self, result: &Result<Passed>) {
        if self.health.stuck.take().is_some() {
            tracing::info!("the kernel answers again");
        }
        self.metrics.passed(result);
        let (failure, refused) = match result {
            Ok(passed) => self.finish(passed),
            // nothing new is known of the peers
            Err(error) => {
                let failure = Trouble::of(&[format!("{error:#}")]);
                (failure, self.health.refused.take())
            }
        };
        match (&self.health.refused, &refused) {
            (before, Some(new))
                if new.is_news(before.as_ref()) && failure != refused =>
            {
                let text = &new.text;
                tracing::warn!("not all peers can be reached: {text}");
                self.remember("pass", text);
            }
            (Some(_), None) => {
                tracing::info!("the kernel has taken all peers again");
            }
            _ => {}
        }
        self.health.refused = refused;
        match (&self.health.pass, &failure) {
            (before, Some(new)) if new.is_news(before.as_ref()) => {
                let failure = &new.text;
                tracing::warn!("a pass failed, another follows: {failure}");
                self.remember("pass", failure);
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
        // Pods with addresses of a lost lease stand in the way of the route to
        // the node that has it now. They go the sooner, the sooner new ones
        // get other addresses.
        let Health { pass, lease, held, own, .. } = &self.health;
        let follows = lease.is_some() && *held && *own;
        let whole = pass.is_none();
        // What was whole once and is not now keeps no pod from its network by
        // a file that is gone.
        let once =
            self.env.is_some_and(|(key, _)| self.health.complete == Some(key));
        // A pass may end for a lease that is lost by then, or followed by
        // another: whoever goes by the file alone would use the subnet.
        let ours = lease.is_none() || *held;
        if (whole || follows || once)
            && ours
            && let Some((key, env)) = &self.env
            && rules.complete == Some(*key)
            && self.reconciler.lease() == Some(*key)
        {
            let (key, env) = (*key, *env);
            let failure = match self.write_file(env, key) {
                Ok(()) => {
                    self.health.complete = Some(key);
                    self.recover(key);
                    if whole
                        && self.reconciler.is_clean()
                        && !std::mem::take(&mut self.saved.former).is_empty()
                    {
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
        let save = |disk: &mut StateDir, saved: Saved| disk.save(&saved);
        self.saves.post(&self.disk, self.saved.clone(), save);
    }

    /// Logs what a pass did, and keeps what the subnet file is to say when the
    /// node's own part of it was complete. Says what that lacks, and what the
    /// peers lack.
    fn finish(
        &mut self,
        passed: &Passed,
    ) -> (Option<Trouble>, Option<Trouble>) {
        let Passed {
            lease,
            asked,
            mtu,
            peers,
            changed,
            looked,
            mended,
            failed,
            refused,
            ..
        } = passed;
        self.health.own = failed.is_empty();
        self.repairs.add(mended);
        let looked = looked.map_or_else(|| "all".to_owned(), |n| n.to_string());
        if *asked {
            tracing::info!(
                "pass on request: changes={changed} failed={} peers={peers}",
                failed.len() + refused.words.len()
            );
        } else if *changed > mended.len() {
            tracing::info!(
                "pass: changes={changed} looked={looked} peers={peers}"
            );
        } else if *changed > 0 {
            tracing::debug!(
                "pass: changes={changed} looked={looked} peers={peers}"
            );
        }
        let env = SubnetEnv {
            families: PerFamily::from_fn(|family| {
                Some(Networks {
                    network: *self.config.netconf.networks.get(family)?,
                    subnet: lease.key.get(family)?,
                })
            }),
            mtu: *mtu,
            ip_masq: self.ip_masq,
        };
        if failed.is_empty() {
            self.env = Some((lease.key, env));
        }
        let refused_peers = Trouble::of(&refused.words).map(|trouble| {
            let Trouble { text, first } = trouble;
            // Without how many there are: each new one would be a change.
            let s = if refused.peers == 1 { "" } else { "s" };
            let text = format!("{} peer{s} refused: {text}", refused.peers);
            Trouble { text, first }
        });
        match Trouble::of(failed) {
            None if refused.is_most(*peers) => {
                (refused_peers.clone(), refused_peers)
            }
            failure => (failure, refused_peers),
        }
    }

    /// Writes the subnet file. When it has said so before, somebody else has
    /// touched it.
    fn write_file(
        &mut self,
        env: SubnetEnv,
        key: SubnetKey,
    ) -> Result<(), WriteError> {
        let known = self.written.as_ref() == Some(&env);
        let found = self.reporter.files().write(env)?;
        self.written = Some(env);
        let cause = match found {
            Found::Equal => return Ok(()),
            Found::Other if known => Cause::Altered,
            Found::Nothing if known => Cause::Missing,
            Found::Other | Found::Nothing => {
                tracing::info!("wrote the subnet file for lease {key}");
                return Ok(());
            }
        };
        let text = format!("the subnet file was {cause}: written again");
        self.repairs.add(&[Repair { kind: Kind::SubnetFile, cause, text }]);
        Ok(())
    }

    /// Puts back what somebody took from the directory of the subnet file.
    fn restore_files(&mut self) {
        self.reporter.files().look();
        self.conclude();
    }

    /// Says which threads stand still, once.
    fn look_at_threads(&mut self, now: Instant) {
        let still = THREADS.still(now);
        match &still {
            Some(text) if still != self.health.still => {
                tracing::warn!("{text}");
            }
            None if self.health.still.is_some() => {
                tracing::info!("all threads go on");
            }
            _ => {}
        }
        self.health.still = still;
        self.report();
    }

    fn remember(&self, kind: &'static str, text: &str) {
        self.reporter.recent().add(SystemTime::now(), kind, text);
    }

    /// Tells how far the daemon is.
    fn report(&mut self) {
        self.metrics.set_standing(Standing {
            held: self.health.held,
            ends: self.health.ends.map(|(_, at)| at),
            peers: self.reconciler.peer_count(),
        });
        let mut store = self.status.borrow_and_update().reason();
        let Health {
            complete,
            stuck,
            pass,
            refused,
            rules,
            file,
            still,
            lease,
            from_disk,
            config,
            ..
        } = &self.health;
        if store.is_none() {
            store.clone_from(config);
        }
        if *from_disk {
            store.get_or_insert_default().insert_str(0, FROM_DISK);
        }
        if let Some(Trouble { text, .. }) = refused {
            store = Some(match store {
                Some(store) => format!("{text}; {store}"),
                None => text.clone(),
            });
        }
        let key = self.reconciler.lease();
        let complete = key.is_some() && *complete == key;
        let pass = pass.as_ref().map(|trouble| &trouble.text);
        let trouble = stuck.as_ref().or(pass);
        let trouble = trouble.or(rules.as_ref()).or(file.as_ref());
        let trouble = trouble.or(still.as_ref());
        let (phase, usually) = if lease.is_some() {
            (Phase::LeaseLost, "")
        } else if complete && trouble.is_some() {
            (Phase::Degraded, "")
        } else if complete {
            // A store that does not answer leaves the data plane working, and
            // a peer that the kernel refuses leaves the others.
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
    fn the_same_trouble_in_other_numbers_is_no_news() {
        let of = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|t| (*t).into()).collect();
            Trouble::of(&texts)
        };
        assert_eq!(of(&[]), None);
        let one = of(&["a"]).unwrap();
        let two = of(&["a", "b"]).unwrap();
        assert_eq!(two.text, "a (and 1 more)");
        assert!(one.is_news(None) && !two.is_news(Some(&one)));
        assert!(of(&["b", "a"]).unwrap().is_news(Some(&two)));
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
