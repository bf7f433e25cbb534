//! What the last run knew, and how far it may be relied on: a start while the
//! store does not answer (design.md §3.10).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipam::lease::{LeaseAttrs, SubnetKey};

use crate::clock::since_boot;
use crate::files::{PeersFile, Saved, SavedLease, SinceBoot, boot_id};
use crate::own_lease::LEASE_TTL;
use crate::store::Held;
use crate::store::etcd::Config;

/// How long a start waits for the store before it goes on without.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// All that is needed to make and keep the node's network without the store.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) config: Config,
    /// The own lease's key; what it publishes follows from the host.
    pub(super) key: SubnetKey,
    /// When it ends, on the clock of [`since_boot`]; `None`: never.
    pub(super) ends: Option<Duration>,
    pub(super) peers: BTreeMap<SubnetKey, LeaseAttrs>,
}

/// What the clocks say.
#[derive(Clone, Debug)]
struct Now {
    /// Since 1970. Anybody may set it, and a machine without a battery starts
    /// with a wrong one.
    wall: Duration,
    /// [`since_boot`]
    boot: Duration,
    boot_id: String,
}

// === impl Remembered ===

impl Remembered {
    /// What `saved` and `peers` hold, if the lease is still this node's: it
    /// was not lost, and its time is not over. The store gives it to nobody
    /// else until then.
    pub(super) fn of(saved: &Saved, peers: &PeersFile) -> Option<Self> {
        Self::at(&Now::read(), saved, peers)
    }

    fn at(now: &Now, saved: &Saved, peers: &PeersFile) -> Option<Self> {
        let lease = saved.lease.as_ref()?;
        if lapse_at(now, saved).is_some() {
            return None;
        }
        let config = Config::parse(saved.config.clone()?, 0).ok()?;
        // A clock that was set back must not make the lease live longer than
        // any can.
        let left = now.left(lease).map(|left| left.min(LEASE_TTL));
        let ends = left.map(|left| now.boot + left);
        Some(Self { config, key: lease.key, ends, peers: peers.load() })
    }
}

/// How the lease of the last run was lost, if it was.
pub(super) fn lapse(saved: &Saved) -> Option<String> {
    lapse_at(&Now::read(), saved)
}

fn lapse_at(now: &Now, saved: &Saved) -> Option<String> {
    if saved.lost.is_some() {
        return saved.lost.clone();
    }
    let lease = saved.lease.as_ref()?;
    let over = now.left(lease).is_some_and(|left| left.is_zero());
    over.then(|| lapsed(lease.key))
}

/// In words for a person: nobody could renew the lease in time.
pub(super) fn lapsed(key: SubnetKey) -> String {
    format!(
        "the time of lease {key} is over and it could not be renewed: another \
         node may have its subnet; running pods stay as they are, new ones \
         wait for another lease"
    )
}

/// What a restart needs to know of the lease. Its end is remembered by the
/// clock since boot, and by wall clock: no other outlives the machine.
pub(super) fn saved_lease(held: &Held) -> SavedLease {
    saved_lease_at(&Now::read(), held)
}

fn saved_lease_at(now: &Now, held: &Held) -> SavedLease {
    let wall = |at: Duration| now.wall + at.saturating_sub(now.boot);
    let since_boot = |at: Duration| SinceBoot {
        boot_id: now.boot_id.clone(),
        seconds: at.as_secs(),
    };
    SavedLease {
        key: held.lease.key,
        lease_id: held.lease_id,
        mod_revision: held.mod_revision,
        expires: held.expires.map(|at| wall(at).as_secs()),
        expires_since_boot: held.expires.map(since_boot),
    }
}

// === impl Now ===

impl Now {
    fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            wall: wall.unwrap_or_default(),
            boot: since_boot(),
            boot_id: boot_id(),
        }
    }

    /// How long the lease lives; `None`: for ever.
    fn left(&self, lease: &SavedLease) -> Option<Duration> {
        let by_wall = Duration::from_secs(lease.expires?);
        let same_boot = lease.expires_since_boot.as_ref().filter(|end| {
            !self.boot_id.is_empty() && end.boot_id == self.boot_id
        });
        Some(match same_boot {
            Some(end) => {
                Duration::from_secs(end.seconds).saturating_sub(self.boot)
            }
            None => by_wall.saturating_sub(self.wall),
        })
    }
}

#[cfg(test)]
mod tests {
    use ipam::lease::Lease;

    use super::*;

    const CONF: &str =
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

