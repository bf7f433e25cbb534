//! One pass over a world: observe, compare, change what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use overlay::{Change, Desired, Key, Observed, Scope, World, diff};

/// So many changes are made at a time: each has an outcome, and hardly one of
/// thousands is an error.
const PART: usize = 2048;

/// What a pass did.
#[derive(Debug)]
pub struct Report<E> {
    /// The changes that were made.
    pub changed: Vec<Change>,
    /// Those that failed, or of which nobody knows.
    pub failed: Vec<(Change, E)>,
}

// === impl Report ===

impl<E> Report<E> {
    /// Goes on with `next`, whose pass was over `keys`: what failed of these
    /// before does not count.
    pub fn follow(&mut self, next: Self, keys: &BTreeSet<Key>) {
        self.failed.retain(|(change, _)| !keys.contains(&change.key()));
        self.changed.extend(next.changed);
        self.failed.extend(next.failed);
    }
}

/// Which changes a pass makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that are needed.
    Whole,
    /// Only what is missing is added. What is there stays as it is, also what
    /// nobody seems to need: what is known may be out of date.
    AddOnly,
}

/// Runs one pass. Nothing is changed when the look fails.
///
/// # Errors
/// What the world says when it cannot be looked at.
pub fn run<W>(
    world: &mut W,
    desired: &Desired,
    scope: &Scope,
    extent: Extent,
) -> Result<Report<W::Error>, W::Error>
where
    W: World<Scope = Scope, Observed = Observed, Change = Change>,
    W::Error: Display,
{
    let observed = world.observe(scope)?;
    let mut changes = diff(desired, &observed, scope);
    if extent == Extent::AddOnly {
        let kept: BTreeSet<Key> = changes
            .iter()
            .filter(|change| !change.is_addition())
            .map(Change::key)
            .collect();
        changes.retain(|change| !kept.contains(&change.key()));
    }
    let mut errors = BTreeMap::new();
    for (part, some) in changes.chunks(PART).enumerate() {
        let outcomes = world.apply(some).into_iter().enumerate();
        errors.extend(
            outcomes.filter_map(|(i, o)| Some((part * PART + i, o.err()?))),
        );
    }
    let mut failed = Vec::new();
    let mut places = 0..;
    // Mostly everything stays where it is.
    changes.retain(|change| {
        let error = places.next().and_then(|place| errors.remove(&place));
        match error {
            Some(error) => {
                tracing::debug!("{change}: {error}");
                failed.push((change.clone(), error));
                false
            }
            None => {
                tracing::debug!("{change}");
                true
            }
        }
    });
    Ok(Report { changed: changes, failed })
}
