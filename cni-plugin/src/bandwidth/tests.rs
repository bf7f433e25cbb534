use ipam::gojson::Object;
use netlink::tc::Bucket;

use super::conf::Limits;
use crate::protocol::CniError;

fn read(members: &str) -> Result<Limits, CniError> {
    Limits::read(&Object::parse(&format!("{{{members}}}"))?)
}

#[test]
fn bits_become_bytes() {
    let limits = read(r#""ingressRate":8000000,"ingressBurst":16000000"#);
    let limits = limits.unwrap();
    let bucket = Bucket { rate: 1_000_000, burst: 2_000_000, limit: 2_025_000 };
    assert_eq!((limits.to_pod, limits.from_pod), (Some(bucket), None));
    assert!(read("").unwrap().is_empty());
    assert!(read(r#""runtimeConfig":{"bandwidth":{}}"#).unwrap().is_empty());
}

/// CT-35: the configuration's own wins, whole; keys in containerd's spelling.
#[test]
fn where_it_is_said() {
    let runtime =
        r#""RuntimeConfig":{"bandWidth":{"EgressRate":80,"EgressBurst":800}}"#;
    assert_eq!(read(runtime).unwrap().from_pod.unwrap().rate, 10);
    let both = format!(r#""ingressRate":800,"ingressBurst":80,{runtime}"#);
    let limits = read(&both).unwrap();
    assert_eq!(limits.from_pod, None);
    assert_eq!(limits.to_pod.unwrap().rate, 100);
    // also one that says that there is no limit
    for key in ["ingressRate", "EGRESSBURST"] {
        let none = read(&format!(r#""{key}":0,{runtime}"#)).unwrap();
        assert!(none.is_empty(), "{key}");
    }
}

#[test]
fn refusals() {
    for (members, text) in [
        (r#""ingressRate":8"#, "if rate is set, burst must also be set"),
        (r#""egressBurst":8"#, "if burst is set, rate must also be set"),
        (
            r#""egressRate":8,"egressBurst":34359738360"#,
            "burst cannot be more than 4GB",
        ),
        (r#""egressRate":-1,"egressBurst":8"#, "egressRate is -1"),
        (r#""egressRate":7,"egressBurst":8"#, "egressRate is 7 bits"),
        (r#""egressRate":8,"egressBurst":7"#, "egressBurst is 7 bits"),
    ] {
        let error = read(members).unwrap_err();
        assert_eq!(error.code, 7, "{members}");
        assert!(error.msg.contains(text), "{}", error.msg);
    }
}

/// R-7, R-12, R-16: the bursts that runtimes send with any rate.
#[test]
fn bursts_of_runtimes() {
    for bits in [4_294_967_295_u64, 2_147_483_647, 34_359_738_359] {
        let text = format!(r#""ingressRate":1000000,"ingressBurst":{bits}"#);
        let bucket = read(&text).unwrap().to_pod.unwrap();
        assert_eq!(u64::from(bucket.burst), bits / 8);
        assert!(bucket.limit > bucket.burst);
    }
}
