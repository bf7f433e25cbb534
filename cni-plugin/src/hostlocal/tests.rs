use std::fs;
use std::path::Path;

use ipam::gojson::Document;

use super::*;
use crate::protocol::{Deadline, Env, Version};

fn call(version: Version, args: &str) -> Call {
    let env = Env {
        container_id: "dummy".into(),
        ifname: "eth0".into(),
        args: args.into(),
        ..Env::default()
    };
    let (json, name) = (Document::default(), "net".into());
    Call { env, json, name, version, deadline: Deadline::default() }
}

fn add(
    dir: &Path,
    ipam: &str,
    rest: &str,
    call: &Call,
) -> Result<CniResult, CniError> {
    let text =
        format!(r#"{{"ipam":{{"dataDir":"{}",{ipam}}}{rest}}}"#, dir.display());
    let conf = Object::parse(&text)?;
    HostLocal::of(&conf, "net", call).add(&conf, call)
}

fn addresses(result: &CniResult) -> Vec<String> {
    result.ips.iter().map(|ip| ip.address.to_string()).collect()
}

/// CT-26
#[test]
fn two_sets_with_routes() {
    let dir = tempfile::tempdir().unwrap();
    let call = call(Version::V100, "");
    let result = add(
        dir.path(),
        r#""ranges":[[{"subnet":"10.1.2.0/24"},{"subnet":"10.2.2.0/24"}],[{"SUBNET":"2001:db8:1::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.168.0.0/16","gw":"1.1.1.1"}]"#,
        "",
        &call,
    )
    .unwrap();
    assert_eq!(addresses(&result), ["10.1.2.2/24", "2001:db8:1::2/64"]);
    assert_eq!(result.ips[1].gateway, Some("2001:db8:1::1".parse().unwrap()));
    assert_eq!(result.ips[0].interface, None);
    assert_eq!(result.routes.len(), 2);
    let folder = dir.path().join("net");
    assert_eq!(fs::read(folder.join("10.1.2.2")).unwrap(), b"dummy\r\neth0");
    let text =
        format!(r#"{{"ipam":{{"dataDir":"{}"}}}}"#, dir.path().display());
    let pool = HostLocal::of(&Object::parse(&text).unwrap(), "net", &call);
    pool.check(&call, &result).unwrap();
    let mut other = result.clone();
    other.ips[0].address.ip = "10.1.2.9".parse().unwrap();
    assert_eq!(pool.check(&call, &other).unwrap_err().code, 100);
    pool.release(&call).unwrap();
    pool.release(&call).unwrap();
    assert!(!folder.join("10.1.2.2").exists());
    assert_eq!(
        pool.check(&call, &result).unwrap_err().msg,
        "host-local: Failed to find address added by container dummy"
    );
}

#[test]
fn the_runtimes_ranges_and_addresses_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let call = call(Version::V031, "IP=10.1.0.9/8");
    let result = add(
        dir.path(),
        r#""subnet":"10.1.0.0/24""#,
        r#","runtimeConfig":{"ipRanges":[[{"Subnet":"10.9.0.0/24","RangeStart":"10.9.0.20"}]],"ips":["10.9.0.77"]},"args":{"cni":{"ips":["10.1.0.9"]}}"#,
        &call,
    )
    .unwrap();
    assert_eq!(addresses(&result), ["10.9.0.77/24", "10.1.0.9/24"]);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let new = call(Version::V100, "");
    for (ipam, code, msg) in [
        (r#""x":1"#, 7, "no IP ranges specified"),
        (r#""ranges":[[]]"#, 7, "invalid range set 0: empty range set"),
        (r#""ranges":[null]"#, 7, "invalid range set 0: empty range set"),
        (r#""subnet":"bogus""#, 7, "invalid CIDR address: bogus"),
        (
            r#""subnet":"10.1.0.0/31""#,
            7,
            "invalid range set 0: Network 10.1.0.0/31 too small to allocate \
             from",
        ),
    ] {
        let error = add(dir.path(), ipam, "", &new).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (code, msg), "{ipam}");
    }
    let both =
        r#""ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/24"}]]"#;
    let error = add(dir.path(), both, "", &call(Version::V020, ""));
    assert_eq!(
        error.unwrap_err().msg,
        "CNI version 0.2.0 does not support more than 1 address per family"
    );
    let missing = r#""subnet":"10.1.0.0/24","resolvConf":"/nonexistent/r""#;
    assert_eq!(add(dir.path(), missing, "", &new).unwrap_err().code, 5);
    let error = HostLocal::of(&Object::default(), "net", &new)
        .add(&Object::default(), &new)
        .unwrap_err();
    assert_eq!(error.msg, "IPAM config missing 'ipam' key");
}

#[test]
fn a_full_pool_asks_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut call = call(Version::V100, "");
    let ipam = r#""subnet":"10.1.0.0/30""#;
    add(dir.path(), ipam, "", &call).unwrap();
    call.env.container_id = "other".into();
    let error = add(dir.path(), ipam, "", &call).unwrap_err();
    assert_eq!(error.code, 11);
    assert_eq!(
        error.msg,
        "failed to allocate for range 0: no IP addresses available in range \
         set: 10.1.0.1-10.1.0.2"
    );
}
