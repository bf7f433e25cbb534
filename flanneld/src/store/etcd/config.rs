//! The network configuration in etcd (E-1): read again and again until one
//! is there that can be used.

use std::time::Duration;

use ipam::netconf::{NetConf, SubnetRange};
use ipam::{PerFamily, Secret};
use tokio::time::sleep;

use super::client::{CALL_LIMIT, Client, kv};
use crate::store::StatusSender;

/// Pause between two reads (C-65).
const RETRY: Duration = Duration::from_secs(1);

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
        let (config, store, missing) = match read(client).await {
            Ok(config) => (Some(config), None, None),
            Err(Missing::Config(reason)) => (None, None, Some(reason)),
            Err(Missing::Store(reason)) => (None, Some(reason), None),
        };
        status.store(store);
        status.config(missing);
        if let Some(config) = config {
            return config;
        }
        sleep(RETRY).await;
    }
}

/// Reads the configuration once; the error says what a person should do.
async fn read(client: &Client) -> Result<Config, Missing> {
    let key = client.keys().config();
    let mut answer = client
        .repeatable(
            CALL_LIMIT,
            |etcd| async move { kv(&etcd).get(key, None).await },
        )
        .await
        .map_err(|e| {
            Missing::Store(format!("cannot read the network config: {e}"))
        })?;
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
    let (netconf, warnings) = NetConf::parse(&text).map_err(refused)?;
    let ranges = netconf.ranges().map_err(refused)?;
    for warning in warnings {
        tracing::warn!("the network config in {key}: {warning}");
    }
    Ok(Config { text: Secret::new(text), netconf, ranges, revision })
}
