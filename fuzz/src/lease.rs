use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipam::lease::{BackendData, KeyError, Lease, LeaseAttrs, SubnetKey};
use ipam::{Family, PerFamily, Subnet};
use overlay::Mac;
use overlay::vxlan::{lease_attrs, mac_of};
use regex::Regex;

use crate::text;

/// A lease's key.
pub fn lease_key(data: &[u8]) {
    let text = text(data);
    let reference = by_pattern(&text);
    match SubnetKey::parse(&text) {
        Ok(key) => {
            let segment = text.rsplit('/').next().unwrap_or_default();
            assert_eq!(key.to_string(), segment, "one text per key");
            assert_eq!(SubnetKey::new(*key.subnets()), Ok(key));
            assert_eq!(reference, Some(*key.subnets()), "E-3");
        }
        Err(KeyError::Spelling { key, .. }) => {
            assert_eq!(SubnetKey::parse(&key.to_string()), Ok(key));
            assert_eq!(reference, Some(*key.subnets()), "E-3");
        }
        Err(KeyError::NotASubnet(_)) => {
            // What upstream takes for leased and we do not: keys that cannot
            // be written, such as IPv4 in IPv6 or no subnet at all.
            if let Some(subnets) = reference {
                assert!(SubnetKey::new(subnets).is_err(), "{subnets:?}");
            }
        }
        Err(error @ (KeyError::Empty | KeyError::Unusable(_))) => {
            panic!("not an answer to a text: {error}")
        }
    }
}

/// E-3 once more, by a regular expression as upstream does it.
fn by_pattern(text: &str) -> Option<PerFamily<Subnet>> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            "([0-9]+[.][0-9]+.[0-9]+.[0-9]+)-([0-9]+)\
             (?:&([a-f0-9:]+)-([0-9]+))?$",
        )
        .expect("pattern")
    });
    // The slash is taken out of the key first: upstream's keys have none
    // behind the prefix, and the pattern has none but for its dots.
    let segment = text.rsplit('/').next().unwrap_or(text);
    let found = PATTERN.captures(segment)?;
    let part = |n| found.get(n).map(|part| part.as_str());
    let subnet = |addr: IpAddr, len: Option<&str>| {
        let len = len?.parse().ok()?;
        (len < Family::of(addr).bits()).then_some(())?;
        Subnet::new(addr, len).ok()
    };
    let v4: Ipv4Addr = part(1)?.parse().ok()?;
    let v4 = subnet(v4.into(), part(2))?;
    let v6 = match part(3) {
        Some(addr) => {
            let addr: Ipv6Addr = addr.parse().ok()?;
            Some(subnet(addr.into(), part(4))?)
        }
        None => None,
    };
    Some(PerFamily { v4: (v4.len() > 0).then_some(v4), v6 })
}

/// A lease's value; or a vxlan peer's backend data, which is a part of it.
pub fn lease_value(data: &[u8]) {
    if let Ok(data) = text(data).parse::<BackendData>() {
        published(&data);
    }
    let key = "10.5.52.0-24&fd00:5:52::-64";
    let lease = match Lease::decode(key, data) {
        Ok(lease) => lease,
        Err(error) => {
            assert!(error.occupies().is_some(), "the key is a subnet's");
            assert!(error.to_string().contains(key));
            return;
        }
    };
    let attrs = lease.attrs;
    for (family, ip) in attrs.public.iter() {
        assert_eq!(Family::of(*ip), family);
        assert!(!ip.is_unspecified());
    }
    let written = attrs.encode();
    serde_json::from_str::<serde::de::IgnoredAny>(&written).expect("JSON");
    let again = LeaseAttrs::decode(written.as_bytes()).expect("our own");
    assert_eq!(again, attrs);
    assert_eq!(again.encode(), written);
    for (_, data) in attrs.data.iter() {
        published(data);
    }
}

fn published(data: &BackendData) {
    assert_eq!(data.as_str().parse().as_ref(), Ok(data), "compact");
    let mac = match mac_of(data) {
        Ok(mac) => mac,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(mac.is_unicast());
    assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
    let macs = PerFamily { v4: Some(mac), v6: Some(mac) };
    let attrs = lease_attrs(&PerFamily::default(), &macs, 1).expect("numbers");
    for (_, data) in attrs.data.iter() {
        assert_eq!(mac_of(data), Ok(mac));
    }
}
