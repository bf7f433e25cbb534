//! Backends with few options, or none that need more than reading.

use super::read;
use crate::Secret;
use crate::gojson::{Error, Object};

/// Options of `ipip`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpipOptions {
    /// No tunnel to peers on the same layer 2 network (N-66).
    pub direct_routing: bool,
}

/// Options of `udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// The port listened on, and sent to on every peer (N-59).
    pub port: u16,
}

/// Options of `ipsec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsecOptions {
    /// Preshared key, of 96 bytes at least (N-67).
    pub psk: Secret<String>,
    /// Always ESP in UDP (N-68).
    pub udp_encap: bool,
    /// strongSwan's proposal for ESP (N-69).
    pub esp_proposal: String,
}

/// Options of `tencent-vpc`; what is not given comes from the environment
/// (C-48).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TencentVpcOptions {
    /// `AccessKeyID`
    pub access_key_id: Option<String>,
    /// `AccessKeySecret`
    pub access_key_secret: Option<Secret<String>>,
}

/// Options of `extension`: command lines (B-110), `None` when there is
/// nothing to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionOptions {
    /// Run before the lease; its output becomes the lease's data (B-112).
    pub pre_startup: Option<String>,
    /// Run with the lease (B-113).
    pub post_startup: Option<String>,
    /// Run for each new peer (B-114).
    pub subnet_add: Option<String>,
    /// Run for each vanished peer (B-115).
    pub subnet_remove: Option<String>,
}

// === impl IpipOptions ===

impl IpipOptions {
    pub(super) fn parse(o: &Object<'_>) -> Result<Self, Error> {
        Ok(Self { direct_routing: read::flag(o, "DirectRouting")? })
    }
}

// === impl UdpOptions ===

impl UdpOptions {
    pub(super) fn parse(o: &Object<'_>) -> Result<Self, Error> {
        let port = read::number(o, "Port", 1..=u16::MAX)?;
        Ok(port.map_or_else(Self::default, |port| Self { port }))
    }
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

// === impl IpsecOptions ===

impl IpsecOptions {
    pub(super) fn parse(o: &Object<'_>) -> Result<Self, Error> {
        let want = "a secret of 96 characters or more";
        let psk = read::secret(o, "PSK", want)?
            .filter(|psk| psk.len() >= 96)
            .ok_or_else(|| read::bad_secret(o, "PSK", want))?;
        Ok(Self {
            psk: Secret::new(psk),
            udp_encap: read::flag(o, "UDPEncap")?,
            esp_proposal: read::text(o, "ESPProposal")?.unwrap_or_else(|| {
                "aes128gcm16-sha256-prfsha256-ecp256".to_owned()
            }),
        })
    }
}

// === impl TencentVpcOptions ===

impl TencentVpcOptions {
    pub(super) fn parse(o: &Object<'_>) -> Result<Self, Error> {
        Ok(Self {
            access_key_id: read::text(o, "AccessKeyID")?,
            access_key_secret: read::secret(o, "AccessKeySecret", "a string")?
                .map(Secret::new),
        })
    }
}

// === impl ExtensionOptions ===

impl ExtensionOptions {
    pub(super) fn parse(o: &Object<'_>) -> Result<Self, Error> {
        Ok(Self {
            pre_startup: read::text(o, "PreStartupCommand")?,
            post_startup: read::text(o, "PostStartupCommand")?,
            subnet_add: read::text(o, "SubnetAddCommand")?,
            subnet_remove: read::text(o, "SubnetRemoveCommand")?,
        })
    }
}
