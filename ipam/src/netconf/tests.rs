use std::fmt::Write as _;

use proptest::prelude::*;

use super::backend::{
    ExtensionOptions, IpipOptions, IpsecOptions, TencentVpcOptions, UdpOptions,
    VxlanOptions, WireguardMode, WireguardOptions,
};
use super::*;
use crate::Secret;

fn parse(text: &str) -> NetConf {
    let (conf, warnings) = NetConf::parse(text).unwrap();
    assert_eq!(warnings, [], "{text}");
    conf
}

fn refused(text: &str) -> String {
    match NetConf::parse(text) {
        Err(error) => error.to_string(),
        Ok((conf, _)) => conf.ranges().unwrap_err().to_string(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let (_, warnings) = NetConf::parse(text).unwrap();
    warnings.iter().map(ToString::to_string).collect()
}

/// A dual-stack configuration with these options inside `Backend`.
fn with(options: &str) -> String {
    format!("{{\"EnableIPv6\":true,\"Backend\":{{{options}}}}}")
}

fn backend(options: &str) -> Backend {
    parse(&with(options)).backend
}

/// `len min max` of the range of one family.
fn range(text: &str, family: Family) -> String {
    let r = *parse(text).ranges().unwrap().get(family).unwrap();
    assert_eq!((r.min.len(), r.max.len()), (r.len, r.len));
    format!("{} {} {}", r.len, r.min.base(), r.max.base())
}

#[test]
fn defaults() {
    // N-10..N-14, N-22
    let conf = parse("{}");
    assert_eq!(conf.enabled, PerFamily::one(Family::V4, ()));
    assert!(conf.networks.is_empty());
    assert!(!conf.nftables);
    assert_eq!(conf.backend, Backend::Udp(UdpOptions { port: 8285 }));
    assert_eq!(parse("null"), conf);
}

#[test]
fn every_top_level_field() {
    let conf = parse(
        r#"{"EnableIPv4": false, "EnableIPv6": true, "EnableNFTables": true,
            "Network": "10.3.4.5/16", "IPv6Network": "fc00::1/48",
            "SubnetLen": 24, "SubnetMin": "10.3.1.0", "SubnetMax": "10.3.9.0",
            "IPv6SubnetLen": 60, "IPv6SubnetMin": "fc00:0:0:10::",
            "IPv6SubnetMax": "fc00:0:0:20::", "Backend": {"Type": "alloc"}}"#,
    );
    assert!(!conf.is_enabled(Family::V4) && conf.is_enabled(Family::V6));
    assert!(conf.nftables);
    // host bits are dropped (N-2), and what is off is kept (N-23)
    assert_eq!(conf.networks.v4.unwrap().to_string(), "10.3.0.0/16");
    assert_eq!(conf.networks.v6.unwrap().to_string(), "fc00::/48");
    let ranges = conf.ranges().unwrap();
    assert_eq!(ranges.v4, None);
    assert_eq!(ranges.v6.unwrap().max.to_string(), "fc00:0:0:20::/60");
}

#[test]
fn worked_values_and_upstreams_scenarios() {
    // Q-41 and the values worked out in section 2.3
    let v4 = r#"{"network": "10.3.0.0/16"}"#;
    assert_eq!(range(v4, Family::V4), "24 10.3.1.0 10.3.255.0");
    let v6 = r#"{"enableipv6": true, "enableipv4": false,
                 "ipv6network": "fc00::/48"}"#;
    assert_eq!(range(v6, Family::V6), "64 fc00:0:0:1:: fc00:0:0:ffff::");
    let v4 = r#"{"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0",
                 "SubnetMax": "10.3.8.0", "SubnetLen": 28}"#;
    assert_eq!(range(v4, Family::V4), "28 10.3.5.0 10.3.8.0");
    let v6 = r#"{"EnableIPv6": true, "Network": "10.3.0.0/16",
                 "IPv6Network": "fc00::/48", "IPv6SubnetLen": 124,
                 "IPv6SubnetMin": "fc00:0:0:1::",
                 "IPv6SubnetMax": "fc00:0:0:f::"}"#;
    assert_eq!(range(v6, Family::V6), "124 fc00:0:0:1:: fc00:0:0:f::");
}

