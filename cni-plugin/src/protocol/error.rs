//! Errors as the runtime sees them (S-54, S-55).

use std::io;

use serde::Serialize;

/// What a plugin prints on stdout when it fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub(crate) struct CniError {
    /// One of [`code`], or whatever a delegate said.
    pub(crate) code: u32,
    /// What failed, on which object, and what to do about it.
    pub(crate) msg: String,
    /// More of it, may be empty.
    pub(crate) details: String,
}

/// The error codes of the CNI specification (S-55) and our own.
pub(crate) mod code {
    /// The configuration's version is not one of ours.
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key or verb this build cannot serve; the message holds key and value.
    pub(crate) const UNSUPPORTED: u32 = 2;
    /// Environment variables are missing or malformed.
    pub(crate) const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub(crate) const IO: u32 = 5;
    /// Text could not be decoded.
    pub(crate) const DECODE: u32 = 6;
    /// The configuration says something impossible.
    pub(crate) const CONFIG: u32 = 7;
    /// CNI_NETNS is no usable network namespace.
    pub(crate) const NETNS: u32 = 8;
    /// Passes by itself: the runtime should try again.
    pub(crate) const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// STATUS: nor may what is attached be reached from everywhere.
    pub(crate) const LIMITED: u32 = 51;
    /// CHECK: the attachment is not what ADD made.
    pub(crate) const DIFFERS: u32 = 100;
    /// A plugin that is to be executed is not in CNI_PATH.
    pub(crate) const NO_PLUGIN: u32 = 101;
    /// The kernel or a file refused a step.
    pub(crate) const INTERNAL: u32 = 999;
}

/// Why an ADD failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedAdd {
    /// What the runtime is told.
    pub(crate) error: CniError,
    /// Whether nothing of the attachment is left.
    pub(crate) undone: bool,
}

#[derive(Serialize)]
struct Printed<'a> {
    #[serde(rename = "cniVersion")]
    version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

// === impl CniError ===

impl CniError {
    /// An error without details.
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same with details.
    pub(crate) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same, with what was being done in front.
    pub(crate) fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.msg = format!("{doing}: {}", self.msg);
        self
    }

    /// A step that a file or the kernel refused.
    pub(crate) fn internal(msg: impl std::fmt::Display) -> Self {
        Self::new(code::INTERNAL, msg.to_string())
    }

    /// A file or program that could not be used because of `e`: code 5, or 11
    /// where it may work when tried again.
    pub(crate) fn io(e: &io::Error, msg: impl Into<String>) -> Self {
        let again = netlink::is_transient(e);
        Self::new(if again { code::TRY_AGAIN } else { code::IO }, msg)
    }

    /// A configuration that cannot be served.
    pub(crate) fn config(msg: impl Into<String>) -> Self {
        Self::new(code::CONFIG, msg)
    }

    /// What a failed DEL may say. containerd takes a DEL error that holds
    /// "not found" for success, cri-dockerd one that holds "no such file or
    /// directory" (R-9, R-16): then nobody would ever try again.
    pub(crate) fn retriable(mut self) -> Self {
        for text in [&mut self.msg, &mut self.details] {
            for (phrase, other) in [
                ("not found", "missing"),
                ("no such file or directory", "path does not exist"),
            ] {
                replace_folded(text, phrase, other);
            }
        }
        self
    }

    /// What STATUS says of it: code 50, but for what passes by itself, and
    /// for what says already how bad it is.
    pub(crate) fn unavailable(self) -> Self {
        match self.code {
            code::TRY_AGAIN | code::LIMITED => self,
            _ => Self { code: code::NOT_AVAILABLE, ..self },
        }
    }

    /// The JSON printed on stdout: four spaces a level, no newline (S-54).
    pub(crate) fn render(&self, version: &str) -> String {
        let printed = Printed {
            version,
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        };
        super::pretty(&printed)
    }
}

impl From<CniError> for FailedAdd {
    /// An error before anything was made.
    fn from(error: CniError) -> Self {
        Self { error, undone: true }
    }
}

/// All failures in one, the first one's code with all messages.
///
/// # Errors
/// When any of them is one.
pub(crate) fn gather(
    results: impl IntoIterator<Item = Result<(), CniError>>,
) -> Result<(), CniError> {
    let mut failed: Option<CniError> = None;
    for error in results.into_iter().filter_map(Result::err) {
        failed = Some(match failed {
            None => error,
            Some(mut first) => {
                first.msg = format!("{}; {}", first.msg, error.msg);
                first
            }
        });
    }
    failed.map_or(Ok(()), Err)
}

/// Replaces `phrase` (lower case ASCII) in any case.
fn replace_folded(text: &mut String, phrase: &str, other: &str) {
    // ASCII folding keeps every byte where it is
    while let Some(at) = text.to_ascii_lowercase().find(phrase) {
        text.replace_range(at..at + phrase.len(), other);
    }
}

impl From<netlink::Error> for CniError {
    /// A step that the kernel refused: code 11 where it may work when tried
    /// again, so that the runtime can tell.
    fn from(e: netlink::Error) -> Self {
        let code =
            if e.is_transient() { code::TRY_AGAIN } else { code::INTERNAL };
        Self::new(code, e.to_string())
    }
}

impl From<netlink::sysctl::SysctlError> for CniError {
    fn from(e: netlink::sysctl::SysctlError) -> Self {
        let code =
            if e.is_transient() { code::TRY_AGAIN } else { code::INTERNAL };
        Self::new(code, e.to_string())
    }
}

