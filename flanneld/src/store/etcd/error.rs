//! What can go wrong with etcd, told apart by what to do about it.

use std::error::Error as _;

use super::tls::TlsError;

/// A failed operation on etcd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No member answers; nothing was sent.
    #[error("no etcd endpoint answers: {0}")]
    Unreachable(String),
    /// The TLS files cannot be used; nothing was sent.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The member went away, or was too slow, after the request was sent: it
    /// may have been carried out.
    #[error("etcd at {endpoint}: {reason}")]
    Lost {
        /// The member's URL.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// etcd does not know this session's login (any more); nothing was done.
    #[error("etcd at {endpoint}: {reason}")]
    Login {
        /// The member's URL.
        endpoint: String,
        /// Its words.
        reason: String,
    },
    /// etcd answered and will not do it.
    #[error("etcd at {endpoint}: {reason}")]
    Refused {
        /// The member's URL.
        endpoint: String,
        /// Its words, with the remedy where we know one.
        reason: String,
    },
}

/// How a failure reported by the client library is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// This member cannot serve now: take another.
    Member,
    /// The auth token is not valid any more: connect anew.
    Token,
    /// The server has no authentication although we have a user (E-54).
    AuthDisabled,
    /// The store has not come to the revision that was asked for.
    Ahead,
    /// The store has forgotten the revision that was asked for.
    Compacted,
    /// Another definite answer.
    Refused,
}

/// gRPC status codes, as far as they decide something.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

const NO_ETCD: &str = "that is no etcd: check --etcd-endpoints";

/// Words in an error, and what a person should do about it. The first match
/// is taken; the second field replaces the text where the original varies
/// from one attempt to the next (it would be logged each time).
const REMEDIES: &[(&str, Option<&str>, &str)] = &[
    (
        "UnknownIssuer",
        None,
        "the server's certificate is not signed by a trusted authority: \
         check --etcd-cafile",
    ),
    (
        "BadSignature",
        None,
        "the server's certificate is not signed by a trusted authority: \
         check --etcd-cafile",
    ),
    (
        "certificate expired",
        Some("invalid peer certificate: expired"),
        "the server's certificate has expired: renew it, and check this \
         node's clock",
    ),
    (
        "certificate not valid yet",
        Some("invalid peer certificate: not valid yet"),
        "check this node's clock",
    ),
    (
        "certificate not valid for name",
        None,
        "the endpoint's host must be among the names in the server's \
         certificate",
    ),
    (
        "CertificateRequired",
        None,
        "the server wants a client certificate: set --etcd-certfile and \
         --etcd-keyfile",
    ),
    (
        "CertificateExpired",
        None,
        "the server finds our certificate expired: renew --etcd-certfile",
    ),
    (
        "received fatal alert: BadCertificate",
        None,
        "the server does not accept our certificate, or wants one and got \
         none: check --etcd-certfile and --etcd-keyfile",
    ),
    (
        "received fatal alert: UnknownCA",
        None,
        "the server does not trust our certificate's authority: check \
         --etcd-certfile",
    ),
    (
        "InvalidContentType",
        None,
        "the server does not speak TLS there: use http://",
    ),
    (
        "tls handshake eof",
        None,
        "if the server does not speak TLS there, use http://",
    ),
    (
        "authentication failed",
        Some("authentication failed"),
        "wrong user or password: check --etcd-username and --etcd-password",
    ),
    (
        "user name is empty",
        None,
        "authentication is on: set --etcd-username and --etcd-password",
    ),
    (
        "permission denied",
        None,
        "the etcd user needs to read and write below --etcd-prefix",
    ),
    (
        "failed to lookup address",
        None,
        "the endpoint's host name cannot be resolved",
    ),
    ("database space exceeded", None, "etcd is full: compact it"),
    ("unknown service", None, NO_ETCD),
    ("grpc-status header missing", None, NO_ETCD),
];

// === impl Error ===

