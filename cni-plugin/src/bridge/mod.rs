//! Type `bridge`: a veth pair between the pod and a Linux bridge, addresses
//! from IPAM (BR ids).
//!
//! The steps are upstream's; what differs is said where it happens. Whatever
//! ADD made for its attachment it removes again when it fails (CW-4). The
//! bridge itself, its gateway addresses and the forwarding switches are the
//! node's: they stay, as other pods may use them already (BR-48).

mod add;
mod check;
mod conf;
mod device;
mod gateway;
mod ipam;
mod pod;
mod port;
mod util;

use ::ipam::gojson::Object;
use netlink::{NetNs, Socket, link};

use self::conf::{Conf, ipam_kind};
use self::ipam::Ipam;
use self::util::gone;
use crate::protocol::{Args, Call, CniError, code};

pub(crate) use self::add::add;
pub(crate) use self::check::check;

/// Detaches by the configuration `text`: the link, then the address. A
/// namespace that is gone, or whose path holds something else (CW-3), took
/// the link with it.
///
/// # Errors
/// Code 11 while the link is there and cannot be removed: its address stays
/// reserved. Otherwise what hindered the release of the address.
pub(crate) fn del(call: &Call, text: &str) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    if let Some(netns) = call.living_netns()? {
        del_link(&netns, &call.env.ifname)?;
    }
    match ipam_kind(&conf)?.as_str() {
        // then ADD never got that far
        "" => Ok(()),
        kind => Ipam::of(call, &conf, text, kind).del(call),
    }
}

/// Whether ADD could be served with the configuration `text`.
///
/// # Errors
/// Code 50, or what the IPAM plugin says.
pub(crate) fn status(call: &Call, text: &str) -> Result<(), CniError> {
    let conf = Object::parse(text)?;
    let read = Conf::read(&conf, &Args::default())
        .map_err(|e| CniError { code: code::NOT_AVAILABLE, ..e })?;
    Ipam::of(call, &conf, text, &read.ipam).status(call)
}

/// Whether the configuration `text` is one.
///
/// # Errors
/// As [`add`] has them for what it reads.
pub(crate) fn judge(call: &Call, text: &str) -> Result<(), CniError> {
    Conf::read(&Object::parse(text)?, &call.args()?).map(drop)
}

/// Removes the pod's interface, and with it the host's end.
fn del_link(netns: &NetNs, ifname: &str) -> Result<(), CniError> {
    let removed = Socket::open_in(netns).and_then(|mut socket| {
        gone(socket.request(&link::delete_by_name(ifname)))
    });
    removed.map_err(|e| {
        CniError::new(
            code::TRY_AGAIN,
            format!(
                "{e}: {ifname} is still there, so its address stays reserved"
            ),
        )
    })
}
