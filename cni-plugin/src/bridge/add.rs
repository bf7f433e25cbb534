//! ADD (BR-21..BR-43).

use std::net::IpAddr;

use ::ipam::Family;
use ::ipam::gojson::Object;
use netlink::link::LinkInfo;
use netlink::route::TABLE_MAIN;
use netlink::{NetNs, Socket, link};

use super::conf::{Conf, Node};
use super::ipam::Ipam;
use super::pod::Pod;
use super::util::gone;
use super::{device, gateway, macspoof, port, vlan_gateway};
use crate::cidr::Cidr;
use crate::mac;
use crate::masquerade;
use crate::owner::Owner;
use crate::protocol::{Call, CniError, FailedAdd, gather, log};
use crate::result::{CniResult, Interface, Route};

/// What an ADD under way has made and must not leave behind.
#[derive(Debug, Default)]
struct Made {
    /// The veth pair, by the name of the host's end: whatever becomes of the
    /// pod's, this one takes it along.
    port: Option<String>,
    /// Rules against spoofing may be there.
    spoofing: bool,
    /// Masquerade rules may be there.
    masquerade: bool,
    /// The gateway of a VLAN may be there for this pod alone.
    vlan_gateway: bool,
    /// IPAM may hold addresses of this ADD.
    addresses: bool,
}

/// What a caller does of its own.
type Keep<'a> = &'a dyn Fn() -> Result<(), CniError>;

/// Attaches by the configuration `text`; `node` is what flannel knows beyond
/// it. `keep` is called once the link is there, since the kernel has work with
/// it that would be waited for anyway.
///
/// # Errors
/// Nothing of the attachment is left then, unless the error says so.
pub(crate) fn add(
    call: &Call,
    text: &str,
    node: Node,
    keep: Keep<'_>,
) -> Result<CniResult, FailedAdd> {
    let object = Object::parse(text).map_err(CniError::from)?;
    let conf = Conf { node, ..Conf::read(&object, &call.args()?)? };
    let ipam = Ipam::of(call, &object, text, &conf.ipam);
    ipam.find(call)?;
    let netns = call.netns()?;
    let mut socket = Socket::open().map_err(CniError::from)?;
    let mut made = Made::default();
    attach(call, &conf, &ipam, &netns, keep, &mut socket, &mut made).map_err(
        |error| FailedAdd {
            error,
            undone: made.undo(call, &ipam, &mut socket),
        },
    )
}

fn attach(
    call: &Call,
    conf: &Conf,
    ipam: &Ipam<'_>,
    netns: &NetNs,
    keep: Keep<'_>,
    socket: &mut Socket,
    made: &mut Made,
) -> Result<CniResult, CniError> {
    let ifname = &call.env.ifname;
    call.deadline.enter("setting up the bridge")?;
    let bridge = device::ensure(socket, conf)?;
    call.deadline.enter("making the pod's link")?;
    let port = port::add(socket, conf, &bridge, netns, call, &mut made.port)?;
    let pod = match conf.leave_down {
        true => None,
        false => Some(Pod::set_up(netns, conf, ifname)?),
    };
    keep()?;
    made.addresses = ipam.keeps_after_failure();
    let given = ipam.add(call)?;
    made.addresses = true;
    if given.ips.is_empty() && !conf.ipam.is_empty() {
        return Err(CniError::internal(
            "IPAM plugin returned missing IP config",
        ));
    }
    call.deadline.enter("giving the bridge its addresses")?;
    let result = complete(conf, given);
    let gateways = match conf.gateway {
        true => gateways(&result),
        false => Vec::new(),
    };
    let of_vlan = conf.gateway_vlan().filter(|_| !gateways.is_empty());
    made.vlan_gateway = of_vlan.is_some();
    let of_vlan = of_vlan
        .map(|vlan| vlan_gateway::ensure(socket, call, conf, &bridge, vlan));
    let of_vlan = of_vlan.transpose()?;
    let holder = of_vlan.as_ref().unwrap_or(&bridge);
    if conf.gateway {
        let removed = gateway::ensure(socket, conf, holder, &gateways)?;
        for old in removed {
            tell_of_moved(call, conf, ipam, &old);
        }
    }
    call.deadline.enter("configuring the pod's interface")?;
    let Some(mut pod) = pod else {
        let link = Pod::untouched(netns, ifname)?;
        restrict(call, conf, &link, &port, &result, made)?;
        let port = link::by_name(socket, &port).map_err(CniError::from)?;
        let links = [&bridge, &port, &link];
        return tell(call, conf, socket, result, links, None);
    };
    pod.configure(netns, conf, &result, &call.deadline)?;
    restrict(call, conf, &pod.link, &port, &result, made)?;
    let port = port::wait_forwarding(socket, &port, &call.deadline)?;
    if port::forwards(&port) {
        gateway::wait_usable(socket, &gateways, &call.deadline)?;
        if !gateways.is_empty() {
            device::wait_running(socket, holder, &call.deadline)?;
        }
        if gateways.iter().any(|g| g.ip.is_ipv6()) {
            device::wait_link_local(socket, holder)?;
        }
        pod.announce()?;
    }
    let links = [&bridge, &port, &pod.link];
    tell(call, conf, socket, result, links, of_vlan.as_ref())
}

