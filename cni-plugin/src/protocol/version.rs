//! Protocol versions (S-14..S-17).

use super::{CniError, code};

/// A published version of the protocol, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 0.1.0, also what a missing version means (S-15).
    V010,
    /// 0.2.0
    V020,
    /// 0.3.0
    V030,
    /// 0.3.1
    V031,
    /// 0.4.0
    V040,
    /// 1.0.0
    V100,
    /// 1.1.0
    V110,
}

/// Versions whose results have the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// 0.1.0, 0.2.0: one address per family.
    PerFamily,
    /// 0.3.0 to 0.4.0: lists, each address with its family's number.
    Numbered,
    /// 1.0.0 and later.
    Current,
}

// === impl Version ===

impl Version {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 7] = [
        Self::V010,
        Self::V020,
        Self::V030,
        Self::V031,
        Self::V040,
        Self::V100,
        Self::V110,
    ];

    /// The newest one.
    pub(crate) const NEWEST: Self = Self::V110;

    /// The text of a configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V010 => "0.1.0",
            Self::V020 => "0.2.0",
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// The version with exactly this text; an empty text is 0.1.0 (S-15).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }

    /// The form of its results.
    pub(crate) const fn layout(self) -> Layout {
        match self {
            Self::V010 | Self::V020 => Layout::PerFamily,
            Self::V030 | Self::V031 | Self::V040 => Layout::Numbered,
            Self::V100 | Self::V110 => Layout::Current,
        }
    }

    /// What VERSION prints for a plugin that knows `oldest` and all after it
    /// (S-19).
    pub(crate) fn answer(oldest: Self) -> String {
        let all = quoted(oldest).join(",");
        format!(
            "{{\"cniVersion\":\"{}\",\"supportedVersions\":[{all}]}}\n",
            Self::NEWEST.as_str()
        )
    }

    /// All versions, as the about text lists them.
    pub(crate) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// The texts of `oldest` and all after it, in quotes.
fn quoted(oldest: Version) -> Vec<String> {
    let known = Version::ALL.into_iter().filter(|v| *v >= oldest);
    known.map(|v| format!("\"{}\"", v.as_str())).collect()
}

/// The version of a configuration that says `text`, for a plugin that knows
/// `oldest` and all after it.
///
/// # Errors
/// Code 1 when it is none of these (S-14).
pub(super) fn accept(text: &str, oldest: Version) -> Result<Version, CniError> {
    Version::parse(text).filter(|v| *v >= oldest).ok_or_else(|| {
        let ours = quoted(oldest).join(" ");
        CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .details(format!("config is {text:?}, plugin supports [{ours}]"))
    })
}

/// Refuses `verb` for a configuration older than `least` (S-16).
///
/// # Errors
/// Code 6 when the text is no version at all, code 1 when it is too old or
/// beyond ours.
pub(super) fn gate(
    text: &str,
    least: Version,
    verb: &str,
) -> Result<(), CniError> {
    let number = |text: &str| {
        numbers(text).ok_or_else(|| {
            CniError::new(
                code::DECODE,
                format!("cniVersion {text:?} is not a version such as 1.0.0"),
            )
        })
    };
    let text = if text.is_empty() { "0.1.0" } else { text };
    let asked = number(text)?;
    let refuse = |who: &str| {
        CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!("{who} version does not allow {verb}"),
        )
    };
    if asked < number(least.as_str())? {
        return Err(refuse("config"));
    }
    if asked > number(Version::NEWEST.as_str())? {
        return Err(refuse("plugin"));
    }
    Ok(())
}

/// `1`, `1.0` or `1.0.0` as numbers.
fn numbers(text: &str) -> Option<[u64; 3]> {
    let mut out = [0; 3];
    let mut parts = text.split('.');
    for (slot, part) in out.iter_mut().zip(&mut parts) {
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptance_is_exact() {
        let accept = |text| accept(text, Version::V010);
        assert_eq!(accept("").unwrap(), Version::V010);
        assert_eq!(accept("0.3.1").unwrap(), Version::V031);
        let error = accept("1.2.0").unwrap_err();
        assert_eq!(
            (error.code, error.msg.as_str()),
            (1, "incompatible CNI versions")
        );
        assert_eq!(
            error.details,
            "config is \"1.2.0\", plugin supports [\"0.1.0\" \"0.2.0\" \
             \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]"
        );
    }

    /// S-17
    #[test]
    fn some_plugins_know_later_versions_only() {
        assert!(accept("0.4.0", Version::V040).is_ok());
        let error = accept("0.3.1", Version::V040).unwrap_err();
        assert_eq!(
            error.details,
            "config is \"0.3.1\", plugin supports [\"0.4.0\" \"1.0.0\" \
             \"1.1.0\"]"
        );
        assert!(Version::answer(Version::V040).contains(":[\"0.4.0\",\"1"));
    }

    #[test]
    fn gates() {
        assert!(gate("0.4.0", Version::V040, "CHECK").is_ok());
        for (text, least, code, msg) in [
            ("0.3.1", Version::V040, 1, "config version does not allow CHECK"),
            ("", Version::V040, 1, "config version does not allow CHECK"),
            ("1.0.0", Version::V110, 1, "config version does not allow CHECK"),
            ("1.2.0", Version::V040, 1, "plugin version does not allow CHECK"),
        ] {
            let error = gate(text, least, "CHECK").unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (code, msg), "{text}");
        }
        for text in ["x", "1.x", "1.0.0.0", "1..0"] {
            assert_eq!(gate(text, Version::V040, "CHECK").unwrap_err().code, 6);
        }
    }

    #[test]
    fn version_answer() {
        assert_eq!(
            Version::answer(Version::V010),
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\
             \"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        );
    }
}
