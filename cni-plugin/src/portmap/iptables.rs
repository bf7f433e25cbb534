//! Mapped ports in iptables, in upstream's form (PM-6, PM-7, PM-11).
//!
//! Upstream's chain is the container's: a second interface of it in the same
//! network has its rules there too. Each is known by the address it leads to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipam::{Family, Subnet};

use super::conf::{Conf, Mapping, Protocol};
use crate::cidr::Cidr;
use crate::hashed;
use crate::owner::Owner;
use crate::protocol::{CniError, ValidAttachments};
use crate::xtables::{Saved, Xtables, comment, value_of, word, words};

/// The table all of it is in.
pub(super) const TABLE: &str = "nat";

/// Shared by all pods: where packets to mapped ports go.
const DNAT: &str = "CNI-HOSTPORT-DNAT";
/// Shared: marks packets that must be masqueraded.
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
/// Shared: masquerades those that are marked.
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// As many ports fit in one rule (`multiport`).
const PORTS: usize = 15;

/// The pod's own chain.
pub(super) fn chain(owner: Owner<'_>) -> String {
    hashed::chain("CNI-DN-", owner.network, owner.container_id)
}

/// Makes the pod's rules, in place of what was there of it (CW-11). Those
/// that lead to `others`, the addresses of the container's other interfaces,
/// stay.
///
/// # Errors
/// Code 7 for conditions that no line can hold, code 999 for what iptables
/// refuses; nothing was changed then.
pub(super) fn set(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
    conf: &Conf,
    pod: &Cidr,
    others: &[IpAddr],
) -> Result<(), CniError> {
    let chain = chain(owner);
    let inside = inside(conf, pod);
    let entries = entries(owner, conf, tool.family)?;
    tool.edit(TABLE, |saved| {
        let kept = Kept::of(saved, &chain, others);
        let mut lines = shared(conf, saved)?;
        let leading = kept.leading(saved, &chain);
        let stale = saved.leading_to(&chain).filter(|e| !leading.contains(e));
        lines.extend(stale.map(|rule| format!("-D {rule}")));
        // makes the chain, or empties it
        lines.push(format!(":{chain} - [0:0]"));
        let inside = kept.rules.iter().chain(&inside);
        lines.extend(inside.map(|rule| format!("-A {chain} {rule}")));
        for Entry { rule, .. } in &entries {
            let line = format!("{DNAT} {rule}");
            // the other interface may have the same ports
            if !leading.contains(&&*line) {
                lines.push(format!("-A {line}"));
            }
        }
        Ok(lines)
    })
}

/// Removes them, but for those that lead to `others`.
///
/// # Errors
/// Code 999.
pub(super) fn remove(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
    others: &[IpAddr],
) -> Result<(), CniError> {
    let chain = chain(owner);
    // of releases before 2018
    let old = hashed::chain("CNI-SN-", owner.network, owner.container_id);
    tool.edit(TABLE, |saved| {
        let kept = Kept::of(saved, &chain, others);
        let mut lines = saved.removal(&old);
        if kept.rules.is_empty() {
            lines.extend(saved.removal(&chain));
            return Ok(lines);
        }
        if kept.rules.len() < saved.rules_of(&chain).count() {
            let leading = kept.leading(saved, &chain);
            let stale = saved.leading_to(&chain);
            let stale = stale.filter(|entry| !leading.contains(entry));
            lines.extend(stale.map(|rule| format!("-D {rule}")));
            lines.push(format!("-F {chain}"));
            let rules = kept.rules.iter();
            lines.extend(rules.map(|rule| format!("-A {chain} {rule}")));
        }
        Ok(lines)
    })
}

/// What the container's other interfaces have in the container's chain.
#[derive(Debug, Default)]
struct Kept {
    /// Their rules, in order.
    rules: Vec<String>,
    /// The protocols and ports of these.
    ports: Vec<(String, String)>,
}

// === impl Kept ===

impl Kept {
    /// A rule that marks belongs to the next one that leads away.
    fn of(saved: &Saved, chain: &str, others: &[IpAddr]) -> Self {
        let mut out = Self::default();
        let mut marking = Vec::new();
        for rule in saved.rules_of(chain) {
            let words = words(rule);
            marking.push(rule.to_owned());
            let Some(to) = value_of(&words, "--to-destination") else {
                continue;
            };
            let to = to.parse::<SocketAddr>().ok();
            if to.is_some_and(|to| others.contains(&to.ip())) {
                let text = |flag| value_of(&words, flag).map(str::to_owned);
                out.ports.extend(text("-p").zip(text("--dport")));
                out.rules.append(&mut marking);
            }
            marking.clear();
        }
        out
    }

