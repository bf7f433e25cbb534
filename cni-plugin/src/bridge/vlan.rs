//! VLANs of the pod's port (BR-10..BR-12, BR-28).

use std::ops::Range;

use ipam::gojson::{Object, Value};
use netlink::link::LinkInfo;
use netlink::link::bridge::{can_filter_vlans, filter_vlans};
use netlink::vlan::{self, Mode, PortVlans};
use netlink::{Dump, Socket};

use super::check::differs;
use super::util::all;
use crate::protocol::{CniError, code, log};

/// The VLAN of what has none, where that must be named (BR-28).
const DEFAULT: u16 = 1;
/// Frames of this VLAN come and go without a tag.
const NATIVE: Mode = Mode { pvid: true, untagged: true };

/// What the configuration says of VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conf {
    /// The pod's own VLAN.
    pub(super) native: Option<u16>,
    /// Those it may send and get besides, tagged.
    trunk: vlan::Vlans,
    /// The bridge must keep VLANs apart.
    filter: bool,
    /// Leave the port in the bridge's default VLAN as well.
    keep_default: bool,
}

// === impl Conf ===

impl Conf {
    /// # Errors
    /// Code 7.
    pub(super) fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let native = conf.int("vlan")?.unwrap_or_default();
        let native = match u16::try_from(native) {
            Ok(0) => None,
            Ok(id @ vlan::FIRST..=vlan::LAST) => Some(id),
            _ => {
                return Err(CniError::config(format!(
                    "invalid VLAN ID {native} (must be between 0 and {})",
                    vlan::LAST
                )));
            }
        };
        let items = conf.array("vlanTrunk")?;
        // an empty list still asks for a bridge that filters (BR-22)
        let filter = native.is_some() || items.is_some();
        let mut trunk = vlan::Vlans::new();
        for item in items.unwrap_or_default() {
            trunk.extend(range(&item)?.map(|id| (id, Mode::default())));
            trunk.extend(single(&item)?.map(|id| (id, Mode::default())));
        }
        let keep_default =
            conf.bool("preserveDefaultVlan")?.unwrap_or_default();
        Ok(Self { native, trunk, filter, keep_default })
    }

    /// The VLANs the pod's port is in. Its own one is its own also where the
    /// trunk has it: upstream would have it tagged, and the pod without one.
    fn wanted(&self) -> vlan::Vlans {
        let mut wanted = self.trunk.clone();
        if let Some(id) = self.native {
            wanted.insert(id, NATIVE);
        } else if !wanted.is_empty() {
            wanted.insert(DEFAULT, NATIVE);
        }
        wanted
    }

    /// The bridge must be one that keeps VLANs apart.
    pub(super) const fn filters(&self) -> bool {
        self.filter
    }

    /// What a link gets that is for the pod's own VLAN alone.
    pub(super) fn of_gateway(&self) -> Self {
        Self { trunk: vlan::Vlans::new(), ..self.clone() }
    }
}

/// Ids of `minID` to `maxID`, texts as in CT-25.
fn range(item: &Value<'_>) -> Result<Range<u16>, CniError> {
    let item = item.object()?;
    let bound = |key: &str| {
        let id = item.int(key)?;
        Ok::<_, CniError>(id.map(|id| u16::try_from(id).unwrap_or_default()))
    };
    let valid = |id: u16, key: &str| match id {
        vlan::FIRST..=vlan::LAST => Ok(id),
        _ => Err(CniError::config(format!("incorrect trunk {key} parameter"))),
    };
    match (bound("minID")?, bound("maxID")?) {
        (Some(min), Some(max)) => {
            let (min, max) = (valid(min, "minID")?, valid(max, "maxID")?);
            if min > max {
                return Err(CniError::config(
                    "minID is greater than maxID in trunk parameter",
                ));
            }
            Ok(min..max + 1)
        }
        (None, None) => Ok(Range::default()),
        (min, _) => Err(CniError::config(format!(
            "minID and maxID should be configured simultaneously, {} is \
             missing",
            if min.is_none() { "minID" } else { "maxID" }
        ))),
    }
}

/// The `id`, if there is one.
fn single(item: &Value<'_>) -> Result<Option<u16>, CniError> {
    let Some(id) = item.object()?.int("id")? else { return Ok(None) };
    match u16::try_from(id) {
        Ok(id @ vlan::FIRST..=vlan::LAST) => Ok(Some(id)),
        _ => Err(CniError::config("incorrect trunk id parameter")),
    }
}

/// The bridge cannot be made to keep VLANs apart.
pub(super) fn unsupported(
    bridge: &str,
    e: Option<&netlink::Error>,
) -> CniError {
    let said = e.map(|e| format!("{e}; ")).unwrap_or_default();
    CniError::new(
        code::UNSUPPORTED,
        format!(
            "vlan, vlanTrunk: bridge {bridge:?} cannot keep VLANs apart: this \
             kernel has no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)"
        ),
    )
    .details(format!("{said}leave both options out, or use another kernel"))
}

