//! The task that brings together the watch, the own lease, and the daemon.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ipam::lease::LeaseAttrs;
use ipam::netconf::SubnetRange;
use ipam::{PerFamily, Secret};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::client::{Client, EtcdConfig, SetupError};
use super::config::{self, Config};
use super::exec::{execute, revoke};
use super::random::Random;
use super::watch::{Followed, follow, warn_another};
use crate::clock::since_boot;
use crate::own_lease::{Next, OwnLease, Params};
use crate::store::{Ledger, Outcome, StatusSender, StoreEvent, StoreStatus};

/// Longest sleep. Timers do not run while the node is suspended: an overdue
/// renewal is noticed so long after its wake-up at most.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// An etcd in which no lease is held yet.
pub struct Etcd {
    client: Client,
    status: StatusSender,
    tasks: JoinSet<()>,
    /// What is heard of all leases, once they are followed.
    followed: Option<mpsc::Receiver<Followed>>,
}

/// A store that runs until this is dropped. The lease stays in etcd then, for
/// the next start.
#[derive(Debug)]
pub struct Store {
    /// What the store says.
    pub events: mpsc::Receiver<StoreEvent>,
    /// Changes what is published.
    pub publisher: Publisher,
    /// The network configuration, once it is another than at the start.
    pub config: watch::Receiver<Option<Config>>,
    task: JoinHandle<()>,
}

/// Changes what the own lease publishes.
#[derive(Clone, Debug)]
pub struct Publisher {
    attrs: watch::Sender<LeaseAttrs>,
    ranges: watch::Sender<PerFamily<SubnetRange>>,
}

/// The daemon does not listen any more.
struct Gone;

struct Driver {
    client: Client,
    status: StatusSender,
    out: mpsc::Sender<StoreEvent>,
    ledger: Ledger,
    tasks: JoinSet<()>,
}

type Operation = Pin<Box<dyn Future<Output = Outcome> + Send>>;

// === impl Etcd ===

impl Etcd {
    /// Checks the settings; connects to nothing yet. The receiver tells what
    /// the store waits for.
    ///
    /// # Errors
    /// [`SetupError`] for settings that can never work.
    pub fn new(
        config: EtcdConfig,
    ) -> Result<(Self, watch::Receiver<StoreStatus>), SetupError> {
        let start = Random::default().below(u64::MAX);
        let client = Client::new(config, start)?;
        let (status, receiver) = StatusSender::new();
        let tasks = JoinSet::new();
        Ok((Self { client, status, tasks, followed: None }, receiver))
    }

    /// Waits until there is a network configuration that can be used (E-1),
    /// however long that takes.
    pub async fn config(&self) -> Config {
        config::wait(&self.client, &self.status).await
    }

    /// Begins to read all leases: thousands take etcd longer than a node
    /// takes to look at itself. [`Self::run`] does it if nobody has.
    pub fn follow(&mut self) {
        let followed = self.followed();
        self.followed = Some(followed);
    }

    fn followed(&mut self) -> mpsc::Receiver<Followed> {
        self.followed.take().unwrap_or_else(|| {
            let (sender, followed) = mpsc::channel(64);
            self.tasks.spawn(follow(self.client.clone(), sender));
            followed
        })
    }

    /// Acquires the own lease and keeps it, follows everyone else's, and the
    /// network configuration; `config` is the text of the one in use.
    #[must_use]
    pub fn run(mut self, params: Params, config: Secret<String>) -> Store {
        let followed = self.followed();
        let (out, events) = mpsc::channel(1024);
        let (attrs, published) = watch::channel(params.attrs.clone());
        let (ranges, chosen) = watch::channel(params.ranges);
        let (news, configs) = watch::channel(None);
        let mut tasks = self.tasks;
        tasks.spawn(config::follow(
            self.client.clone(),
            self.status.clone(),
            config,
            news,
        ));
        let mut random = Random::default();
        let own = OwnLease::new(params, move |limit| random.below(limit));
        let driver = Driver {
            client: self.client,
            status: self.status,
            out,
            ledger: Ledger::new(own),
            tasks,
        };
        let task = tokio::spawn(async move {
            // ends when nobody listens
            let _: Result<(), Gone> =
                driver.run(followed, published, chosen).await;
        });
        let publisher = Publisher { attrs, ranges };
        Store { events, publisher, config: configs, task }
    }
}

