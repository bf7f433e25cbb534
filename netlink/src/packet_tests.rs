//! Every message this crate writes, read by `netlink-packet-route`: another
//! author's idea of the same numbers and layouts. Nexthop messages are not
//! among them: that crate has none.

use std::net::IpAddr;

use ipam::Subnet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge,
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};

use crate::Request;
use crate::addr::{self, AddrSpec};
use crate::fdb::{self, FdbSpec};
use crate::link::bridge::{self, BridgeSpec};
use crate::link::veth::{self, VethEnd, VethSpec};
use crate::link::vxlan::{self, VxlanSpec};
use crate::link::{self};
use crate::neigh::{self, NeighSpec};
use crate::route::{self, RouteKind, RouteMatch, RouteSpec, Scope};
use crate::vlan::{self, Mode, Vlans};

const MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

fn read(request: &Request) -> (u16, RouteNetlinkMessage) {
    let message =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(request.message())
            .expect("readable");
    let NetlinkPayload::InnerMessage(inner) = message.payload else {
        panic!("{message:?}")
    };
    (message.header.flags, inner)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn net(text: &str) -> Subnet {
    text.parse().expect("subnet")
}

#[test]
fn vxlan_device() {
    let spec = VxlanSpec {
        name: "flannel.1".into(),
        vni: 1,
        parent: Some(2),
        local: Some(ip("10.9.0.1")),
        port: Some(8472),
        learning: false,
        gbp: true,
        mac: Some(MAC),
        mtu: Some(1450),
        txqlen: Some(0),
        up: true,
    };
    let (flags, message) = read(&vxlan::add(&spec));
    // create, exclusive
    assert_eq!(flags, 0x600);
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    assert_eq!(link.header.flags, LinkFlags::Up);
    assert_eq!(link.header.change_mask, LinkFlags::Up);
    let data = vec![
        InfoVxlan::Id(1),
        InfoVxlan::Link(2),
        InfoVxlan::Local("10.9.0.1".parse().expect("address")),
        InfoVxlan::Ttl(0),
        InfoVxlan::Tos(0),
        InfoVxlan::Learning(false),
        InfoVxlan::Proxy(false),
        InfoVxlan::Rsc(false),
        InfoVxlan::L2Miss(false),
        InfoVxlan::L3Miss(false),
        InfoVxlan::UDPZeroCsumTX(false),
        InfoVxlan::UDPZeroCsumRX(false),
        InfoVxlan::Gbp,
        InfoVxlan::Port(8472),
    ];
    let expected = vec![
        LinkAttribute::IfName("flannel.1".into()),
        LinkAttribute::Mtu(1450),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::TxQueueLen(0),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]),
    ];
    assert_eq!(link.attributes, expected);

    let least = VxlanSpec {
        local: Some(ip("fd09::1")),
        port: None,
        gbp: false,
        learning: true,
        ..spec
    };
    let (_, message) = read(&vxlan::add(&least));
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    let Some(LinkAttribute::LinkInfo(info)) = link.attributes.last() else {
        panic!("{link:?}")
    };
    let [_, LinkInfo::Data(InfoData::Vxlan(data))] = info.as_slice() else {
        panic!("{info:?}")
    };
    let local = InfoVxlan::Local6("fd09::1".parse().expect("address"));
    assert!(data.contains(&local) && data.contains(&InfoVxlan::Learning(true)));
    assert!(!data.contains(&InfoVxlan::Gbp));
    assert!(!data.iter().any(|a| matches!(a, InfoVxlan::Port(_))));
}

#[test]
fn bridge_and_port() {
    let spec = BridgeSpec {
        name: "cni0".into(),
        mtu: Some(1450),
        mac: None,
        vlan_filtering: false,
        up: false,
    };
    let (flags, message) = read(&bridge::add(&spec));
    assert_eq!(flags, 0x600);
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    assert!(link.header.flags.is_empty());
    assert_eq!(
        link.attributes,
        [
            LinkAttribute::IfName("cni0".into()),
            LinkAttribute::Mtu(1450),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ]
    );

    let (flags, message) = read(&link::set(5).port(true, false).build());
    // RTM_NEWLINK without create (trap 2)
    assert_eq!(flags, 0);
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    assert_eq!(link.header.index, 5);
    let port = vec![
        InfoBridgePort::HairpinMode(true),
        InfoBridgePort::Isolated(false),
    ];
    assert_eq!(
        link.attributes,
        [LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(port)),
        ])]
    );
}

