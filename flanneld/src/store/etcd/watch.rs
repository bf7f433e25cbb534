//! Following all leases: one range read, then a watch from the revision
//! after it, resumed without a gap for as long as the daemon lives.
//!
//! Every end of a stream (error, end of data, cancellation, a store that has
//! gone back in time) leads to another stream. Only the revision of the last
//! event decides where it resumes: progress notifications and the headers of
//! partial answers may be ahead of events that are still to come.

use std::string::FromUtf8Error;
use std::time::Duration;

use etcd_client::{GetOptions, KeyValue, WatchOptions, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::client::{
    Again, CALL_LIMIT, Client, LIST_LIMIT, Session, StoreId, kv,
};
use super::error::{Class, Error, classify, describe};
use crate::store::{Change, Kv};

/// First pause before a new stream (E-44).
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a new stream (E-44).
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// etcd says each 10 to 11 minutes that a quiet watch is alive. Dead
/// connections are noticed much earlier, by pings.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Said when changes may have been missed.
const COMPACTED: &str = "etcd has compacted the history since the last \
    change that was heard of: all leases are read again";

/// What following yields.
#[derive(Debug)]
pub(super) enum Followed {
    /// Everything there is.
    Listed {
        /// All entries.
        entries: Vec<Kv>,
        /// The revision they were read at.
        revision: i64,
        /// The store is another one, or an older state of the same: what is
        /// missing in it was not deleted by anyone.
        reset: bool,
        /// All changes before this revision had been heard of, if any had:
        /// what the list says of that time must fit.
        heard: Option<i64>,
    },
    /// Changes since, in order.
    Changed(Vec<Change>),
    /// The store cannot be followed at the moment.
    Trouble(String),
    /// It can again.
    Fine,
}

/// The end of the receiver: nobody listens any more.
struct Gone;

struct Follower {
    client: Client,
    out: mpsc::Sender<Followed>,
    /// Where the watch goes on: everything before was heard of. `None` before
    /// the first range read.
    resume: Option<i64>,
    /// A range read has to come first all the same.
    relist: bool,
    /// The newest state of the store that was seen.
    seen: StoreId,
    /// The entries written last of those that were heard of, the newest at
    /// the end: what tells a store that was begun anew, and has come further
    /// since, from the same one.
    witnesses: Vec<Witness>,
    reset: bool,
    troubled: bool,
    backoff: Duration,
}

/// How many entries witness: the newest is another store's by its revision or
/// its etcd lease, but for a reservation that a script has put again.
const WITNESSES: usize = 3;

/// An entry as it was at the revision that was heard of last.
#[derive(Clone, Debug)]
struct Witness {
    /// The key after the prefix of leases.
    key: String,
    stamp: Stamp,
}

/// What two stores hardly have in common: mod revision, create revision and
/// etcd lease.
type Stamp = (i64, i64, i64);

/// What a store says of a moment that has passed.
enum Past {
    /// The entry was like that then.
    Was(StoreId, Option<Stamp>),
    /// The store, or this state of it, has not come so far.
    Ahead,
    /// It does not know any more.
    Compacted,
}

/// Why a stream ended.
enum End {
    /// Go on from where it was.
    Resume(String),
    /// Events are missing: read everything again.
    Relist,
}

/// Follows all leases until nobody receives any more.
pub(super) async fn follow(client: Client, out: mpsc::Sender<Followed>) {
    let mut follower = Follower {
        client,
        out,
        resume: None,
        relist: false,
        seen: StoreId::default(),
        witnesses: Vec::new(),
        reset: false,
        troubled: false,
        backoff: BACKOFF_MIN,
    };
    while follower.round().await.is_ok() {}
}

// === impl Follower ===

impl Follower {
    /// One stream from its opening to its end, and the pause after it.
    async fn round(&mut self) -> Result<(), Gone> {
        let session = match self.client.session().await {
            Ok(session) => session,
            Err(error) => return self.trouble(error.to_string()).await,
        };
        if let Some(resume) = self.resume
            && !self.relist
            && let Err(error) = self.compare(resume).await
        {
            return self.trouble(error.to_string()).await;
        }
        let from = match self.resume.filter(|_| !self.relist) {
            Some(revision) => revision,
            None => match list(&self.client).await {
                Ok((entries, store)) => {
                    self.saw(store);
                    self.witnesses.clear();
                    for kv in &entries {
                        self.testify(kv);
                    }
                    let next = store.revision + 1;
                    let heard = self.resume.replace(next);
                    self.relist = false;
                    let reset = std::mem::take(&mut self.reset);
                    let revision = store.revision;
                    self.send(Followed::Listed {
                        entries,
                        revision,
                        reset,
                        heard,
                    })
                    .await?;
                    next
                }
                Err(error) => return self.trouble(error.to_string()).await,
            },
        };
        match self.stream(&session, from).await? {
            End::Resume(reason) => {
                self.client.drop_session(&session).await;
                self.trouble(reason).await
            }
            End::Relist => {
                self.relist = true;
                self.pause().await;
                Ok(())
            }
        }
    }

    /// Opens a watch and passes its events on until it ends.
    async fn stream(
        &mut self,
        session: &Session,
        from: i64,
    ) -> Result<End, Gone> {
        let end = |reason: &str| {
            End::Resume(format!(
                "etcd at {}: the watch of the leases broke off: {reason}",
                session.url
            ))
        };
        let mut stream = match open(&self.client, session, from).await {
            Ok(stream) => stream,
            Err(end) => return Ok(end),
        };
        let prefix = self.client.keys().subnets();
        let opened = Instant::now();
        loop {
            let message = match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok(end("the watch ended")),
                Ok(Err(error)) => return Ok(end(&describe(&error))),
                Err(_) => return Ok(end("the watch fell silent")),
            };
            if message.compact_revision() != 0 {
                tracing::info!("{COMPACTED}");
                return Ok(End::Relist);
            }
            if message.canceled() {
                let reason = match message.cancel_reason() {
                    "" => "the watch was cancelled",
                    reason => reason,
                };
                return Ok(end(reason));
            }
            self.fine().await?;
            // a server that accepts watches and ends them soon is not to be
            // asked without pause
            if opened.elapsed() > BACKOFF_MAX {
                self.backoff = BACKOFF_MIN;
            }
            let changes: Vec<Change> = message
                .events()
                .iter()
                .filter_map(|event| change(event, &prefix))
                .collect();
            if let Some(last) = changes.iter().map(Change::revision).max() {
                self.resume = Some(last + 1);
                self.seen.revision = self.seen.revision.max(last);
                self.backoff = BACKOFF_MIN;
                for change in &changes {
                    match change {
                        Change::Put(kv) => self.testify(kv),
                        Change::Deleted { key, .. } => {
                            self.witnesses.retain(|w| w.key != *key);
                        }
                    }
                }
                self.send(Followed::Changed(changes)).await?;
            }
        }
    }

    /// Notes `kv` if it is among the newest.
    fn testify(&mut self, kv: &Kv) {
        self.witnesses.retain(|w| w.key != kv.key);
        let revision = kv.mod_revision;
        let at = self.witnesses.partition_point(|w| w.stamp.0 < revision);
        if at == 0 && self.witnesses.len() == WITNESSES {
            return;
        }
        let witness = Witness { key: kv.key.clone(), stamp: kv.stamp() };
        self.witnesses.insert(at, witness);
        if self.witnesses.len() > WITNESSES {
            self.witnesses.remove(0);
        }
    }

    /// Whether this is the store whose changes before `resume` were heard of:
    /// it must remember the witnesses as they were then, whatever happened to
    /// them since. All is listed again if not, or if nobody can say.
    async fn compare(&mut self, resume: i64) -> Result<(), Error> {
        // without leases a list is short; with some, rare
        self.relist = self.witnesses.is_empty();
        let prefix = self.client.keys().subnets();
        for Witness { key, stamp } in self.witnesses.clone().iter().rev() {
            let key = format!("{prefix}{key}");
            match past(&self.client, &key, resume - 1).await? {
                Past::Was(store, was) => {
                    self.saw(store);
                    if was != Some(*stamp) {
                        self.another();
                    }
                }
                Past::Ahead => self.another(),
                Past::Compacted => {
                    tracing::info!("{COMPACTED}");
                    self.relist = true;
                }
            }
            if self.relist {
                break;
            }
        }
        Ok(())
    }

    /// Notes the state of the store that an answer comes from.
    fn saw(&mut self, store: StoreId) {
        if store.regressed(self.seen) {
            self.another();
        }
        if store.revision >= self.seen.revision {
            self.seen = store;
        }
    }

    /// The store has gone back, or has another history: it lacks events that
    /// were seen, and would keep silent about what is there instead.
    fn another(&mut self) {
        if !self.reset {
            let heard = self.resume.map_or(self.seen.revision, |r| r - 1);
            warn_another(heard);
        }
        self.relist = true;
        self.reset = true;
        self.seen = StoreId::default();
    }

    async fn trouble(&mut self, reason: String) -> Result<(), Gone> {
        self.troubled = true;
        self.send(Followed::Trouble(reason)).await?;
        self.pause().await;
        Ok(())
    }

    async fn fine(&mut self) -> Result<(), Gone> {
        if std::mem::take(&mut self.troubled) {
            self.send(Followed::Fine).await?;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    async fn send(&self, message: Followed) -> Result<(), Gone> {
        self.out.send(message).await.map_err(|_| Gone)
    }
}

/// Opens a watch of all leases from `revision` on.
async fn open(
    client: &Client,
    session: &Session,
    revision: i64,
) -> Result<WatchStream, End> {
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision)
        .with_progress_notify();
    let mut watcher =
        session.etcd.watch_client().max_decoding_message_size(usize::MAX);
    let opening = watcher.watch(client.keys().subnets(), Some(options));
    match timeout(CALL_LIMIT, opening).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let reason = Error::from_client(&session.url, &error).to_string();
            if classify(&error) == Class::Refused {
                tracing::debug!("watch refused: {reason}");
            }
            Err(End::Resume(reason))
        }
        Err(_) => Err(End::Resume(format!(
            "etcd at {}: no watch within {} s",
            session.url,
            CALL_LIMIT.as_secs()
        ))),
    }
}

