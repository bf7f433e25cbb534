//! Carrying out the commands of the own lease's state machine.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use ipam::lease::SubnetKey;

use super::client::{Again, CALL_LIMIT, Client, kv};
use super::error::Error;
use crate::own_lease::{Command, Granted, Version, Write};
use crate::store::{Found, Kv, Outcome};

/// Carries out `command`.
pub(super) async fn execute(client: &Client, command: &Command) -> Outcome {
    match command {
        Command::Write(write) => self::write(client, write).await,
        Command::Read(key) => read(client, *key).await,
        Command::Delete { key, expect } => delete(client, *key, *expect).await,
    }
}

/// Revokes an etcd lease. Nothing depends on it: it would end by itself.
pub(super) async fn revoke(client: &Client, id: i64) {
    let revoked = client
        .call(CALL_LIMIT, Again::Undone, |etcd| async move {
            etcd.lease_client().revoke(id).await
        })
        .await;
    if let Err(error) = revoked {
        tracing::debug!("etcd lease {id:x} is left to expire: {error}");
    }
}

async fn write(client: &Client, write: &Write) -> Outcome {
    let granted = match write.ttl {
        None => Granted::default(),
        Some(ttl) => match grant(client, ttl).await {
            Ok(granted) => granted,
            Err(error) => {
                return Outcome::Failed {
                    reason: error.to_string(),
                    // at worst a lease without a key was granted
                    ambiguous: false,
                    granted: Granted::default(),
                };
            }
        },
    };
    let options = PutOptions::new().with_lease(granted.id);
    let key = write.lease.key;
    let value = write.lease.attrs.encode();
    let put = TxnOp::put(client.keys().lease(&key), value, Some(options));
    match transact(client, key, write.expect, put).await {
        Ok(Transacted::Done(revision)) => {
            Outcome::Written { revision, granted }
        }
        Ok(Transacted::Unexpected(found)) => {
            Outcome::Unexpected { found, granted: granted.id }
        }
        Err(error) => failed(&error, granted),
    }
}

async fn delete(client: &Client, key: SubnetKey, expect: Version) -> Outcome {
    let delete = TxnOp::delete(client.keys().lease(&key), None);
    match transact(client, key, expect, delete).await {
        Ok(Transacted::Done(revision)) => Outcome::Deleted { key, revision },
        Ok(Transacted::Unexpected(found)) => {
            Outcome::Unexpected { found, granted: 0 }
        }
        Err(error) => failed(&error, Granted::default()),
    }
}

async fn read(client: &Client, key: SubnetKey) -> Outcome {
    let full = client.keys().lease(&key);
    let answer = client
        .call(CALL_LIMIT, Again::Always, |etcd| {
            let full = full.clone();
            async move { kv(&etcd).get(full, None).await }
        })
        .await;
    match answer {
        Ok(answer) => Outcome::Read(found(client, key, answer)),
        Err(error) => failed(&error, Granted::default()),
    }
}

fn failed(error: &Error, granted: Granted) -> Outcome {
    Outcome::Failed {
        reason: error.to_string(),
        ambiguous: error.ambiguous(),
        granted,
    }
}

async fn grant(client: &Client, ttl: Duration) -> Result<Granted, Error> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let answer = client
        .call(CALL_LIMIT, Again::Always, |etcd| async move {
            etcd.lease_client().grant(seconds, None).await
        })
        .await?;
    let ttl = u64::try_from(answer.ttl()).unwrap_or(0);
    Ok(Granted { id: answer.id(), ttl: Duration::from_secs(ttl) })
}

enum Transacted {
    /// At this revision.
    Done(i64),
    /// The key was another than expected.
    Unexpected(Found),
}

/// Does `op` if `key` is as expected, else reads it.
async fn transact(
    client: &Client,
    key: SubnetKey,
    expect: Version,
    op: TxnOp,
) -> Result<Transacted, Error> {
    let full = client.keys().lease(&key);
    let equal = CompareOp::Equal;
    let guards = [
        Compare::mod_revision(&*full, equal, expect.mod_revision),
        Compare::lease(&*full, equal, expect.lease_id),
    ];
    let txn = Txn::new()
        .when(guards)
        .and_then([op])
        .or_else([TxnOp::get(full, None)]);
    let answer = client
        .call(CALL_LIMIT, Again::Undone, |etcd| {
            let txn = txn.clone();
            async move { kv(&etcd).txn(txn).await }
        })
        .await?;
    let revision = answer.header().map_or(0, |h| h.revision());
    if answer.succeeded() {
        return Ok(Transacted::Done(revision));
    }
    let get = answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(get) => Some(get),
        TxnOpResponse::Put(_)
        | TxnOpResponse::Delete(_)
        | TxnOpResponse::Txn(_) => None,
    });
    let entry = get.and_then(|get| found(client, key, get).entry);
    Ok(Transacted::Unexpected(Found { key, entry, revision }))
}

fn found(client: &Client, key: SubnetKey, mut answer: GetResponse) -> Found {
    let revision = answer.header().map_or(0, |h| h.revision());
    let prefix = client.keys().subnets();
    let entry = answer.take_kvs().pop().map(|kv| Kv::new(kv, &prefix));
    Found { key, entry, revision }
}