// === impl Store ===

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Publisher ===

impl Publisher {
    /// Publishes `attrs` from now on.
    pub fn publish(&self, attrs: LeaseAttrs) {
        self.attrs.send_if_modified(|current| {
            let news = *current != attrs;
            *current = attrs;
            news
        });
    }

    /// Takes later leases from `ranges`.
    pub fn choose_from(&self, ranges: PerFamily<SubnetRange>) {
        self.ranges.send_replace(ranges);
    }
}

// === impl Driver ===

impl Driver {
    async fn run(
        mut self,
        mut followed: mpsc::Receiver<Followed>,
        mut published: watch::Receiver<LeaseAttrs>,
        mut chosen: watch::Receiver<PerFamily<SubnetRange>>,
    ) -> Result<(), Gone> {
        let mut operation: Option<Operation> = None;
        loop {
            let wait = self.step(&mut operation).await?;
            tokio::select! {
                message = followed.recv() => match message {
                    Some(message) => self.heard(message),
                    None => return Err(Gone),
                },
                outcome = finished(&mut operation) => {
                    operation = None;
                    if matches!(outcome, Outcome::Failed { .. }) {
                        self.status.failed();
                    }
                    self.ledger.answered(since_boot(), outcome);
                }
                changed = published.changed() => {
                    changed.map_err(|_| Gone)?;
                    let attrs = published.borrow_and_update().clone();
                    self.ledger.publish(since_boot(), attrs);
                }
                changed = chosen.changed() => {
                    changed.map_err(|_| Gone)?;
                    let ranges = *chosen.borrow_and_update();
                    self.ledger.choose_from(since_boot(), ranges);
                }
                Some(_) = self.tasks.join_next() => {}
                () = sleep(wait) => {}
                () = self.out.closed() => return Err(Gone),
            }
        }
    }

    /// Does what is due; how long there is nothing to do afterwards.
    async fn step(
        &mut self,
        operation: &mut Option<Operation>,
    ) -> Result<Duration, Gone> {
        let now = since_boot();
        let wake = match self.ledger.step(now) {
            Next::Do(command) => {
                let client = self.client.clone();
                *operation =
                    Some(Box::pin(
                        async move { execute(&client, &command).await },
                    ));
                None
            }
            Next::Wait(at) => at,
        };
        while let Some(event) = self.ledger.event() {
            self.out.send(event).await.map_err(|_| Gone)?;
        }
        for id in self.ledger.revocations() {
            let client = self.client.clone();
            self.tasks.spawn(async move { revoke(&client, id).await });
        }
        self.status.lease(self.ledger.reason().map(str::to_owned));
        let wait = wake.map_or(SLEEP_MAX, |at| at.saturating_sub(now));
        Ok(wait.min(SLEEP_MAX))
    }

    fn heard(&mut self, message: Followed) {
        let now = since_boot();
        match message {
            Followed::Listed { entries, revision, mut reset, heard } => {
                self.status.followed(now);
                if let Some(heard) = heard.filter(|_| !reset)
                    && self.ledger.contradicted(now, &entries, heard)
                {
                    warn_another(heard - 1);
                    reset = true;
                }
                self.ledger.listed(now, entries, revision, reset);
            }
            Followed::Changed(changes) => {
                for change in changes {
                    self.ledger.changed(now, change);
                }
            }
            Followed::Trouble(reason) => {
                self.status.failed();
                self.status.lost();
                self.status.watch(Some(reason));
            }
            Followed::Fine => {
                self.status.followed(now);
                self.status.watch(None);
                self.ledger.reachable(now);
            }
        }
    }
}

/// The outcome of the operation, if one is under way.
async fn finished(operation: &mut Option<Operation>) -> Outcome {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}
