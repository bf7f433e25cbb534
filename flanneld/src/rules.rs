//! Keeps the traffic rules as they should be, on a thread of its own: a
//! restore of iptables takes long and waits for locks, and nothing else has
//! to wait for that.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ipam::lease::SubnetKey;
use ipam::{Family, PerFamily, Subnet};
use overlay::rules::{Masquerade, Networks, Rules};
use tokio::sync::watch;

mod events;
mod firewall;
mod mended;

use self::events::Pending;
use self::firewall::{Done, Firewall};
use crate::busy::THREADS;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::repairs::Repair;

/// Everything is compared this often although nothing said that it changed.
const SLOW_CHECK: Duration = Duration::from_secs(60);
/// What failed is tried again after this, and after twice as long each time …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … but not longer.
const RETRY_LONGEST: Duration = Duration::from_secs(30);
/// Between two passes that others cause, there is at least this …
const PAUSE_SHORTEST: Duration = Duration::from_millis(20);
/// … and this many times what the first of them took: on a host with very
/// many rules, reading them is dear (P62).
const PAUSE_FACTOR: u32 = 10;

/// What the user wants of traffic rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Masquerade what leaves the flannel network (C-15).
    pub masquerade: bool,
    /// With source ports chosen at random where that is possible (C-16).
    pub random: bool,
    /// Accept what is forwarded from and to it (C-25).
    pub forward: bool,
    /// How often iptables is looked at where nothing tells of changes (C-24).
    pub resync: Duration,
}

/// What stays the same while the daemon runs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The options.
    pub wishes: Wishes,
    /// nftables instead of iptables (N-12).
    pub nftables: bool,
    /// The flannel networks of the enabled families.
    pub networks: PerFamily<Subnet>,
    /// Networks and subnets of earlier configurations, and of families that
    /// are not enabled.
    pub former: BTreeSet<Subnet>,
}

/// The way to the thread. It ends with its next pass after this is dropped.
#[derive(Debug)]
pub struct Keeper {
    asks: Sender<Ask>,
    outcome: watch::Receiver<Outcome>,
}

/// How far the rules are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The lease whose rules are complete.
    pub complete: Option<SubnetKey>,
    /// Why the last pass was not complete.
    pub failure: Option<String>,
}

/// What the thread is told.
#[derive(Debug)]
enum Ask {
    /// This node has that lease.
    Lease(SubnetKey),
    /// Compare everything, and say what was found.
    Look,
    /// Somebody has changed something, in words.
    Disturbed(String),
}

/// The thread's state.
struct Thread {
    setup: Setup,
    firewall: Firewall,
    metrics: Metrics,
    asks: Receiver<Ask>,
    pending: Pending,
    outcome: watch::Sender<Outcome>,
    lease: Option<SubnetKey>,
    /// When the next pass is due, once there is a lease.
    next: Instant,
    /// When the last one ended, and how long it took.
    last: Option<(Instant, Duration)>,
    retry: Option<Duration>,
    /// Mends at once, but not for ever.
    pace: Pace,
    /// Somebody else changes the rules again and again.
    fought: bool,
    /// When what nobody tells of was looked at last.
    slow: Option<Instant>,
    /// Look also where rules may have been left behind.
    thorough: bool,
    /// Somebody waits for the line that says what was found.
    asked: bool,
    cause: Option<String>,
    /// The rules that were complete last: what differs from them since is
    /// somebody else's doing.
    kept: Option<Rules>,
    /// Those beside which nothing of ours was left anywhere, last.
    cleaned: Option<Rules>,
    /// What a person should know of, and was told.
    said: Troubles,
}

/// What a person should know of, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Troubles {
    /// Why rules are not complete.
    failure: Option<String>,
    /// What may have been left behind, as of the last thorough pass.
    left: BTreeSet<String>,
    /// What undoes rules.
    drops: BTreeSet<String>,
}

// === impl Keeper ===