    /// The rules that lead into the chain for these: those with no other
    /// port, and, where that does not do, those with any of them.
    fn leading<'a>(&self, saved: &'a Saved, chain: &'a str) -> Vec<&'a str> {
        let mut wanted: Vec<&(String, String)> = self.ports.iter().collect();
        let (mut out, mut mixed) = (Vec::new(), Vec::new());
        let entries: Vec<_> = saved
            .leading_to(chain)
            .map(|entry| (entry, ports_of(entry)))
            .collect();
        for (entry, ports) in &entries {
            match ports.iter().all(|port| self.ports.contains(port)) {
                true => {
                    wanted.retain(|port| !ports.contains(port));
                    out.push(*entry);
                }
                false => mixed.push((entry, ports)),
            }
        }
        for (entry, ports) in mixed {
            if wanted.iter().any(|port| ports.contains(port)) {
                wanted.retain(|port| !ports.contains(port));
                out.push(entry);
            }
        }
        out
    }
}

/// The protocol and ports of a rule that leads into a pod's chain.
fn ports_of(entry: &str) -> Vec<(String, String)> {
    let words = words(entry);
    let protocol = value_of(&words, "-p").unwrap_or_default();
    let ports = value_of(&words, "--dports").unwrap_or_default();
    let port = |port: &str| (protocol.to_owned(), port.to_owned());
    ports.split(',').map(port).collect()
}

/// Says what is missing of what [`set`] makes.
///
/// # Errors
/// Code 100.
pub(super) fn check(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
    conf: &Conf,
    pod: &Cidr,
) -> Result<(), CniError> {
    let saved = tool.save(TABLE)?;
    let chain = chain(owner);
    let mut lacking = Vec::new();
    if !saved.has_chain(&chain) {
        lacking.push(format!("-N {chain}"));
    }
    for rule in inside(conf, pod) {
        if !saved.rules_of(&chain).any(|there| there == rule) {
            lacking.push(format!("-A {chain} {rule}"));
        }
    }
    for entry in entries(owner, conf, tool.family)? {
        let found = saved.rules_of(DNAT).any(|rule| {
            let words = words(rule);
            value_of(&words, "-p") == Some(entry.protocol.name())
                && value_of(&words, "--dports") == Some(&entry.ports)
                && value_of(&words, "-j") == Some(&chain)
        });
        if !found {
            lacking.push(format!("-A {DNAT} {}", entry.rule));
        }
    }
    lacking.extend(shared(conf, &saved)?);
    tool.lacks(TABLE, &lacking)
}

/// Removes the rules of this network's containers that are not valid.
///
/// # Errors
/// Code 999.
pub(super) fn gc(
    tool: &Xtables<'_>,
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    if !tool.may_hold(TABLE, DNAT) {
        return Ok(());
    }
    tool.edit(TABLE, |saved| {
        let mut lines = Vec::new();
        let mut done = Vec::new();
        for rule in saved.rules_of(DNAT) {
            let words = words(rule);
            let owner = value_of(&words, "--comment").and_then(owner_of);
            let target = value_of(&words, "-j");
            let Some(((of, id), chain)) = owner.zip(target) else { continue };
            let ours = of == network && chain.starts_with("CNI-DN-");
            if ours
                && !valid.has_container(id)
                && !done.contains(&chain.to_owned())
            {
                lines.extend(saved.removal(chain));
                done.push(chain.to_owned());
            }
        }
        Ok(lines)
    })
}

/// Network and container of a comment.
fn owner_of(comment: &str) -> Option<(&str, &str)> {
    let rest = comment.strip_prefix("dnat name: \"")?;
    rest.strip_suffix('"')?.split_once("\" id: \"")
}

