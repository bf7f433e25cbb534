//! In iptables, in upstream's form (BR-49..BR-51).

use ipam::{Family, Subnet};
use netlink::Socket;

use crate::cidr::Cidr;
use crate::hashed;
use crate::owner::{self, Owner};
use crate::protocol::{CniError, ValidAttachments};
use crate::xtables::{Saved, Xtables, comment, value_of, words};

const TABLE: &str = "nat";
const POSTROUTING: &str = "POSTROUTING";
const PREFIX: &str = "CNI-";

pub(super) fn set(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
    ips: &[Cidr],
) -> Result<(), CniError> {
    tool.edit(TABLE, |saved| Ok(missing(saved, owner, ips)))
}

pub(super) fn check(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
    ips: &[Cidr],
) -> Result<(), CniError> {
    tool.lacks(TABLE, &missing(&tool.save(TABLE)?, owner, ips))
}

pub(super) fn remove(
    tool: &Xtables<'_>,
    owner: Owner<'_>,
) -> Result<(), CniError> {
    let chain = chain(owner);
    if !tool.may_hold(TABLE, &chain) {
        return Ok(());
    }
    // upstream's chain is the container's: the last interface takes it along
    let mut socket = Socket::open().map_err(CniError::from)?;
    if owner::has_sibling(&mut socket, owner).map_err(CniError::from)? {
        return Ok(());
    }
    tool.edit(TABLE, |saved| Ok(saved.removal(&chain)))
}

pub(super) fn gc(
    tool: &Xtables<'_>,
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    if !tool.may_hold(TABLE, POSTROUTING) {
        return Ok(());
    }
    tool.edit(TABLE, |saved| {
        let mut stale = Vec::new();
        for rule in saved.rules_of(POSTROUTING) {
            let words = words(rule);
            let of = value_of(&words, "--comment").and_then(owner_of);
            let Some((of, id)) = of else { continue };
            let chain = hashed::chain(PREFIX, of, id);
            let leads = value_of(&words, "-j") == Some(&chain);
            let ours = leads && of == network && !valid.has_container(id);
            if ours && !stale.contains(&chain) {
                stale.push(chain);
            }
        }
        Ok(stale.iter().flat_map(|chain| saved.removal(chain)).collect())
    })
}

fn chain(owner: Owner<'_>) -> String {
    hashed::chain(PREFIX, owner.network, owner.container_id)
}

/// What is not there yet, so that what a second interface of the container
/// has in the same chain stays.
fn missing(saved: &Saved, owner: Owner<'_>, ips: &[Cidr]) -> Vec<String> {
    let chain = chain(owner);
    let comment = comment(&format!(
        "name: \"{}\" id: \"{}\"",
        owner.network, owner.container_id
    ));
    let mut out = Vec::new();
    if !saved.has_chain(&chain) {
        out.push(format!("-N {chain}"));
    }
    let mut need = |place: &str, rule: String| {
        let line = format!("-A {place} {rule}");
        let there = saved.rules_of(place).any(|there| there == rule);
        if !there && !out.contains(&line) {
            out.push(line);
        }
    };
    for ip in ips {
        let network = ip.network().unwrap_or_else(|| Subnet::host(ip.ip));
        need(&chain, format!("-d {network} {comment} -j ACCEPT"));
    }
    for ip in ips {
        let multicast = match ip.family() {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        };
        need(&chain, format!("! -d {multicast} {comment} -j MASQUERADE"));
        let from = Subnet::host(ip.ip);
        need(POSTROUTING, format!("-s {from} {comment} -j {chain}"));
    }
    out
}

/// Network and container of a comment.
fn owner_of(comment: &str) -> Option<(&str, &str)> {
    let rest = comment.strip_prefix("name: \"")?;
    rest.strip_suffix('"')?.split_once("\" id: \"")
}
