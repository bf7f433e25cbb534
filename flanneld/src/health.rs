//! The health endpoints (C-120, C-121): `/healthz` says that the daemon lives,
//! `/readyz` whether this node's pod network works, and if not, why not
//! (W-63), `/events` what happened last, `/metrics`
//! what Prometheus collects. The port opens before the store has answered (W-62).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::metrics::{self, Metrics};
use crate::recent::Recent;

/// A client has this long to send its request.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// A connection takes requests for this long, and is cut off after as long
/// again: who does not read its answer would keep others from theirs.
const LIFE: Duration = Duration::from_secs(5);
/// Connections have this long to end when the daemon stops (C-121).
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// Whether this node's pod network works. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    ready: bool,
    /// What is wrong or waited for; empty when nothing is.
    reason: String,
}

/// A health server whose port is open.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    readiness: Readiness,
    recent: Recent,
    metrics: Metrics,
}

/// The health server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "the health server cannot listen on {addr}: {error} (see --healthz-ip \
     and --healthz-port)"
)]
pub struct ListenError {
    /// Where.
    pub addr: SocketAddr,
    /// Why not.
    pub error: io::Error,
}

// === impl Readiness ===

impl Readiness {
    /// Not ready, because of `reason`.
    #[must_use]
    pub fn not_ready(reason: &str) -> Self {
        let reason = reason.to_owned();
        Self(Arc::new(Mutex::new(State { ready: false, reason })))
    }

    /// The network works. `reason` tells what does not, which it can do
    /// without for a while; empty when nothing.
    pub fn set_ready(&self, reason: &str) {
        self.set(true, reason);
    }

    /// The network does not work, or not any more.
    pub fn set_not_ready(&self, reason: &str) {
        self.set(false, reason);
    }

    /// Why the node is not ready; `None` when it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.ready).then(|| state.reason.clone())
    }

    fn set(&self, ready: bool, reason: &str) {
        let reason = reason.to_owned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            State { ready, reason };
    }

    /// The answer to `/readyz`.
    fn answer(&self) -> (StatusCode, String) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { ready, reason } = &*state;
        match (ready, reason.as_str()) {
            (true, "") => (StatusCode::OK, "flanneld is ready".to_owned()),
            (true, reason) => {
                (StatusCode::OK, format!("flanneld is ready; {reason}"))
            }
            (false, reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("flanneld is not ready yet: {reason}"),
            ),
        }
    }
}

// === impl Server ===

impl Server {
    /// Opens the port. Requests are answered once [`run`](Self::run) runs.
    ///
    /// # Errors
    /// [`ListenError`] when the address is taken or not this host's.
    pub async fn bind(
        addr: SocketAddr,
        readiness: Readiness,
        recent: Recent,
        metrics: Metrics,
    ) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|error| ListenError { addr, error })?;
        Ok(Self { listener, readiness, recent, metrics })
    }

    /// Where it listens: the port too when 0 was asked for.
    ///
    /// # Errors
    /// The kernel's, of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` completes, then lets open connections end, for 3
    /// seconds at most.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let room = connections.len() < CONNECTIONS;
            tokio::select! {
                () = &mut stop => break,
                _ = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(
                            stream,
                            self.readiness.clone(),
                            self.recent.clone(),
                            self.metrics.clone(),
                            stopped.clone(),
                        ));
                    }
                    Err(error) => {
                        tracing::debug!("health server: accept: {error}");
                        // Out of file descriptors: do not spin.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        stopping.send_replace(());
        let drained =
            async { while connections.join_next().await.is_some() {} };
        // What is still open after that is cut off when the set is dropped.
        let _ = tokio::time::timeout(STOP_LIMIT, drained).await;
    }
}

/// Serves one connection until its end, or until its time is over or `stopped`
/// changes and the request under way is answered.
async fn serve(
    stream: TcpStream,
    readiness: Readiness,
    recent: Recent,
    metrics: Metrics,
    mut stopped: watch::Receiver<()>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let path = request.uri().path();
        let response = answer(path, &readiness, &recent, &metrics);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return over(ended),
        _ = stopped.changed() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = tokio::time::timeout(LIFE, connection).await {
        over(ended);
    }
}

fn over(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("health server: {error}");
    }
}

/// Any method, as upstream.
fn answer(
    path: &str,
    readiness: &Readiness,
    recent: &Recent,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    let mut content = "text/plain; charset=utf-8";
    let (status, body) = match path {
        "/healthz" => (StatusCode::OK, "flanneld is running".to_owned()),
        "/readyz" => readiness.answer(),
        "/events" => (StatusCode::OK, recent.render()),
        "/metrics" => {
            content = metrics::CONTENT_TYPE;
            (StatusCode::OK, metrics.render())
        }
        _ => (StatusCode::NOT_FOUND, "not found".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
