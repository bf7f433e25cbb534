//! The configuration of type `bridge` (BR-1..BR-19).

use ipam::Subnet;
use ipam::gojson::Object;

use super::util::no_pattern;
use super::{vlan, vlan_gateway};
use crate::mac;
use crate::masquerade;
use crate::protocol::{Args, CniError, code, interface_name_problem};
use crate::result::Dns;

/// The bridge made when none is named.
const BRIDGE: &str = "cni0";

/// What flannel knows of the node that a bridge's configuration does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// The flannel networks. Addresses of the bridge inside them are
    /// flannel's: another than the gateway is left over from a subnet that
    /// the node has no longer.
    pub(crate) networks: Vec<Subnet>,
    /// The MTU in bytes that fits the tunnels.
    pub(crate) mtu: Option<u32>,
}

/// What the configuration says, contradictions ruled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conf {
    /// The bridge's name.
    pub(super) bridge: String,
    /// Put the gateways on the bridge and forward.
    pub(super) gateway: bool,
    /// Give the pod a default route in each family.
    pub(super) default_gateway: bool,
    /// Replace a conflicting address of the bridge.
    pub(super) force_address: bool,
    /// MTU of a new bridge and the veth pair in bytes; `None` for the
    /// kernel's default.
    pub(super) mtu: Option<u32>,
    /// Let packets out of the port they came in by.
    pub(super) hairpin: bool,
    /// Make the bridge promiscuous.
    pub(super) promiscuous: bool,
    /// Keep ports from talking to each other.
    pub(super) isolated: bool,
    /// Keep IPv6 duplicate address detection inside the pod.
    pub(super) detect_duplicates: bool,
    /// The pod interface's link-layer address.
    pub(super) mac: Option<[u8; 6]>,
    /// Replaces what IPAM says about name resolution.
    pub(super) dns: Option<Dns>,
    /// What flannel knows beyond this.
    pub(super) node: Node,
    /// Masquerade for the pod.
    pub(super) masquerade: Option<masquerade::Backend>,
    /// Let the pod send by its own link-layer address only.
    pub(super) check_spoofing: bool,
    /// Leave the pod's interface down.
    pub(super) leave_down: bool,
    /// The plugin that gives addresses; empty for none.
    pub(super) ipam: String,
    /// The VLANs of the pod's port.
    pub(super) vlans: vlan::Conf,
}

// === impl Conf ===

impl Conf {
    /// Reads and judges a configuration for ADD or CHECK.
    ///
    /// # Errors
    /// Code 7.
    pub(super) fn read(
        conf: &Object<'_>,
        args: &Args,
    ) -> Result<Self, CniError> {
        let flag = |key| conf.bool(key).map(Option::unwrap_or_default);
        let out = Self {
            bridge: bridge_name(conf)?,
            gateway: flag("isGateway")? || flag("isDefaultGateway")?,
            default_gateway: flag("isDefaultGateway")?,
            force_address: flag("forceAddress")?,
            mtu: conf.integer::<u32>("mtu")?.filter(|mtu| *mtu != 0),
            hairpin: flag("hairpinMode")?,
            promiscuous: flag("promiscMode")?,
            isolated: flag("portIsolation")?,
            detect_duplicates: flag("enabledad")?,
            mac: mac(conf, args)?,
            dns: dns(conf)?,
            node: Node::default(),
            masquerade: masquerade::wanted(conf)?,
            check_spoofing: flag("macspoofchk")?,
            leave_down: flag("disableContainerInterface")?,
            ipam: ipam_kind(conf)?,
            vlans: vlan::Conf::read(conf)?,
        };
        if out.hairpin && out.promiscuous {
            return Err(CniError::config(
                "cannot set hairpin mode and promiscuous mode at the same time",
            ));
        }
        if out.leave_down && !out.ipam.is_empty() {
            return Err(CniError::config(
                "cannot use IPAM when DisableContainerInterface flag is set",
            ));
        }
        if let Some(vlan) = out.gateway_vlan() {
            vlan_gateway::name(&out.bridge, vlan)?;
        }
        Ok(out)
    }

    /// The VLAN whose gateway is not on the bridge itself.
    pub(super) fn gateway_vlan(&self) -> Option<u16> {
        self.vlans.native.filter(|_| self.gateway)
    }
}

/// The plugin that gives addresses; empty when there is none.
///
/// # Errors
/// Code 7 when it is no string.
pub(crate) fn ipam_kind(conf: &Object<'_>) -> Result<String, CniError> {
    let Some(ipam) = conf.object("ipam")? else { return Ok(String::new()) };
    Ok(ipam.string("type")?.unwrap_or_default())
}

/// The bridge's name.
///
/// # Errors
/// Code 7 when it cannot name a link.
pub(super) fn bridge_name(conf: &Object<'_>) -> Result<String, CniError> {
    let name = conf.string("bridge")?.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| BRIDGE.to_owned());
    if let Some(problem) = interface_name_problem(&name) {
        return Err(CniError::config(format!("bridge is {name:?}: {problem}")));
    }
    no_pattern("bridge", &name, code::CONFIG)?;
    Ok(name)
}

