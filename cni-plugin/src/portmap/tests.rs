use ipam::Family;
use ipam::gojson::Object;
use netlink::nft::{Expr, Op, Side};

use super::condition;
use super::conf::{Backend, Conf, Protocol};
use crate::protocol::CniError;

fn read(members: &str) -> Result<Conf, CniError> {
    Conf::read(&Object::parse(&format!("{{{members}}}"))?)
}

fn mapped(mapping: &str) -> Result<Conf, CniError> {
    read(&format!(r#""runtimeConfig":{{"portMappings":[{mapping}]}}"#))
}

#[test]
fn defaults() {
    let conf = read("").unwrap();
    assert_eq!((conf.backend, conf.snat, conf.mark), (None, true, 0x2000));
    assert!(conf.mappings.is_empty() && !conf.masquerade_all);
    assert_eq!(read(r#""markMasqBit":0"#).unwrap().mark, 1);
    assert_eq!(read(r#""markMasqBit":31"#).unwrap().mark, 1 << 31);
}

/// S-32: containerd's types have no JSON names.
#[test]
fn what_containerd_sends() {
    let conf = mapped(
        r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"UDP","HostIP":""}"#,
    )
    .unwrap();
    let mapping = &conf.mappings[0];
    assert_eq!((mapping.host_port, mapping.container_port), (8080, 80));
    assert_eq!((mapping.protocol, mapping.host_ip), (Protocol::Udp, None));
    let conf = read(r#""runtimeConfig":{"portMappings":null}"#).unwrap();
    assert!(conf.mappings.is_empty());
}

#[test]
fn refusals() {
    let good = r#""containerPort":80,"protocol":"tcp""#;
    for (mapping, text) in [
        (format!(r#"{{"hostPort":0,{good}}}"#), "Invalid host port number: 0"),
        (
            format!(r#"{{"hostPort":65536,{good}}}"#),
            "Invalid host port number: 65536",
        ),
        (
            r#"{"hostPort":80,"containerPort":-1}"#.to_owned(),
            "Invalid container port number: -1",
        ),
        (
            r#"{"hostPort":80,"containerPort":80,"protocol":"icmp"}"#
                .to_owned(),
            "protocol is \"icmp\", but must be tcp, udp or sctp",
        ),
        (
            format!(r#"{{"hostPort":80,"hostIP":"x",{good}}}"#),
            "hostIP is \"x\", which is no address",
        ),
    ] {
        let error = mapped(&mapping).unwrap_err();
        assert_eq!(error.code, 7, "{mapping}");
        assert!(error.msg.contains(text), "{}", error.msg);
    }
    for (members, text) in [
        (r#""markMasqBit":32"#, "MasqMarkBit must be between 0 and 31"),
        (r#""markMasqBit":-1"#, "MasqMarkBit must be between 0 and 31"),
        (
            r#""markMasqBit":5,"externalSetMarkChain":"X""#,
            "Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (r#""backend":"foo""#, "unrecognized backend \"foo\""),
        (
            r#""backend":"nftables","conditionsV4":["-s","1.2.3.4"]"#,
            "nftables backend was requested but configuration contains \
             iptables-specific options [conditionsV4]",
        ),
        (
            r#""backend":"iptables","conditionsV6":["ip6","saddr","::1"]"#,
            "iptables backend was requested but configuration contains \
             nftables-specific options [conditionsV6]",
        ),
        (
            r#""backend":"nftables","externalSetMarkChain":"X""#,
            "iptables-specific options [externalSetMarkChain]",
        ),
        (
            r#""conditionsV4":["!","-s","1.2.3.4"],"conditionsV6":["ip6"]"#,
            "nftables-specific options [conditionsV6]",
        ),
        (r#""conditionsV4":["ct","state","new"]"#, "understood are"),
    ] {
        let error = read(members).unwrap_err();
        assert_eq!(error.code, 7, "{members}");
        assert!(error.msg.contains(text), "{}", error.msg);
    }
    let conf = read(r#""conditionsV4":["!","-s","1.2.3.4"]"#).unwrap();
    assert_eq!(conf.backend, Some(Backend::Iptables));
    let conf = read(r#""conditionsV6":["ip6","saddr","::1"]"#).unwrap();
    assert_eq!(conf.backend, Some(Backend::Nftables));
}

/// What ADD would refuse does not keep DEL from working.
#[test]
fn del_takes_what_it_can_read() {
    let text = r#"{"markMasqBit":99,"runtimeConfig":{"portMappings":[
        {"hostPort":0},{"hostPort":80,"containerPort":81}]}}"#;
    let read = |text| Conf::read_leniently(&Object::parse(text).unwrap());
    let conf = read(text).unwrap();
    assert_eq!(conf.mappings.len(), 1);
    assert_eq!(conf.mappings[0].container_port, 81);
    // there may be rules all the same
    let odd = r#"{"runtimeConfig":{"portMappings":[{"hostPort":"80"}]}}"#;
    assert!(read(odd).unwrap().mappings.is_empty());
    for text in [
        "{}",
        r#"{"runtimeConfig":{"portMappings":[]}}"#,
        r#"{"runtimeConfig":{"portMappings":null}}"#,
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn conditions_in_nfts_words() {
    let parse =
        |family, text: &str| condition::parse(family, &[text.to_owned()]);
    assert_eq!(
        parse(Family::V4, "ip saddr != 10.0.0.0/8 iifname \"eth0\"").unwrap(),
        [
            Expr::not_from("10.0.0.0/8".parse().unwrap()),
            Expr::InInterface(Op::Is, "eth0".into()),
        ]
    );
    assert_eq!(
        parse(Family::V6, "ip6 daddr fd00::1 meta mark 0x10 udp sport ne 5")
            .unwrap(),
        [
            Expr::to("fd00::1/128".parse().unwrap()),
            Expr::mark(16, u32::MAX),
            Expr::Port { side: Side::Source, op: Op::IsNot, port: 5 },
        ]
    );
    for (family, text) in [
        (Family::V4, "ip6 saddr ::1"),
        (Family::V4, "ip saddr fd00::1"),
        (Family::V4, "ip saddr"),
        (Family::V4, "ip saddr !="),
        (Family::V4, "iifname eth*"),
        (Family::V6, "tcp dport 80"),
        (Family::V4, "ip saddr 1.2.3.4 drop"),
    ] {
        let error = parse(family, text).unwrap_err();
        assert_eq!(error.code, 7, "{text}");
        assert!(error.msg.starts_with("condition "), "{}", error.msg);
    }
}
