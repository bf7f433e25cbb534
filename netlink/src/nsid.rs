//! The numbers by which one namespace knows others (`RTM_GETNSID`): a link
//! tells by such a number where its other end is.

use crate::error::Error;
use crate::netns::NetNs;
use crate::request::Request;
use crate::socket::Socket;
use crate::wire::uapi::{RTM_GETNSID, RTM_NEWNSID};
use crate::wire::{Attrs, Malformed, Message, RawMessage, i32_at};

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`, padded.
const RTGENMSG: usize = 4;

/// The number that the socket's namespace has for `namespace`, as in
/// [`LinkInfo::peer_netns`](crate::link::LinkInfo::peer_netns); `None` when it
/// has none yet: then no link leads there.
///
/// # Errors
/// See [`Error`].
pub fn number_of(
    socket: &mut Socket,
    namespace: &NetNs,
) -> Result<Option<i32>, Error> {
    let mut message = Message::new(RTM_GETNSID, 0, &[0; RTGENMSG]);
    message.u32(NETNSA_FD, namespace.fd_number());
    let object = format!("number of namespace {}", namespace.name());
    let query = Request::new(object, message).holding(Some(namespace));
    let number = socket.get(&query, decode)?;
    Ok(Some(number).filter(|number| *number >= 0))
}

fn decode(message: &RawMessage<'_>) -> Result<Option<i32>, Malformed> {
    if message.kind != RTM_NEWNSID {
        return Ok(None);
    }
    for attr in Attrs::after(message.payload, RTGENMSG)? {
        let (kind, value) = attr?;
        if kind == NETNSA_NSID {
            let number = i32_at(value, 0);
            return number.map(Some).ok_or(Malformed("namespace number"));
        }
    }
    Err(Malformed("namespace number"))
}