/// CNI_ARGS, over it `args.cni`, over it `runtimeConfig` (BR-19).
fn mac(conf: &Object<'_>, args: &Args) -> Result<Option<[u8; 6]>, CniError> {
    let in_args = match conf.object("args")? {
        Some(args) => args.object("cni")?,
        None => None,
    };
    let mut text = args.mac.clone();
    for place in [in_args, conf.object("runtimeConfig")?].iter().flatten() {
        let given = place.string("mac")?.filter(|mac| !mac.is_empty());
        text = given.or(text);
    }
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    // the kernel gives a link no address of a group, nor one of zeros
    let unicast = |mac: &[u8; 6]| mac[0] & 1 == 0 && *mac != [0; 6];
    mac::parse(&text).filter(unicast).map(Some).ok_or_else(|| {
        CniError::config(format!(
            "mac is {text:?}, but must be the address of one host, such as \
             0a:58:0a:f4:01:02"
        ))
    })
}

/// `dns` counts as soon as any of its members is there, even an empty list
/// (BR-18).
pub(crate) fn dns(conf: &Object<'_>) -> Result<Option<Dns>, CniError> {
    let Some(dns) = conf.object("dns")? else { return Ok(None) };
    let members = ["nameservers", "domain", "search", "options"];
    if members.iter().all(|key| dns.value(key).is_none()) {
        return Ok(None);
    }
    Dns::read(&dns).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, args: &str) -> Result<Conf, CniError> {
        Conf::read(&Object::parse(text)?, &Args::parse(args)?)
    }

    fn with(members: &str) -> Result<Conf, CniError> {
        read(&format!(r#"{{"ipam":{{"type":"host-local"}},{members}}}"#), "")
    }

    #[test]
    fn defaults() {
        let conf = with(r#""mtu":0"#).unwrap();
        assert_eq!(conf.bridge, "cni0");
        assert_eq!((conf.mtu, conf.mac, conf.dns), (None, None, None));
        assert!(!conf.gateway && !conf.hairpin && !conf.isolated);
    }

    #[test]
    fn a_default_gateway_is_a_gateway() {
        let conf = with(r#""ISDEFAULTGATEWAY":true,"Mtu":1450"#).unwrap();
        assert!(conf.gateway && conf.default_gateway);
        assert_eq!(conf.mtu, Some(1450));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (members, code, text) in [
            (r#""ipMasqBackend":"foo""#, 7, "unknown ipmasq backend \"foo\""),
            (
                r#""vlan":7,"isGateway":true,"bridge":"bridge-of-mine""#,
                7,
                "\"bridge-of-mine.7\"",
            ),
            (
                r#""vlan":5000"#,
                7,
                "invalid VLAN ID 5000 (must be between 0 and 4094)",
            ),
            (
                r#""hairpinMode":true,"promiscMode":true"#,
                7,
                "cannot set hairpin mode and promiscuous mode at the same time",
            ),
            (
                r#""disableContainerInterface":true"#,
                7,
                "cannot use IPAM when DisableContainerInterface flag is set",
            ),
            (r#""mtu":"1400""#, 7, "mtu is \"1400\""),
            (r#""mtu":-1"#, 7, "mtu is -1"),
        ] {
            let error = with(members).unwrap_err();
            assert_eq!(error.code, code, "{members}");
            assert!(error.msg.contains(text), "{members}: {}", error.msg);
        }
        let layer_2 = read(r#"{"disableContainerInterface":true}"#, "");
        assert!(layer_2.unwrap().leave_down);
    }

    #[test]
    fn the_nearest_mac_counts() {
        let mac = |members: &str| {
            let text =
                format!(r#"{{"ipam":{{"type":"host-local"}}{members}}}"#);
            read(&text, "MAC=02:00:00:00:00:01").unwrap().mac.unwrap()[5]
        };
        let in_args = r#","args":{"cni":{"mac":"02-00-00-00-00-02"}}"#;
        let runtime = r#","runtimeConfig":{"MAC":"02:00:00:00:00:03"}"#;
        assert_eq!(mac(""), 1);
        assert_eq!(mac(in_args), 2);
        assert_eq!(mac(&format!("{runtime}{in_args}")), 3);
        for bad in [
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "zz:00:00:00:00:00",
            "2:00:00:00:00:001",
        ] {
            assert_eq!(mac::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn any_dns_member_replaces_ipam_s() {
        let dns = |text: &str| with(&format!(r#""dns":{text}"#)).unwrap().dns;
        assert_eq!(dns("{}"), None);
        assert_eq!(dns(r#"{"domain":null}"#), None);
        assert_eq!(dns(r#"{"search":[]}"#), Some(Dns::default()));
    }
}
