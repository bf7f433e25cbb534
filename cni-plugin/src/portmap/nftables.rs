//! Mapped ports in nf_tables, in upstream's form (PM-12), without `nft`.
//!
//! Some things differ. The pod's neighbours are masqueraded too, as iptables
//! does it (PM-6): their answers would come by the bridge, past the node, and
//! not be recognized. As there, what comes to a mapped port is marked for it:
//! what others lead to the pod, such as kube-proxy, keeps its source. The same
//! goes for `masqAll`, which upstream leaves without effect here. A network's
//! conditions are in the rules of its own ports: upstream has them where all
//! networks' packets come by, so that the last one to attach a pod decides for
//! all (CW-10). And what is there of a pod is replaced, not added to. What all
//! pods share is only added where it is missing, so that ADDs do not get in
//! each other's way.

use std::net::{IpAddr, Ipv4Addr};

use ipam::{Family, PerFamily, Subnet};
use netlink::nft::{
    Batch, CT_STATUS_DNAT, Chain, ChainKind, Expr, Hook, NatFlags, NftSocket,
    Op, PRIORITY_DSTNAT, PRIORITY_SRCNAT, Rule, RuleInfo, Side, Table, TableId,
    Verdict,
};

use super::condition;
use super::conf::{Conf, Mapping};
use crate::cidr::Cidr;
use crate::nftables;
use crate::owner::Owner;
use crate::protocol::{CniError, Differences, ValidAttachments};

const TABLE: &str = "cni_hostport";
const TABLE_COMMENT: &str = "CNI portmap plugin";
/// The rules of the ports.
const PORTS: &str = "hostports";
/// Where older releases had those with an address.
const PORTS_WITH_IP: &str = "hostip_hostports";
/// Leads to both.
const ALL: &str = "hostports_all";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
/// What is to come back through the node.
const MASQUERADING: &str = "masquerading";

/// Makes the pod's rules in place of what was there of it, in both families
/// at once.
///
/// # Errors
/// Code 7 for conditions that are not understood, code 999.
pub(super) fn set(
    owner: Owner<'_>,
    conf: &Conf,
    pods: &PerFamily<Cidr>,
) -> Result<(), CniError> {
    nftables::change(|socket, batch| {
        let generation = socket.generation()?;
        let mut shared = false;
        for (family, pod) in pods.iter() {
            let there = rules(socket, family)?;
            let masquerading = TableId::new(family, TABLE).chain(MASQUERADING);
            let complete = has_foundation(&there)
                && socket.chain(&masquerading)?.is_some();
            if !complete {
                shared |= foundation(batch, family, &there);
            }
            for rule in there.iter().filter(|rule| owns(owner, rule)) {
                batch.delete_rule(&rule.chain, rule.handle);
            }
            let table = TableId::new(family, TABLE);
            for (chain, rule) in wanted(owner, conf, pod)? {
                batch.append_rule(&table.chain(chain), &rule);
            }
        }
        if shared {
            // not twice
            batch.expecting(generation);
        }
        Ok(())
    })
}

/// Removes them.
///
/// # Errors
/// Code 999.
pub(super) fn remove(
    socket: &mut NftSocket,
    owner: Owner<'_>,
) -> Result<(), CniError> {
    delete(socket, |rule| owns(owner, rule))
}

/// Removes the rules of this network's attachments that are not valid. A rule
/// of the Go plugin does not say its network, and stays.
///
/// # Errors
/// Code 999.
pub(super) fn gc(
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    if super::no_nft() {
        return Ok(());
    }
    delete(&mut open()?, |info| {
        let Rule { comment, note, .. } = &info.rule;
        let place = note.as_deref().and_then(|note| note.split_once(' '));
        let Some(((of, ifname), id)) = place.zip(comment.as_deref()) else {
            return false;
        };
        of == network && !valid.contains(id, ifname)
    })
}