/// Reads all leases in one request; their lifetimes are not asked for, one by
/// one, as upstream does (W-50): an entry tells its etcd lease by itself.
///
/// # Errors
/// [`Error`]
pub(super) async fn list(client: &Client) -> Result<(Vec<Kv>, StoreId), Error> {
    let prefix = client.keys().subnets();
    let mut answer = client
        .call(LIST_LIMIT, Again::Always, |etcd| {
            let prefix = prefix.clone();
            async move {
                let options = GetOptions::new().with_prefix();
                kv(&etcd).get(prefix, Some(options)).await
            }
        })
        .await?;
    let store = answer.header().map(StoreId::of).unwrap_or_default();
    let entries =
        answer.take_kvs().into_iter().map(|kv| Kv::new(kv, &prefix)).collect();
    Ok((entries, store))
}

/// What the entry at `key` was at `revision`; from a linearizable read.
async fn past(
    client: &Client,
    key: &str,
    revision: i64,
) -> Result<Past, Error> {
    client
        .call(CALL_LIMIT, Again::Always, |etcd| async move {
            let options =
                GetOptions::new().with_keys_only().with_revision(revision);
            match kv(&etcd).get(key, Some(options)).await {
                Ok(answer) => {
                    let store =
                        answer.header().map(StoreId::of).unwrap_or_default();
                    let was = answer.kvs().first().map(|kv| {
                        (kv.mod_revision(), kv.create_revision(), kv.lease())
                    });
                    Ok(Past::Was(store, was))
                }
                Err(error) => match classify(&error) {
                    Class::Ahead => Ok(Past::Ahead),
                    Class::Compacted => Ok(Past::Compacted),
                    Class::Member
                    | Class::Token
                    | Class::AuthDisabled
                    | Class::Refused => Err(error),
                },
            }
        })
        .await
}