#[test]
fn vlans_of_a_port() {
    let native = Mode { pvid: true, untagged: true };
    let mut vlans = Vlans::from([(100, native)]);
    vlans.extend((200..=210).map(|id| (id, Mode::default())));
    let (flags, message) = read(&vlan::add(5, &vlans));
    assert_eq!(flags, 0);
    let RouteNetlinkMessage::SetLink(link) = message else { panic!("kind") };
    assert_eq!(link.header.index, 5);
    let infos = |infos: &[(BridgeVlanInfoFlags, u16)]| {
        let info = |(flags, vid)| BridgeVlanInfo { flags, vid };
        let infos = infos.iter().copied().map(info);
        let infos = infos.map(AfSpecBridge::VlanInfo).collect();
        [LinkAttribute::AfSpecBridge(infos)]
    };
    assert_eq!(
        link.attributes,
        infos(&[
            (BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged, 100),
            (BridgeVlanInfoFlags::RangeBegin, 200),
            (BridgeVlanInfoFlags::RangeEnd, 210),
        ])
    );

    let (_, message) = read(&vlan::retain(5, &Vlans::from([(100, native)])));
    let RouteNetlinkMessage::DelLink(link) = message else { panic!("kind") };
    assert_eq!(
        link.attributes,
        infos(&[
            (BridgeVlanInfoFlags::RangeBegin, 1),
            (BridgeVlanInfoFlags::RangeEnd, 99),
            (BridgeVlanInfoFlags::RangeBegin, 101),
            (BridgeVlanInfoFlags::RangeEnd, 4094),
        ])
    );

    let (_, message) = read(&bridge::filter_vlans(5));
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    let on = InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]);
    assert_eq!(
        link.attributes,
        [LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(on),
        ])]
    );
}

#[test]
fn veth_pair() {
    let end = |name: &str| VethEnd {
        name: name.into(),
        mtu: Some(1450),
        mac: Some(MAC),
        txqlen: None,
        queues: Some(3),
    };
    let namespace = crate::NetNs::current().expect("own namespace");
    let spec = VethSpec {
        end: end("veth0"),
        master: Some(7),
        up: true,
        peer: end("eth0"),
        peer_namespace: Some(namespace.clone()),
    };
    let (_, message) = read(&veth::add(&spec));
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    assert_eq!(link.header.flags, LinkFlags::Up);
    let Some(LinkAttribute::LinkInfo(info)) = link.attributes.last() else {
        panic!("{link:?}")
    };
    let [_, LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))] =
        info.as_slice()
    else {
        panic!("{info:?}")
    };
    // Up here would be refused: ENOTCONN.
    assert!(peer.header.flags.is_empty());
    let own = |name: &str| {
        vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(1450),
            LinkAttribute::Address(MAC.to_vec()),
            LinkAttribute::NumTxQueues(3),
            LinkAttribute::NumRxQueues(3),
        ]
    };
    let fd = LinkAttribute::NetNsFd(namespace.fd_number().cast_signed());
    assert_eq!(peer.attributes, [own("eth0"), vec![fd]].concat());
    assert_eq!(link.attributes[..5], own("veth0"));
    assert_eq!(link.attributes[5], LinkAttribute::Controller(7));
}

#[test]
fn link_settings() {
    let request =
        link::set(9).down().mtu(1400).alias("pod").master(None).build();
    let (flags, message) = read(&request);
    assert_eq!(flags, 0);
    let RouteNetlinkMessage::NewLink(link) = message else { panic!("kind") };
    assert_eq!(link.header.index, 9);
    assert!(link.header.flags.is_empty());
    assert_eq!(link.header.change_mask, LinkFlags::Up);
    assert_eq!(
        link.attributes,
        [
            LinkAttribute::Mtu(1400),
            LinkAttribute::IfAlias("pod".into()),
            LinkAttribute::Controller(0),
        ]
    );
}

#[test]
fn addresses() {
    let spec = AddrSpec {
        index: 3,
        ip: ip("10.244.1.1"),
        len: 24,
        nodad: false,
        broadcast: Some(ip("10.244.1.255")),
    };
    let (flags, message) = read(&addr::add(&spec));
    assert_eq!(flags, 0x600);
    let RouteNetlinkMessage::NewAddress(addr) = message else { panic!("kind") };
    assert_eq!((addr.header.index, addr.header.prefix_len), (3, 24));
    let broadcast = "10.244.1.255".parse().expect("address");
    assert_eq!(
        addr.attributes,
        [
            AddressAttribute::Local(spec.ip),
            AddressAttribute::Address(spec.ip),
            AddressAttribute::Broadcast(broadcast),
        ]
    );
    let v6 =
        AddrSpec { ip: ip("fd00::1"), nodad: true, broadcast: None, ..spec };
    let (_, message) = read(&addr::replace(&v6));
    let RouteNetlinkMessage::NewAddress(addr) = message else { panic!("kind") };
    let flags = netlink_packet_route::address::AddressFlags::Nodad;
    assert!(addr.attributes.contains(&AddressAttribute::Flags(flags)));
}

