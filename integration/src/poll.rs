//! Waiting for a condition, never a bare sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

/// Looks until `condition` gives a value, `limit` at most. `what` names what
/// is waited for.
///
/// # Errors
/// Past the limit, with the last reason `condition` gave.
pub fn poll_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() > limit => {
                bail!("waited {limit:?} for {what}: {reason:#}")
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// [`poll_until`] for a yes or no.
///
/// # Errors
/// Past the limit.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    poll_until(
        what,
        limit,
        || {
            if condition() { Ok(()) } else { bail!("not yet") }
        },
    )
}
