//! Type `portmap`: ports of the node that lead into the pod (PM ids).
//!
//! `conf` is what it is asked for; `iptables` and `nftables` carry it out,
//! each in upstream's form, so that either side's DEL removes what the other
//! made. `condition` reads the conditions of the second, `flush` ends the
//! UDP connections that would go on to where a port led before.

mod condition;
mod conf;
mod flush;
mod iptables;
mod nftables;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipam::{Family, PerFamily};
use netlink::nft::NftSocket;
use netlink::{Dump, Socket, addr, link, nft, nsid, route, sysctl};

use crate::bridge::UNDO;
use crate::cidr::Cidr;
use crate::owner::{self, Owner};
use crate::protocol::{
    Call, CniError, Deadline, Differences, Plugin, Version, gather, log,
};
use crate::result::CniResult;
use crate::xtables::Xtables;

use conf::{Backend, Conf};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Portmap;

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn oldest(&self) -> Version {
        Version::V010
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let object = call.conf()?;
        let conf = Conf::read(&object)?;
        let previous = CniResult::previous(&object, call.version)?;
        let previous = previous.ok_or_else(|| {
            CniError::config("must be called as chained plugin").details(
                "put it behind the plugin that attaches the pod, in a list \
                 of cniVersion 0.3.0 or newer",
            )
        })?;
        let pods = pods(call, &previous);
        // nothing to do costs nothing (PM-3)
        if conf.mappings.is_empty() || pods.is_empty() {
            return Ok(previous);
        }
        call.deadline.enter("mapping host ports")?;
        let done = set(call, &conf, &pods);
        if let Err(error) = done {
            call.deadline.grant(UNDO);
            if let Err(e) = remove(call, &conf) {
                log(format_args!("portmap: undoing a failed ADD: {e}"));
            }
            return Err(error);
        }
        Ok(previous)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let Some(conf) = Conf::read_leniently(&call.conf()?) else {
            return Ok(());
        };
        call.deadline.enter("removing host ports")?;
        let removed = remove(call, &conf);
        // without their rules the connections must not live on (CW-11)
        flush::former(&conf.mappings);
        removed
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let pods = pods(call, &call.required_previous()?);
        if conf.mappings.is_empty() || pods.is_empty() {
            return Ok(());
        }
        let owner = Owner::of(call);
        match choose(&conf, &pods, &call.deadline)? {
            Backend::Iptables => {
                let mut found = Differences::default();
                for (family, pod) in pods.iter() {
                    let tool = Xtables::required(family, &call.deadline)?;
                    found.note(iptables::check(&tool, owner, &conf, pod))?;
                }
                found.end()
            }
            Backend::Nftables => nftables::check(owner, &conf, &pods),
        }
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        call.deadline.enter("removing host ports of pods that are gone")?;
        let over_iptables = Xtables::all(&call.deadline)
            .map(|tool| iptables::gc(&tool, &call.name, &valid));
        let over_nftables = [nftables::gc(&call.name, &valid)];
        gather(over_iptables.chain(over_nftables))
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let needed = PerFamily::one(Family::V4, ());
        match choose(&conf, &needed, &call.deadline)? {
            Backend::Iptables => {
                let tool = Xtables::required(Family::V4, &call.deadline)?;
                tool.save(iptables::TABLE).map(drop)
            }
            Backend::Nftables => match nft::supported() {
                Ok(true) => return Ok(()),
                Ok(false) => Err(CniError::internal(
                    "this kernel has no nf_tables; say \"iptables\" as the \
                     backend",
                )),
                Err(e) => Err(e.into()),
            },
        }
        .map_err(CniError::unavailable)
    }
}

/// Makes the rules of each family the pod has.
fn set(
    call: &Call,
    conf: &Conf,
    pods: &PerFamily<Cidr>,
) -> Result<(), CniError> {
    let owner = Owner::of(call);
    match choose(conf, pods, &call.deadline)? {
        Backend::Iptables => {
            let others = others(call)?;
            for (family, pod) in pods.iter() {
                let tool = Xtables::required(family, &call.deadline)?;
                iptables::set(&tool, owner, conf, pod, &others)?;
            }
        }
        Backend::Nftables => nftables::set(owner, conf, pods)?,
    }
    if let Some(pod) = pods.get(Family::V4)
        && conf.snat
    {
        route_localnet(pod)?;
    }
    flush::stale(&conf.mappings, pods);
    Ok(())
}

