//! Peers that change between the tunnel and the way without it, on the real
//! kernel.

use std::time::Duration;

use ipam::{Family, PerFamily};
use netlink::monitor::{Event, Group, Monitor, Object};

use crate::support::{Rig, in_namespace, sh};

const CONF: &str = r#"{"Network": "10.0.0.0/8", "EnableIPv6": true,
    "IPv6Network": "fd00:64::/48",
    "Backend": {"Type": "vxlan", "DirectRouting": true}}"#;
const PEERS: u32 = 300;

/// The routes to whole subnets of peers that were deleted since the last
/// call. The kernel tells of them before it answers who asked for it.
fn gaps(monitor: &mut Monitor) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(event) = monitor.next(Some(Duration::ZERO)).expect("next") {
        match event {
            Event::Object { object: Object::Route(route), deleted, .. }
                if deleted && matches!(route.dst.len(), 24 | 64) =>
            {
                out.push(route.dst.to_string());
            }
            Event::Object { .. } => {}
            Event::Overrun => panic!("notifications were lost"),
        }
    }
    out
}

/// Routes to peers by the device that they lead to.
fn by(dev: PerFamily<&str>) -> PerFamily<usize> {
    PerFamily::from_fn(|family| {
        let dev = dev.get(family)?;
        let list = match family {
            Family::V4 => sh("ip route show root 10.0.0.0/8"),
            Family::V6 => sh("ip -6 route show root fd00:64::/48"),
        };
        let word = format!("dev {dev} ");
        let lines = list.lines().filter(|line| line.contains(" via "));
        Some(lines.filter(|line| line.contains(&word)).count())
    })
}

/// At no moment is a peer without a route, in neither family, though the
/// kernel refuses an IPv6 gateway that has a way by another device.
#[test]
fn no_route_is_missing_while_peers_change_their_way() {
    in_namespace(|| {
        let mut rig = Rig::new(CONF, PEERS);
        sh("ip addr add 192.168.0.1/16 dev under0");
        sh("ip -6 route add fd77::/16 dev under0");
        let all = usize::try_from(PEERS).expect("few");
        let every = PerFamily { v4: Some(all), v6: Some(all) };
        let public = rig.leases.values().flat_map(|l| l.public.iter());
        let direct = public.map(|(_, ip)| *ip).collect();
        let under = PerFamily { v4: Some("under0"), v6: Some("under0") };
        let tunnel =
            PerFamily { v4: Some("flannel.1"), v6: Some("flannel-v6.1") };
        rig.full();
        assert_eq!(by(tunnel), every);
        let mut monitor = Monitor::open(&[Group::Routes]).expect("monitor");
        let mut other = direct;
        for ways in [under, tunnel, under, tunnel] {
            std::mem::swap(&mut rig.direct, &mut other);
            let report = rig.full();
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            assert_eq!(by(ways), every);
            rig.assert_settled();
            assert_eq!(gaps(&mut monitor), [""; 0]);
        }
    });
}

/// A router may tell of a wide route, into which the IPv6 network falls: the
/// kernel refuses gateways there by any other device, unless it is helped.
#[test]
fn a_wide_route_by_another_device_is_no_obstacle() {
    in_namespace(|| {
        let mut rig = Rig::new(CONF, PEERS);
        let all = usize::try_from(PEERS).expect("few");
        sh("ip -6 route add fd00::/8 dev under0");
        let report = rig.full();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(
            by(PerFamily { v4: Some("flannel.1"), v6: Some("flannel-v6.1") }),
            PerFamily { v4: Some(all), v6: Some(all) }
        );
        rig.assert_settled();
        let left = sh("ip -6 route show root fd00:64::/48 proto 241");
        assert!(left.lines().all(|line| line.contains(" via ")), "{left}");
    });
}

/// What a pass leaves that ends between its changes, the next one removes.
#[test]
fn a_route_that_only_helped_does_not_stay() {
    in_namespace(|| {
        let mut rig = Rig::new(CONF, 2);
        rig.full();
        sh("ip -6 route add fd00:64:0:2::/128 dev flannel-v6.1");
        assert_eq!(rig.full().changed.len(), 1);
        let left = sh("ip -6 route show fd00:64:0:2::/128");
        assert_eq!(left, "");
    });
}
