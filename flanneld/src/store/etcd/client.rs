//! A connection to one etcd member at a time.
//!
//! The client library balances over all its endpoints and fails every second
//! call when one of two is dead. So each session speaks to one member; a
//! failed one is dropped, and the next call finds another by racing them:
//! every half second one more member is tried, and the first whose answer to
//! a linearizable read arrives is taken. A dead, frozen or cut-off member
//! thus costs half a second, once.
//!
//! Names are resolved at each connection (getaddrinfo) and all addresses
//! tried by the transport; the TLS server name stays the host of the URL.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{ConnectOptions, KvClient, TlsOptions};
use ipam::Secret;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use super::endpoint::{Endpoint, EndpointError, Keys};
use super::error::{Class, Error, classify, describe, hang_up};
use super::tls::{TlsError, TlsFiles};

/// A member that has not answered for this long is given a rival.
const STAGGER: Duration = Duration::from_millis(500);
/// Longest time for name resolution, TCP, TLS, authentication and the first
/// answer of one member. musl's resolver alone may take 10 s.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Attempts at a member that hangs up. One that does not accept our
/// certificate says so after the handshake (TLS 1.3), and it is up to chance
/// whether the first request sees the reason or only the end.
const ATTEMPTS: u32 = 4;
/// Longest time for the TCP handshake, over all addresses of a name.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// HTTP/2 ping interval while a request or watch is open. etcd closes
/// connections pinged more often than each 5 s, or while idle.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Longest time for the answer to a ping.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for the answer to one small request, once there is a session
/// with a member. Finding one comes on top of it: [`CONNECT_LIMIT`], with
/// [`STAGGER`] for each member before the last, and as much again for the TLS
/// files where their disk hangs.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for a range read of all leases.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(30);

/// How to reach etcd (C-1 … C-7).
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `--etcd-endpoints`, split at commas.
    pub endpoints: Vec<String>,
    /// `--etcd-prefix`.
    pub prefix: String,
    /// The TLS files.
    pub tls: TlsFiles,
    /// User and password; `None` unless both are set (E-52).
    pub credentials: Option<Credentials>,
}

/// User and password.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `--etcd-username`
    pub user: String,
    /// `--etcd-password`
    pub password: Secret<String>,
}

/// Settings with which etcd can never be reached.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A bad endpoint, or none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A bad TLS file.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The client: cheap to clone, shared by all that talk to etcd.
#[derive(Clone)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    keys: Keys,
    tls: TlsFiles,
    credentials: Option<Credentials>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    session: Option<Session>,
    /// Sessions made so far.
    generation: u64,
    /// The member to try first.
    first: usize,
    /// The TLS files are being read.
    reading: Option<JoinHandle<Result<TlsOptions, TlsError>>>,
}

/// A working connection to one member.
#[derive(Clone)]
pub(super) struct Session {
    /// The library's client. It has one endpoint.
    pub(super) etcd: etcd_client::Client,
    /// The member's URL.
    pub(super) url: String,
    index: usize,
    generation: u64,
}

/// Which failures of a request let it be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Only such that it was not carried out: etcd wanted another login first.
    Undone,
    /// Also such that it may have been.
    Always,
}

/// What tells one state of a store from another: an id that a new cluster
/// does not share, a revision that never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreId {
    pub(super) cluster: u64,
    pub(super) revision: i64,
}

// === impl Client ===