/// Removes what either backend has of this owner (the setting may have been
/// another at ADD), and gathers what fails. The socket is closed last: iptables
/// is looked at while the kernel waits for packets in the rules that are gone.
fn remove(call: &Call, conf: &Conf) -> Result<(), CniError> {
    let owner = Owner::of(call);
    let chain = iptables::chain(owner);
    let (mut socket, refused) = match NftSocket::open() {
        Ok(socket) => (Some(socket), Ok(())),
        Err(e) => (None, Err(e.into())),
    };
    let over_nftables = match &mut socket {
        Some(socket) => nftables::remove(socket, owner),
        None => refused,
    };
    let over_nftables = match over_nftables {
        // without nf_tables nothing is in it
        Err(_) if conf.backend != Some(Backend::Nftables) && no_nft() => Ok(()),
        other => other,
    };
    let mut over_iptables = Vec::new();
    for tool in Xtables::all(&call.deadline) {
        if tool.may_hold_by(socket.as_mut(), iptables::TABLE, &chain) {
            let others = others(call);
            over_iptables
                .push(others.and_then(|others| {
                    iptables::remove(&tool, owner, &others)
                }));
        }
    }
    gather(over_iptables.into_iter().chain([over_nftables]))
}

/// The addresses of the container's other interfaces in this network; none
/// when it is gone. Only those that have their link on the host count: within
/// the pod anything may have been renamed or added.
fn others(call: &Call) -> Result<Vec<IpAddr>, CniError> {
    let mut host = Socket::open().map_err(CniError::from)?;
    let siblings = owner::siblings(&mut host, Owner::of(call))?;
    if siblings.is_empty() {
        return Ok(Vec::new());
    }
    let Some(netns) = call.living_netns()? else { return Ok(Vec::new()) };
    let number = nsid::number_of(&mut host, &netns)?;
    let inside: Vec<u32> = siblings
        .iter()
        .filter(|link| number.is_some() && link.peer_netns == number)
        .filter_map(|link| link.peer)
        .collect();
    // a result that cannot be read gives nothing
    let previous = call.previous().ok().flatten().unwrap_or_default();
    let own: Vec<IpAddr> =
        own_addresses(call, &previous).map(|address| address.ip).collect();
    let mut socket = Socket::open_in(&netns)?;
    let all = addr::list(&mut socket, None, None).and_then(Dump::complete)?;
    let others = all
        .iter()
        .filter(|address| inside.contains(&address.index))
        .map(|address| address.ip)
        .filter(|ip| !own.contains(ip));
    Ok(others.collect())
}

fn no_nft() -> bool {
    matches!(nft::supported(), Ok(false))
}

/// The one that is named, else the one whose form the conditions have, else
/// iptables where it is installed for every family (BR-6): rules of the Go
/// plugins and of kube-proxy are there then.
fn choose<T>(
    conf: &Conf,
    families: &PerFamily<T>,
    deadline: &Deadline,
) -> Result<Backend, CniError> {
    if let Some(backend) = conf.backend {
        return Ok(backend);
    }
    let mut tools = families.families().map(|f| Xtables::find(f, deadline));
    let missing = tools.any(|tool| tool.is_none());
    match missing && !no_nft() {
        true => Ok(Backend::Nftables),
        false => Ok(Backend::Iptables),
    }
}

/// The pod's first address of each family on the interface of this
/// attachment, or on an unknown one (PM-5).
fn pods(call: &Call, previous: &CniResult) -> PerFamily<Cidr> {
    PerFamily::from_fn(|family| {
        own_addresses(call, previous).find(|ip| ip.family() == family)
    })
}

/// All of them.
fn own_addresses<'a>(
    call: &'a Call,
    previous: &'a CniResult,
) -> impl Iterator<Item = Cidr> + 'a {
    let ours = |index: i64| {
        let at = usize::try_from(index).ok();
        let interface = at.and_then(|at| previous.interfaces.get(at));
        interface.is_some_and(|interface| {
            interface.name == call.env.ifname && !interface.sandbox.is_empty()
        })
    };
    let ips = previous.ips.iter();
    let ips = ips.filter(move |ip| ip.interface.is_none_or(ours));
    ips.map(|ip| ip.address)
}

/// Lets packets of the node to 127.0.0.1 go where the pod is (PM-9).
fn route_localnet(pod: &Cidr) -> Result<(), CniError> {
    let mut socket = Socket::open().map_err(CniError::from)?;
    let way = route::lookup(&mut socket, pod.ip).map_err(CniError::from)?;
    let Some(index) = way.oif else { return Ok(()) };
    let link = link::by_index(&mut socket, index).map_err(CniError::from)?;
    let key = format!("net/ipv4/conf/{}/route_localnet", link.name);
    sysctl::write_if_different(&key, "1").map(drop).map_err(CniError::from)
}
