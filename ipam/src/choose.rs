//! Which subnets a node gets (section 3.3 of the behaviour reference): a
//! function of the configuration, the leases there are, what the node would
//! like, and chance.
//!
//! In this order (E-22..E-24):
//!
//! 1. A lease that is this node's already, if it fits the configuration. It
//!    is recognised by the public address, or by the etcd lease that the node
//!    recorded when it last wrote it. Of several, a reservation comes first.
//! 2. For each family on its own, the subnet the node had before, if it fits
//!    and is free. (Upstream gives up both when one is not available, so that
//!    switching IPv6 on renumbers the whole cluster.)
//! 3. For each family, one of all free subnets, each as likely as the others.
//!    (Upstream draws from the first 100 only, so that nodes that start
//!    together mostly draw the same.)
//!
//! A reservation is a key without an etcd lease: it stays what it is when its
//! node takes it, is nobody else's, and is never deleted, fit or not (W-6).
//!
//! The store makes the choice true with "create if absent". As the key names
//! both families, two dual-stack nodes may create different keys that share a
//! subnet; hence each looks again after creating, and [`earlier`] says who
//! was first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::lease::{KeyError, SubnetKey};
use crate::netconf::SubnetRange;
use crate::{Family, PerFamily, Subnet};

mod free;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use free::Free;

/// A lease as the store lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its subnets.
    pub key: SubnetKey,
    /// The public addresses in its value.
    pub public: PerFamily<IpAddr>,
    /// The etcd lease the key is attached to; 0 for none: a reservation.
    pub lease_id: i64,
    /// etcd's revision of the key's creation.
    pub created: i64,
}

/// What a node brings along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Its public addresses.
    pub public: PerFamily<IpAddr>,
    /// The subnets it had before, from subnet.env (F-13).
    pub previous: PerFamily<Subnet>,
    /// The lease it last wrote, from its own records: the key and the etcd
    /// lease. Recognises the lease although the public address has changed.
    pub recorded: Option<(SubnetKey, i64)>,
}

/// What a node should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The lease to take.
    pub key: SubnetKey,
    /// How.
    pub how: How,
    /// Leases of this node that do not fit the configuration, each with the
    /// reason: to be deleted before.
    pub release: Vec<(SubnetKey, Unfit)>,
    /// Reservations for this node that do not fit, each with the reason: to
    /// be told to the operator and left alone.
    pub unfit_reservations: Vec<(SubnetKey, Unfit)>,
    /// Previous subnets that were not taken, each with the reason.
    pub refused: Vec<(Subnet, Unfit)>,
}

/// How a lease is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The key is there and this node's: overwrite it with the node's
    /// attributes (E-22).
    Reuse {
        /// The key is to stay without an etcd lease (W-6).
        reservation: bool,
    },
    /// The key is not there: create it (E-25).
    Create {
        /// Whether every subnet in it is the previous one.
        previous: bool,
    },
}

/// Why a lease or a subnet is not for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The family is enabled, the lease has no subnet of it.
    #[error("it has no {0} subnet, but {0} is enabled")]
    Missing(Family),
    /// The family is not enabled.
    #[error("{0} is an {family} subnet, but {family} is not enabled", family = .0.family())]
    Disabled(Subnet),
    /// Of another length, or not between the first and the last subnet.
    #[error(
        "{subnet} is not one of the /{} subnets from {} to {}",
        range.len, range.min.base(), range.max.base()
    )]
    OutOfRange {
        /// The subnet.
        subnet: Subnet,
        /// The configured range.
        range: SubnetRange,
    },
    /// Another node has it, or part of it.
    #[error("{subnet} overlaps lease {by}")]
    Leased {
        /// The subnet.
        subnet: Subnet,
        /// The lease.
        by: SubnetKey,
    },
}

