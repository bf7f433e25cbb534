//! What the kernel tells of a node's tunnels, with the time at which it did.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ipam::Subnet;
use netlink::NetNs;
use netlink::link::Mac;
use netlink::monitor::{Event, Group, Monitor, Object};
use netlink::nft::{self, TableId};

use crate::host::Host;

/// An object, as far as a daemon is to keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Link {
        name: String,
        up: bool,
        mtu: u32,
    },
    Addr(IpAddr),
    Neigh(IpAddr),
    Fdb(Mac),
    Route(Subnet),
    /// Whether it was made or deleted is not told.
    Rules(TableId),
}

/// Something that has happened to one.
#[derive(Clone, Debug)]
pub(super) struct News {
    at: Instant,
    pub(super) mark: Mark,
    deleted: bool,
}

/// A thread that listens in a host's namespace, until this is dropped and
/// something else happens there.
pub(super) struct Watch {
    news: Receiver<News>,
}

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(10);

// === impl Watch ===

impl Watch {
    /// Listens to what happens to tunnels.
    pub(super) fn start(host: &Host, groups: &[Group]) -> Result<Self> {
        let namespace = NetNs::open(host.netns())?;
        let mut monitor = Monitor::open_in(&namespace, groups)?;
        Ok(Self::spawn(move || {
            let mut heard = Vec::new();
            if let Event::Object { object, deleted, .. } =
                monitor.next(Some(6 * LIMIT)).ok()??
            {
                heard.extend(Mark::of(&object).map(|mark| (mark, deleted)));
            }
            Some(heard)
        }))
    }

    /// Listens to what happens to tables of rules.
    pub(super) fn rules(host: &Host) -> Result<Self> {
        let namespace = NetNs::open(host.netns())?;
        let mut monitor = nft::Monitor::open_in(&namespace)?;
        Ok(Self::spawn(move || {
            let mut heard = Vec::new();
            if let nft::Event::Changed(change) =
                monitor.next(Some(6 * LIMIT)).ok()??
            {
                let tables = change.tables.into_iter();
                heard.extend(tables.map(|id| (Mark::Rules(id), false)));
            }
            Some(heard)
        }))
    }

    /// Listens with `hear`, which blocks, until that gives up.
    fn spawn(
        mut hear: impl FnMut() -> Option<Vec<(Mark, bool)>> + Send + 'static,
    ) -> Self {
        let (sender, news) = channel();
        std::thread::spawn(move || {
            while let Some(heard) = hear() {
                let at = Instant::now();
                for (mark, deleted) in heard {
                    if sender.send(News { at, mark, deleted }).is_err() {
                        return;
                    }
                }
            }
        });
        Self { news }
    }

    /// Forgets what was told so far.
    pub(super) fn forget(&self) {
        while self.news.try_recv().is_ok() {}
    }

    /// When the first of the news came that `is` so.
    pub(super) fn first(
        &self,
        mut is: impl FnMut(&News) -> bool,
    ) -> Result<Instant> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(news) if is(&news) => return Ok(news.at),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("nothing was told"),
                Err(RecvTimeoutError::Disconnected) => bail!("nobody listens"),
            }
        }
    }

    /// When the last of `marks` was told to be there.
    pub(super) fn all(&self, mut marks: Vec<Mark>) -> Result<Instant> {
        self.first(|news| {
            if !news.deleted {
                marks.retain(|mark| *mark != news.mark);
            }
            marks.is_empty()
        })
    }
}

// === impl Mark ===

impl Mark {
    /// `None` for what is of no interest, such as a neighbour that the kernel
    /// knows of for a while.
    fn of(object: &Object) -> Option<Self> {
        Some(match object {
            Object::Link(link) => Self::Link {
                name: link.name.clone(),
                up: link.up,
                mtu: link.mtu,
            },
            Object::Addr(addr) => Self::Addr(addr.ip),
            Object::Neigh(neigh) if neigh.permanent() => Self::Neigh(neigh.ip),
            Object::Fdb(fdb) => Self::Fdb(fdb.mac),
            Object::Route(route) => Self::Route(route.dst),
            Object::Neigh(_) | Object::Nexthop(_) => return None,
        })
    }
}
