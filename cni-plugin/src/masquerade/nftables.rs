//! In nf_tables, in upstream's form (BR-53). What pods share is only added
//! where it is missing, where upstream makes it anew with each pod (CW-10).

use std::collections::BTreeSet;

use ipam::{Family, Subnet};
use netlink::nft::{
    Batch, Chain, ChainKind, Expr, Hook, NftSocket, PRIORITY_SRCNAT, Rule,
    RuleInfo, Table, TableId, Verdict,
};

use crate::cidr::Cidr;
use crate::hashed;
use crate::nftables;
use crate::owner::Owner;
use crate::protocol::{CniError, Differences, ValidAttachments};

const TABLE: &str = "cni_plugins_masquerade";
const TABLE_COMMENT: &str =
    "Masquerading for plugins from github.com/containernetworking/plugins";
const CHECKS: &str = "masq_checks";
const CHECKS_COMMENT: &str = "Masquerade traffic from certain IPs to any \
    (non-multicast) IP outside their subnet";
const POSTROUTING: &str = "postrouting";
/// The longest comment `nft` takes.
const COMMENT_LEN: usize = 128;

pub(super) fn set(owner: Owner<'_>, ips: &[Cidr]) -> Result<(), CniError> {
    commit(|there, batch| {
        let complete = foundation(there, batch);
        for rule in there.iter().filter(|rule| of(rule, owner)) {
            batch.delete_rule(&rule.chain, rule.handle);
        }
        for ip in ips {
            batch.append_rule(&table().chain(CHECKS), &masquerade(owner, ip));
        }
        complete
    })
}

pub(super) fn check(owner: Owner<'_>, ips: &[Cidr]) -> Result<(), CniError> {
    let there = rules(&mut open()?)?;
    let wanted = ips.iter().map(|ip| (CHECKS, masquerade(owner, ip)));
    let shared = shared().into_iter().map(|rule| (POSTROUTING, rule));
    let mut found = Differences::default();
    for (chain, rule) in wanted.chain(shared) {
        let is_there = there.iter().any(|info| {
            info.chain.name == chain && info.rule.exprs == rule.exprs
        });
        found.expect(
            is_there,
            format_args!("table {}: chain {chain} lacks {rule}", table()),
        );
    }
    found.end()
}

pub(super) fn remove(owner: Owner<'_>) -> Result<(), CniError> {
    delete(|rule| of(rule, owner))
}

pub(super) fn gc(
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    let kept: BTreeSet<String> = valid
        .iter()
        .map(|(container_id, ifname)| {
            mark(Owner { network, container_id, ifname })
        })
        .collect();
    let ours = format!("{}-", hashed::short(&[network]));
    delete(|rule| {
        mark_of(rule)
            .is_some_and(|mark| mark.starts_with(&ours) && !kept.contains(mark))
    })
}

fn table() -> TableId {
    TableId::new(netlink::nft::Family::Inet, TABLE)
}

fn masquerade(owner: Owner<'_>, ip: &Cidr) -> Rule {
    let network = ip.network().unwrap_or_else(|| Subnet::host(ip.ip));
    let exprs = [
        Expr::NfProto(ip.family()),
        Expr::from(Subnet::host(ip.ip)),
        Expr::not_to(network),
        Expr::masquerade(false),
    ];
    let Owner { network, ifname, container_id } = owner;
    let mut comment = format!(
        "{}, net: {network}, if: {ifname}, id: {container_id}",
        mark(owner)
    );
    comment.retain(|c| c != '"');
    let mut end = comment.len().min(COMMENT_LEN);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    comment.truncate(end);
    Rule { comment: Some(comment), ..Rule::new(exprs) }
}

/// What a comment begins with.
fn mark(owner: Owner<'_>) -> String {
    let network = hashed::short(&[owner.network]);
    let parts = [owner.ifname, ":", owner.container_id];
    format!("{network}-{}", hashed::short(&parts))
}

fn mark_of(info: &RuleInfo) -> Option<&str> {
    let comment = info.rule.comment.as_deref()?;
    comment.split(',').next().filter(|_| info.chain.name == CHECKS)
}

fn of(info: &RuleInfo, owner: Owner<'_>) -> bool {
    mark_of(info) == Some(&mark(owner))
}

/// The rules of the base chain.
fn shared() -> [Rule; 3] {
    let multicast = |family| {
        // 224.0.0.0/4 and ff00::/8
        let (bits, len) = match family {
            Family::V4 => (0xe000_0000, 4),
            Family::V6 => (0xff00_u128 << 112, 8),
        };
        let net = Subnet::new(family.addr(bits), len);
        let to = net.ok().map(Expr::to);
        let exprs = [Some(Expr::NfProto(family)), to, Some(Expr::ret())];
        Rule::new(exprs.into_iter().flatten().collect::<Vec<_>>())
    };
    let goto = Expr::Verdict(Verdict::Goto(CHECKS.to_owned()));
    [multicast(Family::V4), multicast(Family::V6), Rule::new([goto])]
}

/// Adds what is missing of what pods share; whether nothing was.
fn foundation(there: &[RuleInfo], batch: &mut Batch) -> bool {
    let id = table();
    let comment = Some(TABLE_COMMENT.to_owned());
    batch.add_table(&Table { comment, ..Table::new(id.clone()) });
    let comment = Some(CHECKS_COMMENT.to_owned());
    batch.add_chain(&Chain { comment, ..Chain::plain(id.chain(CHECKS)) });
    let (kind, hook) = (ChainKind::Nat, Hook::Postrouting);
    let base = Chain::base(id.chain(POSTROUTING), kind, hook, PRIORITY_SRCNAT);
    batch.add_chain(&base);
    let present = there.iter().filter(|r| r.chain.name == POSTROUTING);
    let wanted = shared();
    if present.map(|r| &r.rule.exprs).eq(wanted.iter().map(|r| &r.exprs)) {
        return true;
    }
    batch.flush_chain(&base.id);
    for rule in &wanted {
        batch.append_rule(&base.id, rule);
    }
    false
}

fn delete(which: impl Fn(&RuleInfo) -> bool) -> Result<(), CniError> {
    commit(|there, batch| {
        for rule in there.iter().filter(|rule| which(rule)) {
            batch.delete_rule(&rule.chain, rule.handle);
        }
        true
    })
}

/// Commits what `fill` makes of the rules that are there. Unless it says that
/// others may change rules meanwhile, they must not have.
fn commit(
    fill: impl Fn(&[RuleInfo], &mut Batch) -> bool,
) -> Result<(), CniError> {
    nftables::change(|socket, batch| {
        let generation = socket.generation()?;
        if !fill(&rules(socket)?, batch) {
            batch.expecting(generation);
        }
        Ok(())
    })
}

fn rules(socket: &mut NftSocket) -> Result<Vec<RuleInfo>, CniError> {
    socket.rules(&table()).map_err(CniError::from)
}

fn open() -> Result<NftSocket, CniError> {
    NftSocket::open().map_err(CniError::from)
}
