//! Whether a network configuration that was changed while the daemon runs can
//! be used at once.

use ipam::netconf::Backend;
use ipam::netconf::backend::VxlanOptions;

use crate::store::etcd::Config;

/// The pods that run would lose their addresses.
const PODS: &str = "running pods have addresses by the old value";
/// The tunnel's device cannot be changed, only be made anew.
const DEVICE: &str = "the tunnel's device would be made anew, and nodes with \
                      different values do not reach each other";

/// The backend's options of `new`, if all in which it differs from `old` can
/// be changed while pods run: the MTU, `Learning`, `DirectRouting`, and from
/// where later leases are taken. Else nothing of it is used: half a
/// configuration is worse than the old one.
///
/// # Errors
/// What differs and why it cannot be used, for a person.
pub(super) fn live(old: &Config, new: &Config) -> Result<VxlanOptions, String> {
    let (Backend::Vxlan(was), Backend::Vxlan(is)) =
        (&old.netconf.backend, &new.netconf.backend)
    else {
        return Err(restart(&[("Backend.Type", DEVICE)]));
    };
    let lens = |c: &Config| c.ranges.map(|_, range| range.len);
    let (a, b) = (&old.netconf, &new.netconf);
    let fixed = [
        ("EnableIPv4 or EnableIPv6", a.enabled != b.enabled, PODS),
        ("Network or IPv6Network", a.networks != b.networks, PODS),
        ("SubnetLen or IPv6SubnetLen", lens(old) != lens(new), PODS),
        (
            "EnableNFTables",
            a.nftables != b.nftables,
            "the rules of the other kind would be removed under traffic",
        ),
        ("Backend.VNI", was.vni != is.vni, DEVICE),
        ("Backend.Port", was.port != is.port, DEVICE),
        ("Backend.GBP", was.gbp != is.gbp, DEVICE),
    ];
    let changed: Vec<(&str, &str)> = fixed
        .into_iter()
        .filter_map(|(what, differs, why)| differs.then_some((what, why)))
        .collect();
    if changed.is_empty() { Ok(*is) } else { Err(restart(&changed)) }
}

fn restart(changed: &[(&str, &str)]) -> String {
    let parts: Vec<String> =
        changed.iter().map(|(what, why)| format!("{what} ({why})")).collect();
    format!(
        "the network config has changed in {}: this node keeps the old one \
         until flanneld is restarted",
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text.to_owned(), 1).unwrap()
    }

    fn with(more: &str, backend: &str) -> Config {
        config(&format!(
            r#"{{"Network":"10.5.0.0/16",{more}
               "Backend":{{"Type":"vxlan"{backend}}}}}"#
        ))
    }

    #[test]
    fn what_pods_do_not_notice_is_used() {
        let old = with("", "");
        let new = with(
            r#""SubnetMin":"10.5.9.0","SubnetMax":"10.5.20.0","#,
            r#","MTU":1400,"Learning":true,"DirectRouting":true"#,
        );
        let options = live(&old, &new).unwrap();
        assert!(options.learning && options.direct_routing);
        assert_eq!(options.mtu, Some(1400));
        assert!(live(&new, &old).is_ok());
        assert!(live(&old, &old).is_ok());
    }

    #[test]
    fn all_else_needs_a_restart_and_is_named() {
        let old = with("", "");
        for (more, backend, name) in [
            (r#""SubnetLen":25,"#, "", "SubnetLen"),
            (r#""EnableNFTables":true,"#, "", "EnableNFTables"),
            (
                r#""EnableIPv6":true,"IPv6Network":"fd00::/48","#,
                "",
                "EnableIPv6",
            ),
            ("", r#","VNI":7"#, "Backend.VNI"),
            ("", r#","Port":4789"#, "Backend.Port"),
            ("", r#","GBP":true"#, "Backend.GBP"),
        ] {
            let why = live(&old, &with(more, backend)).unwrap_err();
            assert!(why.contains(name), "{why}");
            assert!(why.contains("restarted"), "{why}");
        }
        let other =
            config(r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}"#);
        let why = live(&old, &other).unwrap_err();
        assert!(why.contains("Network"), "{why}");
        // nothing is used of one that is changed in something else too
        let both = with("", r#","VNI":7,"MTU":1400"#);
        assert!(live(&old, &both).is_err());
    }
}
