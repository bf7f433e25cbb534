//! The harness itself: what it claims to isolate is isolated, and a probe
//! that loses something says so.

use anyhow::Result;
use integration::cluster::Cluster;
use integration::etcd::Security;
use integration::host::Host;
use integration::underlay::Wiring;

#[test]
fn hosts_do_not_share_network_nor_run() -> Result<()> {
    let (a, b) = (Host::new("a")?, Host::new("b")?);
    a.write("/run/flannel/mine", "a")?;
    assert!(b.read("/run/flannel/mine").is_err());
    assert!(!std::path::Path::new("/run/flannel/mine").exists());
    a.ip("link add br9 type bridge")?;
    assert!(b.ip("link show br9").is_err());
    Ok(())
}

#[test]
fn nodes_reach_each_other_and_the_store() -> Result<()> {
    for wiring in [Wiring::OneSegment, Wiring::Routed] {
        let cluster = Cluster::empty(wiring, 2, Security::default())?;
        let [a, b] = [cluster.node(0), cluster.node(1)];
        for to in [&b.uplink.v4, &b.uplink.v6] {
            a.host.ping(to, 2)?;
        }
        b.host.ping(integration::underlay::STORE_V4, 1)?;
        b.host.ping(integration::underlay::STORE_V6, 1)?;
        cluster.ctl(&["put", "k", "v"])?;
        assert_eq!(cluster.ctl(&["get", "k"])?, "k\nv\n");
    }
    Ok(())
}

#[test]
fn the_store_can_have_tls_and_users() -> Result<()> {
    let security = Security { tls: true, client_certs: true, users: true };
    let cluster = Cluster::empty(Wiring::OneSegment, 0, security)?;
    assert_eq!(cluster.ctl(&["put", "k", "v"])?, "OK\n");
    Ok(())
}
