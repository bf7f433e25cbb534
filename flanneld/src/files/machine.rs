//! Which machine this is: a state directory that came with a copied disk is
//! another node's (P30).

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Made when the system is installed, or first started from an image that
/// lacks it (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
/// The firmware's own; a hypervisor gives each machine another one. Only root
/// can read it.
const PRODUCT: &str = "/sys/class/dmi/id/product_uuid";

/// What tells this machine from others, as far as it has that. Neither is
/// another one after a restart, but where `/etc` cannot be written and systemd
/// makes up an id at each (machine-id(5)). That the product is the same proves
/// nothing then: some boards all have one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product: Option<String>,
}

// === impl Machine ===

impl Machine {
    /// This one.
    #[must_use]
    pub(super) fn this() -> Self {
        let (id, product) = (read(MACHINE_ID), read(PRODUCT));
        Self { id, product }
    }

    /// Whether both cannot be the same machine. What is known of one of them
    /// only tells nothing.
    #[must_use]
    pub(super) fn differs(&self, other: &Self) -> bool {
        [(&self.id, &other.id), (&self.product, &other.product)]
            .into_iter()
            .any(|(a, b)| a.is_some() && b.is_some() && a != b)
    }
}

/// The word in a file; an image that is still to be started for the first
/// time has none in it.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let word = text.trim();
    let known = !word.is_empty() && word != "uninitialized";
    known.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, product: &str) -> Machine {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Machine { id: some(id), product: some(product) }
    }

    #[test]
    fn a_copy_differs_in_one_of_both() {
        let original = machine("a", "x");
        assert!(!original.differs(&original));
        assert!(original.differs(&machine("b", "x")), "reinstalled");
        assert!(original.differs(&machine("a", "y")), "copied as it was");
        for less in [machine("a", ""), machine("", "x"), machine("", "")] {
            assert!(!original.differs(&less), "{less:?}");
            assert!(!less.differs(&original), "{less:?}");
        }
        assert!(!machine("a", "").differs(&machine("", "y")));
    }

    #[test]
    fn an_image_that_was_not_started_has_no_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, name) in [
            ("", None),
            ("uninitialized\n", None),
            ("0123abcd\n", Some("0123abcd".to_owned())),
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read(file.path()), name);
        }
        assert_eq!(read("/nowhere/machine-id"), None);
    }
}
