//! The clock that leases are reckoned by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the node started, suspended time included (`CLOCK_BOOTTIME`):
/// a lease expires in etcd also while this node sleeps. Never jumps.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        // a clock that every kernel of this century has
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_runs() {
        let before = since_boot();
        assert!(before > Duration::ZERO);
        assert!(since_boot() >= before);
    }
}