    /// A lease that ends in `seconds` from now, by wall clock alone.
    fn saved(seconds: i64) -> Saved {
        let now = i64::try_from(Now::read().wall.as_secs()).unwrap();
        Saved {
            config: Some(CONF.to_owned()),
            lease: Some(SavedLease {
                key: "10.5.7.0-24".parse().unwrap(),
                lease_id: 7,
                mod_revision: 1,
                expires: Some(u64::try_from(now + seconds).unwrap()),
                expires_since_boot: None,
            }),
            ..Saved::default()
        }
    }

    fn remembered(saved: &Saved) -> Option<Remembered> {
        let root = tempfile::tempdir().unwrap();
        Remembered::of(saved, &PeersFile::new(root.path().join("p.json")))
    }

    #[test]
    fn a_lease_counts_until_its_own_end() {
        let found = remembered(&saved(100)).unwrap();
        let left = found.ends.unwrap().saturating_sub(since_boot());
        assert!((90..=100).contains(&left.as_secs()), "{left:?}");
        assert_eq!(found.key.to_string(), "10.5.7.0-24");
        assert_eq!(found.config.ranges.v4.unwrap().len, 24);

        assert!(remembered(&saved(-1)).is_none());
        let why = lapse(&saved(-1)).unwrap();
        assert!(why.contains("10.5.7.0-24"), "{why}");
        assert_eq!(lapse(&saved(100)), None);
    }

    #[test]
    fn a_clock_set_back_gives_no_time() {
        let found = remembered(&saved(10 * 365 * 86_400)).unwrap();
        assert!(found.ends.unwrap() <= since_boot() + LEASE_TTL);
    }

    /// The wall clock jumps, as when a machine without a battery hears of the
    /// time: it says nothing about a lease of the same boot, and is all there
    /// is after another.
    #[test]
    fn a_clock_that_jumps_neither_ends_a_lease_nor_makes_it_longer() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let now = |wall, boot, id: &str| Now {
            wall: hours(wall),
            boot: hours(boot),
            boot_id: id.to_owned(),
        };
        let lease = Lease {
            key: "10.5.7.0-24".parse().unwrap(),
            attrs: LeaseAttrs::decode(b"{}").unwrap(),
        };
        let expires = Some(hours(1 + 24));
        let held = Held { lease, lease_id: 7, mod_revision: 1, expires };
        let lease = saved_lease_at(&now(1000, 1, "a"), &held);
        // as it goes, set ahead, set back, and asleep meanwhile
        for wall in [1010, 500_000, 10] {
            assert_eq!(now(wall, 11, "a").left(&lease), Some(hours(14)));
        }
        assert_eq!(now(10, 25, "a").left(&lease), Some(Duration::ZERO));
        let saved = Saved { lease: Some(lease.clone()), ..saved(9) };
        assert!(lapse_at(&now(10, 25, "a"), &saved).is_some());
        assert_eq!(lapse_at(&now(500_000, 24, "a"), &saved), None);
        // another boot
        assert_eq!(now(1010, 0, "b").left(&lease), Some(hours(14)));
        assert_eq!(now(1024, 0, "b").left(&lease), Some(Duration::ZERO));
        // a kernel that does not tell
        assert_eq!(now(1010, 1, "").left(&lease), Some(hours(14)));
        let file = tempfile::tempdir().unwrap().path().join("p.json");
        let known = Remembered::at(
            &now(500_000, 11, "a"),
            &saved,
            &PeersFile::new(file),
        );
        assert_eq!(known.unwrap().ends, Some(hours(25)));
    }

    #[test]
    fn a_reservation_has_no_end() {
        let mut saved = saved(0);
        saved.lease.as_mut().unwrap().expires = None;
        assert_eq!(remembered(&saved).unwrap().ends, None);
    }

    #[test]
    fn a_lost_lease_is_none() {
        let why = "the node at 192.168.1.9 has taken it".to_owned();
        let saved = Saved { lost: Some(why.clone()), ..saved(100) };
        assert!(remembered(&saved).is_none());
        assert_eq!(lapse(&saved), Some(why));
    }

    #[test]
    fn without_a_part_there_is_nothing() {
        assert!(remembered(&Saved::default()).is_none());
        assert_eq!(lapse(&Saved::default()), None);
        assert!(remembered(&Saved { config: None, ..saved(9) }).is_none());
        assert!(remembered(&Saved { lease: None, ..saved(9) }).is_none());
        let bad = Some("{".to_owned());
        assert!(remembered(&Saved { config: bad, ..saved(9) }).is_none());
    }
}
