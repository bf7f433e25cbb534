//! nf_tables: tables, chains and rules, written in atomic batches, read
//! back, and watched. Over netlink; no program is run.
//!
//! ```no_run
//! use netlink::nft::{self, Batch, Chain, Expr, Family, Rule, Table, TableId};
//!
//! # fn main() -> Result<(), netlink::Error> {
//! # let network: ipam::Subnet = "10.244.0.0/16".parse().unwrap();
//! let table = Table::new(TableId::new(Family::Ip, "flannel-ipv4"));
//! let chain = Chain::plain(table.id.chain("forward"));
//! let accept = Rule::new([Expr::from(network), Expr::accept()]);
//!
//! let mut socket = nft::NftSocket::open()?;
//! let mut batch = Batch::new();
//! batch.add_table(&table).add_chain(&chain).flush_chain(&chain.id);
//! batch.append_rule(&chain.id, &accept);
//! socket.commit(&batch)?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Batch`] is carried out as a whole or not at all; the error names the
//! first object that was refused. [`NftSocket::read`] returns a table with
//! its chains and rules as of one generation of the namespace's rules; a
//! batch that [expects](Batch::expecting) that generation is refused when
//! anything changed in between. Rules made by `nft` read back as the same
//! [`Expr`]s as ours, so that what upstream made can be compared and
//! adopted.

mod batch;
mod expr;
mod monitor;
mod object;
pub(crate) mod read;
mod socket;
#[cfg(test)]
mod tests;
mod uapi;
mod udata;

pub use batch::Batch;
pub use expr::{Expr, NatFlags, Op, RawExpr, Side, Verdict};
pub use monitor::{Change, Event, Monitor, Process};
pub use object::{
    Base, Chain, ChainId, ChainKind, Family, Hook, Policy, Rule, Table, TableId,
};
pub use read::{ChainState, Counts, RuleInfo, TableState};
pub use socket::{NftSocket, steadily, supported};

/// Priority of `filter` chains.
pub const PRIORITY_FILTER: i32 = 0;
/// Priority of `nat` chains that change destinations.
pub const PRIORITY_DSTNAT: i32 = -100;
/// Priority of `nat` chains that change sources.
pub const PRIORITY_SRCNAT: i32 = 100;

/// State bit of [`Expr::CtState`]: the packet makes no sense.
pub const CT_INVALID: u32 = 1;
/// State bit: packets were seen both ways.
pub const CT_ESTABLISHED: u32 = 2;
/// State bit: a new connection that belongs to another.
pub const CT_RELATED: u32 = 4;
/// State bit: the connection's first packet.
pub const CT_NEW: u32 = 8;

/// Status bit of [`Expr::CtStatus`]: the destination was changed
/// (`IPS_DST_NAT`).
pub const CT_STATUS_DNAT: u32 = 0x20;

/// `struct nfgenmsg`.
const fn nfgenmsg(family: u8, res_id: u16) -> [u8; 4] {
    let [high, low] = res_id.to_be_bytes();
    [family, 0, high, low]
}

/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
