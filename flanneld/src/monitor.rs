//! Kernel notifications: a thread that blocks on them and passes on what
//! concerns this daemon.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use netlink::monitor::{Event, Group, Monitor, Object};
use overlay::IfName;
use tokio::sync::mpsc;

/// Notifications waiting for the loop. When it cannot keep up, the kernel's
/// own buffer fills, and then overruns: which is told.
const QUEUE: usize = 64;

/// What the daemon cares about. Shared with the thread.
#[derive(Clone, Debug, Default)]
pub struct Interest(Arc<Mutex<Interests>>);

#[derive(Debug, Default)]
struct Interests {
    /// Devices of ours and the underlay interface.
    links: BTreeSet<IfName>,
    /// Their indexes, as far as they exist.
    indexes: BTreeSet<u32>,
    /// Routes of others decide which peers are reached directly.
    any_route: bool,
    /// The port of our own requests: their notifications are no news.
    own_port: u32,
}

/// Something that concerns us has changed, in words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance(pub String);

// === impl Interest ===

impl Interest {
    /// Interest in the devices `links`; `own_port` names our own requests.
    #[must_use]
    pub fn new(
        links: impl IntoIterator<Item = IfName>,
        any_route: bool,
        own_port: u32,
    ) -> Self {
        Self(Arc::new(Mutex::new(Interests {
            links: links.into_iter().collect(),
            indexes: BTreeSet::new(),
            any_route,
            own_port,
        })))
    }

    /// Says which indexes the devices have now.
    pub fn set_indexes(&self, indexes: impl IntoIterator<Item = u32>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.indexes = indexes.into_iter().collect();
    }

    fn judge(&self, event: &Event) -> Option<Disturbance> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.judge(event).map(Disturbance)
    }
}

// === impl Interests ===

impl Interests {
    /// What an event means for us; `None` when nothing.
    fn judge(&self, event: &Event) -> Option<String> {
        let (object, deleted) = match event {
            Event::Overrun => {
                return Some("notifications were lost".to_owned());
            }
            Event::Object { port, .. } if *port == self.own_port => {
                return None;
            }
            Event::Object { object, deleted, .. } => (object, *deleted),
        };
        let has = |index: &u32| self.indexes.contains(index);
        let what = match object {
            Object::Link(link) => {
                let named = IfName::new(&link.name)
                    .is_some_and(|n| self.links.contains(&n));
                (named || has(&link.index))
                    .then(|| format!("link {}", link.name))
            }
            Object::Addr(addr) => {
                has(&addr.index).then(|| format!("address {}", addr.ip))
            }
            Object::Route(route) => {
                let on_ours = route.oif.as_ref().is_some_and(has);
                (on_ours || self.any_route)
                    .then(|| format!("route to {}", route.dst))
            }
            Object::Neigh(neigh) => {
                has(&neigh.index).then(|| format!("neighbour {}", neigh.ip))
            }
            Object::Fdb(fdb) => {
                has(&fdb.index).then(|| "forwarding entry".to_owned())
            }
            Object::Nexthop(nexthop) => overlay::nexthop::is_ours(nexthop.id)
                .then(|| format!("nexthop {}", nexthop.id)),
        }?;
        Some(format!(
            "{what} was {}",
            if deleted { "deleted" } else { "changed" }
        ))
    }
}

/// Starts the thread. Look at the kernel after this, not before: nothing
/// falls in between then.
///
/// # Errors
/// When the kernel refuses the socket, or the system the thread.
pub fn spawn(
    interest: Interest,
) -> anyhow::Result<mpsc::Receiver<Disturbance>> {
    let groups = [
        Group::Links,
        Group::Addrs,
        Group::Routes,
        Group::Neighs,
        Group::Nexthops,
    ];
    let mut monitor = Monitor::open(&groups)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        loop {
            match monitor.next(None) {
                Ok(Some(event)) => {
                    if let Some(news) = interest.judge(&event)
                        && sender.blocking_send(news).is_err()
                    {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(
                        "kernel notifications ended ({error}): drift is repaired \
                         by the slow check only; restart flanneld"
                    );
                    return;
                }
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::fdb::FdbInfo;

    fn fdb(index: u32, port: u32) -> Event {
        let info = FdbInfo {
            index,
            mac: [2, 0, 0, 0, 0, 1],
            dst: None,
            port: None,
            vni: None,
            via: None,
            vlan: None,
            master: None,
            state: 0x80,
            flags: 2,
        };
        Event::Object { object: Object::Fdb(info), deleted: true, port }
    }

    #[test]
    fn only_foreign_changes_on_our_devices_are_news() {
        let interest = Interest::new(IfName::new("flannel.1"), false, 77);
        interest.set_indexes([5]);
        let news = Disturbance("forwarding entry was deleted".into());
        assert_eq!(interest.judge(&fdb(5, 0)), Some(news));
        assert_eq!(interest.judge(&fdb(5, 77)), None, "our own doing");
        assert_eq!(interest.judge(&fdb(6, 0)), None, "somebody else's device");
    }

    #[test]
    fn lost_notifications_are_always_news() {
        assert!(Interest::default().judge(&Event::Overrun).is_some());
    }
}