/// Whether bridges can be made to keep VLANs apart, where that is asked for:
/// for STATUS, which makes none.
///
/// # Errors
/// As ADD has it.
pub(super) fn available(conf: &Conf, bridge: &str) -> Result<(), CniError> {
    if !conf.filter {
        return Ok(());
    }
    told(bridge, Socket::open().and_then(|mut s| can_filter_vlans(&mut s)))
}

/// What the kernel's answer means.
fn told(
    bridge: &str,
    can: Result<bool, netlink::Error>,
) -> Result<(), CniError> {
    match can {
        Ok(true) => Ok(()),
        Ok(false) => Err(unsupported(bridge, None)),
        Err(e) if e.is_unsupported() => Err(unsupported(bridge, Some(&e))),
        Err(e) => Err(e.into()),
    }
}

/// Switches filtering on where a bridge that is there lacks it: upstream
/// leaves it as it is, and every pod on it reaches every VLAN (CW-7). Ports
/// that are not ours may lose frames by that, which the log says.
pub(super) fn filter(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
) -> Result<(), CniError> {
    if !conf.filter || filtering(bridge) {
        return Ok(());
    }
    socket.request(&filter_vlans(bridge.index)).map_err(|e| {
        match e.is_unsupported() {
            true => unsupported(&bridge.name, Some(&e)),
            false => e.into(),
        }
    })?;
    let default = bridge.bridge.unwrap_or_default().default_vlan;
    log(format_args!("{}", switched_on(&bridge.name, default)));
    Ok(())
}

/// What filtering means for the ports that have been there.
fn switched_on(name: &str, default: u16) -> String {
    let others = match default {
        0 => "the bridge has no default VLAN, so its other ports pass no \
              frames until they are put into VLANs (bridge vlan add)"
            .to_owned(),
        _ => format!(
            "its other ports stay in the bridge's default VLAN {default}; \
             frames with the tag of another VLAN pass them no longer, unless \
             they are put into it (bridge vlan add)"
        ),
    };
    format!("{name}: VLAN filtering was off and is on now; {others}")
}

fn filtering(bridge: &LinkInfo) -> bool {
    bridge.bridge.is_some_and(|bridge| bridge.vlan_filtering)
}

/// Puts the port with that index into its VLANs and takes it out of all
/// others. Doing it again changes nothing, not even for a moment.
pub(super) fn set(
    socket: &mut Socket,
    conf: &Conf,
    port: u32,
) -> Result<(), CniError> {
    let wanted = conf.wanted();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut requests = vec![vlan::add(port, &wanted)];
    if !conf.keep_default {
        requests.push(vlan::retain(port, &wanted));
    }
    all(socket.batch(&requests)).map_err(|e| {
        CniError::from(e).context("failed to set up VLANs of the port")
    })
}

/// All ports with their VLANs.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<PortVlans>, CniError> {
    vlan::list(socket).and_then(Dump::complete).map_err(CniError::from)
}