#[test]
fn default_lengths() {
    // N-32, N-38
    for (network, want) in [
        ("10.0.0.0/8", "24 10.0.1.0 10.255.255.0"),
        ("128.0.0.0/1", "24 128.0.1.0 255.255.255.0"),
        ("10.3.0.0/22", "24 10.3.1.0 10.3.3.0"),
        ("10.3.0.0/23", "25 10.3.0.128 10.3.1.128"),
        ("10.3.0.0/28", "30 10.3.0.4 10.3.0.12"),
        ("fc00::/62", "64 fc00:0:0:1:: fc00:0:0:3::"),
        ("fc00::/63", "65 fc00::8000:0:0:0 fc00:0:0:1:8000::"),
        ("fc00::/124", "126 fc00::4 fc00::c"),
    ] {
        let (v6, key, family) = match network.contains(':') {
            true => (true, "IPv6Network", Family::V6),
            false => (false, "Network", Family::V4),
        };
        let text = format!(
            "{{\"EnableIPv4\":{},\"EnableIPv6\":{v6},\"{key}\":\"{network}\"}}",
            !v6
        );
        assert_eq!(range(&text, family), want, "{network}");
    }
    // zero values stand for nothing (N-32..N-34)
    let zero = r#"{"Network": "10.3.0.0/16", "SubnetLen": 0,
                   "SubnetMin": "0.0.0.0", "SubnetMax": null}"#;
    assert_eq!(range(zero, Family::V4), "24 10.3.1.0 10.3.255.0");
}

#[test]
fn what_a_node_may_have() {
    let text = r#"{"Network": "10.3.0.0/16", "SubnetMax": "10.3.8.0"}"#;
    let range = parse(text).ranges().unwrap().v4.unwrap();
    let accepts = |s: &str| range.accepts(&s.parse().unwrap());
    assert!(accepts("10.3.1.0/24") && accepts("10.3.8.0/24"));
    assert!(!accepts("10.3.0.0/24") && !accepts("10.3.9.0/24"));
    assert!(!accepts("10.3.2.0/25") && !accepts("::/24"));
}

#[test]
fn refused_ranges_name_the_field_and_the_way_out() {
    for (text, want) in [
        (
            r#"{}"#,
            "Network is missing: an IPv4 network longer than /0 is needed while EnableIPv4 is true",
        ),
        (
            r#"{"Network":"1.2.3.4/0"}"#,
            "Network is missing: an IPv4 network longer than /0 is needed while EnableIPv4 is true",
        ),
        (
            r#"{"Network":"10.3.0.0/16","EnableIPv6":true}"#,
            "IPv6Network is missing: an IPv6 network longer than /0 is needed while EnableIPv6 is true",
        ),
        (
            r#"{"Network":"10.3.0.0/29"}"#,
            "Network is 10.3.0.0/29, but must be /28 or larger",
        ),
        (
            r#"{"Network":"10.3.0.0/32","SubnetLen":30}"#,
            "Network is 10.3.0.0/32, but must be /28 or larger",
        ),
        (
            r#"{"EnableIPv6":true,"EnableIPv4":false,"IPv6Network":"fc00::/125"}"#,
            "IPv6Network is fc00::/125, but must be /124 or larger",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetLen":31}"#,
            "SubnetLen is 31, but must be from 18 (four subnets in 10.3.0.0/16) to 30",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetLen":17}"#,
            "SubnetLen is 17, but must be from 18 (four subnets in 10.3.0.0/16) to 30",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetLen":280}"#,
            "SubnetLen is 280, but must be from 18 (four subnets in 10.3.0.0/16) to 30",
        ),
        (
            r#"{"EnableIPv6":true,"EnableIPv4":false,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}"#,
            "IPv6SubnetLen is 127, but must be from 50 (four subnets in fc00::/48) to 126",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}"#,
            "SubnetMin is 10.4.0.0, but must be inside Network, which is 10.3.0.0/16",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetMax":"10.3.7.5"}"#,
            "SubnetMax is 10.3.7.5, but must be the first address of a /24, such as 10.3.7.0",
        ),
        (
            r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}"#,
            "SubnetMin is 10.3.9.0, but must be no more than SubnetMax, which is 10.3.8.0",
        ),
    ] {
        assert_eq!(refused(text), want, "{text}");
    }
}