/// Why there is nothing to choose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// Every subnet of the range is taken, at least in part.
    #[error(
        "no {family} subnet is free: the {leases} leases leave none of the \
         {subnets} /{} subnets from {} to {} in {}; widen {n}Network or the \
         span from {n}SubnetMin to {n}SubnetMax in the network \
         configuration, or delete the leases of nodes that are gone",
        range.len,
        range.min.base(),
        range.max.base(),
        range.network,
        family = range.network.family(),
        n = field_prefix(range),
    )]
    Exhausted {
        /// The configured range.
        range: SubnetRange,
        /// How many subnets it has.
        subnets: u128,
        /// How many leases overlap it.
        leases: usize,
    },
    /// The ranges make no key: no family is enabled, or the subnets' length
    /// is not one a key can have.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Chooses a lease.
///
/// `ranges` has the enabled families. `occupied` are subnets that cannot be
/// given out although nobody's lease could be read from their keys: see
/// [`LeaseError::occupies`](crate::lease::LeaseError::occupies). `random`
/// returns a number below its argument, each as likely as the others.
///
/// # Errors
/// [`ChooseError::Exhausted`] when a family has no subnet left.
pub fn choose(
    ranges: &PerFamily<SubnetRange>,
    list: &[Listed],
    occupied: &BTreeSet<SubnetKey>,
    wishes: &Wishes,
    random: &mut impl FnMut(u64) -> u64,
) -> Result<Choice, ChooseError> {
    let Own { fit, release, unfit_reservations } =
        own_leases(ranges, list, wishes);
    // the first of the best, in the list's order
    let best = fit.iter().min_by_key(|lease| {
        let previous = *lease.key.subnets() == wishes.previous;
        (!lease.is_reservation(), !previous)
    });
    if let Some(lease) = best {
        return Ok(Choice {
            key: lease.key,
            how: How::Reuse { reservation: lease.is_reservation() },
            release,
            unfit_reservations,
            refused: Vec::new(),
        });
    }

    let taken: Vec<_> = list
        .iter()
        .map(|lease| lease.key)
        .filter(|key| release.iter().all(|(released, _)| released != key))
        .chain(occupied.iter().copied())
        .collect();
    let mut subnets = PerFamily::default();
    let mut refused = Vec::new();
    for (family, range) in ranges.iter() {
        let previous = wishes.previous.get(family).filter(|subnet| {
            match available(**subnet, range, &taken) {
                Ok(()) => true,
                Err(why) => {
                    refused.push((**subnet, why));
                    false
                }
            }
        });
        let subnet = match previous {
            Some(subnet) => *subnet,
            None => draw(family, range, &taken, random)?,
        };
        subnets.set(family, Some(subnet));
    }
    let previous = subnets
        .iter()
        .all(|(family, subnet)| wishes.previous.get(family) == Some(subnet));
    Ok(Choice {
        key: SubnetKey::new(subnets)?,
        how: How::Create { previous },
        release,
        unfit_reservations,
        refused,
    })
}

/// The lease that a lease just created must give way to: one that shares a
/// subnet and was created before. To be asked with a list read after the
/// creation; the lease is safe when there is none, as every later one gives
/// way in turn.
#[must_use]
pub fn earlier<'a>(
    key: &SubnetKey,
    created: i64,
    list: &'a [Listed],
) -> Option<&'a Listed> {
    list.iter().find(|other| {
        other.key != *key && other.created < created && other.key.overlaps(key)
    })
}

// === impl Listed ===

impl Listed {
    /// Whether the lease never expires.
    #[must_use]
    pub const fn is_reservation(&self) -> bool {
        self.lease_id == 0
    }
}

/// The leases of this node.
struct Own {
    fit: Vec<Listed>,
    release: Vec<(SubnetKey, Unfit)>,
    unfit_reservations: Vec<(SubnetKey, Unfit)>,
}

