//! Type `firewall`: lets a pod's packets through the node's firewall, and
//! keeps other bridges' pods away where that is asked for (FW ids).
//!
//! `iptables` and `firewalld` carry it out; `record` keeps which addresses an
//! attachment had, so that DEL and GC need neither the pod nor `prevResult`.

mod firewalld;
mod iptables;
mod record;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam::Family;
use ipam::gojson::Object;
use netlink::{Dump, Socket, addr, link};

use crate::bridge::UNDO;
use crate::owner;
use crate::protocol::{
    Call, CniError, Deadline, Differences, Plugin, Version, gather,
    interface_name_problem, log,
};
use crate::result::CniResult;
use crate::xtables::Xtables;

use firewalld::Zone;
use record::Records;

/// The chain for the administrator's own rules.
const ADMIN_CHAIN: &str = "CNI-ADMIN";
/// firewalld's zone for pods.
const ZONE: &str = "trusted";

/// The plugin.
#[derive(Debug)]
pub(crate) struct Firewall;

/// What the configuration says (FW-1).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Conf {
    backend: Option<Backend>,
    admin_chain: String,
    zone: String,
    policy: Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Iptables,
    Firewalld,
}

/// Who may reach a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Everybody.
    Open,
    /// No pod behind another bridge with this policy.
    SameBridge,
    /// No other pod at all.
    Isolated,
}

impl Plugin for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    fn oldest(&self) -> Version {
        Version::V040
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let previous = call.required_previous()?;
        let ips = addresses(&previous);
        let bridge = conf.bridge(&previous)?;
        call.deadline.enter("opening the firewall for the pod")?;
        let records = Records::of(&call.name);
        records.write(call, &ips)?;
        let done = match conf.choose(&call.deadline) {
            Backend::Iptables => each_family(&ips, call, |tool, ips| {
                iptables::set(tool, &conf, bridge.as_deref(), ips)
            }),
            Backend::Firewalld => {
                Zone::of(&conf.zone, &call.deadline).add(&ips)
            }
        };
        if let Err(error) = done {
            call.deadline.grant(UNDO);
            if let Err(e) = self.del(call) {
                log(format_args!("firewall: undoing a failed ADD: {e}"));
            }
            return Err(error);
        }
        Ok(previous)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?).unwrap_or_default();
        call.deadline.enter("closing the firewall behind the pod")?;
        let records = Records::of(&call.name);
        // one that cannot be read has nothing to say
        let previous = call.previous().ok().flatten();
        let mut ips = previous.as_ref().map(addresses).unwrap_or_default();
        ips.extend(records.read(call));
        // another pod may have them by now; but not what this one still has,
        // whose firewall rules may be the Go plugin's, beside an old file
        let others: BTreeSet<IpAddr> = ips
            .iter()
            .copied()
            .filter(|ip| records.has_another(*ip, call))
            .collect();
        if !others.is_empty() {
            let held = held(call)?;
            ips.retain(|ip| !others.contains(ip) || held.contains(ip));
        }
        remove(call, &conf, &ips)?;
        records.remove(call)
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let previous = call.required_previous()?;
        let ips = addresses(&previous);
        let bridge = conf.bridge(&previous)?;
        match conf.choose(&call.deadline) {
            Backend::Iptables => {
                let (bridge, mut found) =
                    (bridge.as_deref(), Differences::default());
                each_family(&ips, call, |tool, ips| {
                    found.note(iptables::check(tool, &conf, bridge, ips))
                })?;
                found.end()
            }
            Backend::Firewalld => {
                Zone::of(&conf.zone, &call.deadline).check(&ips)
            }
        }
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        let conf = Conf::read(&call.conf()?).unwrap_or_default();
        call.deadline
            .enter("closing the firewall behind pods that are gone")?;
        let stale = Records::of(&call.name).stale(&valid);
        gather(stale.into_iter().map(|stale| {
            remove(call, &conf, &stale.ips)?;
            stale.remove()
        }))
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?)?;
        if conf.choose(&call.deadline) == Backend::Firewalld {
            return firewalld::status(&call.deadline);
        }
        Xtables::required(Family::V4, &call.deadline)?
            .save(iptables::TABLE)
            .map(drop)
            .map_err(CniError::unavailable)
    }
}

/// What the pod has, each once.
fn addresses(previous: &CniResult) -> BTreeSet<IpAddr> {
    previous.ips.iter().map(|ip| ip.address.ip).collect()
}

/// The addresses of the pod's interface; none when it is gone, or not this
/// attachment's.
fn held(call: &Call) -> Result<BTreeSet<IpAddr>, CniError> {
    let Some(netns) = call.living_netns()? else { return Ok(BTreeSet::new()) };
    let mut socket = Socket::open_in(&netns)?;
    let link = match link::by_name(&mut socket, &call.env.ifname) {
        Err(e) if e.is_not_found() => return Ok(BTreeSet::new()),
        other => other?,
    };
    if owner::is_for_another(call, &netns, &link)? {
        return Ok(BTreeSet::new());
    }
    let all = addr::list(&mut socket, None, Some(link.index))
        .and_then(Dump::complete)?;
    Ok(all.iter().map(|address| address.ip).collect())
}

/// The addresses of one family.
fn of(family: Family, ips: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let of = |ip: &&IpAddr| Family::of(**ip) == family;
    ips.iter().filter(of).copied().collect()
}

