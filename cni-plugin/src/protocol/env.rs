//! The environment of a call (S-2, S-3, S-7, S-9..S-11).

use netlink::{NetNs, NetNsError};

use super::{CniError, code};

/// The variables of one call, as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Env {
    /// `CNI_COMMAND`
    pub(crate) command: String,
    /// `CNI_CONTAINERID`
    pub(crate) container_id: String,
    /// `CNI_NETNS`; empty when the namespace is gone.
    pub(crate) netns: String,
    /// `CNI_IFNAME`
    pub(crate) ifname: String,
    /// `CNI_ARGS`
    pub(crate) args: String,
    /// `CNI_PATH`
    pub(crate) path: String,
    /// `CNI_NETNS_OVERRIDE`: the namespaces may be the same (S-18).
    pub(crate) netns_override: bool,
}

/// The longest interface name in bytes (IFNAMSIZ - 1).
const IFNAME_MAX: usize = 15;

// === impl Env ===

impl Env {
    /// Reads the variables by `get`.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name| get(name).unwrap_or_default();
        let netns_override = text("CNI_NETNS_OVERRIDE");
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: text("CNI_PATH"),
            netns_override: netns_override == "1"
                || netns_override.eq_ignore_ascii_case("true"),
        }
    }

    /// The namespace at CNI_NETNS; `None` for the plugin's own, unless it is
    /// allowed to be (S-18).
    ///
    /// # Errors
    /// What is there instead, or that nothing is.
    pub(super) fn netns(&self) -> Result<Option<NetNs>, NetNsError> {
        let netns = NetNs::open(&self.netns)?;
        let own = NetNs::current()?;
        let same = !self.netns_override && netns.same_as(&own)?;
        Ok((!same).then(|| netns.entered_from(&own)))
    }

    /// Checks that the variables the command needs are there and well formed.
    /// CNI_PATH alone may be absent until something is to be executed (S-6).
    ///
    /// # Errors
    /// Code 4: the first malformed one, otherwise all missing ones at once.
    pub(crate) fn check(&self) -> Result<(), CniError> {
        let (attachment, netns, path) = match self.command.as_str() {
            "ADD" | "CHECK" => (true, true, true),
            "DEL" => (true, false, true),
            "GC" | "STATUS" => (false, false, true),
            _ => (false, false, false),
        };
        let mut missing = Vec::new();
        let mut need = |name: &'static str, value: &str, needed: bool| {
            if needed && value.is_empty() {
                missing.push(name);
            }
            needed && !value.is_empty()
        };
        need("CNI_COMMAND", &self.command, true);
        if need("CNI_CONTAINERID", &self.container_id, attachment) {
            container_id(&self.container_id)?;
        }
        need("CNI_NETNS", &self.netns, netns);
        if need("CNI_IFNAME", &self.ifname, attachment) {
            interface_name(&self.ifname)?;
        }
        need("CNI_PATH", &self.path, path);
        if missing.is_empty() || missing == ["CNI_PATH"] {
            return Ok(());
        }
        let missing = missing.join(",");
        Err(CniError::new(
            code::ENVIRONMENT,
            format!("required env variables [{missing}] missing"),
        ))
    }
}

/// Whether `text` may name a container or a network (S-9).
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn container_id(text: &str) -> Result<(), CniError> {
    if is_name(text) {
        return Ok(());
    }
    Err(CniError::new(code::ENVIRONMENT, "invalid characters in containerID")
        .details(text))
}

/// Why `text` cannot name an interface (S-10).
pub(crate) fn interface_name_problem(text: &str) -> Option<&'static str> {
    if text.len() > IFNAME_MAX {
        Some("interface name is too long")
    } else if text == "." || text == ".." {
        Some("interface name is . or ..")
    } else if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
    {
        Some("interface name contains / or : or whitespace characters")
    } else {
        None
    }
}

fn interface_name(text: &str) -> Result<(), CniError> {
    let Some(msg) = interface_name_problem(text) else { return Ok(()) };
    let shown = match text.len() > IFNAME_MAX {
        true => format!(
            "interface name {text:?} has {} bytes, at most {IFNAME_MAX} fit",
            text.len()
        ),
        false => String::new(),
    };
    Err(CniError::new(code::ENVIRONMENT, msg).details(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        Env::read(|name| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn refused(vars: &[(&str, &str)]) -> String {
        let error = env(vars).check().unwrap_err();
        assert_eq!(error.code, 4);
        error.msg
    }

    /// CT-44: each variable of each verb. Without CNI_PATH alone a verb goes
    /// on until something is to be executed (S-6).
    #[test]
    fn what_each_verb_needs() {
        let all = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/n"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "K=V"),
            ("CNI_PATH", "/p"),
        ];
        let needed = |verb: &str| match verb {
            "ADD" | "CHECK" => &["CONTAINERID", "NETNS", "IFNAME"][..],
            "DEL" => &["CONTAINERID", "IFNAME"],
            _ => &[],
        };
        for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"] {
            for (without, _) in all {
                let given = all.iter().filter(|(key, _)| *key != without);
                let mut vars = vec![("CNI_COMMAND", verb)];
                vars.extend(given);
                let short = without.trim_start_matches("CNI_");
                let refused_for =
                    format!("required env variables [{without}] missing");
                match needed(verb).contains(&short) {
                    true => assert_eq!(refused(&vars), refused_for, "{verb}"),
                    false => assert_eq!(env(&vars).check(), Ok(()), "{verb}"),
                }
            }
        }
    }

    #[test]
    fn all_missing_variables_at_once() {
        assert_eq!(
            refused(&[("CNI_COMMAND", "ADD")]),
            "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,\
             CNI_PATH] missing"
        );
        assert_eq!(
            refused(&[("CNI_COMMAND", "DEL"), ("CNI_PATH", "/x")]),
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing"
        );
        assert_eq!(
            refused(&[]),
            "required env variables [CNI_COMMAND] missing"
        );
    }

    #[test]
    fn what_is_not_needed_is_not_looked_at() {
        let odd = [("CNI_CONTAINERID", "a/b"), ("CNI_IFNAME", "a b")];
        for verb in ["GC", "STATUS", "VERSION", "FOO"] {
            let vars = [&odd[..], &[("CNI_COMMAND", verb)]].concat();
            assert_eq!(env(&vars).check(), Ok(()), "{verb}");
        }
    }

    #[test]
    fn malformed_before_missing() {
        for (id, ifname, msg) in [
            ("a/b", "eth0", "invalid characters in containerID"),
            ("-a", "eth0", "invalid characters in containerID"),
            ("a", "abcdefghijklmnop", "interface name is too long"),
            ("a", "äöüäöüäö", "interface name is too long"),
            ("a", "..", "interface name is . or .."),
            (
                "a",
                "a\u{a0}b",
                "interface name contains / or : or whitespace characters",
            ),
        ] {
            let vars = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", id),
                ("CNI_IFNAME", ifname),
            ];
            assert_eq!(refused(&vars), msg, "{id} {ifname}");
        }
    }

    #[test]
    fn the_override() {
        for (value, on) in [("1", true), ("True", true), ("yes", false)] {
            assert_eq!(
                env(&[("CNI_NETNS_OVERRIDE", value)]).netns_override,
                on
            );
        }
    }
}