impl Error {
    /// Whether a write may have been carried out although it failed.
    #[must_use]
    pub const fn ambiguous(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// `error` from a request to `endpoint`.
    pub(super) fn from_client(
        endpoint: &str,
        error: &etcd_client::Error,
    ) -> Self {
        let endpoint = endpoint.to_owned();
        let reason = describe(error);
        match classify(error) {
            Class::Member => Self::Lost { endpoint, reason },
            Class::Token => Self::Login { endpoint, reason },
            Class::AuthDisabled
            | Class::Ahead
            | Class::Compacted
            | Class::Refused => Self::Refused { endpoint, reason },
        }
    }
}

/// What `error` asks for.
pub(super) fn classify(error: &etcd_client::Error) -> Class {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return Class::Member;
    };
    let text = status.message();
    if text.contains("authentication is not enabled") {
        return Class::AuthDisabled;
    }
    // Each change of a user or role ends all JWT tokens, and authentication
    // may be switched on under a session without any, with codes of their own.
    let login = [
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
    ];
    if login.iter().any(|words| text.contains(words)) {
        return Class::Token;
    }
    match status.code() as i32 {
        code::OUT_OF_RANGE if text.contains("future revision") => Class::Ahead,
        code::OUT_OF_RANGE if text.contains("been compacted") => {
            Class::Compacted
        }
        code::UNAUTHENTICATED => Class::Token,
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::ALREADY_EXISTS
        | code::PERMISSION_DENIED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE => Class::Refused,
        // etcd is full, or the answer is larger than we take.
        code::RESOURCE_EXHAUSTED if text.contains("space exceeded") => {
            Class::Refused
        }
        _ => Class::Member,
    }
}

/// The causes of `error` in one line, without repetition, and what to do.
pub(super) fn describe(error: &etcd_client::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut push = |text: String| {
        let known = parts.iter().any(|p| p.contains(&text));
        // the transport's own name for any cause
        if !known && !text.is_empty() && text != "transport error" {
            parts.push(text);
        }
    };
    let mut source = match error {
        etcd_client::Error::GRpcStatus(status) => {
            push(status.message().trim_start_matches("etcdserver: ").into());
            status.source()
        }
        etcd_client::Error::TransportError(e) => {
            push(e.to_string());
            e.source()
        }
        etcd_client::Error::IoError(e) => {
            push(e.to_string());
            e.source()
        }
        other @ (etcd_client::Error::InvalidArgs(_)
        | etcd_client::Error::InvalidUri(_)
        | etcd_client::Error::WatchError(_)
        | etcd_client::Error::Utf8Error(_)
        | etcd_client::Error::LeaseKeepAliveError(_)
        | etcd_client::Error::ElectError(_)
        | etcd_client::Error::InvalidMetadataValue(_)
        | etcd_client::Error::EndpointError(_)
        | etcd_client::Error::EndpointsNotManaged
        | etcd_client::Error::Internal(_)) => {
            push(other.to_string());
            None
        }
    };
    while let Some(cause) = source {
        push(cause.to_string());
        source = cause.source();
    }
    with_remedy(&parts.join(": "))
}

/// What `reason` is told as if the other side ended the connection without
/// saying why: a mistaken scheme, or a refused certificate whose alert was
/// missed. In one text, as it is up to chance how the end is seen.
pub(super) fn hang_up(reason: &str, tls: bool) -> Option<&'static str> {
    let closed = [
        "operation was canceled",
        "reset by peer",
        "broken pipe",
        "protocol error",
    ];
    if !closed.iter().any(|words| reason.contains(words)) {
        None
    } else if tls {
        Some(
            "it closed the connection (if it wants a client certificate, \
             check --etcd-certfile and --etcd-keyfile; if it does not speak \
             TLS, use http://)",
        )
    } else {
        Some("it closed the connection (if it speaks TLS, use https://)")
    }
}

fn with_remedy(text: &str) -> String {
    REMEDIES.iter().find(|(words, ..)| text.contains(words)).map_or_else(
        || text.to_owned(),
        |(_, stable, remedy)| format!("{} ({remedy})", stable.unwrap_or(text)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varying_parts_of_a_message_are_dropped() {
        let a = with_remedy(
            "invalid peer certificate: certificate expired: verification \
             time 1700000000",
        );
        let b = with_remedy(
            "invalid peer certificate: certificate expired: verification \
             time 1700000001",
        );
        assert_eq!(a, b);
        assert!(a.contains("renew it"), "{a}");
    }

    #[test]
    fn unknown_texts_stay_as_they_are() {
        assert_eq!(with_remedy("something else"), "something else");
    }
}
