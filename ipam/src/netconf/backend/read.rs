//! Reading options with their limits.

use std::fmt;
use std::ops::RangeInclusive;

use crate::gojson::{Error, Integer, Object};
use crate::{Family, PerFamily};

pub(super) fn flag(o: &Object<'_>, key: &str) -> Result<bool, Error> {
    Ok(o.bool(key)?.unwrap_or(false))
}

/// A text; an empty one is as good as none.
pub(super) fn text(o: &Object<'_>, key: &str) -> Result<Option<String>, Error> {
    Ok(o.string(key)?.filter(|text| !text.is_empty()))
}

/// A text that errors do not show.
pub(super) fn secret(
    o: &Object<'_>,
    key: &str,
    want: &str,
) -> Result<Option<String>, Error> {
    text(o, key).map_err(|_| bad_secret(o, key, want))
}

pub(super) fn bad_secret(o: &Object<'_>, key: &str, want: &str) -> Error {
    Error::Type {
        path: o.path_of(key),
        got: match o.value(key) {
            Some(_) => "(not shown)".to_owned(),
            None => "missing".to_owned(),
        },
        want: want.to_owned(),
    }
}

pub(super) fn number<T: Integer + PartialOrd + fmt::Display>(
    o: &Object<'_>,
    key: &str,
    range: RangeInclusive<T>,
) -> Result<Option<T>, Error> {
    let Some(value) = o.value(key) else { return Ok(None) };
    match value.integer() {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => Err(value.mismatch(format!(
            "a whole number from {} to {}",
            range.start(),
            range.end()
        ))),
    }
}

/// The underlay's MTU, if it is given: large enough that, less the
/// tunnel's `overhead`, every enabled family works (68 bytes, RFC 791; 1280
/// bytes, RFC 8200).
pub(super) fn mtu(
    o: &Object<'_>,
    enabled: &PerFamily<()>,
    overhead: impl Fn(Family) -> u32,
) -> Result<Option<u32>, Error> {
    let needed = |family| {
        overhead(family)
            + match family {
                Family::V4 => 68,
                Family::V6 => 1280,
            }
    };
    let least = enabled.families().map(needed).max().unwrap_or(1);
    number(o, "MTU", least..=65_535)
}
