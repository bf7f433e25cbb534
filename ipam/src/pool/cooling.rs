//! Which addresses were given back a moment ago (P17).
//!
//! Neighbours and connection tracking may still lead to the pod that had an
//! address: it is not given again for [`REST`] while others are free. Kept
//! behind the index's stamp, where each operation reads it anyway; by the
//! clock that counts since the machine was started, with the boot id on each
//! line. Losing it does no harm.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// How long an address rests after its release.
const REST: Duration = Duration::from_secs(30);

/// Resting addresses and when, since the machine was started, they were
/// released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cooling(BTreeMap<IpAddr, Duration>);

// === impl Cooling ===

impl Cooling {
    /// Reads lines `<address> <milliseconds> <boot id>`; those of another
    /// form, another start of the machine, or whose rest is over, do not
    /// count.
    pub(super) fn parse(text: &str, boot_id: &str, now: Duration) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let ip: IpAddr = words.next()?.parse().ok()?;
            let at = Duration::from_millis(words.next()?.parse().ok()?);
            let here = !boot_id.is_empty() && words.next()? == boot_id;
            (here && at <= now && now - at < REST).then_some((ip, at))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The lines for the addresses that rest.
    pub(super) fn render(&self, boot_id: &str) -> String {
        let mut out = String::new();
        for (ip, at) in &self.0 {
            // a string takes everything
            let _ = writeln!(out, "{ip} {} {boot_id}", at.as_millis());
        }
        out
    }

    /// `ips` were released `now`.
    pub(super) fn add(&mut self, ips: &[IpAddr], now: Duration) {
        self.0.extend(ips.iter().map(|ip| (*ip, now)));
    }

    /// When `ip` was released, if it rests.
    pub(super) fn since(&self, ip: IpAddr) -> Option<Duration> {
        self.0.get(&ip).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_minute_of_this_start_of_the_machine() {
        let ip: IpAddr = "10.1.0.2".parse().unwrap();
        let at = Duration::from_secs(100);
        let mut cooling = Cooling::default();
        cooling.add(&[ip, "fd00::2".parse().unwrap()], at);
        let text = cooling.render("b");
        assert_eq!(text, "10.1.0.2 100000 b\nfd00::2 100000 b\n");
        let later = |s| at + Duration::from_secs(s);
        let since = |boot, now| Cooling::parse(&text, boot, now).since(ip);
        assert_eq!(since("b", later(29)), Some(at));
        assert_eq!(since("b", later(30)), None);
        assert_eq!(since("c", later(1)), None);
        assert_eq!(since("", later(1)), None);
        assert_eq!(since("b", Duration::from_secs(99)), None, "before");
    }

    #[test]
    fn rubbish_does_not_count() {
        for text in ["10.1.0.2", "x 1 b", "10.1.0.2 x b", "10.1.0.2 1", "\n\n"]
        {
            let read = Cooling::parse(text, "b", Duration::from_secs(2));
            assert_eq!(read, Cooling::default(), "{text}");
        }
    }
}
