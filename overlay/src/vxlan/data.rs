//! What a vxlan node publishes about itself in its lease (B-27).

use std::net::IpAddr;

use ipam::PerFamily;
use ipam::gojson::{self, Object};
use ipam::lease::{BackendData, LeaseAttrs};
use serde::Serialize;

use crate::Mac;

/// Why a peer's data is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Not an object, or the MAC is not a text.
    #[error(transparent)]
    Json(#[from] gojson::Error),
    /// There is no MAC, or an empty one.
    #[error("VtepMAC is missing")]
    NoMac,
    /// The text is not a device's Ethernet address.
    #[error("VtepMAC is {0:?}, but must be a device's Ethernet address")]
    BadMac(String),
}

#[derive(Serialize)]
struct Data {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: String,
}

/// What this node publishes (E-10..E-12, B-27).
///
/// # Errors
/// None in practice: writing numbers and short texts as JSON does not fail.
pub fn lease_attrs(
    public: &PerFamily<IpAddr>,
    macs: &PerFamily<Mac>,
    vni: u32,
) -> Result<LeaseAttrs, serde_json::Error> {
    let mut data = PerFamily::default();
    for (family, mac) in macs.iter() {
        let value = Data { vni, mac: mac.to_string() };
        data.set(family, Some(BackendData::new(&value)?));
    }
    let backend_type = super::TYPE.to_owned();
    Ok(LeaseAttrs { public: *public, backend_type, data })
}

/// The device address that a peer publishes. Its VNI does not matter and may
/// be absent (appendix D.5, D.6).
///
/// # Errors
/// [`DataError`] when there is none, or not one a device can have.
pub fn mac_of(data: &BackendData) -> Result<Mac, DataError> {
    let text = Object::parse(data.as_str())?
        .string("VtepMAC")?
        .filter(|text| !text.is_empty())
        .ok_or(DataError::NoMac)?;
    match Mac::parse(&text) {
        Some(mac) if mac.is_unicast() => Ok(mac),
        _ => Err(DataError::BadMac(text)),
    }
}
