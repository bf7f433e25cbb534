//! Whose a thing on the host is: the marks by which DEL and GC find what ADD
//! made, without the pod's namespace and whatever else is lost.
//!
//! A link's alias says it in words. Its name follows from the same, so that
//! one look-up finds it however many links there are.

use std::collections::BTreeSet;

use ipam::pool::Attachment;
use netlink::link::{Filter, LinkInfo, Mac};
use netlink::{Dump, Error, NetNs, Socket, link, nsid};
use sha2::{Digest, Sha512};

use crate::protocol::{Call, CniError, ValidAttachments};

/// What every alias begins with.
const MARK: &str = "flannel";
/// The longest parts of an alias, in bytes: with the interface's name (15)
/// they make the 254 that a link can have.
const NETWORK_MAX: usize = 100;
const CONTAINER_MAX: usize = 128;
/// Digits and letters of a link's name, five bits each.
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// One interface of one container in one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// The network's name.
    pub(crate) network: &'a str,
    /// The container's id.
    pub(crate) container_id: &'a str,
    /// The interface's name in the container.
    pub(crate) ifname: &'a str,
}

// === impl Owner ===

impl<'a> Owner<'a> {
    /// Whom a call is about.
    pub(crate) fn of(call: &'a Call) -> Self {
        Self {
            network: &call.name,
            container_id: call.env.container_id.trim(),
            ifname: &call.env.ifname,
        }
    }

    /// Who holds an address of the network's pool.
    pub(crate) fn holding(network: &'a str, of: &'a Attachment) -> Self {
        Self { network, container_id: of.container_id(), ifname: of.ifname() }
    }

    /// `flannel:<network>:<container>:<interface>`, at most 254 bytes.
    pub(crate) fn alias(&self) -> String {
        let container = short(self.container_id, CONTAINER_MAX);
        format!("{}{container}:{}", prefix(self.network), self.ifname)
    }

    /// The name of its link on the host: `veth` and 55 bits of a hash, so
    /// many that nobody else's link has this name.
    pub(crate) fn link_name(&self) -> String {
        self.link().0
    }

    /// That name, and the link's Ethernet address. One that was chosen is not
    /// changed by what configures hosts (CW-8).
    pub(crate) fn link(&self) -> (String, Mac) {
        let bits = self.hash();
        let digit = |n: u32| {
            let at = (bits >> (n * 5)) & 31;
            DIGITS.get(at as usize).map_or('0', |d| char::from(*d))
        };
        let name = "veth".chars().chain((0..11).map(digit)).collect();
        let [.., b, c, d, e, f] = bits.to_be_bytes();
        (name, [0x5e, b, c, d, e, f])
    }

    fn hash(&self) -> u64 {
        // no part holds a colon (S-9, S-10)
        let text =
            format!("{}:{}:{}", self.network, self.container_id, self.ifname);
        let mut out = [0; 8];
        for (to, from) in out.iter_mut().zip(Sha512::digest(text)) {
            *to = from;
        }
        u64::from_be_bytes(out)
    }
}