#[test]
fn routes() {
    // B-28 with the message conventions of B-1.
    let spec = RouteSpec {
        gateway: Some(ip("10.244.2.0")),
        oif: Some(3),
        onlink: true,
        ..RouteSpec::to(net("10.244.2.0/24"))
    };
    let (flags, message) = read(&route::replace(&spec));
    // create, replace
    assert_eq!(flags, 0x500);
    let RouteNetlinkMessage::NewRoute(found) = message else { panic!("kind") };
    assert_eq!(found.header.destination_prefix_length, 24);
    assert_eq!(found.header.protocol, RouteProtocol::Boot);
    assert_eq!(found.header.scope, RouteScope::Universe);
    assert_eq!(found.header.kind, RouteType::Unicast);
    assert_eq!(found.header.flags.bits(), 4);
    let inet = |text: &str| RouteAddress::Inet(text.parse().expect("address"));
    assert_eq!(
        found.attributes,
        [
            RouteAttribute::Destination(inet("10.244.2.0")),
            RouteAttribute::Table(254),
            RouteAttribute::Gateway(inet("10.244.2.0")),
            RouteAttribute::Oif(3),
        ]
    );

    let rich = RouteSpec {
        gateway: Some(ip("fe80::1")),
        nexthop: Some(0x8000_0001),
        onlink: false,
        metric: Some(5),
        kind: RouteKind::Blackhole,
        scope: Scope::Link,
        src: Some(ip("10.9.0.1")),
        mtu: Some(1400),
        advmss: Some(1360),
        ..spec
    };
    let (flags, message) = read(&route::add(&rich));
    assert_eq!(flags, 0x600);
    let RouteNetlinkMessage::NewRoute(found) = message else { panic!("kind") };
    assert_eq!(found.header.kind, RouteType::BlackHole);
    assert_eq!(found.header.scope, RouteScope::Link);
    let via = RouteVia::Inet6("fe80::1".parse().expect("address"));
    for expected in [
        RouteAttribute::Via(via),
        RouteAttribute::NhId(0x8000_0001),
        RouteAttribute::Priority(5),
        RouteAttribute::PrefSource(inet("10.9.0.1")),
        RouteAttribute::Metrics(vec![
            RouteMetric::Mtu(1400),
            RouteMetric::Advmss(1360),
        ]),
    ] {
        assert!(found.attributes.contains(&expected), "{expected:?}");
    }

    let (flags, message) = read(&route::delete(&RouteMatch::to(spec.dst)));
    assert_eq!(flags, 0);
    let RouteNetlinkMessage::DelRoute(found) = message else { panic!("kind") };
    assert_eq!(found.header.scope, RouteScope::NoWhere);
    assert_eq!(found.header.kind, RouteType::Unspec);
    assert_eq!(found.attributes.len(), 2);
}

#[test]
fn neighbours_and_forwarding_entries() {
    let (index, far, dst) = (3, ip("10.244.2.0"), ip("10.9.0.2"));
    let neigh = neigh::set(&NeighSpec { index, ip: far, mac: MAC });
    let (flags, message) = read(&neigh);
    assert_eq!(flags, 0x500);
    let RouteNetlinkMessage::NewNeighbour(found) = message else {
        panic!("kind")
    };
    assert_eq!(found.header.ifindex, index);
    assert_eq!(found.header.state, NeighbourState::Permanent);
    assert_eq!(found.header.kind, RouteType::Unicast);
    let inet =
        |text: &str| NeighbourAddress::Inet(text.parse().expect("address"));
    let lladdr = NeighbourAttribute::LinkLayerAddress(MAC.to_vec());
    assert_eq!(
        found.attributes,
        [NeighbourAttribute::Destination(inet("10.244.2.0")), lladdr.clone(),]
    );

    let fdb = fdb::set(&FdbSpec { index, mac: MAC, dst });
    let (_, message) = read(&fdb);
    let RouteNetlinkMessage::NewNeighbour(found) = message else {
        panic!("kind")
    };
    assert_eq!(u8::from(found.header.family), 7);
    // NTF_SELF
    assert_eq!(found.header.flags, NeighbourFlags::Own);
    assert_eq!(found.header.state, NeighbourState::Permanent);
    assert!(found.attributes.contains(&lladdr));

    let (_, message) = read(&fdb::delete(index, MAC));
    let RouteNetlinkMessage::DelNeighbour(found) = message else {
        panic!("kind")
    };
    assert_eq!(found.attributes, [lladdr]);
    let (_, message) = read(&neigh::delete(index, far));
    assert!(matches!(message, RouteNetlinkMessage::DelNeighbour(_)));
}
