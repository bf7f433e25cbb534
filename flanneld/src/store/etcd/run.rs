//! The task that brings together the watch, the own lease, and the daemon.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ipam::lease::{LeaseAttrs, SubnetKey};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::client::{Client, EtcdConfig, SetupError};
use super::config::{self, Config};
use super::exec::{Found, Outcome, execute, revoke};
use super::random::Random;
use super::watch::{Change, Followed, follow};
use crate::clock::since_boot;
use crate::own_lease::{Answer, Event, LEASE_TTL, Next, OwnLease, Params};
use crate::store::{
    Delta, Entries, Entry, StatusSender, StoreEvent, StoreStatus,
};

/// Longest sleep. Timers do not run while the node is suspended; so long
/// after its wake-up at most an overdue renewal is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// An etcd that is not followed yet.
pub struct Etcd {
    client: Client,
    status: StatusSender,
}

/// A store that runs until this is dropped. The lease stays in etcd then, for
/// the next start.
#[derive(Debug)]
pub struct Store {
    /// What the store says.
    pub events: mpsc::Receiver<StoreEvent>,
    /// Changes what is published.
    pub publisher: Publisher,
    task: JoinHandle<()>,
}

/// Changes what the own lease publishes.
#[derive(Clone, Debug)]
pub struct Publisher(watch::Sender<LeaseAttrs>);

/// The daemon does not listen any more.
struct Gone;

struct Driver {
    client: Client,
    status: StatusSender,
    out: mpsc::Sender<StoreEvent>,
    entries: Entries,
    own: OwnLease,
    /// The own key, kept from the peers' events.
    hidden: Option<SubnetKey>,
    /// The revision of a list that is to be told.
    listed: Option<i64>,
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
        Ok((Self { client, status }, receiver))
    }

    /// Waits until there is a network configuration that can be used (E-1),
    /// however long that takes.
    pub async fn config(&self) -> Config {
        config::wait(&self.client, &self.status).await
    }

    /// Acquires the own lease and keeps it, follows everyone else's.
    #[must_use]
    pub fn run(self, params: Params) -> Store {
        let (out, events) = mpsc::channel(1024);
        let (publisher, published) = watch::channel(params.attrs.clone());
        let mut random = Random::default();
        let driver = Driver {
            client: self.client,
            status: self.status,
            out,
            entries: Entries::default(),
            own: OwnLease::new(params, move |limit| random.below(limit)),
            hidden: None,
            listed: None,
            tasks: JoinSet::new(),
        };
        let task = tokio::spawn(async move {
            // ends when nobody listens
            let _: Result<(), Gone> = driver.run(published).await;
        });
        Store { events, publisher: Publisher(publisher), task }
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
        self.0.send_if_modified(|current| {
            let news = *current != attrs;
            *current = attrs;
            news
        });
    }
}

// === impl Driver ===