/// Says what is missing of what [`set`] makes.
///
/// # Errors
/// Code 100.
pub(super) fn check(
    owner: Owner<'_>,
    conf: &Conf,
    pods: &PerFamily<Cidr>,
) -> Result<(), CniError> {
    let mut socket = open()?;
    let mut found = Differences::default();
    for (family, pod) in pods.iter() {
        let there = rules(&mut socket, family)?;
        let table = TableId::new(family, TABLE);
        let has = |chain: &str, rule: &Rule| {
            there.iter().any(|info| {
                info.chain.name == chain
                    && info.rule.exprs == rule.exprs
                    && info.rule.comment == rule.comment
            })
        };
        // the Go plugin's rules have no note, and are good without this one
        let is_ours = |r: &RuleInfo| owns(owner, r) && r.rule.note.is_some();
        let beyond = match there.iter().any(is_ours) {
            true => Vec::new(),
            false => marked(owner, conf, pod)?,
        };
        for (chain, rule) in
            wanted(owner, conf, pod)?.into_iter().chain(leading())
        {
            found.expect(
                has(chain, &rule) || beyond.contains(&(chain, rule.clone())),
                format_args!("table {table}: chain {chain} lacks {rule}"),
            );
        }
    }
    found.end()
}

/// The rules of a pod, and in which chains.
fn wanted(
    owner: Owner<'_>,
    conf: &Conf,
    pod: &Cidr,
) -> Result<Vec<(&'static str, Rule)>, CniError> {
    let family = pod.family();
    let conditions = conditions(conf, family)?;
    // marks before the rules that lead away
    let mut out = marked(owner, conf, pod)?;
    for mapping in conf.of(family) {
        let mut exprs = conditions.clone();
        exprs.extend(at_port(mapping));
        exprs.push(to_port(mapping, pod.ip));
        out.push((PORTS, rule_of(owner, exprs)));
    }
    // with `masqAll` these are marked as well
    if conf.snat && !conf.masquerade_all && !out.is_empty() {
        let to_pod = Expr::to(Subnet::host(pod.ip));
        let own = Ipv4Addr::LOCALHOST;
        let sources = [Some(pod.ip), pod.ip.is_ipv4().then_some(own.into())];
        for source in sources.into_iter().flatten() {
            let from = Expr::from(Subnet::host(source));
            let exprs = vec![from, to_pod.clone(), Expr::masquerade(false)];
            out.push((MASQUERADING, rule_of(owner, exprs)));
        }
    }
    Ok(out)
}

fn conditions(conf: &Conf, family: Family) -> Result<Vec<Expr>, CniError> {
    let words = conf.conditions.get(family);
    let all = words.map(|words| condition::parse(family, words)).transpose()?;
    Ok(all.unwrap_or_default())
}

/// Marks what the pod's neighbours send to its mapped ports, with `masqAll`
/// what anybody sends there, and masquerades what is marked. The port alone
/// would not do: a service of the same number may lead to the pod as well.
fn marked(
    owner: Owner<'_>,
    conf: &Conf,
    pod: &Cidr,
) -> Result<Vec<(&'static str, Rule)>, CniError> {
    if !conf.snat {
        return Ok(Vec::new());
    }
    let family = pod.family();
    let from = match (conf.masquerade_all, pod.network()) {
        (true, _) => None,
        (false, Some(network)) => Some(Expr::from(network)),
        (false, None) => return Ok(Vec::new()),
    };
    let conditions = conditions(conf, family)?;
    let mut out = Vec::new();
    for mapping in conf.of(family) {
        let mut exprs = conditions.clone();
        exprs.extend(from.clone());
        exprs.extend(at_port(mapping));
        exprs.push(Expr::AddMark(conf.mark));
        out.push((PORTS, rule_of(owner, exprs)));
    }
    if !out.is_empty() {
        let exprs = from.into_iter().chain([
            Expr::to(Subnet::host(pod.ip)),
            Expr::CtStatus(CT_STATUS_DNAT),
            Expr::mark(conf.mark, conf.mark),
            Expr::masquerade(false),
        ]);
        out.push((MASQUERADING, rule_of(owner, exprs.collect())));
    }
    Ok(out)
}

/// What comes to a mapped port.
fn at_port(mapping: &Mapping) -> impl Iterator<Item = Expr> {
    let at = mapping.at().map(|ip| Expr::to(Subnet::host(ip)));
    let (side, port) = (Side::Destination, mapping.host_port);
    let rest = [
        Expr::L4Proto(Op::Is, mapping.protocol.number()),
        Expr::Port { side, op: Op::Is, port },
    ];
    at.into_iter().chain(rest)
}

