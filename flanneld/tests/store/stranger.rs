//! A server that speaks gRPC and is no etcd.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) struct Stranger {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Stranger {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { url, task }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Just enough of HTTP/2 (RFC 9113) to answer each request with
/// "unimplemented: unknown service".
async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const END_OF_HEADERS_AND_STREAM: u8 = 5;
    let frame = |kind: u8, flags: u8, id: &[u8], payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags], id, payload].concat()
    };
    let field = |name: &str, value: &str| {
        let length = |text: &str| vec![u8::try_from(text.len()).unwrap()];
        [vec![0], length(name), name.into(), length(value), value.into()]
            .concat()
    };
    let answer = [
        vec![0x88], // :status 200
        field("content-type", "application/grpc"),
        field("grpc-status", "12"),
        field("grpc-message", "unknown service etcdserverpb.KV"),
    ]
    .concat();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, &[0; 4], &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await?;
        let reply = match kind {
            HEADERS => frame(HEADERS, END_OF_HEADERS_AND_STREAM, &id, &answer),
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, &id, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, &id, &payload),
            _ => continue,
        };
        stream.write_all(&reply).await?;
    }
}