impl Driver {
    async fn run(
        mut self,
        mut published: watch::Receiver<LeaseAttrs>,
    ) -> Result<(), Gone> {
        let (followed_tx, mut followed) = mpsc::channel(64);
        self.tasks.spawn(follow(self.client.clone(), followed_tx));
        let mut operation: Option<Operation> = None;
        loop {
            let wait = self.step(&mut operation).await?;
            tokio::select! {
                message = followed.recv() => match message {
                    Some(message) => self.heard(message).await?,
                    None => return Ok(()),
                },
                outcome = finished(&mut operation) => {
                    operation = None;
                    self.answered(outcome).await?;
                }
                changed = published.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let attrs = published.borrow_and_update().clone();
                    self.own.publish(since_boot(), attrs);
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
        let expired = self.entries.expire_missing(now);
        self.tell(expired).await?;
        let next = self.own.next(now, &self.entries);
        let mut wake = self.entries.next_expiry();
        match next {
            Next::Do(command) => {
                let client = self.client.clone();
                *operation =
                    Some(Box::pin(
                        async move { execute(&client, &command).await },
                    ));
            }
            Next::Wait(Some(at)) => {
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
            Next::Wait(None) => {}
        }
        self.tell_own().await?;
        for id in self.own.revocations() {
            let client = self.client.clone();
            self.tasks.spawn(async move { revoke(&client, id).await });
        }
        self.status.lease(self.own.reason().map(str::to_owned));
        let wait = wake.map_or(SLEEP_MAX, |at| at.saturating_sub(now));
        Ok(wait.min(SLEEP_MAX))
    }

    /// Tells what changed about the own lease: which peer it hides first.
    async fn tell_own(&mut self) -> Result<(), Gone> {
        let own = self.own.key();
        let before = std::mem::replace(&mut self.hidden, own);
        if let Some(revision) = self.listed.take() {
            let leases = self.entries.peers(own.as_ref());
            self.send(StoreEvent::Synced { leases, revision }).await?;
        } else if before != own && self.entries.synced() {
            // somebody else's lease under the key that was, or was to be, ours
            if let Some(key) = before
                && let Some(attrs) =
                    self.entries.get(&key).and_then(|e| e.attrs.clone())
            {
                let lease = ipam::lease::Lease { key, attrs };
                self.send(StoreEvent::Upsert(lease)).await?;
            }
            if let Some(key) = own
                && self.entries.get(&key).is_some_and(|e| e.attrs.is_some())
            {
                self.send(StoreEvent::Remove(key)).await?;
            }
        }
        while let Some(event) = self.own.event() {
            match event {
                Event::Held(held) => {
                    let kind = if held.lease_id == 0 {
                        "reservation"
                    } else {
                        "lease"
                    };
                    tracing::info!("{kind} {} is held", held.lease.key);
                    self.send(StoreEvent::Held(held)).await?;
                }
                Event::Lost { key, why } => {
                    tracing::warn!(
                        "lease {key} is lost: {why}; acquiring another"
                    );
                    self.send(StoreEvent::Lost { key, why }).await?;
                }
                Event::Notice(text) => tracing::warn!("{text}"),
            }
        }
        Ok(())
    }

    async fn heard(&mut self, message: Followed) -> Result<(), Gone> {
        let now = since_boot();
        match message {
            Followed::Listed { entries, revision, reset } => {
                self.entries.replace(entries, reset, now + LEASE_TTL);
                self.listed = Some(revision);
                let own = self.own.key();
                let entry = own.and_then(|key| self.entries.get(&key));
                self.own.observe(now, entry, revision, reset);
                self.own.freed(now);
            }
            Followed::Changed(changes) => {
                for change in changes {
                    self.take(now, change).await?;
                }
            }
            Followed::Trouble(reason) => self.status.watch(Some(reason)),
            Followed::Fine => {
                self.status.watch(None);
                self.own.reachable(now);
            }
        }
        Ok(())
    }

    async fn take(
        &mut self,
        now: Duration,
        change: Change,
    ) -> Result<(), Gone> {
        let revision = change.revision();
        let (name, deltas) = match change {
            Change::Put(kv) => (kv.key.clone(), self.entries.put(kv)),
            Change::Deleted { key, revision } => {
                let deltas = self.entries.delete(&key, revision);
                self.own.freed(now);
                (key, deltas)
            }
        };
        self.tell(deltas).await?;
        if let Some(own) = self.own.key()
            && own.to_string() == name
        {
            let entry = self.entries.get(&own);
            self.own.observe(now, entry, revision, false);
        }
        Ok(())
    }

    /// The outcome of the operation under way, taken into the entries.
    async fn answered(&mut self, outcome: Outcome) -> Result<(), Gone> {
        let answer = match outcome {
            Outcome::Written { revision, granted } => {
                Answer::Written { revision, granted }
            }
            Outcome::Unexpected { found, granted } => Answer::Unexpected {
                current: self.found(found).await?,
                granted,
            },
            Outcome::Read(found) => {
                Answer::Read { current: self.found(found).await? }
            }
            Outcome::Deleted { key, revision } => {
                let deltas = self.entries.delete(&key, revision);
                self.tell(deltas).await?;
                Answer::Deleted
            }
            Outcome::Failed { reason, ambiguous, granted } => {
                Answer::Failed { reason, ambiguous, granted }
            }
        };
        self.own.answer(since_boot(), answer);
        Ok(())
    }

    async fn found(&mut self, found: Found) -> Result<Option<Entry>, Gone> {
        let Found { key, entry, revision } = found;
        let present = entry.is_some();
        let deltas = match entry {
            Some(kv) => self.entries.put(kv),
            None => self.entries.delete(&key.to_string(), revision),
        };
        self.tell(deltas).await?;
        let entry = self.entries.get(&key).filter(|_| present);
        Ok(entry.cloned())
    }

    /// Tells the peers' changes.
    async fn tell(&mut self, deltas: Vec<Delta>) -> Result<(), Gone> {
        for delta in deltas {
            match delta {
                Delta::Upsert(lease) if Some(lease.key) != self.own.key() => {
                    self.send(StoreEvent::Upsert(lease)).await?;
                }
                Delta::Remove(key) if Some(key) != self.own.key() => {
                    self.send(StoreEvent::Remove(key)).await?;
                }
                Delta::Upsert(_) | Delta::Remove(_) => {}
            }
        }
        Ok(())
    }

    async fn send(&mut self, event: StoreEvent) -> Result<(), Gone> {
        self.out.send(event).await.map_err(|_| Gone)
    }
}

/// The outcome of the operation, if one is under way.
async fn finished(operation: &mut Option<Operation>) -> Outcome {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}
