//! Which addresses were given back a short time ago (P17).
//!
//! Neighbours and connection tracking may still lead to the pod that had an
//! address: it is not given again for [`REST`] while others are free, and
//! whoever gets it within [`KEEP`] is told. Kept behind the index's stamp,
//! where each operation reads it anyway; by the clock that counts since the
//! machine was started, under the boot id. Losing it does no harm.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// How long an address rests after its release.
const REST: Duration = Duration::from_secs(30);
/// How long connection tracking may remember a UDP stream
/// (`nf_conntrack_udp_timeout_stream`).
const KEEP: Duration = Duration::from_secs(180);

/// Addresses and when, since the machine was started, they were released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cooling {
    now: Duration,
    released: BTreeMap<IpAddr, Duration>,
}

// === impl Cooling ===

impl Cooling {
    /// Reads the boot id and, below it, lines `<address> <milliseconds>`.
    /// Those of another form, of another start of the machine, or too old, do
    /// not count.
    pub(super) fn parse(text: &str, boot_id: &str, now: Duration) -> Self {
        let line = |line: &str| {
            let (ip, at) = line.split_once(' ')?;
            let ip: IpAddr = ip.parse().ok()?;
            let at = Duration::from_millis(at.parse().ok()?);
            (at <= now && now - at < KEEP).then_some((ip, at))
        };
        let lines = match text.split_once('\n') {
            Some((id, lines)) if id == boot_id => lines,
            _ => "",
        };
        Self { now, released: lines.lines().filter_map(line).collect() }
    }

    /// The text for [`Cooling::parse`].
    pub(super) fn render(&self, boot_id: &str) -> String {
        let mut out = format!("{boot_id}\n");
        for (ip, at) in &self.released {
            // a string takes everything
            let _ = writeln!(out, "{ip} {}", at.as_millis());
        }
        out
    }

    /// `ips` were released `now`.
    pub(super) fn add(&mut self, ips: &[IpAddr], now: Duration) {
        self.released.extend(ips.iter().map(|ip| (*ip, now)));
    }

    /// When `ip` was released, if it rests.
    pub(super) fn resting(&self, ip: IpAddr) -> Option<Duration> {
        let at = self.released.get(&ip).copied();
        at.filter(|at| self.now.saturating_sub(*at) < REST)
    }

    /// Whether the one who had `ip` before may still be remembered.
    pub(super) fn is_recent(&self, ip: IpAddr) -> bool {
        self.released.contains_key(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_clock_of_this_start_of_the_machine() {
        let ip: IpAddr = "10.1.0.2".parse().unwrap();
        let at = Duration::from_secs(100);
        let mut cooling = Cooling::default();
        cooling.add(&[ip, "fd00::2".parse().unwrap()], at);
        let text = cooling.render("b");
        assert_eq!(text, "b\n10.1.0.2 100000\nfd00::2 100000\n");
        let later = |s| at + Duration::from_secs(s);
        let read = |boot, now| {
            let read = Cooling::parse(&text, boot, now);
            (read.resting(ip).is_some(), read.is_recent(ip))
        };
        assert_eq!(read("b", later(29)), (true, true));
        assert_eq!(read("b", later(30)), (false, true));
        assert_eq!(read("b", later(180)), (false, false));
        assert_eq!(read("c", later(1)), (false, false));
        assert_eq!(read("b", Duration::from_secs(99)), (false, false));
    }

    #[test]
    fn rubbish_does_not_count() {
        for text in ["", "b", "b\nx 1", "b\n10.1.0.2", "b\n10.1.0.2 x", "\n"] {
            let read = Cooling::parse(text, "b", Duration::from_secs(2));
            assert!(read.released.is_empty(), "{text}");
        }
    }
}
