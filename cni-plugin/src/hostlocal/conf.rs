//! The `ipam` member of a configuration (HL-1..HL-8).

use std::fs;
use std::net::IpAddr;

use ipam::gojson::{Object, Value};
use ipam::pool::{RangeConf, RangeError, RangeSet, parse_requested};

use super::resolvconf;
use crate::protocol::{Call, CniError};
use crate::result::{Dns, Route};

/// What the configuration asks for.
#[derive(Debug)]
pub(super) struct Conf {
    /// Range sets; one address is taken from each.
    pub(super) sets: Vec<RangeSet>,
    /// Addresses wanted.
    pub(super) requested: Vec<IpAddr>,
    /// Routes for the result.
    pub(super) routes: Vec<Route>,
    /// Name resolution for the result.
    pub(super) dns: Dns,
}

// === impl Conf ===

impl Conf {
    /// Reads it.
    ///
    /// # Errors
    /// Code 7 with host-local's texts (HL-9..HL-19), code 5 when the
    /// resolv.conf named cannot be read (HL-4).
    pub(super) fn read(
        conf: &Object<'_>,
        call: &Call,
    ) -> Result<Self, CniError> {
        let wrong = |e: RangeError| CniError::config(e.to_string());
        let Some(ipam) = conf.object("ipam")? else {
            return Err(CniError::config("IPAM config missing 'ipam' key"));
        };
        let runtime = conf.object("runtimeConfig")?;
        // HL-8: the runtime's come first
        let mut sets = match &runtime {
            Some(runtime) => range_sets(runtime, "ipRanges")?,
            None => Vec::new(),
        };
        let single = range(&ipam)?;
        if single.subnet.as_deref().is_some_and(|s| !s.is_empty()) {
            sets.push(vec![single]);
        }
        sets.extend(range_sets(&ipam, "ranges")?);
        let sets =
            RangeSet::from_conf(&sets, call.version.as_str()).map_err(wrong)?;
        let routes = ipam.array("routes")?.unwrap_or_default();
        let route = |v: &Value<'_>| Route::read(&v.object()?);
        let mut requested = Vec::new();
        for text in requested_texts(conf, call)? {
            let ip = parse_requested(&text).map_err(wrong)?;
            if !requested.contains(&ip) {
                requested.push(ip);
            }
        }
        Ok(Self {
            sets,
            requested,
            routes: routes.iter().map(route).collect::<Result<_, _>>()?,
            dns: dns(&ipam)?,
        })
    }
}

fn range_sets(
    from: &Object<'_>,
    key: &str,
) -> Result<Vec<Vec<RangeConf>>, CniError> {
    let one = |v: &Value<'_>| range(&v.object()?);
    let set = |v: &Value<'_>| v.array()?.iter().map(one).collect();
    let sets = from.array(key)?.unwrap_or_default();
    // as Go has it, a null is a set without ranges
    sets.iter()
        .map(|v| if v.is_null() { Ok(Vec::new()) } else { set(v) })
        .collect()
}

fn range(from: &Object<'_>) -> Result<RangeConf, CniError> {
    Ok(RangeConf {
        subnet: from.string("subnet")?,
        range_start: from.string("rangeStart")?,
        range_end: from.string("rangeEnd")?,
        gateway: from.string("gateway")?,
    })
}

/// CNI_ARGS, `args.cni.ips` and `runtimeConfig.ips`, all together (HL-7).
fn requested_texts(
    conf: &Object<'_>,
    call: &Call,
) -> Result<Vec<String>, CniError> {
    let mut out: Vec<String> = call.args()?.ip.into_iter().collect();
    if let Some(args) = conf.object("args")?
        && let Some(cni) = args.object("cni")?
    {
        out.extend(cni.strings("ips")?.unwrap_or_default());
    }
    if let Some(runtime) = conf.object("runtimeConfig")? {
        out.extend(runtime.strings("ips")?.unwrap_or_default());
    }
    out.retain(|text| !text.is_empty());
    Ok(out)
}

fn dns(ipam: &Object<'_>) -> Result<Dns, CniError> {
    let path = ipam.string("resolvConf")?.unwrap_or_default();
    if path.is_empty() {
        return Ok(Dns::default());
    }
    let text = fs::read_to_string(&path).map_err(|e| {
        let msg = format!("ipam.resolvConf {path:?} cannot be read: {e}");
        CniError::io(&e, msg)
    })?;
    Ok(resolvconf::parse(&text))
}