/// The link of `owner` on the host.
///
/// # Errors
/// What the kernel answered; [`Error::is_not_found`] is `None`.
pub(crate) fn link_of(
    socket: &mut Socket,
    owner: Owner<'_>,
) -> Result<Option<LinkInfo>, Error> {
    match link::by_name(socket, &owner.link_name()) {
        Ok(link) if link.alias == Some(owner.alias()) => Ok(Some(link)),
        Ok(_) => Ok(None),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The error of an ADD whose pair cannot be made, as one of the two names is
/// taken.
pub(crate) fn already_there(socket: &mut Socket, call: &Call) -> CniError {
    let owner = Owner::of(call);
    let ifname = owner.ifname;
    let details = match link_of(socket, owner) {
        Ok(None) => format!(
            "{} has an interface {ifname:?}, or the host one of the other \
             name, that this program did not make for this attachment; if \
             another plugin did, run DEL",
            call.env.netns
        ),
        _ => "an earlier ADD of this attachment made it; run DEL".to_owned(),
    };
    CniError::internal(format_args!(
        "container veth name ({ifname:?}) peer provided ({:?}) already exists",
        owner.link_name()
    ))
    .details(details)
}

/// Whether `inside`, a link in `netns`, is the pod's end of a pair that this
/// program made for another attachment than `owner`: then it is not `owner`'s
/// to remove or change. A runtime may call DEL after an ADD that failed since
/// the name was taken, or with the path of a namespace that is another pod's
/// by now.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn is_anothers(
    host: &mut Socket,
    netns: &NetNs,
    inside: &LinkInfo,
    owner: Owner<'_>,
) -> Result<bool, Error> {
    let Some(peer) = inside.peer else { return Ok(false) };
    let outside = match link::by_index(host, peer) {
        Err(e) if e.is_not_found() => return Ok(false),
        other => other?,
    };
    let alias = outside.alias.as_deref();
    let marked = alias.is_some_and(|a| is_alias(a) && a != owner.alias());
    // the peer may be in a third namespace, and its number here another's
    Ok(marked
        && outside.peer == Some(inside.index)
        && outside.peer_netns == nsid::number_of(host, netns)?)
}

/// The same for the interface `inside` that a chained plugin's call is about:
/// whether it is not the one that ADD changed.
///
/// # Errors
/// Code 999 or 11.
pub(crate) fn is_for_another(
    call: &Call,
    netns: &NetNs,
    inside: &LinkInfo,
) -> Result<bool, CniError> {
    Socket::open()
        .and_then(|mut host| {
            is_anothers(&mut host, netns, inside, Owner::of(call))
        })
        .map_err(CniError::from)
}

/// All links of `network` on the host, of every attachment, with their
/// aliases.
///
/// # Errors
/// What the kernel answered, also when the list may lack links.
pub(crate) fn links_of(
    socket: &mut Socket,
    network: &str,
) -> Result<Vec<(String, LinkInfo)>, Error> {
    let prefix = prefix(network);
    let all = link::list(socket, Filter { kind: Some("veth"), master: None })
        .and_then(Dump::complete)?;
    Ok(all
        .into_iter()
        .filter_map(|link| {
            let alias = link.alias.clone()?;
            alias.starts_with(&prefix).then_some((alias, link))
        })
        .collect())
}

/// Whether another interface of the owner's container in the owner's network
/// has its link: what both share must stay then.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn has_sibling(
    socket: &mut Socket,
    owner: Owner<'_>,
) -> Result<bool, Error> {
    Ok(!siblings(socket, owner)?.is_empty())
}

/// The links on the host of the other interfaces of the owner's container in
/// the owner's network.
///
/// # Errors
/// What the kernel answered.
pub(crate) fn siblings(
    socket: &mut Socket,
    owner: Owner<'_>,
) -> Result<Vec<LinkInfo>, Error> {
    let (own, container) =
        (owner.alias(), Owner { ifname: "", ..owner }.alias());
    let links = links_of(socket, owner.network)?.into_iter();
    let others = links.filter(|(a, _)| *a != own && a.starts_with(&container));
    Ok(others.map(|(_, link)| link).collect())
}

/// The aliases of a network's attachments that are valid.
pub(crate) fn aliases(
    network: &str,
    valid: &ValidAttachments,
) -> BTreeSet<String> {
    let alias = |(container_id, ifname): (&str, &str)| {
        Owner { network, container_id, ifname }.alias()
    };
    valid.iter().map(alias).collect()
}

/// Whether a link's alias says that this program made it.
pub(crate) fn is_alias(alias: &str) -> bool {
    alias.strip_prefix(MARK).is_some_and(|rest| rest.starts_with(':'))
}

/// What all aliases of a network's links begin with.
pub(crate) fn prefix(network: &str) -> String {
    format!("{MARK}:{}:", short(network, NETWORK_MAX))
}

/// `text`, or as much of it as fits with a hash of all of it. A `~` is in no
/// name (S-9).
pub(crate) fn short(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let hash = Sha512::digest(text);
    let hash: String =
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut end = max - hash.len() - 1;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{hash}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner<'a>(network: &'a str, container_id: &'a str) -> Owner<'a> {
        Owner { network, container_id, ifname: "eth0" }
    }

    #[test]
    fn marks() {
        let one = owner("cbr0", "c1");
        assert_eq!(one.alias(), "flannel:cbr0:c1:eth0");
        let name = one.link_name();
        assert_eq!(name.len(), 15);
        assert_eq!(name, one.link_name());
        assert_ne!(name, owner("cbr0", "c2").link_name());
        assert_ne!(name, Owner { ifname: "eth1", ..one }.link_name());
        assert_eq!(one.link().1[0] & 3, 2, "local and unicast");
    }

    #[test]
    fn long_names_fit_and_differ() {
        let (network, id) = ("n".repeat(255), "c".repeat(255));
        let one = Owner { ifname: "a23456789012345", ..owner(&network, &id) };
        assert!(one.alias().len() <= 254, "{}", one.alias().len());
        let other = format!("{id}x");
        assert_ne!(one.alias(), Owner { container_id: &other, ..one }.alias());
        assert!(one.alias().starts_with(&prefix(&network)));
        assert_eq!(short("äöü", 6), "äöü");
        assert!(short(&"äöü".repeat(10), 20).len() <= 20);
    }
}
