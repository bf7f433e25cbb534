//! Which ports masqueraded packets have.

use super::*;

/// Where what is outside listens.
const OUTSIDE_PORT: u16 = 5007;
/// From where a pod sends.
const POD_PORT: u16 = 40_123;

/// From where a datagram of the pod comes to the store's host at `to`.
fn seen_from(
    cluster: &Cluster,
    pod: &Pod,
    to: &'static str,
) -> Result<SocketAddr> {
    let target = SocketAddr::new(to.parse()?, OUTSIDE_PORT);
    let bind = move || UdpSocket::bind(target);
    let receiver = cluster.underlay.middle().run(bind)?;
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    let any = if to.contains(':') { "[::]" } else { "0.0.0.0" };
    let from = format!("{any}:{POD_PORT}");
    let bind = move || UdpSocket::bind(from);
    let sender = pod.spawn(&cluster.node(0).host, bind)?.join();
    let sender = sender.map_err(|_| anyhow::anyhow!("no thread"))??;
    poll_until("a datagram", Duration::from_secs(40), || {
        sender.send_to(b"hey", target)?;
        Ok(receiver.recv_from(&mut [0; 4])?.1)
    })
}

/// `--ip-masq-fully-random-disable` (T-27): the node's address, and the pod's
/// own port.
#[test]
fn ports_are_kept_where_that_is_asked_for() -> Result<()> {
    for kind in Kind::ALL {
        let path = Path::new(kind)?;
        let mut cluster = Cluster::new(Wiring::Routed, 1, &kind.net_conf())?;
        start(&mut cluster, 0, &path.value(), &["--ip-masq"])?;
        cluster.node_mut(0).wait_ready()?;
        let random = |cluster: &Cluster| -> Result<(usize, usize)> {
            let rules = kind.rules(&cluster.node(0).host)?.to_lowercase();
            let all: Vec<_> = rules
                .lines()
                .filter(|line| line.contains("masquerade"))
                .collect();
            let random = all.iter().filter(|line| line.contains("random"));
            Ok((all.len(), random.count()))
        };
        // two rules a family
        assert_eq!(random(&cluster)?, (4, 4), "{kind:?}");
        daemon(&mut cluster, 0)?.stop(Signal::SIGTERM)?;
        let flags = ["--ip-masq", "--ip-masq-fully-random-disable"];
        start(&mut cluster, 0, &path.value(), &flags)?;
        cluster.node_mut(0).wait_ready()?;
        assert_eq!(random(&cluster)?, (4, 0), "{kind:?}");
        cluster.assert_settled()?;
        let pod = Pod::add(&cluster.node(0).host, "a")?;
        let uplink = &cluster.node(0).uplink;
        for (to, node) in OUTSIDE.into_iter().zip([&uplink.v4, &uplink.v6]) {
            let wanted = SocketAddr::new(node.parse()?, POD_PORT);
            assert_eq!(seen_from(&cluster, &pod, to)?, wanted, "{kind:?}");
        }
    }
    Ok(())
}