impl Keeper {
    /// Starts the thread. It does nothing before there is a lease.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn(setup: Setup, metrics: Metrics) -> io::Result<Self> {
        let (asks, inbox) = channel();
        let (sender, outcome) = watch::channel(Outcome::default());
        let pending = Pending::new(asks.clone());
        std::thread::Builder::new().name("rules".to_owned()).spawn(
            move || {
                let firewall = Firewall::open(&setup, &pending);
                Thread {
                    setup,
                    firewall,
                    metrics,
                    asks: inbox,
                    pending,
                    outcome: sender,
                    lease: None,
                    next: Instant::now(),
                    last: None,
                    retry: None,
                    pace: Pace::default(),
                    fought: false,
                    slow: None,
                    thorough: true,
                    asked: false,
                    cause: None,
                    kept: None,
                    cleaned: None,
                    said: Troubles::default(),
                }
                .run();
            },
        )?;
        Ok(Self { asks, outcome })
    }

    /// This node has that lease: its rules are wanted.
    pub fn lease(&self, key: SubnetKey) {
        // The thread does not end before this does.
        let _ = self.asks.send(Ask::Lease(key));
    }

    /// Everything is to be looked at now, and the log to say what was found.
    pub fn look(&self) {
        let _ = self.asks.send(Ask::Look);
    }

    /// Waits until the outcome is another.
    ///
    /// # Errors
    /// When the thread is gone.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.outcome.changed().await
    }

    /// The outcome of the last pass.
    #[must_use]
    pub fn outcome(&mut self) -> Outcome {
        self.outcome.borrow_and_update().clone()
    }
}

// === impl Thread ===

impl Thread {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let heard = match self.lease {
                Some(_) => {
                    let left = self.next.saturating_duration_since(now);
                    self.asks.recv_timeout(left)
                }
                None => {
                    let gone = |_| RecvTimeoutError::Disconnected;
                    self.asks.recv().map_err(gone)
                }
            };
            match heard {
                Ok(ask) => self.heard(ask, Instant::now()),
                Err(RecvTimeoutError::Timeout) => {
                    THREADS.during(|| self.pass());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Notifications keep the channel open.
            if self.outcome.is_closed() {
                return;
            }
        }
    }

    fn heard(&mut self, ask: Ask, now: Instant) {
        match ask {
            Ask::Lease(key) => {
                if self.lease.replace(key) != Some(key) {
                    self.thorough = true;
                    self.next = now;
                }
            }
            Ask::Look => {
                self.thorough = true;
                self.asked = true;
                self.next = now;
            }
            Ask::Disturbed(what) => {
                let pause = |(at, took): (Instant, Duration)| {
                    let long = (took * PAUSE_FACTOR)
                        .clamp(PAUSE_SHORTEST, self.setup.wishes.resync);
                    at + long
                };
                let then = self.last.map_or(now, pause);
                // somebody may put back at once what is mended at once
                self.pace.disturbed(now);
                let due = self.pace.due().unwrap_or(now);
                self.next = self.next.min(then.max(due));
                self.cause.get_or_insert(what);
            }
        }
    }