#[test]
fn refused_values_name_the_field_and_the_way_out() {
    let v4 = "an IPv4 network such as \"10.244.0.0/16\"";
    let v6 = "an IPv6 network such as \"fd00:10:244::/48\"";
    let addr = "an IPv4 address without a length";
    for (text, want) in [
        // N-2
        (r#"{"Network":""}"#, format!("Network is \"\", but must be {v4}")),
        (r#"{"Network":null}"#, format!("Network is null, but must be {v4}")),
        (
            r#"{"NETWORK":"10.3.0.0"}"#,
            format!("NETWORK is \"10.3.0.0\", but must be {v4}"),
        ),
        (
            r#"{"Network":"fc00::/48"}"#,
            format!("Network is \"fc00::/48\", but must be {v4}"),
        ),
        (
            r#"{"IPv6Network":"10.3.0.0/16"}"#,
            format!("IPv6Network is \"10.3.0.0/16\", but must be {v6}"),
        ),
        (
            r#"{"SubnetMin":"10.3.1.0/24"}"#,
            format!("SubnetMin is \"10.3.1.0/24\", but must be {addr}"),
        ),
        (
            r#"{"SubnetMax":"fc00::"}"#,
            format!("SubnetMax is \"fc00::\", but must be {addr}"),
        ),
        // N-4
        (
            r#"{"SubnetLen":-1}"#,
            "SubnetLen is -1, but must be a whole number of 0 or more".into(),
        ),
        (
            r#"{"SubnetLen":"24"}"#,
            "SubnetLen is \"24\", but must be a whole number of 0 or more"
                .into(),
        ),
        (
            r#"{"EnableIPv4":"no"}"#,
            "EnableIPv4 is \"no\", but must be true or false".into(),
        ),
        (
            r#"{"EnableIPv4":false}"#,
            "EnableIPv4 is false, but must be true unless EnableIPv6 is true"
                .into(),
        ),
        (
            "[]",
            "the document is [], but must be an object".into(),
        ),
        (
            "{}{}",
            "not valid JSON at line 1, column 3: '{' found, nothing may follow the value".into(),
        ),
    ] {
        assert_eq!(refused(text), want, "{text}");
    }
}

#[test]
fn backend_types() {
    // N-22
    assert_eq!(
        backend(r#""tYPE":"VXLAN""#),
        Backend::Vxlan(VxlanOptions::default())
    );
    let names = "alloc, extension, host-gw, ipip, ipsec, tencent-vpc, udp, vxlan, wireguard";
    for (value, got) in [
        (r#"{}"#, "Backend.Type is missing"),
        (r#"{"Type":null}"#, "Backend.Type is missing"),
        (r#"{"Type":""}"#, "Backend.Type is \"\""),
        (r#"{"Type":"gre"}"#, "Backend.Type is \"gre\""),
    ] {
        let text = format!("{{\"Backend\":{value}}}");
        assert_eq!(
            refused(&text),
            format!("{got}, but must be one of {names}")
        );
    }
    for value in ["null", "\"vxlan\"", "[]"] {
        assert_eq!(
            refused(&format!("{{\"Backend\":{value}}}")),
            format!(
                "Backend is {value}, but must be an object such as {{\"Type\": \"vxlan\"}}"
            )
        );
    }
    // the raw value of the last key counts, unlike elsewhere (N-21)
    let conf = parse(
        r#"{"Backend":{"Type":"vxlan","VNI":5},"backend":{"Type":"vxlan"}}"#,
    );
    assert_eq!(conf.backend, Backend::Vxlan(VxlanOptions::default()));
}

#[test]
fn every_option() {
    assert_eq!(
        backend(
            r#""Type":"vxlan","vni":4097,"PORT":4789,"mtu":9000,"gbp":true,
               "learning":true,"directrouting":true,
               "MacPrefix":"0E-2A","Name":"x""#
        ),
        Backend::Vxlan(VxlanOptions {
            vni: 4097,
            port: 4789,
            mtu: Some(9000),
            gbp: true,
            learning: true,
            direct_routing: true,
        })
    );
    // N-51: 0 is the kernel's default
    assert_eq!(
        backend(r#""Type":"vxlan","Port":0,"MTU":null"#),
        Backend::Vxlan(VxlanOptions::default())
    );
    assert_eq!(
        backend(r#""Type":"host-gw","Name":"cbr0","DNSServerList":"""#),
        Backend::HostGw
    );
    assert_eq!(
        backend(r#""Type":"udp","Port":1"#),
        Backend::Udp(UdpOptions { port: 1 })
    );
    assert_eq!(
        backend(
            r#""Type":"wireguard","ListenPort":1,"ListenPortV6":2,"MTU":1500,
               "PSK":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
               "PersistentKeepaliveInterval":25,"Mode":"auto""#
        ),
        Backend::Wireguard(WireguardOptions {
            port: 1,
            port_v6: 2,
            mtu: Some(1500),
            psk: Some(Secret::new(std::array::from_fn(|i| i as u8))),
            keepalive: 25,
            mode: WireguardMode::Auto,
        })
    );
    assert_eq!(
        backend(r#""Type":"wireguard","PSK":"""#),
        Backend::Wireguard(WireguardOptions::default())
    );
    assert_eq!(
        backend(r#""Type":"ipip","DirectRouting":true"#),
        Backend::Ipip(IpipOptions { direct_routing: true })
    );
    let psk = "x".repeat(96);
    assert_eq!(
        backend(&format!(r#""Type":"ipsec","PSK":"{psk}","UDPEncap":true"#)),
        Backend::Ipsec(IpsecOptions {
            psk: Secret::new(psk),
            udp_encap: true,
            esp_proposal: "aes128gcm16-sha256-prfsha256-ecp256".into(),
        })
    );
    assert_eq!(
        backend(
            r#""Type":"extension","PreStartupCommand":"a b","SubnetAddCommand":"""#
        ),
        Backend::Extension(ExtensionOptions {
            pre_startup: Some("a b".into()),
            ..ExtensionOptions::default()
        })
    );
    assert_eq!(
        backend(
            r#""Type":"tencent-vpc","AccessKeyID":"i","AccessKeySecret":"s""#
        ),
        Backend::TencentVpc(TencentVpcOptions {
            access_key_id: Some("i".into()),
            access_key_secret: Some(Secret::new("s".into())),
        })
    );
    assert_eq!(backend(r#""Type":"alloc""#), Backend::Alloc);
}

#[test]
fn options_that_cannot_work_are_refused() {
    // N-73: upstream checks none of these
    for (options, want) in [
        (
            r#""Type":"vxlan","VNI":16777216"#,
            "Backend.VNI is 16777216, but must be a whole number from 0 to 16777215",
        ),
        (
            r#""Type":"vxlan","VNI":-1"#,
            "Backend.VNI is -1, but must be a whole number from 0 to 16777215",
        ),
        (
            r#""Type":"vxlan","Port":65536"#,
            "Backend.Port is 65536, but must be a whole number from 0 to 65535",
        ),
        (
            r#""Type":"vxlan","MTU":0"#,
            "Backend.MTU is 0, but must be a whole number from 1330 to 65535",
        ),
        (
            r#""Type":"vxlan","MTU":65536"#,
            "Backend.MTU is 65536, but must be a whole number from 1330 to 65535",
        ),
        (
            r#""Type":"vxlan","GBP":1"#,
            "Backend.GBP is 1, but must be true or false",
        ),
        (
            r#""Type":"udp","Port":0"#,
            "Backend.Port is 0, but must be a whole number from 1 to 65535",
        ),
        (
            r#""Type":"wireguard","MTU":1280"#,
            "Backend.MTU is 1280, but must be a whole number from 1360 to 65535",
        ),
        (
            r#""Type":"wireguard","ListenPort":51821"#,
            "Backend.ListenPortV6 is 51821, but must be another port than ListenPort: each of the two devices needs its own",
        ),
        (
            r#""Type":"wireguard","Mode":"Auto""#,
            "Backend.Mode is \"Auto\", but must be one of separate, auto, ipv4, ipv6 (in lower case)",
        ),
        (
            r#""Type":"wireguard","PSK":"c2VjcmV0""#,
            "Backend.PSK is (not shown), but must be a key as `wg genpsk` prints it: base64 of 32 bytes",
        ),
        (
            r#""Type":"ipsec","PSK":"short""#,
            "Backend.PSK is (not shown), but must be a secret of 96 characters or more",
        ),
        (
            r#""Type":"ipsec""#,
            "Backend.PSK is missing, but must be a secret of 96 characters or more",
        ),
        (
            r#""Type":"tencent-vpc","AccessKeySecret":12"#,
            "Backend.AccessKeySecret is (not shown), but must be a string",
        ),
    ] {
        assert_eq!(refused(&with(options)), want, "{options}");
    }
    // without IPv6 there is room below
    parse(r#"{"Backend":{"Type":"vxlan","MTU":118}}"#);
    // one device for both: no second port
    let one = r#""Type":"wireguard","ListenPort":51821,"Mode":"ipv4""#;
    parse(&with(one));
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let text = with(r#""Type":"tencent-vpc","AccessKeySecret":"hush""#);
    let shown = format!("{:?}", parse(&text));
    assert!(!shown.contains("hush") && shown.contains("(hidden)"));
}

#[test]
fn unread_keys_are_named() {
    assert_eq!(
        warnings(
            r#"{"Netwrok":"x","VNI":1,"Type":"vxlan","qqq":1,
                "Backend":{"Type":"vxlan","DirectRoutin":true,
                           "ListenPort":1,"EnableNFTables":true,"zzz":{}}}"#
        ),
        [
            "key \"Netwrok\" is ignored; did you mean \"Network\"?",
            "key \"VNI\" is ignored; it belongs inside \"Backend\"",
            "key \"Type\" is ignored; it belongs inside \"Backend\"",
            "key \"qqq\" is ignored",
            "key \"Backend.DirectRoutin\" is ignored; did you mean \"DirectRouting\"?",
            "key \"Backend.ListenPort\" is ignored; it is an option of wireguard, but the backend is vxlan",
            "key \"Backend.EnableNFTables\" is ignored; it belongs beside \"Backend\", not inside",
            "key \"Backend.zzz\" is ignored",
        ]
    );
    // P13: users wait for this to do something
    assert_eq!(
        warnings(r#"{"Backend":{"Type":"host-gw","DirectRouting":true}}"#),
        [
            "key \"Backend.DirectRouting\" is ignored; it is an option of ipip, vxlan, but the backend is host-gw"
        ]
    );
    // N-70
    assert_eq!(
        warnings(r#"{"Backend":{"Type":"extension","ShutdownCommand":"x"}}"#),
        [
            "key \"Backend.ShutdownCommand\" is ignored; no such command is ever run"
        ]
    );
}

/// Texts made of real keys and of values right and wrong.
fn hostile() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (0u32..200).prop_map(|n| n.to_string()),
        (any::<[u8; 4]>(), 0u8..=33).prop_map(|(a, len)| {
            format!("\"{}/{len}\"", std::net::Ipv4Addr::from(a))
        }),
        (any::<[u8; 16]>(), 0u8..=129).prop_map(|(a, len)| {
            format!("\"{}/{len}\"", std::net::Ipv6Addr::from(a))
        }),
        any::<[u8; 4]>()
            .prop_map(|a| format!("\"{}\"", std::net::Ipv4Addr::from(a))),
        any::<[u8; 16]>()
            .prop_map(|a| format!("\"{}\"", std::net::Ipv6Addr::from(a))),
        Just("true".to_owned()),
        Just("null".to_owned()),
    ];
    let keys: Vec<&str> =
        KEYS.iter().copied().filter(|k| *k != "Backend").collect();
    let kind = prop::sample::select(backend::OPTIONS);
    let member = (prop::sample::select(keys), value.clone());
    let top = prop::collection::vec(member, 0..6);
    (top, kind, prop::collection::vec(value, 8)).prop_map(
        |(top, (kind, options), values)| {
            let mut text = format!("{{\"Backend\":{{\"Type\":\"{kind}\"");
            for (key, value) in options.iter().zip(values) {
                let _ = write!(text, ",\"{key}\":{value}");
            }
            text.push('}');
            for (key, value) in top {
                let _ = write!(text, ",\"{key}\":{value}");
            }
            text + "}"
        },
    )
}

/// Networks, lengths and bounds that belong together more often than not.
fn plausible() -> impl Strategy<Value = String> {
    let bounds = prop::option::of((0u32..300, 0u32..300));
    (any::<[u8; 4]>(), 1u8..=32, 0u64..40, bounds).prop_map(
        |(addr, net, len, bounds)| {
            let network = Subnet::new(IpAddr::from(addr), net).unwrap();
            let mut text =
                format!("{{\"Network\":\"{network}\",\"SubnetLen\":{len}");
            let unit = Subnet::new(
                network.base(),
                u8::try_from(len).unwrap().clamp(net, 32),
            );
            for (key, n) in
                bounds.into_iter().flat_map(|(a, b)| [("Min", a), ("Max", b)])
            {
                let at = unit.clone().unwrap().nth(n.into());
                if let Some(at) = at {
                    let _ = write!(text, ",\"Subnet{key}\":\"{}\"", at.base());
                }
            }
            text + "}"
        },
    )
}

fn check(conf: &NetConf) -> Result<(), TestCaseError> {
    let Ok(ranges) = conf.ranges() else { return Ok(()) };
    prop_assert!(ranges.families().eq(conf.enabled.families()));
    for (family, r) in ranges.iter() {
        prop_assert_eq!(Some(&r.network), conf.networks.get(family));
        prop_assert!(r.network.covers(&r.min) && r.network.covers(&r.max));
        prop_assert!(r.accepts(&r.min) && r.accepts(&r.max));
        prop_assert!(r.len >= r.network.len() + 2);
        prop_assert!(r.len <= family.bits() - 2);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn never_panics(text in ".{0,40}", hostile in hostile()) {
        for text in [text, hostile] {
            if let Ok((conf, _)) = NetConf::parse(&text) {
                check(&conf)?;
            }
        }
    }

    #[test]
    fn a_range_that_is_given_is_sound(text in plausible()) {
        let (conf, _) = NetConf::parse(&text).unwrap();
        check(&conf)?;
    }
}
