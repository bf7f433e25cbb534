//! TLS towards etcd: which files, read anew at each connection so that a
//! certificate renewed on disk is used without a restart.

use std::path::{Path, PathBuf};
use std::{fs, io};

use etcd_client::{Certificate, Identity, TlsOptions};

/// The files of `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`
/// (C-3 … C-5), all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities that replace the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A TLS file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of a pair is missing.
    #[error(
        "--etcd-certfile and --etcd-keyfile belong together: only {0} is given"
    )]
    Half(&'static str),
    /// The file cannot be read.
    #[error("--{flag} {path}: {source}", path = path.display())]
    Read {
        /// The flag it comes from.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("--{flag} {path}: no {wanted} in PEM form in it",
        path = path.display())]
    Content {
        /// The flag it comes from.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The disk does not answer.
    #[error(
        "the files of --etcd-cafile, --etcd-certfile and --etcd-keyfile could \
         not be read within {seconds} s: their disk hangs"
    )]
    Slow {
        /// How long it was waited for.
        seconds: u64,
    },
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Whether any file is given.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }

    /// Reads the files. Without a CA file the system's authorities are
    /// trusted; a CA file counts also without our own certificate (W-58).
    ///
    /// # Errors
    /// [`TlsError`] when a file is unreadable or holds no PEM of its kind.
    pub fn load(&self) -> Result<TlsOptions, TlsError> {
        let mut options = TlsOptions::new();
        options = match &self.ca {
            Some(path) => {
                let pem = read("etcd-cafile", path, "CERTIFICATE")?;
                options.ca_certificate(Certificate::from_pem(pem))
            }
            None => options.with_enabled_roots(),
        };
        match (&self.cert, &self.key) {
            (None, None) => Ok(options),
            (Some(cert), Some(key)) => {
                let cert = read("etcd-certfile", cert, "CERTIFICATE")?;
                let key = read("etcd-keyfile", key, "PRIVATE KEY")?;
                Ok(options.identity(Identity::from_pem(cert, key)))
            }
            (Some(_), None) => Err(TlsError::Half("--etcd-certfile")),
            (None, Some(_)) => Err(TlsError::Half("--etcd-keyfile")),
        }
    }
}

/// The bytes of `path`, which must hold a PEM block that ends its name with
/// `wanted`: without one, the TLS library would only say later that it knows
/// no issuer.
fn read(
    flag: &'static str,
    path: &Path,
    wanted: &'static str,
) -> Result<Vec<u8>, TlsError> {
    let bytes = fs::read(path).map_err(|source| TlsError::Read {
        flag,
        path: path.to_owned(),
        source,
    })?;
    let found = String::from_utf8_lossy(&bytes).lines().any(|line| {
        line.trim()
            .strip_prefix("-----BEGIN ")
            .and_then(|rest| rest.strip_suffix("-----"))
            .is_some_and(|name| name.ends_with(wanted))
    });
    if !found {
        return Err(TlsError::Content { flag, path: path.to_owned(), wanted });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_pem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, "not a certificate").unwrap();
        let files = TlsFiles { ca: Some(ca.clone()), ..TlsFiles::default() };
        let text = files.load().unwrap_err().to_string();
        assert!(text.contains("--etcd-cafile"), "{text}");
        assert!(text.contains(&ca.display().to_string()), "{text}");
        fs::remove_file(&ca).unwrap();
        let text = files.load().unwrap_err().to_string();
        assert!(text.contains("No such file"), "{text}");
    }

    #[test]
    fn certificate_without_key_is_refused() {
        let files =
            TlsFiles { cert: Some(PathBuf::from("/x")), ..TlsFiles::default() };
        let text = files.load().unwrap_err().to_string();
        assert!(text.contains("only --etcd-certfile"), "{text}");
    }
}
