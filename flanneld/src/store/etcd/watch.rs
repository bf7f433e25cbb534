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
    /// Where the watch goes on; `None` when a range read has to come first.
    resume: Option<i64>,
    /// The newest state of the store that was seen.
    seen: StoreId,
    /// The entry written last of those that were heard of: what tells a store
    /// that was begun anew, and has come further since, from the same one.
    witness: Option<Witness>,
    reset: bool,
    troubled: bool,
    backoff: Duration,
}

/// An entry's full key and the revision of its last change.
#[derive(Clone, Debug)]
struct Witness {
    key: String,
    revision: i64,
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
        seen: StoreId::default(),
        witness: None,
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
        if let Some(resume) = self.resume {
            match state(&self.client, self.witness.as_ref()).await {
                Ok((store, found)) => {
                    self.saw(store, self.contradicts(resume, found));
                }
                Err(error) => return self.trouble(error.to_string()).await,
            }
        }
        let from = match self.resume {
            Some(revision) => revision,
            None => match list(&self.client).await {
                Ok((entries, store)) => {
                    self.saw(store, false);
                    self.witness = None;
                    self.testify(&entries);
                    let next = store.revision + 1;
                    self.resume = Some(next);
                    let reset = std::mem::take(&mut self.reset);
                    let revision = store.revision;
                    self.send(Followed::Listed { entries, revision, reset })
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
                self.resume = None;
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
                tracing::info!(
                    "etcd has compacted the history up to revision {}: all \
                     leases are read again",
                    message.compact_revision()
                );
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
                self.testify(changes.iter().filter_map(|c| match c {
                    Change::Put(kv) => Some(kv),
                    Change::Deleted { .. } => None,
                }));
                self.send(Followed::Changed(changes)).await?;
            }
        }
    }

    /// Notes the newest of `entries` if it is newer than the one noted.
    fn testify<'a>(&mut self, entries: impl IntoIterator<Item = &'a Kv>) {
        let newest = entries.into_iter().max_by_key(|kv| kv.mod_revision);
        let before = self.witness.as_ref().map_or(0, |w| w.revision);
        if let Some(kv) = newest
            && kv.mod_revision > before
        {
            let key = self.client.keys().subnets() + &kv.key;
            self.witness = Some(Witness { key, revision: kv.mod_revision });
        }
    }

    /// Whether the witness was `found` with a revision that it did not have
    /// when all events before `resume` had been heard. A store begun anew in
    /// which it was written later than that is not told by this: that takes
    /// one which was hardly used before.
    fn contradicts(&self, resume: i64, found: Option<i64>) -> bool {
        let noted = self.witness.as_ref().map(|w| w.revision);
        found.is_some_and(|now| now < resume && Some(now) != noted)
    }

    /// Notes the state of the store that an answer comes from. One that has
    /// gone back, or has `another` history, lacks events that were seen, and
    /// would keep silent about what is there instead.
    fn saw(&mut self, store: StoreId, another: bool) {
        if another || store.regressed(self.seen) {
            tracing::warn!(
                "etcd is another store than before, or an older state of it \
                 (revision {}, was {}): leases that are missing in it are \
                 kept until they would have expired",
                store.revision,
                self.seen.revision
            );
            self.resume = None;
            self.reset = true;
            self.seen = store;
        } else if store.revision >= self.seen.revision {
            self.seen = store;
        }
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

/// The state of the store now, and the revision that the entry `of` was last
/// changed at, if it is there; from a linearizable read.
async fn state(
    client: &Client,
    of: Option<&Witness>,
) -> Result<(StoreId, Option<i64>), Error> {
    let key = of.map_or_else(|| client.keys().config(), |w| &w.key).to_owned();
    let answer = client
        .call(CALL_LIMIT, Again::Always, |etcd| {
            let key = key.clone();
            async move {
                let options = GetOptions::new().with_keys_only();
                kv(&etcd).get(key, Some(options)).await
            }
        })
        .await?;
    let store = answer.header().map(StoreId::of).unwrap_or_default();
    let found = answer.kvs().first().map(KeyValue::mod_revision);
    Ok((store, found.filter(|_| of.is_some())))
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
