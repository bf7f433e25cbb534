//! CNI_ARGS (S-34..S-36).

use super::{CniError, code};

/// The keys of CNI_ARGS that a built-in plugin reads. A key that any of them
/// knows is known to all, since one process does the work of several (S-35).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `IP`: the address wanted.
    pub(crate) ip: Option<String>,
    /// `MAC`: the pod interface's address.
    pub(crate) mac: Option<String>,
}

// === impl Args ===

impl Args {
    /// Reads `K=V;K=V`.
    ///
    /// # Errors
    /// Code 4 for a piece of another form, and for an unknown key unless
    /// `IgnoreUnknown` is true.
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let error = |msg: String| CniError::new(code::ENVIRONMENT, msg);
        let mut out = Self::default();
        let mut ignore_unknown = false;
        let mut unknown = Vec::new();
        if text.is_empty() {
            return Ok(out);
        }
        for pair in text.split(';') {
            let (key, value) = pair
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| error(format!("ARGS: invalid pair {pair:?}")))?;
            match key {
                "IP" => out.ip = Some(value.to_owned()),
                "MAC" => out.mac = Some(value.to_owned()),
                "IgnoreUnknown" => {
                    ignore_unknown = boolean(value).ok_or_else(|| {
                        error(format!(
                            "ARGS: IgnoreUnknown is {value:?}, but must be \
                             true or false"
                        ))
                    })?;
                }
                _ => unknown.push(format!("{pair:?}")),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            let unknown = unknown.join(" ");
            return Err(error(format!(
                "ARGS: unknown args [{unknown}] (known are IP and MAC; \
                 IgnoreUnknown=1 lets the others pass)"
            )));
        }
        Ok(out)
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let error = Args::parse(text).unwrap_err();
        assert_eq!(error.code, 4);
        error.msg
    }

    #[test]
    fn what_containerd_sends() {
        let args = Args::parse(
            "K8S_POD_UID=u;IgnoreUnknown=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p",
        );
        assert_eq!(args.unwrap(), Args::default());
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn known_keys_need_no_leave() {
        let args = Args::parse("IP=10.1.2.3;MAC=02:00:00:00:00:01").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.1.2.3"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn other_forms_are_errors() {
        assert_eq!(error("IgnoreUnknown=1;"), "ARGS: invalid pair \"\"");
        assert_eq!(error("X=a=b"), "ARGS: invalid pair \"X=a=b\"");
        assert!(
            error("FOO=1;IgnoreUnknown=FALSE")
                .starts_with("ARGS: unknown args [\"FOO=1\"]")
        );
        assert!(error("ip=1").contains("unknown args"), "case matters");
        assert!(error("IgnoreUnknown=2").contains("\"2\""));
    }
}
