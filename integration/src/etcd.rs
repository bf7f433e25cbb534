//! A real etcd server, also with TLS and users.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use tempfile::TempDir;

use crate::child::Child;
use crate::daemon::{http_get, value};
use crate::host::Host;
use crate::poll::poll_until;
use crate::underlay::{STORE_V4, STORE_V6};

/// The name the server's certificate carries besides its addresses.
pub const NAME: &str = "etcd.flannel.test";

/// How clients must talk to the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Security {
    /// `https` with a certificate of our own authority.
    pub tls: bool,
    /// Clients need a certificate of the same authority.
    pub client_certs: bool,
    /// Users and passwords: `root` / `rootpw`, `flannel` / `secret`.
    pub users: bool,
}

/// PEM files of the test's authority.
#[derive(Clone, Debug)]
pub struct Pki {
    /// The authority.
    pub ca: PathBuf,
    /// A client's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    ca_key: PathBuf,
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
    /// What the servers are called.
    names: Vec<String>,
}

/// A running server.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    words: Vec<String>,
    ctl: PathBuf,
    security: Security,
    /// Certificates, when there is TLS.
    pub pki: Option<Pki>,
    dir: TempDir,
}

// === impl Etcd ===

impl Etcd {
    /// Starts one on `host`, listening on every address at port 2379, and
    /// waits until it answers.
    ///
    /// # Errors
    /// When the binary is missing (`make test` unpacks it) or does not come
    /// up.
    pub fn start(host: &Host, security: Security) -> Result<Self> {
        let binary = std::env::var_os("FLANNEL_TEST_ETCD")
            .map_or("etcd".into(), PathBuf::from);
        let ctl = binary.with_file_name("etcdctl");
        let dir =
            tempfile::Builder::new().prefix("flannel-it-etcd-").tempdir()?;
        let pki = security.tls.then(|| Pki::make(&dir)).transpose()?;
        let scheme = if security.tls { "https" } else { "http" };
        let mut words: Vec<String> = vec![
            binary.display().to_string(),
            "--name=e1".into(),
            format!("--data-dir={}", dir.path().join("data").display()),
            // Go listens on both families for an unspecified address.
            format!("--listen-client-urls={scheme}://0.0.0.0:2379"),
            format!("--advertise-client-urls={scheme}://{STORE_V4}:2379"),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=e1=http://127.0.0.1:2380".into(),
            "--logger=zap".into(),
            "--log-level=warn".into(),
        ];
        if let Some(pki) = &pki {
            words.push(format!("--cert-file={}", pki.server_cert.display()));
            words.push(format!("--key-file={}", pki.server_key.display()));
            if security.client_certs {
                words.push("--client-cert-auth".into());
                words.push(format!("--trusted-ca-file={}", pki.ca.display()));
            }
        }
        let log = dir.path().join("etcd.log");
        let child = Child::spawn(host, &words, &[], &log).context(
            "etcd: `make test` unpacks it, FLANNEL_TEST_ETCD names it",
        )?;
        let etcd = Self {
            child,
            words,
            ctl,
            security: Security { users: false, ..security },
            pki,
            dir,
        };
        etcd.wait_answer(host)?;
        if !security.users {
            return Ok(etcd);
        }
        for words in [
            vec!["role", "add", "root"],
            vec!["user", "add", "root:rootpw"],
            vec!["user", "grant-role", "root", "root"],
            vec!["user", "add", "flannel:secret"],
            vec!["role", "add", "net"],
            vec![
                "role",
                "grant-permission",
                "net",
                "--prefix=true",
                "readwrite",
                "/",
            ],
            vec!["user", "grant-role", "flannel", "net"],
            vec!["auth", "enable"],
        ] {
            etcd.ctl(host, &words)?;
        }
        Ok(Self { security, ..etcd })
    }

    fn wait_answer(&self, host: &Host) -> Result<()> {
        poll_until("etcd to answer", Duration::from_secs(20), || {
            self.ctl(host, &["endpoint", "health"])
        })
        .with_context(|| self.child.log())
        .map(drop)
    }

