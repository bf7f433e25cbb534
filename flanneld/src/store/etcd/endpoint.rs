//! Where etcd is: the texts of `--etcd-endpoints` (C-1) as addresses with a
//! decided transport, and the keys below `--etcd-prefix` (C-2).

use std::fmt;

/// One etcd member as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    tls: bool,
}

/// An endpoint that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing was given (E-55).
    #[error(
        "no etcd endpoint is given: set --etcd-endpoints to one or more \
         URLs, separated by commas"
    )]
    None,
    /// A Unix socket. Upstream's client library takes them (E-51).
    #[error(
        "etcd endpoint {0:?}: sockets in the file system are not supported: \
         give http://host:port or https://host:port"
    )]
    Unix(String),
    /// Neither a URL nor a host with a port.
    #[error(
        "etcd endpoint {0:?} is not a URL: give http://host:port or \
         https://host:port"
    )]
    Url(String),
}

/// The keys of one network (E-1, E-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    config: String,
    subnets: String,
}

// === impl Endpoint ===

impl Endpoint {
    /// Reads one endpoint. Its own scheme decides the transport; without one
    /// it is TLS when TLS files are configured (`tls_configured`), else plain
    /// (E-51, where upstream lets the first endpoint decide for all).
    ///
    /// # Errors
    /// [`EndpointError`] when the text is neither a URL nor `host:port`.
    pub fn parse(
        text: &str,
        tls_configured: bool,
    ) -> Result<Self, EndpointError> {
        let trimmed = text.trim();
        let (tls, rest) = match trimmed.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(("unix" | "unixs", _)) => {
                return Err(EndpointError::Unix(text.to_owned()));
            }
            Some(_) => return Err(EndpointError::Url(text.to_owned())),
            None if trimmed.starts_with("unix:") => {
                return Err(EndpointError::Unix(text.to_owned()));
            }
            None => (tls_configured, trimmed),
        };
        let authority = rest.trim_end_matches('/');
        let usable = !authority.is_empty()
            && !authority.starts_with(':')
            && !authority
                .contains(|c: char| c.is_whitespace() || "/?#@".contains(c));
        if !usable {
            return Err(EndpointError::Url(text.to_owned()));
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self { url: format!("{scheme}://{authority}"), tls })
    }

    /// The URL, always with a scheme.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether TLS is spoken with it.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

// === impl Keys ===

impl Keys {
    /// The keys below `prefix`, joined and cleaned the way a path is: no
    /// double or trailing slash, `.` and `..` resolved (C-2).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            config: clean(&format!("{prefix}/config"), prefix),
            subnets: clean(&format!("{prefix}/subnets"), prefix),
        }
    }

    /// The key of the network configuration (E-1).
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// What every lease's key begins with, the slash included: upstream lists
    /// without it and so sees foreign keys as well (E-4).
    #[must_use]
    pub fn subnets(&self) -> String {
        format!("{}/", self.subnets)
    }

    /// The full key of one lease (E-2).
    #[must_use]
    pub fn lease(&self, key: &ipam::lease::SubnetKey) -> String {
        format!("{}/{key}", self.subnets)
    }
}

/// `path` cleaned; relative when `prefix` is (an empty prefix is).
fn clean(path: &str, prefix: &str) -> String {
    let rooted = prefix.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            name => parts.push(name),
        }
    }
    let joined = parts.join("/");
    if rooted { format!("/{joined}") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_cleaned_like_a_path() {
        for (prefix, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//a///b//", "/a/b/config"),
            ("/a/./b/../c", "/a/c/config"),
            ("/../a", "/a/config"),
            ("rel/x", "rel/x/config"),
            ("../x", "../x/config"),
            ("", "config"),
            ("/", "/config"),
        ] {
            assert_eq!(Keys::new(prefix).config(), config, "{prefix:?}");
        }
        assert_eq!(Keys::new("/n/").subnets(), "/n/subnets/");
    }

    #[test]
    fn scheme_decides_per_endpoint() {
        let url = |text, tls| {
            Endpoint::parse(text, tls).map(|e| (e.url().to_owned(), e.tls()))
        };
        assert_eq!(
            url("http://a:2379", true),
            Ok(("http://a:2379".into(), false))
        );
        assert_eq!(
            url("https://a:2379/", false),
            Ok(("https://a:2379".into(), true))
        );
        assert_eq!(
            url("10.0.0.1:2379", true),
            Ok(("https://10.0.0.1:2379".into(), true))
        );
        assert_eq!(
            url("[::1]:2379", false),
            Ok(("http://[::1]:2379".into(), false))
        );
    }

    #[test]
    fn bad_endpoints_are_named() {
        for bad in ["", "http://", "ftp://a:1", "http://a b:1", "u@h:1", ":1"] {
            let err = Endpoint::parse(bad, false).unwrap_err();
            assert_eq!(err, EndpointError::Url(bad.to_owned()));
        }
        for unix in ["unix:///run/etcd.sock", "unixs://x:0", "unix:x"] {
            let err = Endpoint::parse(unix, false).unwrap_err();
            assert!(err.to_string().contains("not supported"), "{err}");
        }
    }
}
