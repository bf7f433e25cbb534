//! ADD (BR-21..BR-43).

use std::net::IpAddr;
use std::path::Path;

use ::ipam::Family;
use ::ipam::gojson::Object;
use netlink::link::LinkInfo;
use netlink::{NetNs, Socket, link};

use super::conf::Conf;
use super::ipam::Ipam;
use super::util::mac_text;
use super::{del_link, device, gateway, pod, port};
use crate::cidr::Cidr;
use crate::protocol::{Call, CniError, code, log};
use crate::result::{CniResult, Interface, Route};

/// What an ADD under way has made and must not leave behind.
#[derive(Debug, Default)]
struct Made {
    /// The veth pair.
    veth: bool,
    /// IPAM has been asked for addresses.
    addresses: bool,
}

/// Attaches by the configuration `text`.
///
/// # Errors
/// Nothing of the attachment is left then.
pub(crate) fn add(call: &Call, text: &str) -> Result<CniResult, CniError> {
    let object = Object::parse(text)?;
    let conf = Conf::read(&object, &call.args()?)?;
    let ipam = Ipam::of(call, &object, text, &conf.ipam);
    let netns = NetNs::open(Path::new(&call.env.netns))
        .map_err(|e| CniError::new(code::NETNS, e.to_string()))?;
    call.refuse_own(&netns)?;
    let mut socket = Socket::open().map_err(CniError::internal)?;
    let mut made = Made::default();
    let result = attach(call, &conf, &ipam, &netns, &mut socket, &mut made);
    if result.is_err() {
        made.undo(call, &ipam, &netns);
    }
    result
}

fn attach(
    call: &Call,
    conf: &Conf,
    ipam: &Ipam<'_>,
    netns: &NetNs,
    socket: &mut Socket,
    made: &mut Made,
) -> Result<CniResult, CniError> {
    let ifname = &call.env.ifname;
    let bridge = device::ensure(socket, conf)?;
    let name = port::add(socket, conf, &bridge, netns, ifname)?;
    made.veth = true;
    let port = link::by_name(socket, &name).map_err(CniError::internal)?;
    port::mark(socket, conf, &port, call)?;
    made.addresses = true;
    let given = ipam.add(call)?;
    if given.ips.is_empty() {
        return Err(CniError::internal(
            "IPAM plugin returned missing IP config",
        ));
    }
    let mut result = complete(conf, given)?;
    let gateways = match conf.gateway {
        true => gateways(&result),
        false => Vec::new(),
    };
    if conf.gateway {
        gateway::ensure(socket, conf, &bridge, &gateways)?;
    }
    let pod = pod::configure(netns, conf, ifname, &result)?;
    let port = port::wait_forwarding(socket, &port)?;
    if gateways.iter().any(|g| g.ip.is_ipv6()) {
        device::wait_link_local(socket, &bridge)?;
    }
    result.interfaces = vec![
        interface(&bridge, ""),
        interface(&port, ""),
        interface(&pod, &call.env.netns),
    ];
    Ok(result)
}

/// What IPAM gave, with gateways, default routes and name resolution as the
/// configuration has them (BR-18, BR-31).
fn complete(conf: &Conf, mut given: CniResult) -> Result<CniResult, CniError> {
    given.interfaces.clear();
    for ip in &mut given.ips {
        ip.interface = Some(2);
        if conf.gateway && ip.gateway.is_none() {
            ip.gateway = ip.address.network().map(|net| net.gateway());
        }
    }
    if conf.default_gateway {
        for family in Family::ALL {
            default_route(&mut given, family);
        }
    }
    if let Some(dns) = &conf.dns {
        given.dns = dns.clone();
    }
    Ok(given)
}

/// One default route per family. One that IPAM gave counts also without a
/// gateway, since it gets this one (BR-31 has two equal routes then, CW-7).
fn default_route(result: &mut CniResult, family: Family) {
    let any = Cidr::any(family);
    let gateway = result
        .ips
        .iter()
        .filter(|ip| ip.address.family() == family)
        .find_map(|ip| ip.gateway);
    if let Some(gateway) = gateway
        && !result.routes.iter().any(|route| route.dst == any)
    {
        let gw = Some(gateway);
        result.routes.push(Route { gw, ..Route::to(any) });
    }
}

/// The gateways for the bridge, with the pods' prefix length, each once,
/// IPv4 first.
fn gateways(result: &CniResult) -> Vec<Cidr> {
    let mut out = Vec::new();
    for family in Family::ALL {
        for ip in &result.ips {
            let cidr = |ip: &IpAddr, len| Cidr { ip: *ip, len };
            let gateway = ip.gateway.map(|gw| cidr(&gw, ip.address.len));
            if let Some(gateway) = gateway
                && gateway.family() == family
                && !out.contains(&gateway)
            {
                out.push(gateway);
            }
        }
    }
    out
}

fn interface(link: &LinkInfo, sandbox: &str) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: mac_text(link.mac),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

// === impl Made ===

impl Made {
    /// Takes back what was made: first the link, so that nobody answers on
    /// an address that is free again. A link that cannot be removed keeps its
    /// address, until the runtime's DEL.
    fn undo(&self, call: &Call, ipam: &Ipam<'_>, netns: &NetNs) {
        if self.veth
            && let Err(e) = del_link(netns, &call.env.ifname)
        {
            log(format_args!("undoing a failed ADD: {e}"));
            return;
        }
        if self.addresses
            && let Err(e) = ipam.del(call)
        {
            log(format_args!("undoing a failed ADD: {e}"));
        }
    }
}
