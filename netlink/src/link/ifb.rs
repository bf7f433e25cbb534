//! Intermediate functional blocks: devices over which what comes in by
//! another one can be led, to be limited on its way out.

use super::ifinfo;
use crate::request::Request;
use crate::wire::Message;
use crate::wire::uapi::{
    IFF_UP, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, IFLA_TXQLEN,
    NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK,
};

/// Creates one that is up, without a queue of its own; refused (`EEXIST`)
/// when the name or the index is taken, `EOPNOTSUPP` where the kernel has
/// none. `mtu` in bytes.
///
/// `index` 0 is one that the kernel chooses. With another, what follows in
/// the same window can be meant for this device and no other, also when it
/// could not be created.
#[must_use]
pub fn add(index: u32, name: &str, mtu: u32) -> Request {
    let header = ifinfo(index, IFF_UP, IFF_UP);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut message = Message::new(RTM_NEWLINK, flags, &header);
    message.str(IFLA_IFNAME, name);
    message.u32(IFLA_MTU, mtu);
    message.u32(IFLA_TXQLEN, 0);
    message.nest(IFLA_LINKINFO, |m| m.str(IFLA_INFO_KIND, "ifb"));
    Request::new(format!("create ifb {name}"), message)
}