fn own_leases(
    ranges: &PerFamily<SubnetRange>,
    list: &[Listed],
    wishes: &Wishes,
) -> Own {
    let is_recorded = |lease: &Listed| {
        // a reservation is tied to an address, not to who used it before
        !lease.is_reservation()
            && wishes.recorded == Some((lease.key, lease.lease_id))
    };
    let recorded_is_there = list.iter().any(is_recorded);
    let is_own = |lease: &&Listed| {
        // beside the recorded lease, one with the node's address may be that
        // of a node which had the address before
        let by_address = lease.is_reservation() || !recorded_is_there;
        is_recorded(lease)
            || (by_address && has_own_address(lease, ranges, wishes))
    };

    let mut own = Own {
        fit: Vec::new(),
        release: Vec::new(),
        unfit_reservations: Vec::new(),
    };
    for lease in list.iter().filter(is_own) {
        match check(&lease.key, ranges) {
            Ok(()) => own.fit.push(*lease),
            Err(why) if lease.is_reservation() => {
                own.unfit_reservations.push((lease.key, why));
            }
            Err(why) => own.release.push((lease.key, why)),
        }
    }
    own
}

/// Whether a lease has this node's public address. Two nodes are told apart
/// by their public IPv4 addresses, and where one of them has none by their
/// IPv6 addresses; a missing address is never equal to another (W-9). Only
/// addresses of enabled families count.
fn has_own_address(
    lease: &Listed,
    ranges: &PerFamily<SubnetRange>,
    wishes: &Wishes,
) -> bool {
    let same = Family::ALL.into_iter().find_map(|family| {
        ranges.get(family)?;
        let own = wishes.public.get(family)?;
        let theirs = lease.public.get(family)?;
        let given = !own.is_unspecified() && !theirs.is_unspecified();
        given.then_some(own == theirs)
    });
    same == Some(true)
}

/// Whether a lease's subnets are such as the configuration gives out (E-22).
fn check(
    key: &SubnetKey,
    ranges: &PerFamily<SubnetRange>,
) -> Result<(), Unfit> {
    for family in Family::ALL {
        match (ranges.get(family), key.get(family)) {
            (Some(range), Some(subnet)) => in_range(subnet, range)?,
            (Some(_), None) => return Err(Unfit::Missing(family)),
            (None, Some(subnet)) => return Err(Unfit::Disabled(subnet)),
            (None, None) => {}
        }
    }
    Ok(())
}

fn in_range(subnet: Subnet, range: &SubnetRange) -> Result<(), Unfit> {
    if range.accepts(&subnet) {
        Ok(())
    } else {
        Err(Unfit::OutOfRange { subnet, range: *range })
    }
}

/// Whether a subnet is in range and nobody's.
fn available(
    subnet: Subnet,
    range: &SubnetRange,
    taken: &[SubnetKey],
) -> Result<(), Unfit> {
    in_range(subnet, range)?;
    let overlaps = |key: &&SubnetKey| {
        key.get(subnet.family()).is_some_and(|other| other.overlaps(&subnet))
    };
    match taken.iter().find(overlaps) {
        Some(by) => Err(Unfit::Leased { subnet, by: *by }),
        None => Ok(()),
    }
}

fn draw(
    family: Family,
    range: &SubnetRange,
    taken: &[SubnetKey],
    random: &mut impl FnMut(u64) -> u64,
) -> Result<Subnet, ChooseError> {
    let free = Free::new(range, taken.iter().filter_map(|key| key.get(family)));
    // of more than 2^64 free subnets the first 2^64 are plenty
    let count = u64::try_from(free.count()).unwrap_or(u64::MAX);
    let drawn = match count {
        0 => None,
        count => free.nth((random(count) % count).into()),
    };
    drawn.ok_or_else(|| ChooseError::Exhausted {
        range: *range,
        subnets: free.size(),
        leases: free.overlapping(),
    })
}

/// How the configuration's keys of the range's family begin.
const fn field_prefix(range: &SubnetRange) -> &'static str {
    match range.network.family() {
        Family::V4 => "",
        Family::V6 => "IPv6",
    }
}
