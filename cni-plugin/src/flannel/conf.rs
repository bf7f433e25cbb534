//! The configuration of type `flannel` (P-1..P-10, FL-1, FL-2).

use std::path::PathBuf;

use ipam::gojson::Object;

use super::gomap::GoMap;
use crate::protocol::{Call, CniError, log};

const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";
const DATA_DIR_KEY: &str = "dataDir";

/// What becomes of a member of the wrong type.
type Wrong = fn(CniError) -> Result<(), CniError>;

/// What the configuration says.
#[derive(Debug)]
pub(super) struct Conf {
    /// The file that flanneld writes.
    pub(super) subnet_file: PathBuf,
    /// Where delegates' configurations are kept.
    pub(super) data_dir: PathBuf,
    /// Base of the delegate's configuration.
    pub(super) delegate: GoMap,
    /// Base of the delegate's `ipam`.
    pub(super) ipam: GoMap,
    /// Handed to the delegate.
    pub(super) runtime_config: Option<GoMap>,
    /// `cniVersion` as given.
    pub(super) version: Option<String>,
}

// === impl Conf ===

impl Conf {
    /// Reads the configuration of a call.
    ///
    /// # Errors
    /// Code 7 for a member of the wrong type, and for a delegate that names
    /// what flannel itself sets.
    pub(super) fn read(call: &Call) -> Result<Self, CniError> {
        Self::read_or(call, Err)
    }

    /// The same for DEL, which has to come to its end: a member of the wrong
    /// type counts as absent, which is logged.
    ///
    /// # Errors
    /// None in fact.
    pub(super) fn read_for_del(call: &Call) -> Result<Self, CniError> {
        Self::read_or(call, ignored)
    }

    fn read_or(call: &Call, wrong: Wrong) -> Result<Self, CniError> {
        let conf = call.conf()?;
        let map = |key| -> Result<Option<GoMap>, CniError> {
            let read = || {
                conf.object(key)?.map(|object| read_map(&object)).transpose()
            };
            read().or_else(|e| wrong(e).map(|()| None))
        };
        let version = conf.string("cniVersion")?;
        Ok(Self {
            subnet_file: path(&conf, "subnetFile", SUBNET_FILE, wrong)?,
            data_dir: path(&conf, DATA_DIR_KEY, DATA_DIR, wrong)?,
            delegate: map("delegate")?.unwrap_or_default(),
            ipam: map("ipam")?.unwrap_or_default(),
            runtime_config: map("runtimeConfig")?,
            version: version.filter(|v| !v.is_empty()),
        })
    }

    /// Where delegates' configurations are kept: all of [`Conf::read_for_del`]
    /// that most DELs need.
    ///
    /// # Errors
    /// None in fact.
    pub(super) fn data_dir_for_del(
        conf: &Object<'_>,
    ) -> Result<PathBuf, CniError> {
        path(conf, DATA_DIR_KEY, DATA_DIR, ignored)
    }

    /// Refuses a delegate that names what flannel itself sets (P-21).
    ///
    /// # Errors
    /// Code 7.
    pub(super) fn check_delegate(&self) -> Result<(), CniError> {
        let refuse = |msg: &str| Err(CniError::config(msg));
        if let Some(kind) = self.delegate.raw("type")
            && !kind.starts_with('"')
        {
            return refuse(
                "'delegate' dictionary, if present, must have (string) \
                 'type' field",
            );
        }
        if self.delegate.contains("name") {
            return refuse(
                "'delegate' dictionary must not have 'name' field, it'll be \
                 set by flannel",
            );
        }
        if self.delegate.contains("ipam") {
            return refuse(
                "'delegate' dictionary must not have 'ipam' field, it'll be \
                 set by flannel",
            );
        }
        Ok(())
    }
}

fn path(
    conf: &Object<'_>,
    key: &str,
    default: &str,
    wrong: Wrong,
) -> Result<PathBuf, CniError> {
    let text = conf
        .string(key)
        .map_err(CniError::from)
        .or_else(|e| wrong(e).map(|()| None))?
        .filter(|text| !text.is_empty());
    Ok(text.unwrap_or_else(|| default.to_owned()).into())
}

fn ignored(e: CniError) -> Result<(), CniError> {
    log(format_args!("{e}; the default is used"));
    Ok(())
}

/// A copy of `object` as Go's maps are.
///
/// # Errors
/// Code 7 for a value that Go could not hold either.
pub(super) fn read_map(object: &Object<'_>) -> Result<GoMap, CniError> {
    let mut out = GoMap::default();
    for (key, value) in object.iter() {
        out.set_json(&key, value.raw()).map_err(|e| {
            CniError::config(format!(
                "network configuration: {}: {e}",
                value.path()
            ))
        })?;
    }
    Ok(out)
}