/// What all pods share, as far as it is not there.
fn shared(conf: &Conf, saved: &Saved) -> Result<Vec<String>, CniError> {
    let mut out = Vec::new();
    let mut make = |chain: &str| {
        if !saved.has_chain(chain) {
            // refused when another has made it meanwhile
            out.push(format!("-N {chain}"));
        }
    };
    make(DNAT);
    if conf.snat && conf.mark_chain.is_none() {
        make(SETMARK);
        make(MASQ);
    }
    for hook in ["PREROUTING", "OUTPUT"] {
        if !saved.leads(hook, DNAT) {
            out.push(format!(
                "-A {hook} -m addrtype --dst-type LOCAL -j {DNAT}"
            ));
        }
    }
    if !conf.snat {
        return Ok(out);
    }
    if let Some(chain) = &conf.mark_chain {
        return match saved.has_chain(chain) {
            true => Ok(out),
            false => Err(CniError::internal(format_args!(
                "externalSetMarkChain {chain} is not in table {TABLE}: \
                 whoever marks there, such as kube-proxy, has to make it first"
            ))),
        };
    }
    let mark = format!("{:#x}/{:#x}", conf.mark, conf.mark);
    let has = |chain: &str, jump: &str| {
        let mut rules = saved.rules_of(chain);
        rules.any(|rule| rule.contains(jump) && words(rule).contains(&mark))
    };
    if !has(SETMARK, "-j MARK ") {
        let comment = comment("CNI portfwd masquerade mark");
        out.push(format!("-A {SETMARK} {comment} -j MARK --set-xmark {mark}"));
    }
    if !has(MASQ, "-j MASQUERADE") {
        out.push(format!("-A {MASQ} -m mark --mark {mark} -j MASQUERADE"));
    }
    if !saved.leads("POSTROUTING", MASQ) {
        let comment = comment("CNI portfwd requiring masquerade");
        out.push(format!("-I POSTROUTING 1 {comment} -j {MASQ}"));
    }
    Ok(out)
}

/// The pod's own rules, as `iptables-save` shows them.
fn inside(conf: &Conf, pod: &Cidr) -> Vec<String> {
    let mut out = Vec::new();
    for mapping in conf.of(pod.family()) {
        let Mapping { host_port, container_port, protocol, .. } = mapping;
        let name = protocol.name();
        let at = mapping.at().map(|ip| format!("-d {} ", Subnet::host(ip)));
        let at = at.unwrap_or_default();
        let matched = format!("{at}-p {name} -m {name} --dport {host_port}");
        if conf.snat {
            let mark = conf.mark_chain.as_deref().unwrap_or(SETMARK);
            for from in marked(conf, pod) {
                out.push(format!("{from}{matched} -j {mark}"));
            }
        }
        let to = SocketAddr::new(pod.ip, *container_port);
        out.push(format!("{matched} -j DNAT --to-destination {to}"));
    }
    out
}

/// Whose packets are masqueraded: the pod's neighbours, itself among them,
/// and the node's own.
fn marked(conf: &Conf, pod: &Cidr) -> Vec<String> {
    if conf.masquerade_all {
        return vec![String::new()];
    }
    let neighbours = pod.network().unwrap_or_else(|| Subnet::host(pod.ip));
    let mut out = vec![format!("-s {neighbours} ")];
    if pod.family() == Family::V4 {
        let own = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        out.push(format!("-s {} ", Subnet::host(own)));
    }
    out
}

/// A rule that leads into the pod's chain.
struct Entry {
    protocol: Protocol,
    ports: String,
    rule: String,
}

/// One for each protocol and fifteen ports. As upstream has it, also a port
/// whose address is of the other family is among them: its packets find no
/// rule inside.
fn entries(
    owner: Owner<'_>,
    conf: &Conf,
    family: Family,
) -> Result<Vec<Entry>, CniError> {
    let mut ports = BTreeMap::<Protocol, Vec<String>>::new();
    for mapping in &conf.mappings {
        let port = mapping.host_port.to_string();
        ports.entry(mapping.protocol).or_default().push(port);
    }
    let comment = comment(&format!(
        "dnat name: \"{}\" id: \"{}\"",
        owner.network, owner.container_id
    ));
    let mut conditions = String::new();
    for condition in conf.conditions.get(family).into_iter().flatten() {
        conditions += &word(condition)?;
        conditions.push(' ');
    }
    let chain = chain(owner);
    let mut out = Vec::new();
    for (protocol, ports) in ports {
        for ports in ports.chunks(PORTS) {
            let ports = ports.join(",");
            let rule = format!(
                "{conditions}-p {} {comment} -m multiport --dports {ports} \
                 -j {chain}",
                protocol.name()
            );
            out.push(Entry { protocol, ports, rule });
        }
    }
    Ok(out)
}
