//! A real etcd server that ends with its value.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, CompactionOptions, ConnectOptions, PutOptions, TlsOptions,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The prefix that all tests use.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// A running etcd member.
pub(crate) struct Server {
    dir: TempDir,
    scheme: &'static str,
    /// Its client port on 127.0.0.1.
    pub(crate) port: u16,
    peer_port: u16,
    extra: Vec<String>,
    client_tls: Option<TlsOptions>,
    child: Option<Child>,
}

impl Server {
    /// A plain server without authentication.
    pub(crate) async fn start() -> Self {
        Self::start_with("http", &[], None).await
    }

    /// A server with more flags. `client_tls` is how [`Self::client`]
    /// connects.
    pub(crate) async fn start_with(
        scheme: &'static str,
        extra: &[String],
        client_tls: Option<TlsOptions>,
    ) -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().unwrap(),
            scheme,
            port: 0,
            peer_port: 0,
            extra: extra.to_vec(),
            client_tls,
            child: None,
        };
        // another process may take a port between its choice and its use
        for _ in 0..5 {
            (server.port, server.peer_port) = free_ports();
            if server.run().await {
                return server;
            }
        }
        panic!("etcd does not start:\n{}", server.log());
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Starts it again, with the data it had.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        assert!(self.run().await, "etcd does not restart:\n{}", self.log());
    }

    /// Starts it again, with nothing in it.
    pub(crate) async fn restart_empty(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
        assert!(self.run().await, "etcd does not restart:\n{}", self.log());
    }

    /// Ends it at once.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops or continues its process.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// A client of the test's own.
    pub(crate) async fn client(&self) -> Client {
        self.client_as(None).await
    }

    pub(crate) async fn client_as(&self, user: Option<(&str, &str)>) -> Client {
        let mut options = ConnectOptions::new().with_auto_token_refresh(true);
        if let Some(tls) = &self.client_tls {
            options = options.with_tls(tls.clone());
        }
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        Client::connect([self.url()], Some(options)).await.unwrap()
    }

    /// Puts the network configuration.
    pub(crate) async fn configure(&self, conf: impl Into<Vec<u8>>) {
        let mut client = self.client().await;
        client.put(format!("{PREFIX}/config"), conf, None).await.unwrap();
    }

    /// Writes a lease as another node would; with a lifetime in seconds.
    pub(crate) async fn put(
        &self,
        key: &str,
        value: &str,
        ttl: Option<i64>,
    ) -> i64 {
        let mut client = self.client().await;
        let id = match ttl {
            Some(ttl) => {
                client.lease_client().grant(ttl, None).await.unwrap().id()
            }
            None => 0,
        };
        let options = PutOptions::new().with_lease(id);
        let key = format!("{PREFIX}/subnets/{key}");
        client.put(key, value, Some(options)).await.unwrap();
        id
    }

    pub(crate) async fn delete(&self, key: &str) {
        let mut client = self.client().await;
        let key = format!("{PREFIX}/subnets/{key}");
        assert_eq!(client.delete(key, None).await.unwrap().deleted(), 1);
    }

    /// Value, etcd lease and mod revision of a lease.
    pub(crate) async fn get(&self, key: &str) -> Option<(String, i64, i64)> {
        let mut client = self.client().await;
        let key = format!("{PREFIX}/subnets/{key}");
        let answer = client.get(key, None).await.unwrap();
        answer.kvs().first().map(|kv| {
            let value = kv.value_str().unwrap().to_owned();
            (value, kv.lease(), kv.mod_revision())
        })
    }

    /// The keys of all leases.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut client = self.client().await;
        let prefix = format!("{PREFIX}/subnets/");
        let options = etcd_client::GetOptions::new().with_prefix();
        let answer = client.get(prefix.clone(), Some(options)).await.unwrap();
        answer
            .kvs()
            .iter()
            .map(|kv| kv.key_str().unwrap()[prefix.len()..].to_owned())
            .collect()
    }

    /// Forgets the history up to now.
    pub(crate) async fn compact(&self) {
        let mut client = self.client().await;
        client.put("/other", "x", None).await.unwrap();
        // a watch from the compacted revision itself would still be served
        let answer = client.put("/other", "y", None).await.unwrap();
        let revision = answer.header().unwrap().revision();
        let options = CompactionOptions::new().with_physical();
        client.compact(revision, Some(options)).await.unwrap();
    }

    fn log(&self) -> String {
        let path = self.dir.path().join("log");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Whether it answers.
    async fn run(&mut self) -> bool {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new(program())
            .arg("--name=a")
            .arg(format!(
                "--data-dir={}",
                self.dir.path().join("data").display()
            ))
            .arg(format!("--listen-client-urls={}", self.url()))
            .arg(format!("--advertise-client-urls={}", self.url()))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=a={peer}"))
            .args(["--heartbeat-interval=20", "--election-timeout=200"])
            .args(["--logger=zap", "--log-outputs=stderr"])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.child = None;
                return false;
            }
            if self.answers().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Any answer counts, also one that wants a user.
    async fn answers(&self) -> bool {
        if TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            return false;
        }
        let mut client = self.client().await;
        let asked =
            tokio::time::timeout(Duration::from_secs(2), client.get("x", None));
        match asked.await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.to_string().contains("user name is empty"),
            Err(_) => false,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(10));
            let last: Vec<&str> = last.copied().collect();
            eprintln!("--- the end of etcd's log\n{}", last.join("\n"));
        }
        self.stop();
    }
}

/// The etcd to test with: `FLANNEL_TEST_ETCD`, else `etcd` in the PATH.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("FLANNEL_TEST_ETCD") {
        let path = PathBuf::from(path);
        assert!(path.exists(), "FLANNEL_TEST_ETCD: no {}", path.display());
        return path;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("etcd"))
        .find(|p| p.exists())
        .expect(
            "these tests need etcd: install it, or set FLANNEL_TEST_ETCD to \
             the program",
        )
}

/// Two ports of loopback that nobody listens on, below those that the kernel
/// gives to outgoing connections: one of these might take the port of a server
/// that is away for a moment, or be connected to itself.
pub(crate) fn free_ports() -> (u16, u16) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let next = || {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let n = std::process::id().wrapping_mul(97).wrapping_add(n);
        20_000 + u16::try_from(n % 12_000).unwrap()
    };
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(next).filter(free);
    (ports.next().unwrap(), ports.next().unwrap())
}