fn to_port(mapping: &Mapping, pod: IpAddr) -> Expr {
    let port = Some(mapping.container_port);
    Expr::Dnat { to: pod, port, flags: NatFlags::default() }
}

/// The rules that lead to the ports.
fn leading() -> [(&'static str, Rule); 4] {
    let jump = |to: &str| Expr::Verdict(Verdict::Jump(to.to_owned()));
    let local = || Rule::new([Expr::ToLocal(Op::Is), jump(ALL)]);
    [
        (ALL, Rule::new([jump(PORTS_WITH_IP)])),
        (ALL, Rule::new([jump(PORTS)])),
        (PREROUTING, local()),
        (OUTPUT, local()),
    ]
}

/// Which of them are missing.
fn missing(there: &[RuleInfo]) -> impl Iterator<Item = (&'static str, Rule)> {
    leading().into_iter().filter(|(chain, rule)| {
        !there.iter().any(|info| {
            info.chain.name == *chain && info.rule.exprs == rule.exprs
        })
    })
}

/// Whether the rules that lead to the ports are there, and with them all
/// chains but that of [`MASQUERADING`], to which none leads. What is there is
/// not said again: that counts as a change of a chain, and closing the socket
/// would wait until no packet is in what was there before, some milliseconds.
fn has_foundation(there: &[RuleInfo]) -> bool {
    missing(there).next().is_none()
}

/// Adds what all pods share; says whether rules were missing in it.
fn foundation(batch: &mut Batch, family: Family, there: &[RuleInfo]) -> bool {
    let missing: Vec<_> = missing(there).collect();
    let id = TableId::new(family, TABLE);
    let comment = Some(TABLE_COMMENT.to_owned());
    batch.add_table(&Table { comment, ..Table::new(id.clone()) });
    for name in [PORTS, PORTS_WITH_IP, ALL] {
        batch.add_chain(&Chain::plain(id.chain(name)));
    }
    for (name, hook, priority) in [
        (PREROUTING, Hook::Prerouting, PRIORITY_DSTNAT),
        (OUTPUT, Hook::Output, PRIORITY_DSTNAT),
        (MASQUERADING, Hook::Postrouting, PRIORITY_SRCNAT),
    ] {
        let kind = ChainKind::Nat;
        batch.add_chain(&Chain::base(id.chain(name), kind, hook, priority));
    }
    for (chain, rule) in &missing {
        batch.append_rule(&id.chain(*chain), rule);
    }
    !missing.is_empty()
}

/// Deletes rules in both families. One that is gone meanwhile is looked for
/// no more.
fn delete(
    socket: &mut NftSocket,
    which: impl Fn(&RuleInfo) -> bool,
) -> Result<(), CniError> {
    nftables::change_by(socket, |socket, batch| {
        for family in Family::ALL {
            for rule in rules(socket, family)?.iter().filter(|r| which(r)) {
                batch.delete_rule(&rule.chain, rule.handle);
            }
        }
        Ok(())
    })
}

/// The table's rules; none when there is no table.
fn rules(
    socket: &mut NftSocket,
    family: Family,
) -> Result<Vec<RuleInfo>, CniError> {
    socket.rules(&TableId::new(family, TABLE)).map_err(CniError::from)
}

fn open() -> Result<NftSocket, CniError> {
    NftSocket::open().map_err(CniError::from)
}

/// A rule of this owner's.
fn rule_of(owner: Owner<'_>, exprs: Vec<Expr>) -> Rule {
    let id = owner.container_id;
    let note = format!("{} {}", owner.network, owner.ifname);
    let note = Some(note).filter(|n| n.len() + id.len() <= Rule::WORDS);
    Rule { comment: Some(id.to_owned()), note, ..Rule::new(exprs) }
}

/// Whether a rule is this owner's. One of the Go plugin's says only the
/// container.
fn owns(owner: Owner<'_>, info: &RuleInfo) -> bool {
    let Rule { comment, note, .. } = &info.rule;
    let note = note.as_deref().and_then(|note| note.split_once(' '));
    comment.as_deref() == Some(owner.container_id)
        && note.is_none_or(|place| place == (owner.network, owner.ifname))
}
