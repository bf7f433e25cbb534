//! Kernel notifications: a thread that blocks on them and passes on what
//! concerns this daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipam::Subnet;
use netlink::addr::AddrInfo;
use netlink::fdb::FdbInfo;
use netlink::link::{self, LinkInfo};
use netlink::monitor::{Event, Group, Monitor, Object};
use netlink::neigh::NeighInfo;
use netlink::route::{RouteInfo, TABLE_MAIN};
use netlink::{Error, Socket};
use overlay::{Addr, FdbKey, IfName, Key, Mac, NeighKey, RouteKey, nexthop};
use tokio::sync::mpsc;

use crate::busy::THREADS;
use crate::world::PROTOCOL_KERNEL;

/// Notifications waiting for the loop. When it cannot keep up, the kernel's
/// own buffer fills, and then overruns: which is told.
const QUEUE: usize = 64;
/// Pause before listening anew.
const REOPEN: Duration = Duration::from_secs(1);
/// What broke off again within this time is the same trouble, and not said.
const QUIET: Duration = Duration::from_secs(60);
/// `NUD_NOARP`: entries that the kernel makes for itself.
const NOARP: u16 = 0x40;

/// What the daemon cares about.
#[derive(Clone, Debug)]
pub struct Interest {
    /// The devices that are ours, whether they exist or not.
    pub devices: BTreeSet<IfName>,
    /// The underlay interface.
    pub underlay: Underlay,
    /// The flannel networks: routes into them on any device.
    pub networks: Vec<Subnet>,
    /// Any link, address and route may decide which peers are reached
    /// directly, or which interface becomes the underlay.
    pub ways: Arc<AtomicBool>,
    /// The port of our own requests: their notifications are no news.
    pub own_port: u32,
    /// Counts how often notifications were lost.
    pub overruns: Arc<AtomicU32>,
}

/// The underlay interface, which may become another one. Clones share it.
#[derive(Clone, Debug)]
pub struct Underlay(Arc<Mutex<(u32, IfName)>>);

/// What has changed, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Anything: notifications were lost.
    Everything,
    /// This object, and what stands on it.
    Object(Key),
    /// This object, while what stands on it is told of by itself.
    Alone(Key),
    /// The way to some peer.
    Ways,
    /// The same, and a device of somebody else's was changed or has lost an
    /// address: IPv4 routes over it may be gone without a notification.
    Direct,
}

/// The thread's state.
struct Watch {
    interest: Interest,
    monitor: Monitor,
    names: Names,
}

/// The interesting devices there are, by index. Notifications about what
/// stands on a device give its index only.
#[derive(Debug, Default)]
struct Names(BTreeMap<u32, IfName>);

/// A trouble that comes again and again: its newest time.
#[derive(Debug, Default)]
struct Spell(Option<Instant>);

/// Starts the thread. It tells of [`Disturbance::Everything`] once it listens:
/// nothing that others change falls in between then. A refusal is said once,
/// and its end.
///
/// # Errors
/// When the system refuses the thread.
pub fn spawn(interest: Interest) -> io::Result<mpsc::Receiver<Disturbance>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        let open = || Watch::open(interest.clone());
        let begun = begin(open, REOPEN, || sender.is_closed());
        if let Some(watch) = begun
            && sender.blocking_send(Disturbance::Everything).is_ok()
        {
            watch.run(&sender);
        }
    })?;
    Ok(receiver)
}

/// What `open` gives, as soon as it does; `None` when it is `over` before.
fn begin<T>(
    mut open: impl FnMut() -> Result<T, Error>,
    pause: Duration,
    over: impl Fn() -> bool,
) -> Option<T> {
    let mut said = false;
    while !over() {
        match open() {
            Ok(opened) => {
                if said {
                    tracing::info!("the kernel is listened to");
                }
                return Some(opened);
            }
            Err(error) if !said => {
                tracing::warn!(
                    "the kernel cannot be listened to, changes by others are \
                     found once a minute until then: {error}"
                );
                said = true;
            }
            Err(error) => tracing::debug!("listening: {error}"),
        }
        thread::sleep(pause);
    }
    None
}

