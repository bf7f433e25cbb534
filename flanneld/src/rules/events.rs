//! Changes to nf_tables by others: also iptables makes them, where it is
//! built on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use netlink::nft::{Change, Event, Monitor, TableId};

use super::Ask;

/// Tells the thread of changes, once for all since its last pass.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    told: Arc<AtomicBool>,
    asks: Sender<Ask>,
}

// === impl Pending ===

impl Pending {
    pub(super) fn new(asks: Sender<Ask>) -> Self {
        Self { told: Arc::default(), asks }
    }

    /// A pass begins.
    pub(super) fn clear(&self) {
        self.told.store(false, Ordering::SeqCst);
    }

    /// Whether somebody still listens.
    fn tell(&self, what: String) -> bool {
        let told = self.told.swap(true, Ordering::SeqCst);
        told || self.asks.send(Ask::Disturbed(what)).is_ok()
    }
}

/// Starts a thread that tells of changes to `tables` by others than the one
/// with `port`.
///
/// # Errors
/// When the kernel refuses the socket, or the system the thread.
pub(super) fn spawn(
    pending: Pending,
    tables: BTreeSet<TableId>,
    port: u32,
) -> anyhow::Result<()> {
    let mut monitor = Monitor::open()?;
    std::thread::Builder::new().name("nft-monitor".to_owned()).spawn(
        move || {
            loop {
                let news = match monitor.next(None) {
                    Ok(event) => event.and_then(|e| judge(&e, &tables, port)),
                    Err(error) => {
                        tracing::error!(
                            "notifications of nf_tables ended ({error}): \
                             traffic rules are looked at once a minute only; \
                             restart flanneld"
                        );
                        return;
                    }
                };
                if news.is_some_and(|news| !pending.tell(news)) {
                    return;
                }
            }
        },
    )?;
    Ok(())
}

/// What an event means for us; `None` when nothing.
fn judge(
    event: &Event,
    tables: &BTreeSet<TableId>,
    port: u32,
) -> Option<String> {
    let change = match event {
        Event::Overrun => {
            return Some("notifications of nf_tables were lost".to_owned());
        }
        Event::Changed(change) => change,
    };
    let Change { tables: touched, port: by, process, .. } = change;
    if *by == port {
        return None;
    }
    let table = touched.intersection(tables).next()?;
    Some(match process {
        Some(process) => format!("{} changed table {table}", process.name),
        None => format!("table {table} was changed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::Family;

    fn event(family: Family, name: &str, port: u32) -> Event {
        Event::Changed(Change {
            tables: [TableId::new(family, name)].into(),
            port,
            generation: 2,
            process: None,
        })
    }

    #[test]
    fn only_foreign_changes_to_our_tables_are_news() {
        let ours = [TableId::new(Family::V4, "nat")].into();
        let judge = |event| judge(&event, &ours, 77);
        let news = Some("table ip nat was changed".to_owned());
        assert_eq!(judge(event(Family::V4, "nat", 5)), news);
        assert_eq!(judge(event(Family::V4, "nat", 77)), None, "our own");
        assert_eq!(judge(event(Family::V6, "nat", 5)), None);
        assert_eq!(judge(event(Family::V4, "other", 5)), None);
        assert!(judge(Event::Overrun).is_some());
    }

    #[test]
    fn many_changes_are_told_once_a_pass() {
        let (asks, inbox) = std::sync::mpsc::channel();
        let pending = Pending::new(asks);
        assert!(pending.tell("a".into()) && pending.tell("b".into()));
        assert_eq!(inbox.try_iter().count(), 1);
        pending.clear();
        assert!(pending.tell("c".into()));
        assert_eq!(inbox.try_iter().count(), 1);
        drop(inbox);
        pending.clear();
        assert!(!pending.tell("d".into()), "nobody listens");
    }
}
