//! `macspoofchk`: a pod sends by its own Ethernet address only (BR-57,
//! BR-58). Upstream's table and chains, in the kernel's nf_tables.

use netlink::link::Mac;
use netlink::nft::{
    Batch, Chain, ChainKind, Expr, Family, Hook, NftSocket, Op, Rule, RuleInfo,
    Table, TableId, Verdict,
};

use crate::masquerade::without_nft;
use crate::nftables;
use crate::owner::Owner;
use crate::protocol::{CniError, Differences, ValidAttachments};

const PREROUTING: &str = "PREROUTING";
/// `dstnat` of bridges.
const PRIORITY: i32 = -300;
/// The longest name of a chain.
const CHAIN_LEN: usize = 127;

/// Lets the pod behind `port` send by `mac` only.
///
/// # Errors
/// Code 7 for a container id that makes no chain's name, code 999.
pub(super) fn set(
    owner: Owner<'_>,
    port: &str,
    mac: Mac,
) -> Result<(), CniError> {
    let [chain, of_mac] = chains(owner);
    if of_mac.len() > CHAIN_LEN {
        return Err(CniError::config(format!(
            "macspoofchk: the container's id is too long to name the chain \
             {of_mac:?}"
        )));
    }
    nftables::change(|socket, batch| {
        clear(&rules(socket)?, owner, batch);
        let id = table();
        batch.add_table(&Table::new(id.clone()));
        let (kind, hook) = (ChainKind::Filter, Hook::Prerouting);
        let base = Chain::base(id.chain(PREROUTING), kind, hook, PRIORITY);
        let own = Chain::plain(id.chain(&chain));
        let inner = Chain::plain(id.chain(&of_mac));
        batch.add_chain(&base).add_chain(&own).add_chain(&inner);
        for (chain, rule) in wanted(owner, port, mac) {
            batch.append_rule(&id.chain(chain), &rule);
        }
        Ok(())
    })
}

/// The rules, and in which chains.
fn wanted(owner: Owner<'_>, port: &str, mac: Mac) -> [(String, Rule); 4] {
    let [chain, of_mac] = chains(owner);
    let rule = |exprs: Vec<Expr>| rule(owner, exprs);
    let jump = |to: &str| Expr::Verdict(Verdict::Jump(to.to_owned()));
    let from = Expr::InInterface(Op::Is, port.to_owned());
    let mine = Expr::EtherSource(Op::Is, mac);
    let drop = Expr::Verdict(Verdict::Drop);
    [
        (of_mac.clone(), rule(vec![mine, Expr::ret()])),
        (of_mac.clone(), rule(vec![drop])),
        (chain.clone(), rule(vec![jump(&of_mac)])),
        (PREROUTING.to_owned(), rule(vec![from, jump(&chain)])),
    ]
}

/// Removes that again.
///
/// # Errors
/// Code 999.
pub(super) fn remove(owner: Owner<'_>) -> Result<(), CniError> {
    let removed = nftables::change(|socket, batch| {
        let there = rules(socket)?;
        if there.iter().any(|info| of(info, owner)) {
            clear(&there, owner, batch);
            for chain in chains(owner) {
                let chain = table().chain(chain);
                // one may have been removed by somebody
                if socket.chain(&chain)?.is_some() {
                    batch.delete_chain(&chain);
                }
            }
        }
        Ok(())
    });
    without_nft(removed)
}

/// Says what is missing of what [`set`] makes.
///
/// # Errors
/// Code 100.
pub(super) fn check(
    owner: Owner<'_>,
    port: &str,
    mac: Mac,
) -> Result<(), CniError> {
    let there = rules(&mut open()?)?;
    let mut found = Differences::default();
    for (chain, rule) in wanted(owner, port, mac) {
        let is_there = there.iter().any(|info| {
            of(info, owner)
                && info.chain.name == chain
                && info.rule.exprs == rule.exprs
        });
        found.expect(
            is_there,
            format_args!("table {}: chain {chain} lacks {rule}", table()),
        );
    }
    found.end()
}

/// Removes what belongs to this network's attachments that are not valid. A
/// rule of the Go plugin does not say its network, and stays.
///
/// # Errors
/// Code 999.
pub(super) fn gc(
    network: &str,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    let there = open().and_then(|mut socket| rules(&mut socket));
    let there = match there {
        Ok(there) => there,
        Err(e) => return without_nft(Err(e)),
    };
    let mut stale = Vec::new();
    for info in there {
        let note = info.rule.note.as_deref().unwrap_or_default();
        let mut words = note.split(' ').map(str::to_owned);
        let words = [words.next(), words.next(), words.next()];
        if let [Some(of), Some(id), Some(ifname)] = words
            && of == network
            && !valid.contains(&id, &ifname)
            && !stale.contains(&(id.clone(), ifname.clone()))
        {
            stale.push((id, ifname));
        }
    }
    for (container_id, ifname) in &stale {
        remove(Owner { network, container_id, ifname })?;
    }
    Ok(())
}

fn table() -> TableId {
    TableId::new(Family::Bridge, "nat")
}

/// The attachment's chains, the second behind the first.
fn chains(owner: Owner<'_>) -> [String; 2] {
    let chain = format!("cni-br-iface-{}-{}", owner.container_id, owner.ifname);
    [chain.clone(), chain + "-mac"]
}

fn rule(owner: Owner<'_>, exprs: Vec<Expr>) -> Rule {
    let Owner { network, container_id, ifname } = owner;
    let note = format!("{network} {container_id} {ifname}");
    let comment = comment(owner);
    let fits = note.len() + comment.len() <= Rule::WORDS;
    let note = Some(note).filter(|_| fits);
    Rule { comment: Some(comment), note, ..Rule::new(exprs) }
}

fn comment(owner: Owner<'_>) -> String {
    format!("macspoofchk-{}-{}", owner.container_id, owner.ifname)
}

fn of(info: &RuleInfo, owner: Owner<'_>) -> bool {
    info.rule.comment.as_deref() == Some(&comment(owner))
}

/// Deletes the owner's rules.
fn clear(there: &[RuleInfo], owner: Owner<'_>, batch: &mut Batch) {
    for info in there.iter().filter(|info| of(info, owner)) {
        batch.delete_rule(&info.chain, info.handle);
    }
}

fn rules(socket: &mut NftSocket) -> Result<Vec<RuleInfo>, CniError> {
    socket.rules(&table()).map_err(CniError::from)
}

fn open() -> Result<NftSocket, CniError> {
    NftSocket::open().map_err(CniError::from)
}
