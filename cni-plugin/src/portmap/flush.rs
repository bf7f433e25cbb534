//! UDP connections that must not go on as they did (PM-10). What fails here
//! is logged: the rules are right, and such a connection ends by itself some
//! time.

use ipam::{Family, PerFamily};
use netlink::conntrack::{Conntrack, Entry, UDP};
use netlink::{Dump, Error};

use super::conf::{Mapping, Protocol};
use crate::cidr::Cidr;
use crate::protocol::log;

/// Ends connections to a mapped port that do not lead to the pod.
pub(super) fn stale(mappings: &[Mapping], pods: &PerFamily<Cidr>) {
    for (family, pod) in pods.iter() {
        end(family, mappings, |entry, _| entry.reply.src != pod.ip);
    }
}

/// Ends connections that a mapping, which is gone now, led into a pod.
pub(super) fn former(mappings: &[Mapping]) {
    for family in Family::ALL {
        end(family, mappings, |entry, mapping| {
            entry.reply.src != entry.original.dst
                && entry.reply.src_port == Some(mapping.container_port)
        });
    }
}

fn end(
    family: Family,
    mappings: &[Mapping],
    which: impl Fn(&Entry, &Mapping) -> bool,
) {
    let udp = |m: &&Mapping| {
        m.protocol == Protocol::Udp
            && m.host_ip.is_none_or(|ip| Family::of(ip) == family)
    };
    let mut mappings = mappings.iter().filter(udp).peekable();
    if mappings.peek().is_none() {
        return;
    }
    let ended = Conntrack::open().and_then(|mut conntrack| {
        mappings.try_for_each(|mapping| {
            one(&mut conntrack, family, mapping, &which)
        })
    });
    if let Err(e) = ended {
        log(format_args!(
            "portmap: UDP connections of mapped ports go on as before: {e}"
        ));
    }
}

fn one(
    conntrack: &mut Conntrack,
    family: Family,
    mapping: &Mapping,
    which: &impl Fn(&Entry, &Mapping) -> bool,
) -> Result<(), Error> {
    let to = Some((UDP, mapping.host_port));
    let entries = conntrack.list(family, to).and_then(Dump::complete)?;
    entries
        .iter()
        .filter(|e| mapping.at().is_none_or(|ip| e.original.dst == ip))
        .filter(|entry| which(entry, mapping))
        .try_for_each(|entry| conntrack.delete(entry))
}
