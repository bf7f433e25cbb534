//! Every version's form, and the ways between them (CT-45).

use ipam::gojson::Object;
use proptest::prelude::*;

use super::*;
use crate::protocol::Version;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn bridged() -> CniResult {
    let interface = |name: &str, mac: &str, sandbox: &str| Interface {
        name: name.into(),
        mac: mac.into(),
        sandbox: sandbox.into(),
        ..Interface::default()
    };
    CniResult {
        interfaces: vec![
            interface("cni0", "1e:db:69:3d:90:63", ""),
            interface("veth37a1d353", "56:fa:1f:a6:ad:df", ""),
            interface("eth0", "be:0b:20:a7:5a:39", "/run/netns/v"),
        ],
        ips: vec![IpConfig {
            interface: Some(2),
            address: cidr("10.9.0.2/24"),
            gateway: Some("10.9.0.1".parse().unwrap()),
        }],
        routes: vec![
            Route::to(cidr("10.9.0.0/16")),
            Route {
                gw: Some("10.9.0.1".parse().unwrap()),
                ..Route::to(cidr("0.0.0.0/0"))
            },
        ],
        dns: Dns::default(),
    }
}

fn read(text: &str, version: Version) -> CniResult {
    CniResult::read(&Object::parse(text).unwrap(), version).unwrap()
}

fn compact(result: &CniResult, version: Version) -> String {
    ipam::gojson::compact(&result.render(version).unwrap())
}

#[test]
fn layout_of_1_x() {
    assert_eq!(
        bridged().render(Version::V110).unwrap(),
        r#"{
    "cniVersion": "1.1.0",
    "interfaces": [
        {
            "mac": "1e:db:69:3d:90:63",
            "name": "cni0"
        },
        {
            "mac": "56:fa:1f:a6:ad:df",
            "name": "veth37a1d353"
        },
        {
            "mac": "be:0b:20:a7:5a:39",
            "name": "eth0",
            "sandbox": "/run/netns/v"
        }
    ],
    "ips": [
        {
            "address": "10.9.0.2/24",
            "gateway": "10.9.0.1",
            "interface": 2
        }
    ],
    "routes": [
        {
            "dst": "10.9.0.0/16"
        },
        {
            "dst": "0.0.0.0/0",
            "gw": "10.9.0.1"
        }
    ]
}"#
    );
}

#[test]
fn layout_of_0_3_and_0_4() {
    assert_eq!(
        compact(&bridged(), Version::V040),
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"1e:db:69:3d:90:63"},{"name":"veth37a1d353","mac":"56:fa:1f:a6:ad:df"},{"name":"eth0","mac":"be:0b:20:a7:5a:39","sandbox":"/run/netns/v"}],"ips":[{"version":"4","interface":2,"address":"10.9.0.2/24","gateway":"10.9.0.1"}],"routes":[{"dst":"10.9.0.0/16"},{"dst":"0.0.0.0/0","gw":"10.9.0.1"}],"dns":{}}"#
    );
}

