//! Acquiring a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam::PerFamily;

use crate::etcd::Server;
use crate::node::*;

const V4: &str = r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetMin": "10.5.1.0",
    "SubnetMax": "10.5.200.0"}"#;
const DUAL: &str = r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "EnableIPv6": true,
    "IPv6Network": "fd00:5::/48"}"#;
const V6: &str = r#"{"Backend": {"Type": "vxlan"}, "EnableIPv4": false, "EnableIPv6": true,
    "IPv6Network": "fd00:5::/48"}"#;

async fn server(conf: &str) -> Server {
    let server = Server::start().await;
    server.configure(conf).await;
    server
}

/// Q-49, Q-55: in range, the exact value, on a lease of 24 h; the second time
/// the same again.
#[tokio::test]
async fn in_range_exact_value_and_reused() {
    let server = server(V4).await;
    let node = Node::join(&server, "1.2.3.4").await;
    let first = node.held_key();
    let subnet = node.held.as_ref().unwrap().lease.key.subnets().v4.unwrap();
    assert!(subnet >= "10.5.1.0/24".parse().unwrap());
    let (value, lease, _) = server.get(&first).await.unwrap();
    assert_eq!(value, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#);
    let ttl = ttl(&server, lease).await;
    assert!((86_390..=86_400).contains(&ttl), "{ttl}");

    drop(node);
    let node = Node::join(&server, "1.2.3.4").await;
    assert_eq!(node.held_key(), first);
    assert_eq!(server.keys().await, [first]);
}

pub(crate) async fn ttl(server: &Server, lease: i64) -> i64 {
    let mut client = server.client().await.lease_client();
    client.time_to_live(lease, None).await.unwrap().ttl()
}

/// Q-55, E-23: the previous subnet is kept, one that does not fit is not.
#[tokio::test]
async fn previous_subnet() {
    let server = server(V4).await;
    for (previous, kept) in
        [("10.5.77.0/24", true), ("10.6.1.0/24", false), ("10.5.9.0/25", false)]
    {
        let subnet = previous.parse().unwrap();
        let settings = settings(&[server.url()]);
        let mut node = Node::start_with(settings, "1.2.3.4", |params| {
            params.previous = PerFamily { v4: Some(subnet), v6: None };
        })
        .await;
        node.until("a lease", |n| n.held.is_some()).await;
        let got = node.held.as_ref().unwrap().lease.key.subnets().v4.unwrap();
        assert_eq!(got == subnet, kept, "{previous}: {got}");
        server.delete(&node.held_key()).await;
    }
}

/// Q-56: after a change of the network the old lease is deleted, not reused.
#[tokio::test]
async fn changed_network() {
    let server = server(V4).await;
    let old = Node::join(&server, "1.2.3.4").await.held_key();
    server
        .configure(
            r#"{"Backend": {"Type": "vxlan"}, "Network": "10.9.0.0/16"}"#,
        )
        .await;
    let node = Node::join(&server, "1.2.3.4").await;
    assert!(node.held_key().starts_with("10.9."), "{}", node.held_key());
    assert_ne!(node.held_key(), old);
    assert_eq!(server.keys().await, [node.held_key()]);
}

/// W-6: a reservation is taken and stays one, also over a restart.
#[tokio::test]
async fn reservation_stays_without_lifetime() {
    let server = server(V4).await;
    let value = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#;
    server.put("10.5.42.0-24", value, None).await;
    for _ in 0..2 {
        let node = Node::join(&server, "1.2.3.4").await;
        assert_eq!(node.held_key(), "10.5.42.0-24");
        let held = node.held.as_ref().unwrap();
        assert_eq!((held.lease_id, held.expires), (0, None));
        let (_, lease, _) = server.get("10.5.42.0-24").await.unwrap();
        assert_eq!(lease, 0);
    }
    let other = Node::join(&server, "1.2.3.5").await;
    assert_ne!(other.held_key(), "10.5.42.0-24");
}

#[tokio::test]
async fn dual_stack_and_v6_only() {
    let server = server(DUAL).await;
    let node = Node::join(&server, "1.2.3.4").await;
    let key = node.held_key();
    assert!(key.contains('&'), "{key}");
    assert_eq!(server.keys().await, [key]);

    let server = self::server(V6).await;
    let a = Node::join(&server, "fd00::1").await;
    let b = Node::join(&server, "fd00::2").await;
    assert!(a.held_key().starts_with("0.0.0.0-0&fd00:5:"), "{}", a.held_key());
    assert_ne!(a.held_key(), b.held_key(), "W-9");
    let (value, ..) = server.get(&a.held_key()).await.unwrap();
    assert_eq!(value, r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}"#);
}

/// W-4: 20 nodes at once and 20 subnets: everybody gets one, nobody two.
#[tokio::test]
async fn race_for_every_subnet() {
    let server = server(
        r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetMin": "10.5.1.0",
            "SubnetMax": "10.5.20.0"}"#,
    )
    .await;
    let mut nodes = Vec::new();
    for i in 1..=20 {
        nodes.push(Node::start(&server, &format!("1.1.1.{i}")).await);
    }
    for node in &mut nodes {
        node.until("a lease", |n| n.held.is_some()).await;
    }
    let keys: BTreeSet<String> = nodes.iter().map(Node::held_key).collect();
    assert_eq!(keys.len(), 20);
    let stored: BTreeSet<String> = server.keys().await.into_iter().collect();
    assert_eq!(stored, keys);
    for node in &mut nodes {
        node.until("all peers", |n| n.peers.len() == 19).await;
        assert!(node.lost.is_none());
    }
    // what was granted in vain is revoked
    let mut client = server.client().await.lease_client();
    for _ in 0..100 {
        if client.leases().await.unwrap().leases().len() == 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd leases are left over");
}

/// A dual-stack race in a tight IPv6 range, where the key does not protect.
#[tokio::test]
async fn dual_stack_race_shares_no_subnet() {
    let server = server(
        r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "EnableIPv6": true,
            "IPv6Network": "fd00:5::/60", "IPv6SubnetLen": 64}"#,
    )
    .await;
    let mut nodes = Vec::new();
    for i in 1..=12 {
        nodes.push(Node::start(&server, &format!("1.1.1.{i}")).await);
    }
    for node in &mut nodes {
        node.until("a lease", |n| n.held.is_some()).await;
    }
    for (i, a) in nodes.iter().enumerate() {
        for b in nodes.iter().skip(i + 1) {
            let (a, b) = (a.held.as_ref().unwrap(), b.held.as_ref().unwrap());
            assert!(!a.lease.key.overlaps(&b.lease.key));
        }
    }
    assert_eq!(server.keys().await.len(), 12);
}

/// A full range is said, with the range, and waited out.
#[tokio::test]
async fn exhausted_range() {
    let server = server(
        r#"{"Backend": {"Type": "vxlan"}, "Network": "10.5.0.0/16", "SubnetMin": "10.5.7.0",
            "SubnetMax": "10.5.7.0"}"#,
    )
    .await;
    let first = Node::join(&server, "1.1.1.1").await;
    let mut second = Node::start(&server, "1.1.1.2").await;
    let reason = second.complains("no IPv4 subnet is free").await;
    assert!(reason.contains("10.5.7.0"), "{reason}");
    drop(first);
    server.delete("10.5.7.0-24").await;
    second.until("a lease", |n| n.held.is_some()).await;
    assert_eq!(second.status.borrow().reason(), None);
}
