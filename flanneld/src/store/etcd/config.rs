//! The network configuration in etcd (E-1): read again and again until one
//! is there that can be used, and watched from then on.

use std::time::Duration;

use etcd_client::{GetResponse, ResponseHeader, WatchOptions};
use ipam::netconf::{ConfigError, NetConf, SubnetRange, Warning};
use ipam::{PerFamily, Secret};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::{Again, CALL_LIMIT, Client, kv};
use crate::cli;
use crate::store::StatusSender;

/// Pause between two reads (C-65).
const RETRY: Duration = Duration::from_secs(1);
/// A watch that says nothing so long is opened anew.
const LONGEST_WATCH: Duration = Duration::from_secs(15 * 60);

/// A usable network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As it is stored. It may hold keys of WireGuard or IPsec.
    pub text: Secret<String>,
    /// As it is understood.
    pub netconf: NetConf,
    /// Where the subnets of each enabled family come from.
    pub ranges: PerFamily<SubnetRange>,
    /// The revision of its last change.
    pub revision: i64,
    warnings: Vec<Warning>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It names the key, its value and what would be accepted.
    #[error(transparent)]
    Wrong(#[from] ConfigError),
    /// What this version cannot do, and what to write instead.
    #[error("{0}")]
    Absent(String),
}

impl Config {
    /// Reads the configuration `text`, last changed at `revision`.
    ///
    /// # Errors
    /// [`Unusable`]
    pub fn parse(text: String, revision: i64) -> Result<Self, Unusable> {
        let (netconf, warnings) = NetConf::parse(&text)?;
        let ranges = netconf.ranges()?;
        cli::netconf(&netconf).map_err(Unusable::Absent)?;
        let text = Secret::new(text);
        Ok(Self { text, netconf, ranges, revision, warnings })
    }

    /// Logs what is odd about it although it can be used: once, by whoever
    /// starts to use it.
    fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("the network config: {warning}");
        }
    }
}

/// Why there is no configuration yet, in words for a person.
enum Missing {
    /// etcd does not answer, or refuses to.
    Store(String),
    /// It holds none that can be used.
    Config(String),
}

/// Waits for a usable configuration; says in `status` what is missing.
pub(super) async fn wait(client: &Client, status: &StatusSender) -> Config {
    loop {
        let (config, store, missing) = match read(client).await.0 {
            Ok(config) => (Some(config), None, None),
            Err(Missing::Config(reason)) => (None, None, Some(reason)),
            Err(Missing::Store(reason)) => {
                status.failed();
                (None, Some(reason), None)
            }
        };
        status.store(store);
        status.config(missing);
        if let Some(config) = config {
            config.warn();
            return config;
        }
        sleep(RETRY).await;
    }
}

/// Follows the configuration for ever: `news` has it once it is another text
/// than `known`. While there is none that can be used, `status` says so; that
/// etcd does not answer is said by those who follow the leases.
pub(super) async fn follow(
    client: Client,
    status: StatusSender,
    mut known: Secret<String>,
    news: watch::Sender<Option<Config>>,
) {
    loop {
        let (result, revision) = read(&client).await;
        if revision.is_some() {
            status.store(None);
        }
        match result {
            Ok(config) => {
                status.config(None);
                if config.text != known {
                    config.warn();
                    known = config.text.clone();
                    news.send_replace(Some(config));
                }
            }
            Err(Missing::Config(reason)) => {
                let reason = format!("{reason}; the one in use stays in use");
                status.config(Some(reason));
            }
            Err(Missing::Store(_)) => status.failed(),
        }
        if let Some(revision) = revision
            && let Err(error) = changed(&client, revision + 1).await
        {
            tracing::debug!("watch of the network config: {error}");
        }
        sleep(RETRY).await;
    }
}

/// Until something may have happened to the key from `revision` on, or the
/// watch ends.
async fn changed(
    client: &Client,
    revision: i64,
) -> Result<(), etcd_client::Error> {
    let Ok(session) = client.session().await else { return Ok(()) };
    let options = WatchOptions::new()
        .with_start_revision(revision)
        .with_progress_notify();
    let key = client.keys().config();
    let mut watcher = session.etcd.watch_client();
    let opening = watcher.watch(key, Some(options));
    let Ok(stream) = timeout(CALL_LIMIT, opening).await else {
        return Ok(());
    };
    let mut stream = stream?;
    // looked at again now and then, whatever the watch says
    let until = Instant::now() + LONGEST_WATCH;
    while let Ok(message) = timeout_at(until, stream.message()).await {
        match message? {
            Some(message)
                if message.events().is_empty() && !message.canceled() => {}
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Reads the configuration once; the error says what a person should do. The
/// revision is the store's, if it answered.
async fn read(client: &Client) -> (Result<Config, Missing>, Option<i64>) {
    let key = client.keys().config();
    let answer = client
        .call(CALL_LIMIT, Again::Always, |etcd| async move {
            kv(&etcd).get(key, None).await
        })
        .await;
    match answer {
        Ok(answer) => {
            let revision = answer.header().map(ResponseHeader::revision);
            (usable(client, answer), revision)
        }
        Err(e) => {
            let reason = format!("cannot read the network config: {e}");
            (Err(Missing::Store(reason)), None)
        }
    }
}

fn usable(client: &Client, mut answer: GetResponse) -> Result<Config, Missing> {
    let key = client.keys().config();
    let Some(entry) = answer.take_kvs().pop() else {
        return Err(Missing::Config(format!(
            "key {key} does not exist in etcd at {}: put the network config \
             there: etcdctl put {key} '{{\"Network\": \"10.5.0.0/16\", \
             \"Backend\": {{\"Type\": \"vxlan\"}}}}'",
            client.endpoints()
        )));
    };
    let revision = entry.mod_revision();
    let (_, value) = entry.into_key_value();
    // as Go reads it: a stray byte in a string is no error
    let text = String::from_utf8_lossy(&value).into_owned();
    let refused =
        |e| Missing::Config(format!("the network config in {key}: {e}"));
    Config::parse(text, revision).map_err(refused)
}