/// Says that the store, of which everything up to `revision` was seen, is not
/// the same any more.
pub(super) fn warn_another(revision: i64) {
    tracing::warn!(
        "etcd is another store than before, or an older state of it (it does \
         not have what was seen up to revision {revision}): leases that are \
         missing in it are kept until they would have expired"
    );
}

fn change(event: &etcd_client::Event, prefix: &str) -> Option<Change> {
    let kv = event.kv()?;
    // The library panics on a type it does not know; a deletion is also
    // told by its version.
    Some(if kv.version() == 0 {
        Change::Deleted {
            key: name(kv.key().to_vec(), prefix),
            revision: kv.mod_revision(),
        }
    } else {
        Change::Put(Kv::new(kv.clone(), prefix))
    })
}

// === impl Kv ===

impl Kv {
    /// The entry, its key without `prefix`.
    pub(super) fn new(kv: KeyValue, prefix: &str) -> Self {
        let (create_revision, mod_revision) =
            (kv.create_revision(), kv.mod_revision());
        let lease_id = kv.lease();
        let (key, value) = kv.into_key_value();
        let key = name(key, prefix);
        Self { key, value, create_revision, mod_revision, lease_id }
    }

    const fn stamp(&self) -> Stamp {
        (self.mod_revision, self.create_revision, self.lease_id)
    }
}

fn name(key: Vec<u8>, prefix: &str) -> String {
    let lossy =
        |e: FromUtf8Error| String::from_utf8_lossy(e.as_bytes()).into_owned();
    let mut key = String::from_utf8(key).unwrap_or_else(lossy);
    if key.starts_with(prefix) {
        key.drain(..prefix.len());
    }
    key
}
