//! The rules in iptables, in upstream's form (FW-2, FW-3). What pods share is
//! never removed, as upstream has it.

use std::net::IpAddr;

use ipam::Subnet;

use super::{Conf, Policy};
use crate::protocol::CniError;
use crate::xtables::{Saved, Xtables, comment, word};

/// The table all of it is in.
pub(super) const TABLE: &str = "filter";

const FORWARD: &str = "FORWARD";
/// The rules that let pods through.
const PODS: &str = "CNI-FORWARD";
/// Packets from a bridge with a policy.
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
/// Those of them that leave by another interface.
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
const EITHER: &str =
    "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";

/// Makes the rules of the pod with `ips`, as far as they are not there.
///
/// # Errors
/// Code 999; nothing was changed then.
pub(super) fn set(
    tool: &Xtables<'_>,
    conf: &Conf,
    bridge: Option<&str>,
    ips: &[IpAddr],
) -> Result<(), CniError> {
    tool.edit(TABLE, |saved| missing(saved, conf, bridge, ips))
}

/// Says what is missing of what [`set`] makes. Changes nothing (CW-17).
///
/// # Errors
/// Code 100.
pub(super) fn check(
    tool: &Xtables<'_>,
    conf: &Conf,
    bridge: Option<&str>,
    ips: &[IpAddr],
) -> Result<(), CniError> {
    tool.lacks(TABLE, &missing(&tool.save(TABLE)?, conf, bridge, ips)?)
}

/// Removes the rules of `ips`.
///
/// # Errors
/// Code 999.
pub(super) fn remove(
    tool: &Xtables<'_>,
    ips: &[IpAddr],
) -> Result<(), CniError> {
    if !tool.may_hold(TABLE, PODS) {
        return Ok(());
    }
    tool.edit(TABLE, |saved| {
        let ours = ips.iter().flat_map(|ip| of_pod(*ip));
        let there = |rule: &String| saved.rules_of(PODS).any(|r| r == rule);
        let delete = |rule| format!("-D {PODS} {rule}");
        Ok(ours.filter(there).map(delete).collect())
    })
}

/// The pod's own two rules, as `iptables-save` shows them.
fn of_pod(ip: IpAddr) -> [String; 2] {
    let net = Subnet::host(ip);
    [
        format!(
            "-d {net} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ),
        format!("-s {net} -j ACCEPT"),
    ]
}

fn missing(
    saved: &Saved,
    conf: &Conf,
    bridge: Option<&str>,
    ips: &[IpAddr],
) -> Result<Vec<String>, CniError> {
    let mut out = Vec::new();
    let admin = conf.admin_chain.as_str();
    let isolation = bridge.map(|_| [STAGE_1, STAGE_2]);
    let chains = [PODS, admin].into_iter();
    for chain in chains.chain(isolation.into_iter().flatten()) {
        if !saved.has_chain(chain) {
            out.push(format!("-N {chain}"));
        }
    }
    if !saved.leads(FORWARD, PODS) {
        let comment = comment("CNI firewall plugin rules");
        // behind the isolation, where there is one
        let mut rules = saved.rules_of(FORWARD);
        let isolation = rules.position(|r| r.ends_with(&jump(STAGE_1)));
        let at = isolation.map_or(1, |at| at + 2);
        out.push(format!("-I {FORWARD} {at} {comment} -j {PODS}"));
    }
    if !saved.leads(PODS, admin) {
        let comment = comment("CNI firewall plugin admin overrides");
        out.push(format!("-I {PODS} 1 {comment} -j {admin}"));
    }
    if let Some(bridge) = bridge {
        out.extend(isolate(saved, conf.policy, &word(bridge)?));
    }
    for rule in ips.iter().flat_map(|ip| of_pod(*ip)) {
        if !saved.rules_of(PODS).any(|there| there == rule) {
            out.push(format!("-A {PODS} {rule}"));
        }
    }
    Ok(out)
}

fn jump(chain: &str) -> String {
    format!("-j {chain}")
}

/// What a policy needs. The last to be inserted is the first to be looked
/// at; the returns stay at the end.
fn isolate(saved: &Saved, policy: Policy, bridge: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut need = |chain: &str, first: bool, rule: String| {
        if !saved.rules_of(chain).any(|there| there == rule) {
            let how = if first { "-I" } else { "-A" };
            let at = if first { " 1" } else { "" };
            out.push(format!("{how} {chain}{at} {rule}"));
        }
    };
    let either = comment(EITHER);
    let own = comment(&format!(
        "CNI firewall plugin rules (ingressPolicy: {})",
        if policy == Policy::Isolated { "isolated" } else { "same-bridge" }
    ));
    need(FORWARD, true, format!("{either} -j {STAGE_1}"));
    let outside = format!("-i {bridge} ! -o {bridge}");
    need(STAGE_1, true, format!("{outside} {own} -j {STAGE_2}"));
    if policy == Policy::Isolated {
        let inside = format!("-i {bridge} -o {bridge}");
        need(STAGE_1, true, format!("{inside} {own} -j DROP"));
    }
    need(STAGE_1, false, format!("{either} -j RETURN"));
    need(STAGE_2, true, format!("-o {bridge} {either} -j DROP"));
    need(STAGE_2, false, format!("{either} -j RETURN"));
    out
}