    fn pass(&mut self) {
        let Some(lease) = self.lease else { return };
        let start = Instant::now();
        // What is told from here on may be about what this pass does not see.
        self.pending.clear();
        let cause = self.cause.take();
        let rules = self.rules(&lease);

        let mut done = self.firewall.keep(&rules);
        let mut mended = Vec::new();
        if self.kept.as_ref() == Some(&rules) {
            mended.append(&mut done.mended);
        }
        let failure = done.failure();
        if failure.is_none() {
            self.kept = Some(rules.clone());
        }
        let complete = failure.is_none().then_some(lease);
        self.outcome.send_if_modified(|was| {
            let now = Outcome {
                complete: complete.or(was.complete),
                failure: failure.clone(),
            };
            let modified = *was != now;
            *was = now;
            modified
        });
        let mut troubles = Troubles { failure, ..self.said.clone() };
        if self.thorough && troubles.failure.is_none() {
            let mut cleaned = self.firewall.clean(&rules);
            self.thorough = !cleaned.failed.is_empty();
            done.add(&cleaned);
            if self.cleaned.as_ref() == Some(&rules) {
                mended.append(&mut cleaned.mended);
            }
            if !self.thorough {
                self.cleaned = Some(rules.clone());
            }
            let left =
                |text| format!("rules may have been left behind: {text}");
            troubles.left = cleaned.failed.into_iter().map(left).collect();
            self.slow = None;
        }
        // Nobody tells of other tables.
        if self.slow.is_none_or(|at| start >= at + SLOW_CHECK)
            && troubles.failure.is_none()
        {
            self.slow = Some(start);
            let drops = self.firewall.obstacles(&rules);
            troubles.drops = drops.into_iter().collect();
        }
        let unsettled = !done.failed.is_empty() || self.thorough;
        let repaired = !mended.is_empty();
        self.metrics.rules_passed(&done.kinds, done.failed.len(), done.blind);
        self.say(&done, cause, mended, troubles);

        let end = Instant::now();
        self.last = Some((end, end - start));
        self.pace.passed(end);
        if repaired {
            self.pace.repaired(end);
            self.warn_of_fight(end);
        }
        self.retry = unsettled.then(|| {
            let doubled = |p: Duration| (p * 2).min(RETRY_LONGEST);
            self.retry.map_or(RETRY_FIRST, doubled)
        });
        let usual = match self.firewall.is_polled(&self.pending) {
            true => self.setup.wishes.resync,
            false => SLOW_CHECK,
        };
        self.next = end + self.retry.unwrap_or(usual);
    }

    fn rules(&self, lease: &SubnetKey) -> Rules {
        let Setup { wishes, networks, former, .. } = &self.setup;
        let networks = PerFamily::from_fn(|family| {
            Some(Networks {
                network: *networks.get(family)?,
                subnet: lease.get(family)?,
            })
        });
        Rules {
            masquerade: wishes
                .masquerade
                .then_some(Masquerade { random: wishes.random }),
            forward: wishes.forward,
            networks,
            former: former.clone(),
        }
    }

    fn say(
        &mut self,
        done: &Done,
        cause: Option<String>,
        mut mended: Vec<Repair>,
        now: Troubles,
    ) {
        let changed = done.changed();
        let failed = done.failed.len();
        let repaired = !mended.is_empty();
        if let Some(cause) = &cause {
            for repair in &mut mended {
                repair.text = format!("{} ({cause})", repair.text);
            }
        }
        self.metrics.repairs().add(&mended);
        if std::mem::take(&mut self.asked) {
            tracing::info!(
                "traffic rules on request: changes={changed} failed={failed}"
            );
        } else if changed > 0 && !repaired {
            match cause {
                Some(cause) => tracing::info!(
                    "traffic rules: changes={changed}, because {cause}"
                ),
                None => tracing::info!("traffic rules: changes={changed}"),
            }
        }
        match (&self.said.failure, &now.failure) {
            (before, Some(text)) if before.as_ref() != Some(text) => {
                tracing::warn!(
                    "traffic rules are not complete, another pass follows: \
                     {text}"
                );
            }
            (Some(_), None) => tracing::info!("traffic rules are complete"),
            _ => {}
        }
        for text in now.left.difference(&self.said.left) {
            tracing::warn!("{text}");
        }
        for text in now.drops.difference(&self.said.drops) {
            tracing::warn!("{text}");
        }
        self.said = now;
    }

    /// Says when somebody breaks without end what is mended.
    fn warn_of_fight(&mut self, now: Instant) {
        let fought = self.pace.is_fight(now);
        if fought && !self.fought {
            tracing::warn!(
                "something on this node changes flannel's traffic rules again \
                 and again, which are mended once a second at most: look for \
                 another flanneld with the same network and other flags"
            );
        }
        self.fought = fought;
    }
}

// === impl Setup ===

impl Setup {
    /// The families in which there is, or was, anything of ours.
    fn families(&self) -> impl Iterator<Item = Family> {
        let former: BTreeSet<_> =
            self.former.iter().map(Subnet::family).collect();
        let enabled: Vec<_> = self.networks.families().collect();
        Family::ALL
            .into_iter()
            .filter(move |f| enabled.contains(f) || former.contains(f))
    }
}
