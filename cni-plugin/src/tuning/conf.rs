//! The configuration of type `tuning` (TU-1).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipam::gojson::Object;
use netlink::link::{self, LinkInfo, Mac, Set};

use super::sysctls;
use crate::mac;
use crate::protocol::{Args, CniError};

/// Where backups are kept.
const DATA_DIR: &str = "/run/cni/tuning";

/// What is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conf {
    /// Settings as they are given, names not yet judged.
    sysctl: BTreeMap<String, String>,
    /// Of the interface.
    pub(super) attributes: Attributes,
    /// Where what was before is kept.
    pub(super) data_dir: PathBuf,
}

/// Attributes of an interface, those that are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mac: Option<Mac>,
    pub(super) promisc: Option<bool>,
    pub(super) mtu: Option<u32>,
    pub(super) allmulti: Option<bool>,
    pub(super) txqlen: Option<u32>,
}

// === impl Conf ===

impl Conf {
    /// # Errors
    /// Code 7.
    pub(super) fn read(
        conf: &Object<'_>,
        args: &Args,
    ) -> Result<Self, CniError> {
        let in_args = match conf.object("args")? {
            Some(args) => args.object("cni")?,
            None => None,
        };
        let mut sysctl = sysctl_map(conf)?;
        let mut attributes = Attributes::read(conf)?;
        if let Some(cni) = &in_args {
            sysctl.extend(sysctl_map(cni)?);
            attributes = Attributes::read(cni)?.over(attributes);
        }
        // 0 and false are Go's way to say nothing
        attributes.mtu = attributes.mtu.filter(|mtu| *mtu != 0);
        attributes.promisc = attributes.promisc.filter(|on| *on);
        let runtime = conf.object("runtimeConfig")?;
        let of = |place: Option<&Object<'_>>| match place {
            Some(place) => place.string("mac"),
            None => Ok(None),
        };
        // the last of them counts
        let said = [
            conf.string("mac")?,
            args.mac.clone(),
            of(runtime.as_ref())?,
            of(in_args.as_ref())?,
        ];
        let wanted = said.into_iter().flatten().rfind(|mac| !mac.is_empty());
        attributes.mac = wanted.map(|text| ethernet(&text)).transpose()?;
        Ok(Self { sysctl, attributes, data_dir: Self::data_dir(conf) })
    }

    /// The folder alone, for verbs that must not fail because of the rest.
    pub(super) fn data_dir(conf: &Object<'_>) -> PathBuf {
        let dir = conf.string("dataDir").ok().flatten();
        let dir = dir.filter(|dir| !dir.is_empty());
        dir.map_or_else(|| DATA_DIR.into(), PathBuf::from)
    }

    /// Files below `/proc/sys` and what they should hold.
    ///
    /// # Errors
    /// Code 7 for a name that is none, or not allowed.
    pub(super) fn settings(
        &self,
        ifname: &str,
    ) -> Result<Vec<(String, String)>, CniError> {
        sysctls::resolve(&self.sysctl, ifname)
    }
}

/// The map `sysctl`; Go takes the last of two equal keys, which hides one.
fn sysctl_map(from: &Object<'_>) -> Result<BTreeMap<String, String>, CniError> {
    let mut out = BTreeMap::new();
    if let Some(map) = from.object("sysctl")? {
        for (key, value) in map.iter() {
            if out.insert(key.clone().into_owned(), value.string()?).is_some() {
                return Err(CniError::config(
                    "duplicated sysctl keys are not allowed",
                )
                .details(key.as_ref()));
            }
        }
    }
    Ok(out)
}

fn ethernet(text: &str) -> Result<Mac, CniError> {
    mac::parse(text).ok_or_else(|| {
        CniError::config(format!(
            "invalid args {text} for MAC addr: it must be six bytes in hex, \
             such as 0a:58:0a:f4:01:02"
        ))
    })
}

// === impl Attributes ===

impl Attributes {
    fn read(from: &Object<'_>) -> Result<Self, CniError> {
        Ok(Self {
            mac: None,
            promisc: from.bool("promisc")?,
            mtu: from.integer("mtu")?,
            allmulti: from.bool("allmulti")?,
            txqlen: from.integer("txQLen")?,
        })
    }

    /// These, and of `others` what these do not say.
    pub(super) fn over(self, others: Self) -> Self {
        Self {
            mac: self.mac.or(others.mac),
            promisc: self.promisc.or(others.promisc),
            mtu: self.mtu.or(others.mtu),
            allmulti: self.allmulti.or(others.allmulti),
            txqlen: self.txqlen.or(others.txqlen),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `link` has of those that are meant here.
    pub(super) fn saved_from(&self, link: &LinkInfo) -> Self {
        Self {
            mac: self.mac.and(link.mac),
            promisc: self.promisc.map(|_| link.is_promiscuous()),
            mtu: self.mtu.map(|_| link.mtu),
            allmulti: self.allmulti.map(|_| link.takes_all_multicast()),
            txqlen: self.txqlen.map(|_| link.txqlen),
        }
    }

    /// One change for each, and its name.
    pub(super) fn changes(&self, index: u32) -> Vec<(&'static str, Set)> {
        let mut out = Vec::new();
        if let Some(mac) = self.mac {
            out.push(("mac", link::set(index).mac(mac)));
        }
        if let Some(on) = self.promisc {
            out.push(("promisc", link::set(index).promiscuous(on)));
        }
        if let Some(mtu) = self.mtu {
            out.push(("mtu", link::set(index).mtu(mtu)));
        }
        if let Some(on) = self.allmulti {
            out.push(("allmulti", link::set(index).all_multicast(on)));
        }
        if let Some(packets) = self.txqlen {
            out.push(("txQLen", link::set(index).txqlen(packets)));
        }
        out
    }

    /// In which ways `link` is not so.
    pub(super) fn differences(
        &self,
        link: &LinkInfo,
    ) -> impl Iterator<Item = String> {
        let is = self.saved_from(link);
        let pairs = [
            ("mac", text(self.mac), text(is.mac)),
            ("promisc", shown(self.promisc), shown(is.promisc)),
            ("mtu", shown(self.mtu), shown(is.mtu)),
            ("allmulti", shown(self.allmulti), shown(is.allmulti)),
            ("txQLen", shown(self.txqlen), shown(is.txqlen)),
        ];
        let different = pairs.into_iter().filter(|(_, want, is)| want != is);
        different.map(|(what, want, is)| {
            format!("{what} is {is}, but should be {want}")
        })
    }
}

fn text(mac: Option<Mac>) -> String {
    mac::text(mac)
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
