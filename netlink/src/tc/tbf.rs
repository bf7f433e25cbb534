//! The token bucket (`tbf`, tc-tbf(8)).

use crate::wire::{Attrs, Malformed, Message, u32_at, u64_ne_at};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// Length of `struct tc_tbf_qopt`: two rates of 12 bytes, three numbers.
const QOPT: usize = 36;
/// A tick of the kernel's packet scheduler in nanoseconds (`PSCHED_SHIFT`).
const TICK: u64 = 64;

/// A token bucket to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes a second, not 0.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

/// A token bucket as the kernel reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketInfo {
    /// Bytes a second.
    pub rate: u64,
    /// The time in which the burst is earned again, in ticks of 64 ns. The
    /// kernel says its lower 32 bits only.
    pub buffer: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

// === impl Bucket ===

impl Bucket {
    /// The time in which the burst is earned again, in ticks.
    ///
    /// Computed in whole microseconds as upstream's plugin does, so that its
    /// CHECK finds what it expects (BW-5).
    fn ticks(&self) -> u64 {
        let micros = u64::from(self.burst)
            .saturating_mul(1_000_000)
            .checked_div(self.rate)
            .unwrap_or(u64::MAX);
        micros.saturating_mul(1000) / TICK
    }

    pub(super) fn write(&self, m: &mut Message) {
        let ticks = u32::try_from(self.ticks());
        let mut qopt = [0; QOPT];
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let buffer = ticks.unwrap_or(u32::MAX);
        let fields = [(8, rate), (24, self.limit), (28, buffer)];
        for (at, value) in fields {
            if let Some(place) = qopt.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        m.bytes(TCA_TBF_PARMS, &qopt);
        if self.rate > u64::from(u32::MAX) {
            m.bytes(TCA_TBF_RATE64, &self.rate.to_ne_bytes());
        }
        // more than 275 s of traffic do not fit in ticks of 32 bits (CW-15)
        if ticks.is_err() {
            m.u32(TCA_TBF_BURST, self.burst);
        }
    }

    /// Whether `info` is what the kernel says of this bucket.
    #[must_use]
    pub fn is(&self, info: &BucketInfo) -> bool {
        // what the kernel counts in nanoseconds it rounds
        const ROUNDING: u32 = 32;
        let expected = (self.ticks() & u64::from(u32::MAX)) as u32;
        let off = expected.wrapping_sub(info.buffer).cast_signed();
        // its conversion of a long burst has 32 bits of precision
        let allowed = match u32::try_from(self.ticks()) {
            Ok(_) => ROUNDING,
            Err(_) => ROUNDING + (self.ticks() >> 20) as u32,
        };
        self.rate == info.rate
            && self.limit == info.limit
            && off.unsigned_abs() <= allowed
    }
}

// === impl BucketInfo ===

impl BucketInfo {
    pub(super) fn read(options: &[u8]) -> Result<Self, Malformed> {
        const WHAT: Malformed = Malformed("token bucket");
        let (mut out, mut rate) = (None, None);
        for attr in Attrs::new(options) {
            match attr? {
                (TCA_TBF_PARMS, value) => {
                    let field = |at| u32_at(value, at).ok_or(WHAT);
                    out = Some(Self {
                        rate: field(8)?.into(),
                        limit: field(24)?,
                        buffer: field(28)?,
                    });
                }
                (TCA_TBF_RATE64, value) => rate = u64_ne_at(value, 0),
                _ => {}
            }
        }
        let out = out.ok_or(WHAT)?;
        Ok(Self { rate: rate.unwrap_or(out.rate), ..out })
    }
}
