//! The table, and what it takes to fill it.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// A measured number with its unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Quantity {
    /// Seconds.
    Time(f64),
    /// KiB.
    Memory(f64),
    /// Bytes a second.
    Rate(f64),
    /// Packets a second.
    Packets(f64),
    /// Things.
    Count(f64),
}

/// Prints rows as they come.
pub(super) struct Report<'a> {
    say: &'a mut dyn FnMut(&str),
    last: String,
}

/// The middle one of `samples`; of an even number, the lower one.
///
/// # Panics
/// When there are none.
pub(super) fn median<T: Copy + PartialOrd>(samples: &[T]) -> T {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    sorted[(sorted.len() - 1) / 2]
}

// === impl Quantity ===

impl Quantity {
    const fn number(self) -> f64 {
        match self {
            Self::Time(n)
            | Self::Memory(n)
            | Self::Rate(n)
            | Self::Packets(n)
            | Self::Count(n) => n,
        }
    }
}

impl From<Duration> for Quantity {
    fn from(time: Duration) -> Self {
        Self::Time(time.as_secs_f64())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Time(s) if s >= 1.0 => write!(f, "{s:.2} s"),
            Self::Time(s) if s >= 1e-3 => write!(f, "{:.2} ms", s * 1e3),
            Self::Time(s) => write!(f, "{:.1} µs", s * 1e6),
            Self::Memory(k) => write!(f, "{:.1} MiB", k / 1024.0),
            Self::Rate(b) => write!(f, "{:.2} GB/s", b / 1e9),
            Self::Packets(p) => write!(f, "{:.0} k/s", p / 1e3),
            Self::Count(n) => write!(f, "{n:.0}"),
        }
    }
}

// === impl Report ===

impl<'a> Report<'a> {
    pub(super) fn new(say: &'a mut dyn FnMut(&str)) -> Self {
        say(&format!(
            "{:>6}  {:<44} {:>10}   {}",
            "ratio", "what", "ours", "beside"
        ));
        Self { say, last: String::new() }
    }

    /// One row: `ours` divided by `other`, which is `whose`.
    pub(super) fn row(
        &mut self,
        what: &str,
        ours: impl Into<Quantity>,
        other: impl Into<Quantity>,
        whose: &str,
    ) {
        let (ours, other) = (ours.into(), other.into());
        let ratio = ours.number() / other.number();
        let ratio = if ratio < 10.0 {
            format!("{ratio:.2}")
        } else {
            format!("{ratio:.0}")
        };
        let what = self.once(what);
        let (ours, other) = (ours.to_string(), other.to_string());
        (self.say)(&format!(
            "{ratio:>6}  {what:<44} {ours:>10}   {other:>10}  {whose}"
        ));
    }

    /// A number with nothing beside it.
    pub(super) fn alone(&mut self, what: &str, ours: impl Into<Quantity>) {
        let ours = ours.into();
        let what = self.once(what);
        (self.say)(&format!("{:>6}  {what:<44} {ours:>10}", ""));
    }

    /// A name that is the same as in the row before is not repeated.
    fn once<'b>(&mut self, what: &'b str) -> &'b str {
        if self.last == what {
            return "";
        }
        what.clone_into(&mut self.last);
        what
    }
}
