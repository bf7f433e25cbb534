//! Routing rules: which table a packet's route is looked for in
//! (ip-rule(8)), as far as they go by addresses.

use ipam::{Family, Subnet};

use crate::error::Error;
use crate::request::Request;
use crate::socket::{Dump, Socket};
use crate::wire::uapi::{NLM_F_CREATE, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE};
use crate::wire::{
    Attrs, Malformed, Message, RawMessage, af, family, ip, u8_at, u32_at,
};

// fib_rules.h
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
/// Length of `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// A rule as the kernel reports it. What else it goes by (marks,
/// interfaces) is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its family.
    pub family: Family,
    /// Packets from there only; `None` for any.
    pub src: Option<Subnet>,
    /// The table; 0 for a rule that names none.
    pub table: u32,
    /// Its place, lowest first.
    pub priority: u32,
}

/// The rules of one family.
///
/// # Errors
/// See [`Error`].
pub fn list(
    socket: &mut Socket,
    only: Family,
) -> Result<Dump<RuleInfo>, Error> {
    let message = Message::new(RTM_GETRULE, 0, &header(only, 0, 0));
    let object = format!("list {only} rules");
    let dump = socket.dump(&Request::new(object, message), decode)?;
    Ok(dump.filtered(|rule| rule.family == only))
}

/// Makes packets from `src` go by `table`, before all rules but the local
/// table's that are there. It becomes another rule where there is such a one.
#[must_use]
pub fn add(src: Subnet, table: u32) -> Request {
    write(RTM_NEWRULE, NLM_F_CREATE, "add", src, table)
}

/// Deletes the first rule for packets from `src` to `table`; `ENOENT` when
/// there is none.
#[must_use]
pub fn delete(src: Subnet, table: u32) -> Request {
    write(RTM_DELRULE, 0, "delete", src, table)
}

fn write(
    kind: u16,
    flags: u16,
    verb: &str,
    src: Subnet,
    table: u32,
) -> Request {
    let header = header(src.family(), src.len(), FR_ACT_TO_TBL);
    let mut message = Message::new(kind, flags, &header);
    message.ip(FRA_SRC, src.base());
    message.u32(FRA_TABLE, table);
    let object = format!("{verb} rule from {src} to table {table}");
    Request::new(object, message)
}

/// `struct fib_rule_hdr`.
fn header(of: Family, src_len: u8, action: u8) -> [u8; HEADER] {
    [af(of), 0, src_len, 0, 0, 0, 0, action, 0, 0, 0, 0]
}

fn decode(message: &RawMessage<'_>) -> Result<Option<RuleInfo>, Malformed> {
    const WHAT: Malformed = Malformed("rule");
    if message.kind != RTM_NEWRULE {
        return Ok(None);
    }
    let byte = |at| u8_at(message.payload, at).ok_or(WHAT);
    let Some(family) = family(byte(0)?) else { return Ok(None) };
    let src_len = byte(2)?;
    let mut out =
        RuleInfo { family, src: None, table: byte(4)?.into(), priority: 0 };
    for attr in Attrs::after(message.payload, HEADER)? {
        match attr? {
            (FRA_SRC, value) => {
                let src = ip(value).ok_or(WHAT)?;
                out.src = Some(Subnet::new(src, src_len).map_err(|_| WHAT)?);
            }
            (FRA_TABLE, value) => out.table = u32_at(value, 0).ok_or(WHAT)?,
            (FRA_PRIORITY, value) => {
                out.priority = u32_at(value, 0).ok_or(WHAT)?;
            }
            _ => {}
        }
    }
    Ok(Some(out))
}
