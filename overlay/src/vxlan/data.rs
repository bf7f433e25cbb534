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
    /// There is no MAC, or an empty one (X-1).
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
    let backend_type = super::TYPE.into();
    Ok(LeaseAttrs { public: *public, backend_type, data })
}

/// The device address that a peer publishes. Its VNI does not matter and may
/// be absent (appendix D.5, D.6).
///
/// # Errors
/// [`DataError`] when there is none, or not one a device can have.
pub fn mac_of(data: &BackendData) -> Result<Mac, DataError> {
    if let Some(mac) = usual_mac(data.as_str()).filter(|mac| mac.is_unicast()) {
        return Ok(mac);
    }
    let text = Object::parse(data.as_str())?
        .text("VtepMAC")?
        .filter(|text| !text.is_empty())
        .ok_or(DataError::NoMac)?;
    match Mac::parse(&text) {
        Some(mac) if mac.is_unicast() => Ok(mac),
        _ => Err(DataError::BadMac(text.into_owned())),
    }
}

/// The address in data that is written as every daemon does (E-11). Each plan
/// reads those of all peers.
fn usual_mac(data: &str) -> Option<Mac> {
    let (vni, mac) =
        data.strip_prefix(r#"{"VNI":"#)?.split_once(r#","VtepMAC":""#)?;
    let digits = (1..=9).contains(&vni.len())
        && vni.bytes().all(|b| b.is_ascii_digit())
        && (vni == "0" || !vni.starts_with('0'));
    Mac::parse(mac.strip_suffix(r#""}"#)?).filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_form_is_read_as_any_other() {
        let mac = Mac([2, 0, 0x5e, 0x10, 0, 1]);
        let usual = r#"{"VNI":1,"VtepMAC":"02:00:5e:10:00:01"}"#;
        assert_eq!(usual_mac(usual), Some(mac));
        for other in [
            r#"{"VtepMAC":"02:00:5e:10:00:01"}"#,
            r#"{"VNI":"x","VtepMAC":"02:00:5e:10:00:01"}"#,
            r#"{"VNI":1,"VtepMAC":"02:00:5e:10:00:01","x":1}"#,
            r#"{"VNI":1,"VtepMAC":"","VtepMAC":"02:00:5e:10:00:01"}"#,
        ] {
            assert_eq!(usual_mac(other), None, "{other}");
            assert_eq!(mac_of(&other.parse().unwrap()), Ok(mac), "{other}");
        }
        // the last of two counts
        let two = r#"{"VNI":1,"VtepMAC":"02:00:5e:10:00:01","vtepmac":"x"}"#;
        let data = two.parse().unwrap();
        assert_eq!(mac_of(&data), Err(DataError::BadMac("x".to_owned())));
    }
}
