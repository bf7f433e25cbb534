//! The backends' options (N-50..N-73), typed and checked.

use crate::PerFamily;
use crate::gojson::{Error, Object, Value};

mod read;
mod small;
mod vxlan;
mod wireguard;

pub use small::{
    ExtensionOptions, IpipOptions, IpsecOptions, TencentVpcOptions, UdpOptions,
};
pub use vxlan::VxlanOptions;
pub use wireguard::{WireguardMode, WireguardOptions};

/// How packets get to the other nodes, with that backend's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Gives out subnets and carries nothing (N-72).
    Alloc,
    /// Commands of the administrator's own (N-70).
    Extension(ExtensionOptions),
    /// Routes through the other nodes on one layer 2 network (N-58).
    HostGw,
    /// IP in IP (N-66).
    Ipip(IpipOptions),
    /// ESP, negotiated by strongSwan (N-67..N-69).
    Ipsec(IpsecOptions),
    /// Routes in a Tencent VPC (N-71).
    TencentVpc(TencentVpcOptions),
    /// Packets in UDP, carried by the daemon itself (N-59).
    Udp(UdpOptions),
    /// VXLAN (N-50..N-55).
    Vxlan(VxlanOptions),
    /// WireGuard (N-60..N-65).
    Wireguard(WireguardOptions),
}

/// Every backend's name with the options it knows, including those for
/// Windows only (N-56..N-58), which are ignored here.
pub(super) const OPTIONS: &[(&str, &[&str])] = &[
    ("alloc", &[]),
    (
        "extension",
        &[
            "PreStartupCommand",
            "PostStartupCommand",
            "SubnetAddCommand",
            "SubnetRemoveCommand",
        ],
    ),
    ("host-gw", &["Name", "DNSServerList"]),
    ("ipip", &["DirectRouting"]),
    ("ipsec", &["PSK", "UDPEncap", "ESPProposal"]),
    ("tencent-vpc", &["AccessKeyID", "AccessKeySecret"]),
    ("udp", &["Port"]),
    (
        "vxlan",
        &[
            "VNI",
            "Port",
            "MTU",
            "GBP",
            "Learning",
            "DirectRouting",
            "MacPrefix",
            "Name",
        ],
    ),
    (
        "wireguard",
        &[
            "ListenPort",
            "ListenPortV6",
            "MTU",
            "PSK",
            "PersistentKeepaliveInterval",
            "Mode",
        ],
    ),
];

// === impl Backend ===

impl Default for Backend {
    /// `udp`, which a configuration without `Backend` means (N-22).
    fn default() -> Self {
        Self::Udp(UdpOptions::default())
    }
}

impl Backend {
    /// The type's name as it is written in configurations and leases.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Alloc => "alloc",
            Self::Extension(_) => "extension",
            Self::HostGw => "host-gw",
            Self::Ipip(_) => "ipip",
            Self::Ipsec(_) => "ipsec",
            Self::TencentVpc(_) => "tencent-vpc",
            Self::Udp(_) => "udp",
            Self::Vxlan(_) => "vxlan",
            Self::Wireguard(_) => "wireguard",
        }
    }

    pub(super) fn parse(
        o: &Object<'_>,
        enabled: &PerFamily<()>,
    ) -> Result<Self, Error> {
        let name = o.string("Type")?.unwrap_or_default();
        Ok(match name.to_lowercase().as_str() {
            "alloc" => Self::Alloc,
            "extension" => Self::Extension(ExtensionOptions::parse(o)?),
            "host-gw" => Self::HostGw,
            "ipip" => Self::Ipip(IpipOptions::parse(o)?),
            "ipsec" => Self::Ipsec(IpsecOptions::parse(o)?),
            "tencent-vpc" => Self::TencentVpc(TencentVpcOptions::parse(o)?),
            "udp" => Self::Udp(UdpOptions::parse(o)?),
            "vxlan" => Self::Vxlan(VxlanOptions::parse(o, enabled)?),
            "wireguard" => {
                Self::Wireguard(WireguardOptions::parse(o, enabled)?)
            }
            _ => return Err(unknown_type(o)),
        })
    }
}

/// The value of `Backend`, which may be anything but must be an object.
pub(super) fn object<'a>(value: &Value<'a>) -> Result<Object<'a>, Error> {
    value
        .object()
        .map_err(|_| value.mismatch("an object such as {\"Type\": \"vxlan\"}"))
}

fn unknown_type(o: &Object<'_>) -> Error {
    let names: Vec<&str> = OPTIONS.iter().map(|o| o.0).collect();
    let want = format!("one of {}", names.join(", "));
    match o.value("Type") {
        Some(value) => value.mismatch(want),
        None => Error::Type {
            path: o.path_of("Type"),
            got: "missing".to_owned(),
            want,
        },
    }
}
