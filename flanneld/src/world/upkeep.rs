//! What the overlay's objects do not tell: settings of our devices, and the
//! blackhole routes of the own subnets. Looked at in every pass over
//! everything, and when something near them changed.

use std::collections::BTreeSet;

use ipam::{Family, Subnet};
use netlink::route::{RouteKind, RouteMatch, RouteSpec};
use netlink::{route, sysctl};
use overlay::{Desired, IfName, Key, LinkKind, RouteKey, Scope};

use super::{Kernel, KernelError, PROTOCOL};
use crate::repairs::{Cause, Kind, Repair};

/// The metric of a blackhole route. Any other route to the subnet comes
/// before it: the bridge's, which the kernel makes itself, above all (W-36;
/// at upstream's metric 0 the older of the two would win).
const BLACKHOLE_METRIC: u32 = 1024;

/// A setting of a device of ours.
struct Setting {
    path: String,
    value: &'static str,
}

/// What keeps the device `name` working: nobody's router advertisements count
/// on it (B-24), and IPv6 is on where it carries IPv6.
fn settings(name: IfName, kind: &LinkKind) -> Vec<Setting> {
    let setting = |key: &str, value| Setting {
        path: format!("net/ipv6/conf/{name}/{key}"),
        value,
    };
    let mut out = vec![setting("accept_ra", "0")];
    if let LinkKind::Vxlan(vxlan) = kind
        && Family::of(vxlan.local) == Family::V6
    {
        out.push(setting("disable_ipv6", "0"));
    }
    out
}

/// The devices of ours whose settings a pass over `scope` looks at.
fn devices(desired: &Desired, scope: &Scope) -> BTreeSet<IfName> {
    match scope {
        Scope::Full(_) => desired.links.keys().copied().collect(),
        Scope::Keys(keys) => keys
            .iter()
            .filter_map(|key| match key {
                Key::Link(name) | Key::Addr(name, _) => Some(*name),
                Key::Fdb(_)
                | Key::Neigh(_)
                | Key::Nexthop(_)
                | Key::Route(_) => None,
            })
            .filter(|name| desired.links.contains_key(name))
            .collect(),
    }
}

/// Sets a new device's settings. Where there is no IPv6 or `/proc/sys` is
/// read-only, so be it.
pub(super) fn set_up(name: IfName, kind: &LinkKind) {
    for Setting { path, value } in settings(name, kind) {
        if let Err(error) = sysctl::write_if_different(&path, value) {
            tracing::debug!("{error}");
        }
    }
}

impl Kernel {
    /// Gives the devices of `desired` within `scope` their settings back.
    /// Those that cannot be read or set are left as they are.
    #[must_use]
    pub fn settle_settings(desired: &Desired, scope: &Scope) -> Vec<Repair> {
        let mut out = Vec::new();
        for name in devices(desired, scope) {
            let Some(link) = desired.links.get(&name) else { continue };
            for Setting { path, value } in settings(name, &link.kind) {
                let was = sysctl::read(&path).unwrap_or_default();
                match sysctl::write_if_different(&path, value) {
                    Ok(true) => out.push(Repair {
                        kind: Kind::Sysctl,
                        cause: Cause::Altered,
                        text: format!("sysctl {path} was {was}: set {value}"),
                    }),
                    Ok(false) => {}
                    Err(error) => tracing::debug!("{error}"),
                }
            }
        }
        out
    }

    /// Keeps a blackhole route for each of `subnets`, after any other route
    /// there (C-130), and removes ours to others. Call it after a look at the
    /// same `scope`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn settle_blackholes(
        &mut self,
        subnets: &BTreeSet<Subnet>,
        scope: &Scope,
    ) -> Result<Vec<Repair>, KernelError> {
        let wanted: BTreeSet<_> =
            subnets.iter().map(|dst| (*dst, BLACKHOLE_METRIC)).collect();
        let mut out = Vec::new();
        match scope {
            Scope::Full(_) => {
                let found = std::mem::take(&mut self.blackholes);
                for (dst, metric) in found.difference(&wanted) {
                    self.delete_blackhole(*dst, *metric)?;
                    out.push(repair(*dst, Cause::Surplus, "deleted"));
                }
                for (dst, _) in wanted.difference(&found) {
                    out.extend(self.add_blackhole(*dst)?);
                }
            }
            Scope::Keys(keys) => {
                for (dst, metric) in wanted {
                    if keys.contains(&Key::Route(RouteKey { dst, metric })) {
                        out.extend(self.add_blackhole(dst)?);
                    }
                }
            }
        }
        Ok(out)
    }

    /// Whatever route with this metric is there already does as well.
    fn add_blackhole(
        &mut self,
        dst: Subnet,
    ) -> Result<Option<Repair>, KernelError> {
        let spec = RouteSpec {
            kind: RouteKind::Blackhole,
            metric: Some(BLACKHOLE_METRIC),
            protocol: PROTOCOL,
            ..RouteSpec::to(dst)
        };
        match self.socket.request(&route::add(&spec)) {
            Ok(()) => Ok(Some(repair(dst, Cause::Missing, "added"))),
            Err(e) if e.is_exists() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn delete_blackhole(
        &mut self,
        dst: Subnet,
        metric: u32,
    ) -> Result<(), KernelError> {
        let which = RouteMatch {
            kind: Some(RouteKind::Blackhole),
            metric: Some(metric),
            protocol: Some(PROTOCOL),
            ..RouteMatch::to(dst)
        };
        match self.socket.request(&route::delete(&which)) {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn repair(dst: Subnet, cause: Cause, done: &str) -> Repair {
    let text = format!("blackhole route {dst} was {cause}: {done}");
    Repair { kind: Kind::Route, cause, text }
}
