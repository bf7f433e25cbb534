//! The clock that leases are reckoned by.

use std::time::Duration;

/// Time since the node started, suspended time included (`CLOCK_BOOTTIME`):
/// a lease expires in etcd also while this node sleeps. Never jumps.
#[must_use]
pub fn since_boot() -> Duration {
    ipam::daemon_state::uptime()
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
