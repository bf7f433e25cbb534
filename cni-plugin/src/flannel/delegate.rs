//! The delegate's configuration (P-21..P-25, FL-3, FL-4).

use std::path::Path;

use ipam::file;
use ipam::gojson::{Object, Value};
use ipam::subnet_env::PluginEnv;

use super::conf::{Conf, read_map};
use super::gomap::GoMap;
use crate::cidr::Cidr;
use crate::protocol::{CniError, ValidAttachments, code};
use crate::result::Route;

/// A delegate: its type and configuration.
#[derive(Debug)]
pub(super) struct Delegate {
    /// The plugin's name.
    pub(super) kind: String,
    /// Its configuration as upstream would write it.
    pub(super) text: String,
}

// === impl Delegate ===

impl Delegate {
    /// Completes the delegate's configuration by what flanneld says. Without
    /// `env` the configuration lacks what comes from there.
    ///
    /// # Errors
    /// Code 7 for routes that are none.
    pub(super) fn derive(
        conf: &Conf,
        network: &str,
        env: Option<&PluginEnv>,
    ) -> Result<Self, CniError> {
        let mut map = conf.delegate.clone();
        let ipam = ipam(&conf.ipam, env)?;
        let masquerade = env.is_some_and(|env| !env.ip_masq);
        let mut fill = || -> Result<(), serde_json::Error> {
            map.set("name", network)?;
            if let Some(version) = &conf.version {
                map.set("cniVersion", version)?;
            }
            if let Some(runtime) = &conf.runtime_config {
                map.set_map("runtimeConfig", runtime)?;
            }
            map.set_default("type", BRIDGE)?;
            map.set_default("ipMasq", &masquerade)?;
            if let Some(env) = env {
                map.set_default("mtu", &env.mtu)?;
            }
            if map.string("type").as_deref() == Some(BRIDGE) {
                map.set_default("isGateway", &true)?;
            }
            map.set_map("ipam", &ipam)
        };
        fill().map_err(written)?;
        Ok(Self {
            kind: map.string("type").unwrap_or_default(),
            text: map.render().map_err(written)?,
        })
    }

    /// The delegate whose configuration was kept.
    ///
    /// # Errors
    /// Code 6 or 7 when the text is no configuration.
    pub(super) fn kept(text: String) -> Result<Self, CniError> {
        let kind = Object::parse(&text)?.string("type")?.unwrap_or_default();
        Ok(Self { kind, text })
    }

    /// The same with other values for some keys.
    ///
    /// # Errors
    /// Code 6 or 7 when the text is no configuration.
    pub(super) fn with(
        &self,
        values: &[(&str, &str)],
    ) -> Result<String, CniError> {
        let mut map = read_map(&Object::parse(&self.text)?)?;
        for (key, json) in values {
            map.set_json(key, json).map_err(written)?;
        }
        map.render().map_err(written)
    }

    /// The configuration for GC, with the lists that `call` has.
    ///
    /// # Errors
    /// As [`Delegate::with`].
    pub(super) fn for_gc(&self, call: &Object<'_>) -> Result<String, CniError> {
        let lists: Vec<(&str, String)> = ValidAttachments::KEYS
            .iter()
            .filter_map(|key| Some((*key, call.value(key)?.compact())))
            .collect();
        let values: Vec<(&str, &str)> =
            lists.iter().map(|(key, json)| (*key, json.as_str())).collect();
        self.with(&values)
    }

    /// Whether it is done in this process.
    pub(super) fn is_native(&self) -> bool {
        self.kind == BRIDGE
    }
}

/// The default delegate, done in this process.
const BRIDGE: &str = "bridge";

fn ipam(base: &GoMap, env: Option<&PluginEnv>) -> Result<GoMap, CniError> {
    let mut out = base.clone();
    out.set_default("type", crate::hostlocal::TYPE).map_err(written)?;
    let Some(env) = env else { return Ok(out) };
    let mut routes = given_routes(base)?;
    let mut fill = || -> Result<(), serde_json::Error> {
        let ranges: Vec<[GoRange; 1]> = env
            .subnets
            .iter()
            .map(|(_, subnet)| [GoRange { subnet: subnet.to_string() }])
            .collect();
        out.set("ranges", &ranges)?;
        routes.extend(env.networks.iter().map(|network| {
            Route::to(Cidr { ip: network.base(), len: network.len() })
        }));
        out.set("routes", &routes)
    };
    fill().map_err(written)?;
    Ok(out)
}

/// A range of host-local.
#[derive(serde::Serialize)]
struct GoRange {
    subnet: String,
}

/// The administrator's own routes: only what a route can have survives.
fn given_routes(base: &GoMap) -> Result<Vec<Route>, CniError> {
    let Some(text) = base.raw("routes").filter(|text| *text != "null") else {
        return Ok(Vec::new());
    };
    // under its key again, which errors name
    let text = format!("{{\"routes\":{text}}}");
    let one = |v: &Value<'_>| Route::read(&v.object()?);
    Object::parse(&text)
        .and_then(|ipam| ipam.array("routes"))
        .map_err(CniError::from)
        .and_then(|routes| routes.unwrap_or_default().iter().map(one).collect())
        .map_err(|e| e.context("'ipam' dictionary"))
}

/// What flanneld wrote, or why there is none (F-14, FL-5).
///
/// # Errors
/// The text every flannel user knows, with the daemon's own reason; code 11,
/// since flanneld will write the file, also one that is wrong.
pub(super) fn read_env(path: &Path) -> Result<PluginEnv, CniError> {
    let shown = path.display();
    let text = file::read_text(path).map_err(|e| {
        // the kernel's words without Rust's "(os error 2)"
        let why = if e.kind() == std::io::ErrorKind::NotFound {
            "no such file or directory".to_owned()
        } else {
            e.to_string()
        };
        not_ready(path, &format!("open {shown}: {why}"))
    })?;
    PluginEnv::parse(&shown.to_string(), &text)
        .map_err(|e| not_ready(path, &e.to_string()))
}

fn not_ready(file: &Path, why: &str) -> CniError {
    CniError::new(
        code::TRY_AGAIN,
        format!(
            "failed to load flannel 'subnet.env' file: {why}. Check the \
             flannel pod log for this node.{}",
            super::daemon::says(file)
        ),
    )
}

fn written(e: serde_json::Error) -> CniError {
    CniError::config(format!("the delegate's configuration: {e}"))
}
