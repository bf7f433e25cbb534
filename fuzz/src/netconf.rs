use ipam::netconf::NetConf;

use crate::text;

/// A network configuration.
pub fn net_conf(data: &[u8]) {
    let text = text(data);
    let parsed = NetConf::parse(&text);
    // Every warning and error can be said.
    match &parsed {
        Ok((_, warnings)) => {
            assert!(warnings.iter().all(|w| !w.to_string().is_empty()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let Ok((conf, _)) = parsed else { return };
    assert!(!conf.enabled.is_empty());
    let compact = ipam::gojson::compact(&text);
    let again = NetConf::parse(&compact).expect("the same without space");
    assert_eq!(again.0, conf);

    let Ok(ranges) = conf.ranges() else { return };
    for family in ipam::Family::ALL {
        let Some(range) = ranges.get(family) else {
            assert!(!conf.is_enabled(family));
            continue;
        };
        assert!(conf.is_enabled(family));
        assert_eq!(conf.networks.get(family), Some(&range.network));
        assert!(range.len >= range.network.len() + 2, "{range:?}");
        assert!(range.len <= family.bits() - 2, "{range:?}");
        assert!(range.min <= range.max, "{range:?}");
        for end in [range.min, range.max] {
            assert_eq!(end.family(), family);
            assert_eq!(end.len(), range.len);
            assert!(range.network.covers(&end), "{range:?}");
            assert!(range.accepts(&end), "{range:?}");
        }
        // Neither neighbour of the ends is given out.
        if let Some(after) = range.max.nth(1) {
            assert!(!range.accepts(&after), "{range:?}");
        }
    }
}