// === impl Watch ===

impl Watch {
    fn open(interest: Interest) -> Result<Self, Error> {
        THREADS.during(|| {
            let monitor = Monitor::open(&Group::ALL)?;
            let names = Names::read(&interest)?;
            Ok(Self { interest, monitor, names })
        })
    }

    /// Forwards until nobody listens any more.
    fn run(mut self, sender: &mpsc::Sender<Disturbance>) {
        let mut broke_off = Spell::default();
        loop {
            let news = match self.next() {
                Ok(Some(news)) => news,
                Ok(None) => continue,
                Err(error) => {
                    // In a storm of links, it does so again and again.
                    if broke_off.begins(Instant::now()) {
                        tracing::warn!(
                            "kernel notifications broke off, listening anew: \
                             {error}"
                        );
                    }
                    let Some(watch) = Self::anew(&self.interest, sender) else {
                        return;
                    };
                    self = watch;
                    self.interest.overrun();
                    Disturbance::Everything
                }
            };
            if sender.blocking_send(news).is_err() {
                return;
            }
        }
    }

    /// What the next event means for us; `None` when nothing.
    fn next(&mut self) -> Result<Option<Disturbance>, Error> {
        match self.monitor.next(None)? {
            Some(Event::Object { object, deleted, port }) => {
                Ok(self.names.judge(&self.interest, &object, deleted, port))
            }
            Some(Event::Overrun) => {
                self.interest.overrun();
                self.names = THREADS.during(|| Names::read(&self.interest))?;
                Ok(Some(Disturbance::Everything))
            }
            None => Ok(None),
        }
    }

    /// Another one, as soon as that is possible; `None` when nobody listens
    /// any more.
    fn anew(
        interest: &Interest,
        sender: &mpsc::Sender<Disturbance>,
    ) -> Option<Self> {
        while !sender.is_closed() {
            thread::sleep(REOPEN);
            match Self::open(interest.clone()) {
                Ok(watch) => return Some(watch),
                Err(error) => tracing::debug!("listening anew: {error}"),
            }
        }
        None
    }
}

// === impl Spell ===

impl Spell {
    /// The trouble is there at `now`. Whether it was away for [`QUIET`].
    fn begins(&mut self, now: Instant) -> bool {
        let before = self.0.replace(now);
        before.is_none_or(|before| now >= before + QUIET)
    }
}

// === impl Underlay ===

impl Underlay {
    /// The device `index`, called `name`.
    #[must_use]
    pub fn new(index: u32, name: IfName) -> Self {
        Self(Arc::new(Mutex::new((index, name))))
    }

    /// It is this one from now on.
    pub fn set(&self, index: u32, name: IfName) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (index, name);
    }

    fn get(&self) -> (u32, IfName) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Interest ===

impl Interest {
    fn name(&self, link: &LinkInfo) -> Option<IfName> {
        let name = IfName::new(&link.name)?;
        let (index, underlay) = self.underlay.get();
        let known = link.index == index
            || name == underlay
            || self.devices.contains(&name);
        known.then_some(name)
    }

    fn overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    /// What a change of somebody else's object means.
    fn others(&self, object: &Object, deleted: bool) -> Option<Disturbance> {
        let what = match object {
            Object::Link(_) => Disturbance::Direct,
            Object::Addr(_) if deleted => Disturbance::Direct,
            Object::Addr(_) | Object::Route(_) => Disturbance::Ways,
            Object::Neigh(_) | Object::Fdb(_) | Object::Nexthop(_) => {
                return None;
            }
        };
        self.ways.load(Ordering::Relaxed).then_some(what)
    }
}

// === impl Names ===

impl Names {
    fn read(interest: &Interest) -> Result<Self, Error> {
        let links = link::list(&mut Socket::open()?, link::Filter::default())?;
        let named = links
            .items
            .iter()
            .filter_map(|link| Some((link.index, interest.name(link)?)));
        Ok(Self(named.collect()))
    }

