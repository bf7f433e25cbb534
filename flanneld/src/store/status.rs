//! What the store is waiting for, in words for people.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// What is wrong with the store at the moment, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Why the store cannot be asked for the network configuration.
    pub store: Option<Arc<str>>,
    /// Why there is no network configuration yet.
    pub config: Option<Arc<str>>,
    /// Why the other nodes' leases cannot be followed.
    pub watch: Option<Arc<str>>,
    /// Why the own lease is not held or could not be renewed.
    pub lease: Option<Arc<str>>,
    /// Since when the leases are followed without a break, on the clock of
    /// [`since_boot`](crate::clock::since_boot); `None` while they are not.
    /// To be read at any time: a change is no news.
    pub followed_since: Option<Duration>,
    /// Attempts to reach the store that failed. No news either.
    pub errors: u64,
}

/// Keeps a [`StoreStatus`] and logs its changes: once each, not each attempt.
#[derive(Clone, Debug)]
pub struct StatusSender(watch::Sender<StoreStatus>);

// === impl StoreStatus ===

impl StoreStatus {
    /// All that is wrong in one line; `None` when nothing is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let mut parts: Vec<&str> = Vec::new();
        // what keeps the leases from being followed is said once
        let store = match self.watch {
            Some(_) => &None,
            None => &self.store,
        };
        for part in [store, &self.config, &self.lease, &self.watch] {
            if let Some(text) = part.as_deref()
                && !parts.contains(&text)
            {
                parts.push(text);
            }
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

// === impl StatusSender ===

impl StatusSender {
    /// A status in which nothing is wrong yet.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<StoreStatus>) {
        let (sender, receiver) = watch::channel(StoreStatus::default());
        (Self(sender), receiver)
    }

    /// Sets [`StoreStatus::store`].
    pub fn store(&self, reason: Option<String>) {
        self.set("etcd", reason, |s| &mut s.store);
    }

    /// Sets [`StoreStatus::config`].
    pub fn config(&self, reason: Option<String>) {
        self.set("network config", reason, |s| &mut s.config);
    }

    /// Sets [`StoreStatus::watch`].
    pub fn watch(&self, reason: Option<String>) {
        self.set("peers' leases", reason, |s| &mut s.watch);
    }

    /// Sets [`StoreStatus::lease`].
    pub fn lease(&self, reason: Option<String>) {
        self.set("own lease", reason, |s| &mut s.lease);
    }

    /// The leases are followed, from `now` on if they were not.
    pub fn followed(&self, now: Duration) {
        self.quietly(|status| {
            status.followed_since.get_or_insert(now);
        });
    }

    /// They are not followed any more.
    pub fn lost(&self) {
        self.quietly(|status| status.followed_since = None);
    }

    /// Counts an attempt to reach the store that failed.
    pub fn failed(&self) {
        self.quietly(|status| status.errors += 1);
    }

    fn quietly(&self, change: impl FnOnce(&mut StoreStatus)) {
        self.0.send_if_modified(|status| {
            change(status);
            false
        });
    }

    fn set(
        &self,
        what: &str,
        reason: Option<String>,
        part: impl Fn(&mut StoreStatus) -> &mut Option<Arc<str>>,
    ) {
        self.0.send_if_modified(|status| {
            let slot = part(status);
            if slot.as_deref() == reason.as_deref() {
                return false;
            }
            match &reason {
                Some(reason) => tracing::warn!("{what}: {reason}"),
                None => tracing::info!("{what}: all right again"),
            }
            *slot = reason.map(Arc::from);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_reason_is_not_news() {
        let (sender, mut receiver) = StatusSender::new();
        sender.config(Some("no key".into()));
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        sender.config(Some("no key".into()));
        assert!(!receiver.has_changed().unwrap());
        sender.lease(Some("full".into()));
        assert_eq!(receiver.borrow().reason().as_deref(), Some("no key; full"));
        sender.config(None);
        sender.lease(None);
        sender.store(Some("no etcd: a".into()));
        assert_eq!(receiver.borrow().reason().as_deref(), Some("no etcd: a"));
        sender.watch(Some("away: a".into()));
        assert_eq!(receiver.borrow().reason().as_deref(), Some("away: a"));
        sender.store(None);
        sender.watch(None);
        assert_eq!(receiver.borrow().reason(), None);
    }

    #[test]
    fn what_is_measured_is_not_news() {
        let at = Duration::from_secs;
        let (sender, receiver) = StatusSender::new();
        sender.failed();
        sender.followed(at(5));
        sender.followed(at(7));
        sender.failed();
        assert!(!receiver.has_changed().unwrap());
        assert_eq!(receiver.borrow().followed_since, Some(at(5)));
        assert_eq!(receiver.borrow().errors, 2);
        sender.lost();
        assert_eq!(receiver.borrow().followed_since, None);
        sender.followed(at(9));
        assert_eq!(receiver.borrow().followed_since, Some(at(9)));
    }
}
