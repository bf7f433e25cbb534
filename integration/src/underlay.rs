//! What joins nodes: one L2 segment, or a router with a segment a node. The
//! middle is everybody's default gateway, and holds the address of what is
//! outside the cluster: the store.

use anyhow::Result;

use crate::host::Host;

/// Duplicate address detection of interfaces to come: off for the underlay,
/// where a real machine's is long over when a daemon starts.
const DAD: &str = "net/ipv6/conf/default/accept_dad";

/// How nodes see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// All on one segment: `192.168.77.<n>/24`, `fd77::<n>/64`.
    OneSegment,
    /// Each behind a router of its own segment: `192.168.<100+n>.2/24`,
    /// `fd77:<n>::2/64`, default route to `.1`.
    Routed,
}

/// The store's IPv4 address, behind every node's default gateway.
pub const STORE_V4: &str = "10.99.0.1";
/// The store's IPv6 address.
pub const STORE_V6: &str = "fd99::1";

/// The switch or router between nodes.
#[derive(Debug)]
pub struct Underlay {
    wiring: Wiring,
    middle: Host,
}

/// A node's place on the underlay.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// IPv4 address.
    pub v4: String,
    /// IPv6 address.
    pub v6: String,
    /// The default gateways, of IPv4 and IPv6.
    pub via: [String; 2],
}

// === impl Underlay ===

impl Underlay {
    /// An empty one.
    ///
    /// # Errors
    /// Without root.
    pub fn new(wiring: Wiring) -> Result<Self> {
        let middle = Host::new("underlay")?;
        middle.sysctl(DAD, "0")?;
        middle.ip(&format!("addr add {STORE_V4}/32 dev lo"))?;
        middle.ip(&format!("addr add {STORE_V6}/128 dev lo"))?;
        match wiring {
            Wiring::OneSegment => {
                // Of its own it would take the lowest of its ports', another
                // one whenever a node joins.
                middle.ip("link add br0 address 02:00:00:00:77:fe type bridge mcast_snooping 0")?;
                middle.ip("addr add 192.168.77.254/24 dev br0")?;
                middle.ip("addr add fd77::fe/64 dev br0 nodad")?;
                middle.ip("link set br0 up")?;
            }
            Wiring::Routed => {
                middle.sysctl("net/ipv4/ip_forward", "1")?;
                middle.sysctl("net/ipv6/conf/all/forwarding", "1")?;
            }
        }
        Ok(Self { wiring, middle })
    }

    /// How it joins nodes.
    #[must_use]
    pub fn wiring(&self) -> Wiring {
        self.wiring
    }

    /// The switch or router itself, to cut links or capture.
    #[must_use]
    pub fn middle(&self) -> &Host {
        &self.middle
    }

    /// The name of node `n`'s port on the switch or router.
    #[must_use]
    pub fn port(n: u8) -> String {
        format!("n{n}")
    }

    /// Gives `host` an `eth0` as node `n` (1 to 99) with an MTU of 1500 and
    /// a default route of each family.
    ///
    /// # Errors
    /// When a command fails.
    pub fn attach(&self, host: &Host, n: u8) -> Result<Uplink> {
        self.attach_as(host, n, n)
    }

    /// The same with the addresses of node `as_node`.
    ///
    /// # Errors
    /// When a command fails.
    pub fn attach_as(&self, host: &Host, n: u8, as_node: u8) -> Result<Uplink> {
        let port = Self::port(n);
        let n = as_node;
        let netns = host.netns();
        host.sysctl(DAD, "0")?;
        self.middle.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            netns.display()
        ))?;
        let (v4, v6, gw4, gw6) = match self.wiring {
            Wiring::OneSegment => {
                self.middle.ip(&format!("link set {port} master br0 up"))?;
                let v4 = format!("192.168.77.{n}");
                (
                    v4,
                    format!("fd77::{n:x}"),
                    "192.168.77.254".to_owned(),
                    "fd77::fe".to_owned(),
                )
            }
            Wiring::Routed => {
                let net4 = format!("192.168.{}", 100 + u16::from(n));
                let net6 = format!("fd77:{n:x}:");
                self.middle.ip(&format!("addr add {net4}.1/24 dev {port}"))?;
                self.middle
                    .ip(&format!("addr add {net6}:1/64 dev {port} nodad"))?;
                self.middle.ip(&format!("link set {port} up"))?;
                (
                    format!("{net4}.2"),
                    format!("{net6}:2"),
                    format!("{net4}.1"),
                    format!("{net6}:1"),
                )
            }
        };
        // What the node makes for itself has its own.
        host.sysctl(DAD, "1")?;
        host.ip(&format!("addr add {v4}/24 dev eth0"))?;
        host.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
        host.ip("link set eth0 up")?;
        host.ip(&format!("route add default via {gw4}"))?;
        host.ip(&format!("-6 route add default via {gw6}"))?;
        Ok(Uplink { v4, v6, via: [gw4, gw6] })
    }

    /// Sets `eth0` up again, once it was set down, with the IPv6 address and
    /// the routes that it lost by that.
    ///
    /// # Errors
    /// When a command fails.
    pub fn lift(&self, host: &Host, uplink: &Uplink) -> Result<()> {
        let Uplink { v6, via, .. } = uplink;
        host.ip("link set eth0 up")?;
        host.ip(&format!("addr replace {v6}/64 dev eth0 nodad"))?;
        host.ip(&format!("route replace default via {}", via[0]))?;
        host.ip(&format!("-6 route replace default via {}", via[1]))?;
        Ok(())
    }
}
