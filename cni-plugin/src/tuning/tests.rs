use std::collections::BTreeMap;

use ipam::gojson::Object;

use super::conf::Conf;
use super::sysctls::{allowlist, resolve_with};
use crate::protocol::{Args, CniError};

fn read(members: &str, args: &str) -> Result<Conf, CniError> {
    let text = format!("{{{members}}}");
    Conf::read(&Object::parse(&text)?, &Args::parse(args)?)
}

/// TU-1: the last of configuration, CNI_ARGS, runtime and args counts.
#[test]
fn where_the_mac_comes_from() {
    let own = r#""mac":"02:00:00:00:00:01""#;
    let runtime = r#""runtimeConfig":{"mac":"02:00:00:00:00:03"}"#;
    let args = r#""args":{"cni":{"mac":"02:00:00:00:00:04"}}"#;
    let env = "MAC=02:00:00:00:00:02";
    for (members, env, last) in [
        (own.to_owned(), "", 1),
        (own.to_owned(), env, 2),
        (format!("{own},{runtime}"), env, 3),
        (format!("{own},{args},{runtime}"), env, 4),
    ] {
        let conf = read(&members, env).unwrap();
        assert_eq!(conf.attributes.mac.unwrap()[5], last, "{members}");
    }
    let error = read(r#""mac":"zz""#, "").unwrap_err();
    assert!(error.msg.starts_with("invalid args zz for MAC addr"));
}

#[test]
fn args_override_one_by_one() {
    let conf = read(
        r#""mtu":1400,"promisc":true,"txQLen":7,"sysctl":{"net.a":"1","net.b":"1"},
        "args":{"cni":{"mtu":1300,"allmulti":true,"sysctl":{"net.b":"2"}}}"#,
        "",
    )
    .unwrap();
    let attributes = &conf.attributes;
    assert_eq!((attributes.mtu, attributes.promisc), (Some(1300), Some(true)));
    assert_eq!((attributes.allmulti, attributes.txqlen), (Some(true), Some(7)));
    let text = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    let settings = conf.settings("eth0").unwrap();
    assert_eq!(settings, [("net/a", "1"), ("net/b", "2")].map(text));
    // CW-16: settings from args alone
    let only = read(r#""args":{"cni":{"sysctl":{"net.c":"3"}}}"#, "").unwrap();
    assert_eq!(only.settings("eth0").unwrap().len(), 1);
    assert!(read("", "").unwrap().attributes.is_empty());
    let less = r#""promisc":true,"args":{"cni":{"promisc":false}}"#;
    assert!(read(less, "").unwrap().attributes.is_empty());
    let zero = read(r#""mtu":0,"promisc":false"#, "").unwrap();
    assert!(zero.attributes.is_empty(), "as Go has it, nothing is said");
}

#[test]
fn names_of_settings() {
    let resolve = |key: &str, ifname: &str| {
        let one = BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        resolve_with(&one, ifname, None).map(|all| all[0].0.clone())
    };
    for (key, ifname, path) in [
        (
            "net.ipv4.conf.IFNAME.arp_filter",
            "eth0",
            "net/ipv4/conf/eth0/arp_filter",
        ),
        ("net/ipv4/conf/IFNAME/x", "a.b", "net/ipv4/conf/a.b/x"),
        ("net.core.somaxconn", "eth0", "net/core/somaxconn"),
    ] {
        assert_eq!(resolve(key, ifname).unwrap(), path);
    }
    for key in [
        "kernel.shmmax",
        "net",
        "net/../kernel/x",
        "net//x",
        "/net/x",
        "",
        "network.x",
    ] {
        let error = resolve(key, "eth0").unwrap_err();
        assert!(error.msg.starts_with("invalid net sysctl key"), "{key}");
    }
    assert_eq!(resolve("net.IFNAME.x", "..").unwrap_err().code, 7);
    let twice = r#""sysctl":{"net.a":"1","net.a":"2"}"#;
    let error = read(twice, "").and_then(|c| c.settings("eth0")).unwrap_err();
    assert_eq!(error.msg, "duplicated sysctl keys are not allowed");
    let same = r#""sysctl":{"net.a":"1","net/a":"2"}"#;
    let error = read(same, "").unwrap().settings("eth0").unwrap_err();
    assert_eq!(error.msg, "duplicated sysctl keys are not allowed");
}

/// CW-16: from end to end, on the key as it is given.
#[test]
fn what_is_allowed() {
    let list = allowlist(
        "net\\.ipv4\\.conf\\.IFNAME\\..*\n\n^net\\.core\\.somaxconn$\n",
    )
    .unwrap();
    let resolve = |key: &str| {
        let one = BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        resolve_with(&one, "eth0", Some(&list))
    };
    for key in ["net.ipv4.conf.IFNAME.arp_filter", "net.core.somaxconn"] {
        resolve(key).unwrap();
    }
    for key in [
        "net.core.somaxconnx",
        "net.x.net.core.somaxconn",
        "net.ipv4.conf.eth0.arp_filter",
    ] {
        let error = resolve(key).unwrap_err();
        assert!(error.msg.contains("is not allowed on this node"), "{key}");
    }
    assert_eq!(allowlist("(").unwrap_err().code, 7);
    assert!(allowlist("").unwrap().is_empty());
}
