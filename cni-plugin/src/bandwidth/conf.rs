//! The configuration of type `bandwidth` (BW-1, BW-5).

use ipam::gojson::Object;
use netlink::tc::Bucket;

use crate::protocol::CniError;

/// How long a packet may wait, in microseconds.
const LATENCY: u64 = 25_000;

/// Towards the pod, and what it sends.
const KEYS: [&str; 4] =
    ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// The two limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// `ingress*`: towards the pod.
    pub(super) to_pod: Option<Bucket>,
    /// `egress*`: what the pod sends.
    pub(super) from_pod: Option<Bucket>,
}

// === impl Limits ===

impl Limits {
    /// Reads them: what the runtime asks for only where the configuration has
    /// no key of its own, whatever its value (BW-1).
    ///
    /// # Errors
    /// Code 7.
    pub(super) fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let runtime = match conf.object("runtimeConfig")? {
            Some(runtime) => runtime.object("bandwidth")?,
            None => None,
        };
        let own = KEYS.iter().any(|key| conf.value(key).is_some());
        match runtime {
            Some(runtime) if !own => Self::of(&runtime),
            _ => Self::of(conf),
        }
    }

    fn of(from: &Object<'_>) -> Result<Self, CniError> {
        let [to_rate, to_burst, from_rate, from_burst] = KEYS;
        Ok(Self {
            to_pod: bucket(from, to_rate, to_burst)?,
            from_pod: bucket(from, from_rate, from_burst)?,
        })
    }

    /// Whether nothing is limited.
    pub(super) const fn is_empty(&self) -> bool {
        self.to_pod.is_none() && self.from_pod.is_none()
    }
}

/// Bits in the configuration, bytes in the kernel.
fn bucket(
    from: &Object<'_>,
    rate: &str,
    burst: &str,
) -> Result<Option<Bucket>, CniError> {
    let bits = |key| from.uint(key).map(Option::unwrap_or_default);
    let (rate_bits, burst_bits) = (bits(rate)?, bits(burst)?);
    match (rate_bits, burst_bits) {
        (0, 0) => return Ok(None),
        (0, _) => {
            return Err(CniError::config(
                "if burst is set, rate must also be set",
            ));
        }
        (_, 0) => {
            return Err(CniError::config(
                "if rate is set, burst must also be set",
            ));
        }
        _ => {}
    }
    let too_small = |key, is| {
        CniError::config(format!(
            "{} is {is} bits, but must be at least 8",
            from.path_of(key)
        ))
    };
    let (rate_bytes, burst_bytes) = (rate_bits / 8, burst_bits / 8);
    if rate_bytes == 0 {
        return Err(too_small(rate, rate_bits));
    }
    if burst_bytes == 0 {
        return Err(too_small(burst, burst_bits));
    }
    let burst = u32::try_from(burst_bytes)
        .ok()
        .filter(|burst| *burst != u32::MAX)
        .ok_or_else(|| CniError::config("burst cannot be more than 4GB"))?;
    let waiting = u128::from(rate_bytes) * u128::from(LATENCY) / 1_000_000;
    let limit = u32::try_from(waiting).unwrap_or(u32::MAX);
    let limit = limit.saturating_add(burst);
    Ok(Some(Bucket { rate: rate_bytes, burst, limit }))
}
