//! Ports of a node that lead into pods of containerd: `portmap` with what the
//! runtime really sends (S-32, R-7).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use integration::cluster::Cluster;
use integration::etcd::Security;
use integration::host::Host;
use integration::poll::poll_until;
use integration::runtimes::containerd::Containerd;
use integration::runtimes::cri::{Pod, Port};
use integration::runtimes::prepare;
use integration::underlay::Wiring;

use super::containerd::wait_network;
use super::{LIST, write_env};

const WEB: &str = "echo hello >/tmp/index.html; \
                   exec httpd -f -p 80 -h /tmp";

#[test]
fn ports_of_the_node_lead_into_a_pod_until_it_stops() -> Result<()> {
    let cluster = Cluster::empty(Wiring::OneSegment, 2, Security::default())?;
    let (node, client) = (cluster.node(0), cluster.node(1));
    let host = &node.host;
    prepare(host, LIST)?;
    write_env(host)?;
    let containerd = Containerd::start(host)?;
    let cri = containerd.cri(host);
    wait_network(&cri)?;
    let ports = [
        Port { udp: false, container: 80, host: 8080 },
        Port { udp: true, container: 53, host: 5300 },
    ];
    let pod = Pod { ports: ports.to_vec(), ..Pod::named("web") };
    let id = cri.run_pod(&pod)?;
    let container = cri.start_container(&id, &pod, &["sh", "-c", WEB])?;

    let (v4, v6) = (&node.uplink.v4, format!("[{}]", node.uplink.v6));
    for ip in [v4, &v6] {
        let to: SocketAddr = format!("{ip}:8080").parse()?;
        wait_get(&client.host, to)?;
        wait_get(host, to)?;
    }
    wait_get(host, "127.0.0.1:8080".parse()?)?;
    // Its own pod, and one beside it.
    let own = format!("http://{v4}:8080/");
    let done = cri.exec(&container, &["wget", "-q", "-O", "-", &own])?;
    assert_eq!((done.code, done.text.as_str()), (0, "hello\n"));
    let udp: SocketAddr = format!("{v4}:5300").parse()?;
    echo(&containerd, host, &client.host, udp)?;

    cri.stop_pod(&id)?;
    let to: SocketAddr = format!("{v4}:8080").parse()?;
    let refused = client.host.run(move || get(to));
    assert!(refused.is_err(), "{refused:?}");
    cri.remove_pod(&id)?;

    // The same ports, another pod: nothing of the first is in the way.
    let pod = Pod { ports: ports.to_vec(), ..Pod::named("next") };
    let id = cri.run_pod(&pod)?;
    cri.start_container(&id, &pod, &["sh", "-c", WEB])?;
    wait_get(&client.host, to)?;
    echo(&containerd, host, &client.host, udp)?;
    cri.stop_pod(&id)?;
    cri.remove_pod(&id)
}

/// Until the server in the container listens.
pub(super) fn wait_get(host: &Host, to: SocketAddr) -> Result<()> {
    let what = format!("an answer from {to} to {}", host.name());
    poll_until(&what, Duration::from_secs(40), || {
        let page = host.run(move || get(to))?;
        ensure!(page.ends_with("hello\n"), "{page:?}");
        Ok(())
    })
}

pub(super) fn get(to: SocketAddr) -> Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// A datagram from `client` to the node's port `to` reaches the only pod
/// there is, and the answer comes back.
fn echo(
    containerd: &Containerd,
    node: &Host,
    client: &Host,
    to: SocketAddr,
) -> Result<()> {
    let pods = containerd.namespaces()?;
    let [pod] = pods.as_slice() else { bail!("one pod, not {pods:?}") };
    let limit = Some(Duration::from_secs(5));
    let (ready, bound) = channel();
    let server = node.spawn_in(pod, move || -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:53")?;
        socket.set_read_timeout(limit)?;
        ready.send(())?;
        let mut word = [0; 16];
        let (len, from) = socket.recv_from(&mut word).context("server")?;
        socket.send_to(&word[..len], from)?;
        Ok(())
    })?;
    bound.recv().context("the server ended")?;
    client.run(move || -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(limit)?;
        // Not connected: an answer from elsewhere is to be seen.
        socket.send_to(b"knock", to)?;
        let mut word = [0; 16];
        let (len, from) = socket.recv_from(&mut word).context("client")?;
        ensure!(&word[..len] == b"knock" && from == to, "from {from}");
        Ok(())
    })?;
    server.join().map_err(|_| anyhow!("the server panicked"))?
}
