//! The attachments that a runtime says are still valid (S-29, S-64).

use std::collections::BTreeSet;

use ipam::gojson::Object;

use super::{CniError, code};

/// What GC must leave alone in this network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ValidAttachments {
    /// Container id and interface name.
    set: BTreeSet<(String, String)>,
}

// === impl ValidAttachments ===

impl ValidAttachments {
    /// The list's key, and the one it had by mistake in the first library.
    pub(crate) const KEYS: [&str; 2] =
        ["cni.dev/valid-attachments", "cni.dev/attachments"];

    /// Reads the list of a GC call.
    ///
    /// # Errors
    /// Code 7 without one: no list is not an empty list. `cnitool gc` sends
    /// none (R-17), and everything would be removed under living pods.
    pub(crate) fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let list = Self::KEYS
            .iter()
            .find_map(|key| conf.value(key).filter(|v| !v.is_null()));
        let Some(list) = list else {
            return Err(CniError::config(format!(
                "GC without a list of valid attachments: nothing is removed; \
                 the runtime must give {:?}, an empty list if there are none",
                Self::KEYS[0]
            )));
        };
        let mut out = Self::default();
        for one in list.array()? {
            let one = one.object()?;
            let text = |key| -> Result<String, CniError> {
                one.string(key)?.filter(|t| !t.is_empty()).ok_or_else(|| {
                    CniError::new(
                        code::CONFIG,
                        format!("{} is missing", one.path_of(key)),
                    )
                })
            };
            // white space around an id does not count (HL-25)
            let id = text("containerID")?.trim().to_owned();
            out.set.insert((id, text("ifname")?));
        }
        Ok(out)
    }

    /// Whether interface `ifname` of `container_id` is valid.
    pub(crate) fn contains(&self, container_id: &str, ifname: &str) -> bool {
        let pair = (container_id.trim().to_owned(), ifname.to_owned());
        self.set.contains(&pair)
    }

    /// Whether any interface of `container_id` is valid: for what is kept by
    /// container alone.
    pub(crate) fn has_container(&self, container_id: &str) -> bool {
        self.iter().any(|(id, _)| id == container_id.trim())
    }

    /// All of them: container id and interface name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set.iter().map(|(id, name)| (id.as_str(), name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ValidAttachments, CniError> {
        ValidAttachments::read(&Object::parse(text)?)
    }

    #[test]
    fn by_either_key_and_the_newer_one_first() {
        let old = r#"{"cni.dev/attachments":[{"containerID":"c",
            "ifname":"eth0"}]}"#;
        let valid = read(old).unwrap();
        assert!(valid.contains("c", "eth0") && !valid.contains("c", "eth1"));
        assert!(valid.has_container("c") && !valid.has_container("d"));
        let both = r#"{"cni.dev/attachments":[{"containerID":"c",
            "ifname":"eth0"}],"cni.dev/valid-attachments":[]}"#;
        assert_eq!(read(both).unwrap(), ValidAttachments::default());
    }

    /// R-17
    #[test]
    fn no_list_is_not_an_empty_one() {
        for text in [
            "{}",
            r#"{"cni.dev/valid-attachments":null}"#,
            r#"{"cni.dev/valid-attachments":{}}"#,
            r#"{"cni.dev/valid-attachments":[{"containerID":"c"}]}"#,
            r#"{"cni.dev/valid-attachments":[{"ifname":"eth0"}]}"#,
            r#"{"cni.dev/valid-attachments":["c"]}"#,
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code, code::CONFIG, "{text}: {error}");
        }
    }
}