    /// Starts the server, once killed, on `host` with the data it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self, host: &Host) -> Result<()> {
        let log = self.dir.path().join("etcd.log");
        self.child = Child::spawn(host, &self.words, &[], &log)?;
        self.wait_answer(host)
    }

    /// Adds a flag for the next start.
    pub fn add_flag(&mut self, flag: &str) {
        self.words.push(flag.to_owned());
    }

    /// Removes the data of the server, once killed.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn empty(&self) -> Result<()> {
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data).context("the data of etcd")
    }

    /// The URL for clients, by address.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.security.tls { "https" } else { "http" };
        format!("{scheme}://{STORE_V4}:2379")
    }

    /// The URL for clients that have no IPv4.
    #[must_use]
    pub fn url_v6(&self) -> String {
        let scheme = if self.security.tls { "https" } else { "http" };
        format!("{scheme}://[{STORE_V6}]:2379")
    }

    /// The URL for clients that resolve names.
    #[must_use]
    pub fn url_by_name(&self) -> String {
        let scheme = if self.security.tls { "https" } else { "http" };
        format!("{scheme}://{NAME}:2379")
    }

    /// Runs `etcdctl` on `host` (where the server runs).
    ///
    /// # Errors
    /// When it fails.
    pub fn ctl(&self, host: &Host, words: &[&str]) -> Result<String> {
        let scheme = if self.security.tls { "https" } else { "http" };
        let mut all = vec![
            "env".to_owned(),
            "ETCDCTL_API=3".to_owned(),
            self.ctl.display().to_string(),
            format!("--endpoints={scheme}://127.0.0.1:2379"),
            "--command-timeout=30s".to_owned(),
        ];
        if let Some(pki) = &self.pki {
            all.extend(pki.ctl_flags());
        }
        if self.security.users {
            all.push("--user=root:rootpw".to_owned());
        }
        all.extend(words.iter().map(|w| (*w).to_owned()));
        host.cmd(&all)
    }

    /// How many calls of that name in etcd's service `KV` it has answered,
    /// whoever asked, as a server without TLS on `host` tells.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn answered(&self, host: &Host, method: &str) -> Result<f64> {
        let series = format!(
            "grpc_server_handled_total{{grpc_code=\"OK\",\
             grpc_method=\"{method}\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}}"
        );
        let addr = (Ipv4Addr::LOCALHOST, 2379).into();
        let (_, body) = host.run(move || http_get(addr, "/metrics"))?;
        value(&body, &series)
    }

    /// The folder of its data and certificates.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

// === impl Pki ===

impl Pki {
    /// A fresh authority, a server certificate for every name and address of
    /// the store, and a client certificate, in `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(dir: &TempDir) -> Result<Self> {
        Self::of(dir, &[STORE_V4, STORE_V6, "127.0.0.1", "::1", NAME])
    }

    /// The same for servers of other `names`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn of(dir: &TempDir, names: &[&str]) -> Result<Self> {
        let at = |name: &str| dir.path().join(name);
        let pki = Self {
            ca: at("ca.pem"),
            cert: at("client.pem"),
            key: at("client.key"),
            ca_key: at("ca.key"),
            server_cert: at("server.pem"),
            server_key: at("server.key"),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        pki.renew()?;
        Ok(pki)
    }

    /// Another authority, and all its certificates, in the same files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn renew(&self) -> Result<()> {
        let ca_key = KeyPair::generate()?;
        std::fs::write(&self.ca, authority()?.self_signed(&ca_key)?.pem())?;
        std::fs::write(&self.ca_key, ca_key.serialize_pem())?;
        self.certify_all()
    }

    /// Other certificates of the same authority for servers and clients.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn certify_all(&self) -> Result<()> {
        self.sign(CertificateParams::new(Vec::new())?, &self.cert, &self.key)?;
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        self.certify_server(&names, 2096)
    }

    /// The flags with which `flanneld` uses these files, with the client's
    /// own certificate if `own`.
    #[must_use]
    pub fn flags(&self, own: bool) -> Vec<String> {
        let pair = [("certfile", &self.cert), ("keyfile", &self.key)];
        std::iter::once(("cafile", &self.ca))
            .chain(pair.into_iter().filter(|_| own))
            .map(|(flag, path)| format!("--etcd-{flag}={}", path.display()))
            .collect()
    }

    /// The same for `etcdctl`.
    #[must_use]
    pub fn ctl_flags(&self) -> Vec<String> {
        [("cacert", &self.ca), ("cert", &self.cert), ("key", &self.key)]
            .into_iter()
            .map(|(flag, path)| format!("--{flag}={}", path.display()))
            .collect()
    }

    /// Gives the server another certificate, for `names` and until the
    /// beginning of `year`. etcd reads it at each connection.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn certify_server(&self, names: &[&str], year: i32) -> Result<()> {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.sign(params, &self.server_cert, &self.server_key)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        cert: &Path,
        key: &Path,
    ) -> Result<()> {
        let ca_key =
            KeyPair::from_pem(&std::fs::read_to_string(&self.ca_key)?)?;
        let issuer = Issuer::new(authority()?, ca_key);
        let pair = KeyPair::generate()?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        std::fs::write(cert, params.signed_by(&pair, &issuer)?.pem())?;
        std::fs::write(key, pair.serialize_pem())?;
        Ok(())
    }
}

fn authority() -> Result<CertificateParams> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(ca)
}

/// Removes temporary folders that a killed earlier run left.
///
/// # Errors
/// When the system's temporary folder cannot be listed.
pub fn sweep_temp() -> Result<()> {
    const OLD: Duration = Duration::from_secs(4 * 3600);
    for entry in std::fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("flannel-it-");
        // Tests beside this one remove theirs meanwhile.
        let age = entry.metadata().and_then(|meta| meta.modified());
        let age = age.ok().and_then(|at| at.elapsed().ok());
        if ours && age.is_some_and(|age| age > OLD) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