#[test]
fn layout_of_0_2() {
    let mut result = bridged();
    result.ips.push(IpConfig {
        interface: Some(2),
        address: cidr("fd00:9::8/64"),
        gateway: Some("fd00:9::1".parse().unwrap()),
    });
    // only the first of a family is left
    result.ips.push(IpConfig {
        interface: Some(2),
        address: cidr("10.10.0.2/24"),
        gateway: None,
    });
    result.routes.push(Route {
        gw: Some("fd00:9::1".parse().unwrap()),
        mtu: 1400,
        ..Route::to(cidr("::/0"))
    });
    assert_eq!(
        compact(&result, Version::V020),
        r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.2/24","gateway":"10.9.0.1","routes":[{"dst":"10.9.0.0/16"},{"dst":"0.0.0.0/0","gw":"10.9.0.1"}]},"ip6":{"ip":"fd00:9::8/64","gateway":"fd00:9::1","routes":[{"dst":"::/0","gw":"fd00:9::1"}]},"dns":{}}"#
    );
    assert!(
        compact(&result, Version::V010)
            .starts_with(r#"{"cniVersion":"0.1.0","#)
    );
}

#[test]
fn no_address_cannot_become_0_2() {
    let result = CniResult { ips: Vec::new(), ..bridged() };
    let error = result.render(Version::V020).unwrap_err();
    assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    assert!(result.render(Version::V031).is_ok());
}

#[test]
fn extended_route_keys_from_0_3_on() {
    let mut result = bridged();
    result.routes = vec![Route {
        gw: None,
        mtu: 1400,
        advmss: 1360,
        priority: 7,
        table: Some(0),
        scope: Some(0),
        ..Route::to(cidr("10.0.0.0/8"))
    }];
    assert!(compact(&result, Version::V030).contains(
        r#""routes":[{"dst":"10.0.0.0/8","mtu":1400,"advmss":1360,"priority":7,"table":0,"scope":0}]"#
    ));
    assert!(compact(&result, Version::V100).contains(
        r#""routes":[{"advmss":1360,"dst":"10.0.0.0/8","mtu":1400,"priority":7,"scope":0,"table":0}]"#
    ));
}

#[test]
fn keys_of_1_1_stay_out_of_0_4_and_dns_shows_where_it_must() {
    let mut result = bridged();
    let eth0 = result.interfaces.last_mut().unwrap();
    (eth0.mtu, eth0.pci_id) = (1450, "0000:00:1f.6".into());
    result.dns.nameservers = vec!["10.9.0.1".into()];
    let current = compact(&result, Version::V110);
    assert!(
        current.contains(r#""mtu":1450,"name":"eth0","pciID":"0000:00:1f.6""#)
    );
    assert!(
        current.contains(r#""dns":{"nameservers":["10.9.0.1"]},"interfaces""#)
    );
    assert!(!compact(&result, Version::V040).contains("mtu"));
}

#[test]
fn every_version_is_read_back() {
    for version in Version::ALL {
        let text = bridged().render(version).unwrap();
        let back = read(&text, Version::V010);
        let mut want = bridged();
        if version <= Version::V020 {
            want.interfaces.clear();
            want.ips[0].interface = None;
        }
        assert_eq!(back, want, "{version:?}");
    }
}

#[test]
fn without_a_version_a_result_has_the_configurations() {
    let text = r#"{"ip4":{"ip":"10.0.0.2/24"}}"#;
    assert_eq!(read(text, Version::V020).ips.len(), 1);
    assert_eq!(read(text, Version::V100).ips.len(), 0);
    let empty = r#"{"CNIVERSION":"","IPS":[{"ADDRESS":"10.0.0.2/24"}]}"#;
    assert_eq!(read(empty, Version::V110).ips.len(), 1);
}

#[test]
fn previous_results() {
    let previous = |text: &str, version| {
        CniResult::previous(&Object::parse(text).unwrap(), version)
    };
    assert_eq!(previous("{}", Version::V040).unwrap(), None);
    let old = r#"{"prevResult":{"cniVersion":"0.3.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}}"#;
    assert_eq!(previous(old, Version::V040).unwrap().unwrap().ips.len(), 1);
    let error = previous(old, Version::V100).unwrap_err();
    assert_eq!(error.code, 7);
    assert!(error.msg.contains("0.3.0") && error.msg.contains("1.0.0"));
    let error = previous(r#"{"prevResult":{"cniVersion":"9"}}"#, Version::V100);
    assert_eq!(error.unwrap_err().code, 6);
    let error = previous(
        r#"{"prevResult":{"ips":[{"address":"10.0.0.2"}]}}"#,
        Version::V100,
    );
    assert_eq!(
        error.unwrap_err().msg,
        "prevResult.ips[0].address: invalid CIDR address: 10.0.0.2"
    );
}

fn any_cidr() -> impl Strategy<Value = Cidr> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32)
            .prop_map(|(ip, len)| Cidr { ip: ip.into(), len }),
        // not the IPv4-mapped range, which reads as IPv4
        (any::<[u8; 15]>(), 0u8..=128).prop_map(|(tail, len)| {
            let mut ip = [0xfd; 16];
            ip[1..].copy_from_slice(&tail);
            Cidr { ip: ip.into(), len }
        }),
    ]
}

fn any_result() -> impl Strategy<Value = CniResult> {
    let interface = ("[a-z<&]{1,8}", "[0-9a-f:]{0,17}", ".{0,9}").prop_map(
        |(name, mac, sandbox)| Interface {
            name,
            mac,
            sandbox,
            ..Interface::default()
        },
    );
    let ip =
        (proptest::option::of(0i64..4), any_cidr(), any_cidr(), any::<bool>())
            .prop_map(|(interface, address, gateway, given)| IpConfig {
                interface,
                address,
                gateway: given.then_some(gateway.ip),
            });
    let route = (any_cidr(), 0i64..9000, proptest::option::of(0i64..300))
        .prop_map(|(dst, mtu, table)| Route { mtu, table, ..Route::to(dst) });
    let many = |n| proptest::collection::vec(".{0,9}", n);
    let dns = (many(0..3), ".{0,5}", many(0..2)).prop_map(
        |(nameservers, domain, search)| Dns {
            nameservers,
            domain,
            search,
            options: Vec::new(),
        },
    );
    use proptest::collection::vec;
    (vec(interface, 0..3), vec(ip, 1..4), vec(route, 0..4), dns).prop_map(
        |(interfaces, ips, routes, dns)| CniResult {
            interfaces,
            ips,
            routes,
            dns,
        },
    )
}

proptest! {
    /// What is written from 0.3.0 on reads back the same; the step down to
    /// 0.2.0 loses what S-50 lists and is stable from then on.
    #[test]
    fn writing_and_reading(result in any_result()) {
        for version in Version::ALL {
            let text = result.render(version).unwrap();
            let back = read(&text, Version::V010);
            if version >= Version::V030 {
                prop_assert_eq!(&back, &result);
            }
            prop_assert_eq!(back.render(version).unwrap(), text);
        }
    }
}