impl Client {
    /// A client that is not connected yet. `start` picks the member tried
    /// first, so that the nodes of a cluster spread over the members.
    ///
    /// # Errors
    /// [`SetupError`] for settings that can never work.
    pub(super) fn new(
        config: EtcdConfig,
        start: u64,
    ) -> Result<Self, SetupError> {
        let tls_configured = config.tls.any();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for text in &config.endpoints {
            let endpoint = Endpoint::parse(text, tls_configured)?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        let count = u64::try_from(endpoints.len()).unwrap_or(u64::MAX);
        let first =
            start.checked_rem(count).ok_or(EndpointError::None)? as usize;
        if endpoints.iter().any(Endpoint::tls) {
            config.tls.load()?;
        }
        if tls_configured {
            for plain in endpoints.iter().filter(|e| !e.tls()) {
                tracing::warn!(
                    "etcd endpoint {plain} is spoken to WITHOUT encryption \
                     although TLS files are configured: write https://"
                );
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                endpoints,
                keys: Keys::new(&config.prefix),
                tls: config.tls,
                credentials: config.credentials,
                current: Mutex::new(Current { first, ..Current::default() }),
            }),
        })
    }

    /// The keys in use.
    pub(super) fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// The endpoints, for messages.
    pub(super) fn endpoints(&self) -> String {
        let urls: Vec<&str> =
            self.shared.endpoints.iter().map(Endpoint::url).collect();
        urls.join(", ")
    }

    /// The session in use, or a new one.
    ///
    /// # Errors
    /// [`Error::Unreachable`] names each endpoint with its own reason.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        let mut current = self.shared.current.lock().await;
        if let Some(session) = &current.session {
            return Ok(session.clone());
        }
        let tls = self.tls(&mut current.reading).await?;
        let mut session = self.race(current.first, tls).await?;
        current.generation += 1;
        session.generation = current.generation;
        current.first = session.index;
        current.session = Some(session.clone());
        drop(current);
        tracing::info!("connected to etcd at {}", session.url);
        Ok(session)
    }

    /// Gives `session` up; the next one begins with another member.
    pub(super) async fn drop_session(&self, session: &Session) {
        let mut current = self.shared.current.lock().await;
        let is_current = current
            .session
            .as_ref()
            .is_some_and(|s| s.generation == session.generation);
        if is_current {
            current.session = None;
            let count = self.shared.endpoints.len().max(1);
            current.first = (session.index + 1) % count;
        }
    }

    /// Runs one request. A session that turns out to be dead, or logged out,
    /// is dropped, and the request made once more where `again` allows it.
    ///
    /// # Errors
    /// [`Error`]; [`Error::ambiguous`] when it may have been carried out.
    pub(super) async fn call<T, F, Fut>(
        &self,
        limit: Duration,
        again: Again,
        request: F,
    ) -> Result<T, Error>
    where
        F: Fn(etcd_client::Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut first = true;
        loop {
            let session = self.session().await?;
            let asked = request(session.etcd.clone());
            let error = match timeout(limit, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Error::from_client(&session.url, &error),
                Err(_) => Error::Lost {
                    endpoint: session.url.clone(),
                    reason: format!("no answer within {} s", limit.as_secs()),
                },
            };
            let login = matches!(error, Error::Login { .. });
            let lost = matches!(error, Error::Lost { .. });
            if login || lost {
                self.drop_session(&session).await;
            }
            let repeat = login || (lost && again == Again::Always);
            if !std::mem::take(&mut first) || !repeat {
                return Err(error);
            }
        }
    }

    /// The TLS files' content, where an endpoint wants it. They are read on a
    /// thread of their own: their disk may hang. Then the next call waits for
    /// the same read: there is one such thread at most.
    async fn tls(
        &self,
        reading: &mut Option<JoinHandle<Result<TlsOptions, TlsError>>>,
    ) -> Result<Option<TlsOptions>, Error> {
        if !self.shared.endpoints.iter().any(Endpoint::tls) {
            return Ok(None);
        }
        let files = &self.shared.tls;
        let read = reading.get_or_insert_with(|| {
            let files = files.clone();
            spawn_blocking(move || files.load())
        });
        let limit = CONNECT_LIMIT;
        let slow = |_| TlsError::Slow { seconds: limit.as_secs() };
        let read = timeout(limit, read).await.map_err(slow)?;
        *reading = None;
        // The thread was never begun: the runtime ends.
        let ended = |_| Error::Unreachable("the daemon ends".to_owned());
        Ok(Some(read.map_err(ended)??))
    }

    /// Tries the members from `first` on, one more each [`STAGGER`] or as
    /// soon as one fails, until one answers.
    async fn race(
        &self,
        first: usize,
        tls: Option<TlsOptions>,
    ) -> Result<Session, Error> {
        let endpoints = &self.shared.endpoints;
        let mut waiting =
            (0..endpoints.len()).map(|i| (first + i) % endpoints.len());
        let mut racers = JoinSet::new();
        let mut reasons: Vec<Option<String>> = vec![None; endpoints.len()];
        let mut next_start = Instant::now();
        loop {
            if racers.is_empty() || Instant::now() >= next_start {
                if let Some(index) = waiting.next()
                    && let Some(endpoint) = endpoints.get(index)
                {
                    racers.spawn(connect(
                        index,
                        endpoint.clone(),
                        endpoint.tls().then(|| tls.clone()).flatten(),
                        self.shared.credentials.clone(),
                        self.shared.keys.config().to_owned(),
                    ));
                } else if racers.is_empty() {
                    break;
                }
                next_start = Instant::now() + STAGGER;
            }
            tokio::select! {
                Some(ended) = racers.join_next() => match ended {
                    Ok(Ok(session)) => return Ok(session),
                    Ok(Err((index, reason))) => {
                        if let Some(slot) = reasons.get_mut(index) {
                            *slot = Some(reason);
                        }
                        next_start = Instant::now();
                    }
                    Err(error) => {
                        tracing::debug!("connection attempt: {error}");
                    }
                },
                () = sleep_until(next_start) => {}
            }
        }
        Err(Error::Unreachable(summary(endpoints, &reasons)))
    }
}

