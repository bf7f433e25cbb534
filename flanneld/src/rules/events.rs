//! Changes to nf_tables by others: also iptables makes them, where it is
//! built on it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use netlink::Error;
use netlink::nft::{Change, Event, Monitor, TableId};

use super::Ask;
use crate::busy::THREADS;

/// Pause before listening anew.
const REOPEN: Duration = Duration::from_secs(1);

/// Tells the thread of changes, once for all since its last pass.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    told: Arc<AtomicBool>,
    /// Nobody listens to the kernel for now.
    deaf: Arc<AtomicBool>,
    asks: Sender<Ask>,
}

// === impl Pending ===

impl Pending {
    pub(super) fn new(asks: Sender<Ask>) -> Self {
        Self { told: Arc::default(), deaf: Arc::default(), asks }
    }

    /// Whether changes are not told of for now.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
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
    let next = move |broken: bool| {
        if broken {
            std::thread::sleep(REOPEN);
            monitor = THREADS.during(Monitor::open)?;
            return Ok(Some(Event::Overrun));
        }
        monitor.next(None)
    };
    std::thread::Builder::new()
        .name("nft-monitor".to_owned())
        .spawn(move || listen(&pending, &tables, port, next))?;
    Ok(())
}

/// Tells of what is `next` until nobody listens any more. That is asked
/// whether it is to begin anew, after it has failed.
fn listen(
    pending: &Pending,
    tables: &BTreeSet<TableId>,
    port: u32,
    mut next: impl FnMut(bool) -> Result<Option<Event>, Error>,
) {
    loop {
        let broken = pending.is_deaf();
        let news = match next(broken) {
            Ok(event) => {
                pending.deaf.store(false, Ordering::SeqCst);
                event.and_then(|e| judge(&e, tables, port))
            }
            Err(error) if broken => {
                tracing::debug!("listening anew to nf_tables: {error}");
                None
            }
            Err(error) => {
                tracing::warn!(
                    "notifications of nf_tables broke off, listening anew: \
                     {error}"
                );
                pending.deaf.store(true, Ordering::SeqCst);
                Some("notifications of nf_tables broke off".to_owned())
            }
        };
        if news.is_some_and(|news| !pending.tell(news)) {
            return;
        }
    }
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

    /// Each answer is also what ends the loop in the end: nobody listens.
    #[test]
    fn what_broke_off_is_listened_to_anew() {
        let (asks, inbox) = std::sync::mpsc::channel();
        let pending = Pending::new(asks);
        let tables = [TableId::new(Family::V4, "nat")].into();
        let mut inbox = Some(inbox);
        let mut heard = Vec::new();
        let mut asked = Vec::new();
        listen(&pending, &tables, 77, |broken| {
            asked.push(broken);
            if let Some(inbox) = &inbox {
                let told = inbox.try_iter().map(|ask| format!("{ask:?}"));
                heard.push((pending.is_deaf(), told.collect::<Vec<_>>()));
            }
            pending.clear();
            match asked.len() {
                1 => Ok(Some(event(Family::V4, "nat", 5))),
                2 | 3 => Err(Error::Undecodable {
                    object: "x".to_owned(),
                    count: 1,
                    reason: "y".to_owned(),
                }),
                4 => Ok(Some(Event::Overrun)),
                _ => {
                    inbox = None;
                    Ok(Some(event(Family::V4, "nat", 5)))
                }
            }
        });
        assert_eq!(asked, [false, false, true, true, false]);
        let told = |text: &str| vec![format!("Disturbed({text:?})")];
        assert_eq!(
            heard,
            [
                (false, vec![]),
                (false, told("table ip nat was changed")),
                (true, told("notifications of nf_tables broke off")),
                (true, vec![]),
                (false, told("notifications of nf_tables were lost")),
            ]
        );
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