    /// What a change of `object` by the socket of that port means for us.
    fn judge(
        &mut self,
        interest: &Interest,
        object: &Object,
        deleted: bool,
        port: u32,
    ) -> Option<Disturbance> {
        // Before anything else: also a device of our own making is one.
        let (link, alone) = if let Object::Link(link) = object {
            self.link(interest, link, deleted)
        } else {
            // An address that is added takes nothing away.
            (None, matches!(object, Object::Addr(_)) && !deleted)
        };
        if port == interest.own_port {
            return None;
        }
        let key = match object {
            Object::Link(_) => link.map(Key::Link),
            Object::Addr(addr) => self.addr(interest, addr),
            Object::Route(route) => self.route(interest, route),
            Object::Neigh(neigh) => self.neigh(interest, neigh),
            Object::Fdb(fdb) => self.fdb(interest, fdb),
            Object::Nexthop(info) => {
                nexthop::is_ours(info.id).then_some(Key::Nexthop(info.id))
            }
        };
        match key {
            Some(key) if alone => Some(Disturbance::Alone(key)),
            Some(key) => Some(Disturbance::Object(key)),
            None => interest.others(object, deleted),
        }
    }

    /// Follows the device, which may have been renamed. With it, whether it
    /// is a device of ours that was there and is, and is up: nothing went
    /// away with it.
    fn link(
        &mut self,
        interest: &Interest,
        link: &LinkInfo,
        deleted: bool,
    ) -> (Option<IfName>, bool) {
        let now = interest.name(link).filter(|_| !deleted);
        let before = match now {
            Some(name) => self.0.insert(link.index, name),
            None => self.0.remove(&link.index),
        };
        let ours = now.is_some_and(|name| interest.devices.contains(&name));
        (before.or(now), ours && before == now && link.up)
    }

    fn addr(&self, interest: &Interest, info: &AddrInfo) -> Option<Key> {
        let (index, underlay) = interest.underlay.get();
        let link = match self.0.get(&info.index) {
            Some(link) => *link,
            // chosen since it was last told of
            None if info.index == index => underlay,
            None => return None,
        };
        // Those of our devices the kernel makes by itself; they stay.
        let local = matches!(info.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
            && interest.devices.contains(&link);
        let addr = Addr { ip: info.ip, len: info.len, peer: info.peer };
        (!local).then_some(Key::Addr(link, addr))
    }

    fn route(&self, interest: &Interest, info: &RouteInfo) -> Option<Key> {
        if info.table != TABLE_MAIN || info.protocol == PROTOCOL_KERNEL {
            return None;
        }
        let on_ours = info.oif.is_some_and(|oif| self.is_ours(interest, oif));
        let by_ours = info.nexthop.is_some_and(nexthop::is_ours);
        let into_ours =
            || interest.networks.iter().any(|n| n.covers(&info.dst));
        let key = RouteKey { dst: info.dst, metric: info.metric };
        (on_ours || by_ours || into_ours()).then_some(Key::Route(key))
    }

    /// Not those of the underlay: they change all the time.
    fn neigh(&self, interest: &Interest, info: &NeighInfo) -> Option<Key> {
        let link = *self.0.get(&info.index)?;
        let ours = interest.devices.contains(&link) && info.state & NOARP == 0;
        ours.then_some(Key::Neigh(NeighKey { link, ip: info.ip }))
    }

    fn fdb(&self, interest: &Interest, info: &FdbInfo) -> Option<Key> {
        let link = *self.0.get(&info.index)?;
        let ours = interest.devices.contains(&link) && info.dst.is_some();
        ours.then_some(Key::Fdb(FdbKey { link, mac: Mac(info.mac) }))
    }

    fn is_ours(&self, interest: &Interest, index: u32) -> bool {
        let name = self.0.get(&index);
        name.is_some_and(|name| interest.devices.contains(name))
    }
}

#[cfg(test)]
mod tests;