/// The work of one family is not done where the pod has no such address: no
/// ip6tables is needed for an IPv4 pod (CW-17).
fn each_family(
    ips: &BTreeSet<IpAddr>,
    call: &Call,
    mut work: impl FnMut(&Xtables<'_>, &[IpAddr]) -> Result<(), CniError>,
) -> Result<(), CniError> {
    for family in Family::ALL {
        let ips = of(family, ips);
        if !ips.is_empty() {
            work(&Xtables::required(family, &call.deadline)?, &ips)?;
        }
    }
    Ok(())
}

/// From wherever they may be.
fn remove(
    call: &Call,
    conf: &Conf,
    ips: &BTreeSet<IpAddr>,
) -> Result<(), CniError> {
    let mut results = Vec::new();
    for family in Family::ALL {
        let ips = of(family, ips);
        if let Some(tool) = Xtables::find(family, &call.deadline)
            && !ips.is_empty()
        {
            results.push(iptables::remove(&tool, &ips));
        }
    }
    // what it was told went with it when it does not run
    if conf.backend != Some(Backend::Iptables)
        && firewalld::runs(&call.deadline)
    {
        results.push(Zone::of(&conf.zone, &call.deadline).remove(ips));
    }
    gather(results)
}

// === impl Conf ===

impl Conf {
    fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let text = |key| -> Result<Option<String>, CniError> {
            Ok(conf.string(key)?.filter(|text| !text.is_empty()))
        };
        let backend = match text("backend")?.as_deref() {
            Some("iptables") => Some(Backend::Iptables),
            Some("firewalld") => Some(Backend::Firewalld),
            None => None,
            Some(other) => {
                // as upstream
                log(format_args!(
                    "firewall: backend {other:?} is neither iptables nor \
                     firewalld, and taken as not given"
                ));
                None
            }
        };
        let policy = match text("ingressPolicy")?.as_deref() {
            None | Some("open") => Policy::Open,
            Some("same-bridge") => Policy::SameBridge,
            Some("isolated") => Policy::Isolated,
            Some(other) => {
                return Err(CniError::config(format!(
                    "unknown ingress policy: {other:?} (open, same-bridge or \
                     isolated)"
                )));
            }
        };
        let defaults = Self::default();
        let admin_chain = text("iptablesAdminChainName")?;
        let admin_chain = admin_chain.unwrap_or(defaults.admin_chain);
        // XT_EXTENSION_MAXNAMELEN; a space would begin another word
        if admin_chain.len() > 28
            || admin_chain.starts_with('-')
            || admin_chain.contains(|c: char| !c.is_ascii_graphic())
        {
            return Err(CniError::config(format!(
                "iptablesAdminChainName is {admin_chain:?}, which cannot \
                 name a chain"
            )));
        }
        let zone = text("firewalldZone")?.unwrap_or(defaults.zone);
        Ok(Self { backend, admin_chain, zone, policy })
    }

    /// firewalld where it runs, as it does not look at iptables' rules.
    fn choose(&self, until: &Deadline) -> Backend {
        self.backend.unwrap_or_else(|| match firewalld::runs(until) {
            true => Backend::Firewalld,
            false => Backend::Iptables,
        })
    }

    /// The bridge that a policy is about: the first interface there is.
    fn bridge(&self, previous: &CniResult) -> Result<Option<String>, CniError> {
        if self.policy == Policy::Open {
            return Ok(None);
        }
        let first = previous.interfaces.first().map(|i| i.name.as_str());
        match first {
            // a name that a rule would take for two words, or a prefix
            Some(name)
                if !name.is_empty()
                    && interface_name_problem(name).is_none()
                    && !name.ends_with('+') =>
            {
                Ok(Some(name.to_owned()))
            }
            _ => Err(CniError::config(format!(
                "ingressPolicy needs a bridge as the first interface of \
                 prevResult, which is {first:?}"
            ))),
        }
    }
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            backend: None,
            admin_chain: ADMIN_CHAIN.to_owned(),
            zone: ZONE.to_owned(),
            policy: Policy::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<Conf, CniError> {
        Conf::read(&Object::parse(&format!("{{{members}}}"))?)
    }

    #[test]
    fn configurations() {
        assert_eq!(read("").unwrap(), Conf::default());
        let conf = read(
            r#""Backend":"firewalld","firewalldZone":"pods",
            "ingressPolicy":"same-bridge","iptablesAdminChainName":"MINE""#,
        )
        .unwrap();
        assert_eq!(conf.backend, Some(Backend::Firewalld));
        assert_eq!(
            (conf.zone.as_str(), conf.policy),
            ("pods", Policy::SameBridge)
        );
        assert_eq!(read(r#""backend":"foo""#).unwrap().backend, None);
        for (members, text) in [
            (r#""ingressPolicy":"foo""#, "unknown ingress policy: \"foo\""),
            (r#""iptablesAdminChainName":"A B""#, "cannot name a chain"),
            (r#""iptablesAdminChainName":"-j""#, "cannot name a chain"),
        ] {
            let error = read(members).unwrap_err();
            assert_eq!(error.code, 7, "{members}");
            assert!(error.msg.contains(text), "{}", error.msg);
        }
    }
}