/// Rules for what the pod sends, where they are asked for.
fn restrict(
    call: &Call,
    conf: &Conf,
    pod: &LinkInfo,
    port: &str,
    result: &CniResult,
    made: &mut Made,
) -> Result<(), CniError> {
    if conf.check_spoofing
        && let Some(mac) = pod.mac
    {
        made.spoofing = true;
        macspoof::set(Owner::of(call), port, mac)?;
    }
    let ips: Vec<Cidr> = result.ips.iter().map(|ip| ip.address).collect();
    if let Some(backend) = conf.masquerade
        && !ips.is_empty()
    {
        call.deadline.enter("masquerading for the pod")?;
        made.masquerade = true;
        masquerade::set(call, backend, &ips)?;
    }
    Ok(())
}

/// The result with its interfaces: bridge, port and pod, and the gateway's if
/// the bridge has none for the pod's VLAN.
fn tell(
    call: &Call,
    conf: &Conf,
    socket: &mut Socket,
    mut result: CniResult,
    [bridge, port, pod]: [&LinkInfo; 3],
    gateway: Option<&LinkInfo>,
) -> Result<CniResult, CniError> {
    // its address follows the ports where nobody has fixed it (BR-42)
    let followed = match conf.gateway {
        true => None,
        false => Some(link::by_index(socket, bridge.index)),
    };
    let followed = followed.transpose().map_err(CniError::from)?;
    result.interfaces = vec![
        interface(followed.as_ref().unwrap_or(bridge), ""),
        interface(port, ""),
        interface(pod, &call.env.netns),
    ];
    result.interfaces.extend(gateway.map(|link| interface(link, "")));
    Ok(result)
}

/// The bridge has lost `old`, the gateway of a subnet that this node has no
/// longer: says which pods may still rely on it.
fn tell_of_moved(call: &Call, conf: &Conf, ipam: &Ipam<'_>, old: &Cidr) {
    let pods = match old.network() {
        Some(network) => ipam.holders(call, network),
        None => Vec::new(),
    };
    let pods = match pods.is_empty() {
        true => "none".to_owned(),
        false => pods.join(", "),
    };
    log(format_args!(
        "warning: {}: {old} is no address of this node's subnet any more and \
         was removed; containers that still have addresses of that subnet, \
         and should be started anew: {pods}",
        conf.bridge
    ));
}

/// What IPAM gave, with gateways, default routes and name resolution as the
/// configuration has them (BR-18, BR-31).
fn complete(conf: &Conf, mut given: CniResult) -> CniResult {
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
    given
}

/// One default route per family. One that IPAM gave with a gateway counts
/// wherever it is (BR-31); one without gets this gateway, so it counts too
/// (BR-31 has two equal routes then, CW-7), unless it is in another table or
/// comes after others.
fn default_route(result: &mut CniResult, family: Family) {
    let any = Cidr::any(family);
    let gateway = result
        .ips
        .iter()
        .filter(|ip| ip.address.family() == family)
        .find_map(|ip| ip.gateway);
    let is_first = |route: &Route| {
        let main = Some(i64::from(TABLE_MAIN));
        route.priority == 0 && route.table.filter(|n| *n != 0).or(main) == main
    };
    if let Some(gateway) = gateway
        && !result.routes.iter().any(|route| {
            route.dst == any && (route.gw.is_some() || is_first(route))
        })
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
        mac: mac::text(link.mac),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

// === impl Made ===

impl Made {
    /// Takes back what was made: first the link, so that nobody answers on
    /// an address that is free again. A link that cannot be removed keeps its
    /// address, until the runtime's DEL. Returns whether nothing is left.
    fn undo(&self, call: &Call, ipam: &Ipam<'_>, socket: &mut Socket) -> bool {
        call.deadline.grant(super::UNDO);
        let unlinked = self.port.as_ref().map_or(Ok(()), |name| {
            gone(socket.request(&link::delete_by_name(name)))
        });
        let owner = Owner::of(call);
        let mut rules = Vec::new();
        if self.spoofing {
            rules.push(macspoof::remove(owner));
        }
        if self.masquerade {
            rules.push(masquerade::remove(call));
        }
        if self.vlan_gateway {
            rules.push(vlan_gateway::remove_unused(socket, call));
        }
        let undone = unlinked.map_err(CniError::from).and_then(|()| {
            if self.addresses { ipam.del(call).map(drop) } else { Ok(()) }
        });
        let undone = gather(rules.into_iter().chain([undone]));
        if let Err(e) = &undone {
            log(format_args!("undoing a failed ADD: {e}"));
        }
        undone.is_ok()
    }
}