/// One line for the failures of all endpoints, in their configured order so
/// that it stays the same from one attempt to the next.
fn summary(endpoints: &[Endpoint], reasons: &[Option<String>]) -> String {
    let text = |r: &Option<String>| {
        r.clone().unwrap_or_else(|| "the attempt was aborted".to_owned())
    };
    let parts: Vec<String> = endpoints
        .iter()
        .zip(reasons)
        .map(|(endpoint, reason)| format!("{endpoint}: {}", text(reason)))
        .collect();
    parts.join("; ")
}

/// Connects to one member and waits for its first answer: a linearizable
/// read, so a member without quorum does not count.
async fn connect(
    index: usize,
    endpoint: Endpoint,
    tls: Option<TlsOptions>,
    credentials: Option<Credentials>,
    config_key: String,
) -> Result<Session, (usize, String)> {
    let login = || async {
        match open(&endpoint, tls.clone(), credentials.as_ref()).await {
            // A server without authentication needs no user (E-54).
            Err(e) if classify(&e) == Class::AuthDisabled => {
                tracing::warn!(
                    "etcd at {endpoint} has no authentication: \
                     --etcd-username is not used"
                );
                open(&endpoint, tls.clone(), None).await
            }
            outcome => outcome,
        }
    };
    let attempt = || async {
        let etcd = login().await?;
        match kv(&etcd).get(config_key.clone(), None).await {
            // A refusal is an answer all the same; who needs the key
            // reports it.
            Err(e) if classify(&e) != Class::Refused => Err(e),
            _ => Ok(etcd),
        }
    };
    let outcome = timeout(CONNECT_LIMIT, async {
        for _ in 1..ATTEMPTS {
            match attempt().await {
                Err(e) if hang_up(&describe(&e), endpoint.tls()).is_some() => {}
                outcome => return outcome,
            }
        }
        attempt().await
    })
    .await;
    match outcome {
        Ok(Ok(etcd)) => Ok(Session {
            etcd,
            url: endpoint.url().to_owned(),
            index,
            generation: 0,
        }),
        Ok(Err(error)) => {
            let reason = describe(&error);
            let closed = hang_up(&reason, endpoint.tls());
            let reason = closed.map_or(reason, str::to_owned);
            Err((index, reason))
        }
        Err(_) => Err((
            index,
            format!("no answer within {} s", CONNECT_LIMIT.as_secs()),
        )),
    }
}

async fn open(
    endpoint: &Endpoint,
    tls: Option<TlsOptions>,
    credentials: Option<&Credentials>,
) -> Result<etcd_client::Client, etcd_client::Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TCP_LIMIT)
        .with_keep_alive(PING_EVERY, PING_LIMIT)
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(tls) = tls {
        options = options.with_tls(tls);
    }
    if let Some(Credentials { user, password }) = credentials {
        options = options.with_user(user, password.reveal());
    }
    etcd_client::Client::connect([endpoint.url()], Some(options)).await
}

/// The key-value client without a limit on an answer's size (E-53): all
/// leases come in one.
pub(super) fn kv(etcd: &etcd_client::Client) -> KvClient {
    etcd.kv_client().max_decoding_message_size(usize::MAX)
}

// === impl StoreId ===

impl StoreId {
    /// The state an answer comes from.
    pub(super) const fn of(header: &etcd_client::ResponseHeader) -> Self {
        Self { cluster: header.cluster_id(), revision: header.revision() }
    }

    /// Whether `self`, seen after `before`, is another store or an older
    /// state of the same one: it was restored or begun anew.
    pub(super) const fn regressed(self, before: Self) -> bool {
        self.revision > 0
            && before.revision > 0
            && (self.cluster != before.cluster
                || self.revision < before.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe stands for a file whose disk hangs: whoever opens it waits.
    #[tokio::test]
    async fn tls_files_on_a_disk_that_hangs_hold_up_nothing_else() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----\n";
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, PEM).unwrap();
        let config = EtcdConfig {
            endpoints: vec!["https://127.0.0.1:1".to_owned()],
            tls: TlsFiles { ca: Some(ca.clone()), ..TlsFiles::default() },
            ..EtcdConfig::default()
        };
        let client = Client::new(config, 0).unwrap();
        std::fs::remove_file(&ca).unwrap();
        nix::unistd::mkfifo(&ca, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..3 {
            let limit = Duration::from_millis(20);
            let ended = timeout(limit, client.session()).await;
            assert!(ended.is_err(), "the file was not read");
        }
        // The one reader there is hears it, whoever waits for it.
        let writer = spawn_blocking(move || std::fs::write(&ca, PEM));
        let error = client.session().await.err().unwrap();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
        writer.await.unwrap().unwrap();
        assert!(client.shared.current.lock().await.reading.is_none());
    }
}
