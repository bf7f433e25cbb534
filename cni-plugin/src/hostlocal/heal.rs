//! Addresses that nobody released come back by themselves (P15): on ADD when
//! none is left, on GC, on STATUS when few are. Those that host-local gave to
//! another program's plugin come back on GC only, unless they are nobody's.

use std::net::IpAddr;

use ipam::Subnet;
use ipam::gojson::Object;
use ipam::pool::{Attachment, Count, Pool, Reservation};

use super::conf::Conf;
use super::{HostLocal, failed};
use crate::alive::Alive;
use crate::protocol::{Call, CniError, ValidAttachments, code, log};

// === impl HostLocal ===

impl HostLocal {
    /// Gives back what belongs to no attachment in `valid`, but for addresses
    /// that are in use all the same: nobody must get those.
    ///
    /// # Errors
    /// What could not be given back and why; all else has been.
    pub(crate) fn gc(
        &self,
        call: &Call,
        valid: &ValidAttachments,
    ) -> Result<(), CniError> {
        call.deadline.enter("looking for addresses nobody uses")?;
        let Some(mut pool) = self.existing(call)? else { return Ok(()) };
        let mut all = pool.reservations().map_err(|e| failed(&e))?;
        all.retain(|r| !r.attachment.as_ref().is_some_and(|a| is_in(valid, a)));
        let alive = match all.is_empty() {
            true => Alive::default(),
            false => Alive::survey(&self.network)?,
        };
        let (used, dead): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| {
            let link = |of| alive.has_link(&self.network, of);
            alive.has_address(r.ip) || r.attachment.as_ref().is_some_and(link)
        });
        self.reclaim(&mut pool, &addresses(&dead))?;
        match used.first() {
            None => Ok(()),
            Some(first) => Err(CniError::new(
                code::TRY_AGAIN,
                format!(
                    "network {:?}: {} of no valid attachment are in use on \
                     this host and stay reserved, the first is {}",
                    self.network,
                    used.len(),
                    first.ip
                ),
            )),
        }
    }

    /// Whether there are addresses to give.
    ///
    /// # Errors
    /// Code 50 when there are none, or the configuration is wrong.
    pub(crate) fn status(
        &self,
        conf: &Object<'_>,
        call: &Call,
    ) -> Result<(), CniError> {
        let unable = CniError::unavailable;
        let conf = Conf::read(conf, call).map_err(unable)?;
        call.deadline.enter("counting free addresses")?;
        let pool = self.existing(call).map_err(unable)?;
        let Some(mut pool) = pool else { return Ok(()) };
        let count = |pool: &Pool| {
            pool.counts(&conf.sets).map_err(|e| unable(failed(&e)))
        };
        let mut counts = count(&pool)?;
        if counts.iter().any(is_low) && self.heal(&mut pool) {
            counts = count(&pool)?;
        }
        let full = counts.iter().zip(&conf.sets).find(|(c, _)| is_full(c));
        match full {
            None => Ok(()),
            Some((count, set)) => Err(CniError::new(
                code::NOT_AVAILABLE,
                format!(
                    "no IP addresses available in range set: {set}: all {} \
                     are taken",
                    count.total
                ),
            )),
        }
    }

    /// The containers that have addresses of `network`. Best effort.
    pub(crate) fn holders(&self, call: &Call, network: Subnet) -> Vec<String> {
        let all = self
            .existing(call)
            .ok()
            .flatten()
            .and_then(|pool| pool.reservations().ok())
            .unwrap_or_default();
        let there = all.into_iter().filter(|r| network.contains(r.ip));
        let id = |of: Attachment| of.container_id().to_owned();
        there.filter_map(|r| r.attachment.map(id)).collect()
    }

    /// Takes back what nobody uses; whether there was anything. Failing to is
    /// no failure of what it was tried for.
    pub(super) fn heal(&self, pool: &mut Pool) -> bool {
        let healed = self.dead(pool).and_then(|dead| {
            self.reclaim(pool, &dead)?;
            Ok(!dead.is_empty())
        });
        healed.unwrap_or_else(|e| {
            log(format_args!(
                "network {:?}: addresses that nobody may use stay reserved: \
                 {e}",
                self.network
            ));
            false
        })
    }

    /// The addresses that nobody uses.
    fn dead(&self, pool: &Pool) -> Result<Vec<IpAddr>, CniError> {
        let mut all = pool.reservations().map_err(|e| failed(&e))?;
        if self.on_links {
            // a look into all namespaces takes long, and is not needed where
            // every address belongs to a link of ours
            let linked = Alive::links(&self.network)?;
            all.retain(|r| {
                let of = r.attachment.as_ref();
                !of.is_some_and(|of| linked.has_link(&self.network, of))
            });
        } else {
            all.retain(|r| r.attachment.is_none());
        }
        match all.is_empty() {
            true => Ok(Vec::new()),
            false => Alive::survey(&self.network)?.dead(&self.network, &all),
        }
    }

    fn reclaim(
        &self,
        pool: &mut Pool,
        dead: &[IpAddr],
    ) -> Result<(), CniError> {
        pool.reclaim(dead).map_err(|e| failed(&e))?;
        if let Some(first) = dead.first() {
            log(format_args!(
                "network {:?}: {} addresses are free again that nobody had \
                 released, the first is {first}",
                self.network,
                dead.len()
            ));
        }
        Ok(())
    }

    /// The pool, if anything was ever reserved.
    pub(super) fn existing(
        &self,
        call: &Call,
    ) -> Result<Option<Pool>, CniError> {
        let deadline = call.deadline.at();
        Pool::open_existing(&self.data_dir, &self.network, deadline)
            .map_err(|e| failed(&e))
    }
}

/// Whether the runtime says that `of` is alive.
fn is_in(valid: &ValidAttachments, of: &Attachment) -> bool {
    match of.ifname() {
        // as old versions wrote it (HL-28)
        "" => valid.has_container(of.container_id()),
        ifname => valid.contains(of.container_id(), ifname),
    }
}

fn addresses(of: &[Reservation]) -> Vec<IpAddr> {
    of.iter().map(|r| r.ip).collect()
}

const fn is_full(count: &Count) -> bool {
    count.taken >= count.total
}

/// Less than a quarter is free.
const fn is_low(count: &Count) -> bool {
    count.taken >= count.total - count.total / 4
}