impl From<netlink::program::ProgramError> for CniError {
    /// Code 11 for a program that hung, waited in vain for others, or for
    /// which the machine had no room.
    fn from(e: netlink::program::ProgramError) -> Self {
        use netlink::program::ProgramError;
        let again = match &e {
            ProgramError::Stuck { .. } | ProgramError::Left { .. } => true,
            // how the older iptables says it
            ProgramError::Failed { said, .. } => said.contains("xtables lock"),
            ProgramError::Start { source, .. } => netlink::is_transient(source),
        };
        let code = if again { code::TRY_AGAIN } else { code::INTERNAL };
        Self::new(code, e.to_string())
    }
}

impl From<netlink::NetNsError> for CniError {
    fn from(e: netlink::NetNsError) -> Self {
        let code = if e.is_transient() { code::TRY_AGAIN } else { code::NETNS };
        Self::new(code, e.to_string())
    }
}

impl From<ipam::gojson::Error> for CniError {
    fn from(e: ipam::gojson::Error) -> Self {
        let code = match e {
            ipam::gojson::Error::Syntax { .. } => code::DECODE,
            ipam::gojson::Error::Type { .. } => code::CONFIG,
        };
        Self::new(code, format!("network configuration: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_with_version_and_without_empty_details() {
        let error = CniError::config("a < b");
        assert_eq!(
            error.render("0.3.1"),
            "{\n    \"cniVersion\": \"0.3.1\",\n    \"code\": 7,\n    \
             \"msg\": \"a \\u003c b\"\n}"
        );
        assert!(
            error.details("d").render("1.0.0").contains(
                "\"msg\": \"a \\u003c b\",\n    \"details\": \"d\"\n}"
            )
        );
    }

    /// A machine without room has some later; a program is not installed by
    /// itself.
    #[test]
    fn programs_that_do_not_start() {
        for (errno, code) in [
            (netlink::Errno::ENOMEM, code::TRY_AGAIN),
            (netlink::Errno::EAGAIN, code::TRY_AGAIN),
            (netlink::Errno::EMFILE, code::TRY_AGAIN),
            (netlink::Errno::ENFILE, code::TRY_AGAIN),
            (netlink::Errno::ENOENT, code::INTERNAL),
            (netlink::Errno::EACCES, code::INTERNAL),
        ] {
            let start = netlink::program::ProgramError::Start {
                program: "iptables-save".into(),
                source: errno.into(),
            };
            assert_eq!(CniError::from(start).code, code, "{errno}");
        }
    }

    /// CW-19: a runtime can tell what passes by itself.
    #[test]
    fn passing_failures_of_the_kernel() {
        let refused = |errno| netlink::Error::Refused {
            object: "create link x".into(),
            errno,
            kernel: None,
        };
        for (errno, code) in [
            (netlink::Errno::ENOBUFS, code::TRY_AGAIN),
            (netlink::Errno::EBUSY, code::TRY_AGAIN),
            (netlink::Errno::EINVAL, code::INTERNAL),
            (netlink::Errno::EPERM, code::INTERNAL),
        ] {
            assert_eq!(CniError::from(refused(errno)).code, code, "{errno}");
        }
        let file = |errno: netlink::Errno| CniError::io(&errno.into(), "x");
        assert_eq!(file(netlink::Errno::ENFILE).code, code::TRY_AGAIN);
        assert_eq!(file(netlink::Errno::ENOSPC).code, code::IO);
        let lost = netlink::Error::Unknown {
            object: "create link x".into(),
            reason: "lost",
        };
        assert_eq!(CniError::from(lost).code, code::TRY_AGAIN);
        let netns = |errno: netlink::Errno| netlink::NetNsError::Io {
            path: "/run/netns/a".into(),
            operation: "open",
            source: errno.into(),
        };
        let many = CniError::from(netns(netlink::Errno::ENFILE));
        assert_eq!(many.code, code::TRY_AGAIN);
        let looped = CniError::from(netns(netlink::Errno::ELOOP));
        assert_eq!(looped.code, code::NETNS);
        let setting =
            |errno: netlink::Errno| netlink::sysctl::SysctlError::Read {
                path: "/proc/sys/x".into(),
                source: std::io::Error::from_raw_os_error(errno as i32),
            };
        let busy = CniError::from(setting(netlink::Errno::EBUSY));
        assert_eq!(busy.code, code::TRY_AGAIN);
        let gone = CniError::from(setting(netlink::Errno::ENOENT));
        assert_eq!(gone.code, code::INTERNAL);
    }

    /// S-63: what passes by itself is told apart from what does not.
    #[test]
    fn what_status_says() {
        for (code, said) in [
            (code::TRY_AGAIN, code::TRY_AGAIN),
            (code::LIMITED, code::LIMITED),
            (code::CONFIG, code::NOT_AVAILABLE),
            (code::INTERNAL, code::NOT_AVAILABLE),
        ] {
            assert_eq!(CniError::new(code, "x").unavailable().code, said);
        }
    }

    #[test]
    fn a_failed_del_never_reads_as_success() {
        let error = CniError::internal("link Not Found: not found")
            .details("open x: No such file or directory")
            .retriable();
        assert_eq!(error.msg, "link missing: missing");
        assert_eq!(error.details, "open x: path does not exist");
    }
}
