use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::repairs::Repairs;

const ANY_PORT: &str = "127.0.0.1:0";

async fn bind(
    addr: SocketAddr,
    readiness: &Readiness,
) -> Result<Server, ListenError> {
    let recent = Recent::default();
    let repairs = Repairs::new(recent.clone());
    let metrics = Metrics::new(readiness.clone(), repairs);
    Server::bind(addr, readiness.clone(), recent, metrics).await
}

async fn start(
    readiness: &Readiness,
) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let server = bind(ANY_PORT.parse().unwrap(), readiness).await.unwrap();
    let addr = server.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    (addr, stop, task)
}

async fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn endpoints_answer_as_c120_says() {
    let readiness = Readiness::not_ready("waiting for etcd");
    let (addr, _stop, _task) = start(&readiness).await;
    let is = |status: u16, body: &str| (status, body.to_owned());

    assert_eq!(
        ask(addr, "GET", "/healthz").await,
        is(200, "flanneld is running")
    );
    assert_eq!(
        ask(addr, "GET", "/readyz").await,
        is(503, "flanneld is not ready yet: waiting for etcd")
    );
    readiness.set_ready("");
    assert_eq!(
        ask(addr, "POST", "/readyz?verbose").await,
        is(200, "flanneld is ready")
    );
    let (status, body) = ask(addr, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("\nflannel_ready 1\n"), "{body}");
    assert_eq!(ask(addr, "GET", "/").await.0, 404);
    assert_eq!(ask(addr, "GET", "/healthz/x").await.0, 404);
}

#[tokio::test]
async fn readiness_can_go_back() {
    let readiness = Readiness::not_ready("starting");
    let (addr, _stop, _task) = start(&readiness).await;
    readiness.set_ready("");
    assert_eq!(ask(addr, "GET", "/readyz").await.0, 200);
    readiness.set_not_ready("the lease was lost");
    let (status, body) = ask(addr, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.ends_with("the lease was lost"), "{body}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let readiness = Readiness::not_ready("starting");
    let (addr, _stop, _task) = start(&readiness).await;
    let error = bind(addr, &readiness).await.unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()), "{error}");
    assert!(error.contains("--healthz-port"), "{error}");
}

#[tokio::test]
async fn stop_ends_idle_connections_and_frees_the_port() {
    let readiness = Readiness::not_ready("starting");
    let (addr, stop, task) = start(&readiness).await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);

    let begun = Instant::now();
    stop.send(()).unwrap();
    task.await.unwrap();
    assert!(begun.elapsed() < STOP_LIMIT, "{:?}", begun.elapsed());
    assert_eq!(idle.read(&mut buffer).await.unwrap(), 0);
    bind(addr, &readiness).await.unwrap();
}

#[tokio::test]
async fn a_client_that_stays_silent_does_not_delay_the_stop_for_ever() {
    let readiness = Readiness::not_ready("starting");
    let (addr, stop, task) = start(&readiness).await;
    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"GET /hea").await.unwrap();
    tokio::task::yield_now().await;
    stop.send(()).unwrap();
    let begun = Instant::now();
    task.await.unwrap();
    assert!(begun.elapsed() <= STOP_LIMIT + Duration::from_secs(1));
}

#[tokio::test]
async fn silent_clients_give_way() {
    let readiness = Readiness::not_ready("starting");
    let (addr, _stop, _task) = start(&readiness).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    assert_eq!(ask(addr, "GET", "/healthz").await.0, 200);
}

/// Any pod can ask; none can keep the kubelet from asking.
#[tokio::test]
async fn clients_that_read_no_answer_give_way() {
    let readiness = Readiness::not_ready("starting");
    let (addr, _stop, _task) = start(&readiness).await;
    let requests = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000);
    let mut deaf = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(addr).await.unwrap();
        // As many as go in: then the server waits for this client.
        let send = client.write_all(&requests);
        let _ = tokio::time::timeout(Duration::from_millis(20), send).await;
        deaf.push(client);
    }
    let answer = ask(addr, "GET", "/healthz");
    let limit = Duration::from_secs(60);
    let answer = tokio::time::timeout(limit, answer).await;
    assert_eq!(answer.expect("room").0, 200);
}