/// Whether the bridge filters and `port` is in its VLANs, and unless it may
/// be in the default one, in no other.
pub(super) fn check(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &LinkInfo,
    port: &LinkInfo,
) -> Result<(), CniError> {
    if !conf.filter {
        return Ok(());
    }
    if !filtering(bridge) {
        return differs(format_args!(
            "bridge {} does not keep VLANs apart",
            bridge.name
        ));
    }
    let wanted = conf.wanted();
    if wanted.is_empty() {
        return Ok(());
    }
    let ports = list(socket)?;
    let there = ports.into_iter().find(|p| p.index == port.index);
    let mut there = there.map(|p| p.vlans).unwrap_or_default();
    let shown = vlan::describe(&there);
    if conf.keep_default {
        there.retain(|id, _| wanted.contains_key(id));
    }
    if there == wanted {
        return Ok(());
    }
    differs(format_args!(
        "port {} is in the VLANs {shown}, but should be in {}",
        port.name,
        vlan::describe(&wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Conf, CniError> {
        Conf::read(&Object::parse(text)?)
    }

    fn wanted(text: &str) -> String {
        vlan::describe(&read(text).unwrap().wanted())
    }

    #[test]
    fn what_a_port_is_in() {
        for (text, vlans) in [
            (r"{}", "none"),
            (r#"{"vlan":0,"vlanTrunk":null}"#, "none"),
            (r#"{"vlanTrunk":[]}"#, "none"),
            (r#"{"vlanTrunk":[{}]}"#, "none"),
            (r#"{"vlan":100}"#, "100 pvid untagged"),
            (r#"{"vlan":4094}"#, "4094 pvid untagged"),
            (r#"{"vlanTrunk":[{"id":101}]}"#, "1 pvid untagged, 101"),
            (
                r#"{"vlanTrunk":[{"id":101},{"minID":200,"maxID":210}]}"#,
                "1 pvid untagged, 101, 200-210",
            ),
            (
                r#"{"vlan":205,"vlanTrunk":[{"id":99,"minID":200,"maxID":210}]}"#,
                "99, 200-204, 205 pvid untagged, 206-210",
            ),
            (r#"{"vlanTrunk":[{"id":1},{"id":2}]}"#, "1 pvid untagged, 2"),
            (
                r#"{"vlanTrunk":[{"minID":10,"maxID":20},{"id":15}]}"#,
                "1 pvid untagged, 10-20",
            ),
        ] {
            assert_eq!(wanted(text), vlans, "{text}");
        }
    }

    #[test]
    fn what_other_ports_lose() {
        for (default, text) in [
            (0, "br0: VLAN filtering was off and is on now; the bridge has no"),
            (
                7,
                "br0: VLAN filtering was off and is on now; its other ports \
                 stay in the bridge's default VLAN 7; frames with the tag",
            ),
        ] {
            let said = switched_on("br0", default);
            assert!(said.starts_with(text), "{said}");
        }
    }

    /// What passes by itself says nothing about the kernel.
    #[test]
    fn what_status_makes_of_an_answer() {
        use netlink::Errno;
        let refused = |errno| {
            let object = "look".into();
            Err(netlink::Error::Refused { object, errno, kernel: None })
        };
        assert!(told("br0", Ok(true)).is_ok());
        for (can, want) in [
            (Ok(false), code::UNSUPPORTED),
            (refused(Errno::EOPNOTSUPP), code::UNSUPPORTED),
            (refused(Errno::ENOBUFS), code::TRY_AGAIN),
            (refused(Errno::EPERM), code::INTERNAL),
        ] {
            let error = told("br0", can).unwrap_err();
            assert_eq!(error.code, want, "{error}");
        }
    }

    #[test]
    fn when_the_bridge_filters() {
        for (text, filters) in [
            (r#"{"vlan":0,"preserveDefaultVlan":true}"#, false),
            (r#"{"vlanTrunk":null}"#, false),
            (r#"{"vlanTrunk":[]}"#, true),
            (r#"{"vlan":7}"#, true),
        ] {
            assert_eq!(read(text).unwrap().filters(), filters, "{text}");
        }
    }

    /// CT-24, CT-25
    #[test]
    fn refusals() {
        let simultaneously =
            "minID and maxID should be configured simultaneously";
        let trunk = |item: &str| format!(r#"{{"vlanTrunk":[{item}]}}"#);
        for (text, msg) in [
            (
                r#"{"vlan":-100}"#.into(),
                "invalid VLAN ID -100 (must be between 0 and 4094)".into(),
            ),
            (
                r#"{"vlan":5000}"#.into(),
                "invalid VLAN ID 5000 (must be between 0 and 4094)".into(),
            ),
            (
                r#"{"vlan":65636}"#.into(),
                "invalid VLAN ID 65636 (must be between 0 and 4094)".into(),
            ),
            (
                trunk(r#"{"minID":10}"#),
                format!("{simultaneously}, maxID is missing"),
            ),
            (
                trunk(r#"{"maxID":10}"#),
                format!("{simultaneously}, minID is missing"),
            ),
            (
                trunk(r#"{"minID":-1,"maxID":9}"#),
                "incorrect trunk minID parameter".into(),
            ),
            (
                trunk(r#"{"minID":0,"maxID":9}"#),
                "incorrect trunk minID parameter".into(),
            ),
            (
                trunk(r#"{"minID":5000,"maxID":9}"#),
                "incorrect trunk minID parameter".into(),
            ),
            (
                trunk(r#"{"minID":1,"maxID":-9}"#),
                "incorrect trunk maxID parameter".into(),
            ),
            (
                trunk(r#"{"minID":1,"maxID":4095}"#),
                "incorrect trunk maxID parameter".into(),
            ),
            (
                trunk(r#"{"minID":20,"maxID":10}"#),
                "minID is greater than maxID in trunk parameter".into(),
            ),
            (trunk(r#"{"id":-1}"#), "incorrect trunk id parameter".into()),
            (trunk(r#"{"id":0}"#), "incorrect trunk id parameter".into()),
            (trunk(r#"{"id":4095}"#), "incorrect trunk id parameter".into()),
            (trunk(r#"{"id":65537}"#), "incorrect trunk id parameter".into()),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!((error.code, error.msg), (code::CONFIG, msg), "{text}");
        }
        for odd in ["null", "7", r#"{"id":"7"}"#, r#"{"minID":1.5,"maxID":2}"#]
        {
            assert!(read(&trunk(odd)).is_err(), "{odd}");
        }
    }
}
