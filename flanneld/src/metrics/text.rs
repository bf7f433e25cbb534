//! Prometheus' text format.

use std::fmt::{Display, Write as _};

/// Metrics as text, family by family.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
    name: &'static str,
}

// === impl Text ===

impl Text {
    /// Begins a family; samples follow. `kind` is the word after `# TYPE`.
    pub(super) fn family(
        &mut self,
        name: &'static str,
        kind: &str,
        help: &str,
    ) {
        self.name = name;
        // Strings take all that is written.
        let _ = writeln!(self.out, "# HELP {name} {help}");
        let _ = writeln!(self.out, "# TYPE {name} {kind}");
    }

    /// A value of the family. Label values are this program's own words:
    /// nothing in them needs a backslash.
    pub(super) fn sample(
        &mut self,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        self.part("", labels, value);
    }

    /// The same with a suffix to the family's name.
    pub(super) fn part(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let name = self.name;
        let _ = writeln!(self.out, "{name}{suffix}{labels} {value}");
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}
