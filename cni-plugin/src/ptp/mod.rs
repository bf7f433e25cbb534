//! Type `ptp`: a veth pair without a bridge. The pod sends everything to its
//! gateway, which is the host's end; the host has a route to the pod alone
//! (PT ids).
//!
//! The link, its name and alias, and what DEL and GC do are the bridge's.

mod link;

use ::ipam::Family;
use ::ipam::gojson::Object;
use netlink::link::LinkInfo;
use netlink::{Dump, Socket, addr, route};

use self::link::Pair;
use crate::bridge::check::{check_pod, host_end, own_part};
use crate::bridge::conf::{dns, ipam_kind};
use crate::bridge::gateway::forward;
use crate::bridge::ipam::Ipam;
use crate::bridge::{self, util::gone};
use crate::cidr::Cidr;
use crate::mac;
use crate::masquerade::{self, Backend};
use crate::protocol::{Call, CniError, Differences, Plugin, gather, log};
use crate::result::{CniResult, Dns, Interface};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Ptp;

/// What the configuration says (PT-1).
#[derive(Debug)]
struct Conf {
    /// MTU of both ends in bytes; `None` for the kernel's default.
    mtu: Option<u32>,
    masquerade: Option<Backend>,
    /// Replaces what IPAM says about name resolution.
    dns: Option<Dns>,
    /// The plugin that gives addresses.
    ipam: String,
}

/// What an ADD under way has made.
#[derive(Debug, Default)]
struct Made {
    /// The host's end, by name.
    port: Option<String>,
    masquerade: bool,
    addresses: bool,
}

impl Plugin for Ptp {
    fn name(&self) -> &'static str {
        "ptp"
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let object = call.conf()?;
        let conf = Conf::read(&object)?;
        let ipam = Ipam::of(call, &object, call.json.text(), &conf.ipam);
        ipam.find(call)?;
        let mut made = Made::default();
        let mut socket = Socket::open().map_err(CniError::from)?;
        attach(call, &conf, &ipam, &mut socket, &mut made).inspect_err(|_| {
            made.undo(call, &ipam, &mut socket);
        })
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        bridge::del(call, call.json.text())
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let object = call.conf()?;
        let conf = Conf::read(&object)?;
        let previous = call.required_previous()?;
        let (interface, previous) = own_part(call, &previous)?;
        let ipam = Ipam::of(call, &object, call.json.text(), &conf.ipam);
        let mut found = Differences::default();
        found.note(ipam.check(call, &previous))?;
        let mut inside =
            Socket::open_in(&call.netns()?).map_err(CniError::from)?;
        let pod =
            check_pod(false, &mut inside, interface, &previous, &mut found)?;
        if let Some(pod) = &pod {
            check_host(pod, &previous, &mut found)?;
        }
        let ips = addresses(&previous);
        if let Some(backend) = conf.masquerade {
            found.note(masquerade::check(call, backend, &ips))?;
        }
        found.end()
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        bridge::gc(call, call.json.text(), &call.valid_attachments()?)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let object = call.conf()?;
        let conf = Conf::read(&object).map_err(CniError::unavailable)?;
        masquerade::available(conf.masquerade, &call.deadline)?;
        Ipam::of(call, &object, call.json.text(), &conf.ipam).status(call)
    }
}

fn attach(
    call: &Call,
    conf: &Conf,
    ipam: &Ipam<'_>,
    socket: &mut Socket,
    made: &mut Made,
) -> Result<CniResult, CniError> {
    let netns = call.netns()?;
    call.deadline.enter("making the pod's link")?;
    let pair = Pair::make(call, conf.mtu, &netns, socket, &mut made.port)?;
    made.addresses = ipam.keeps_after_failure();
    let mut result = ipam.add(call)?;
    made.addresses = true;
    if result.ips.is_empty() {
        return Err(CniError::internal(
            "IPAM plugin returned missing IP config",
        ));
    }
    complete(conf, &mut result)?;
    call.deadline.enter("configuring the pod's interface")?;
    for family in Family::ALL {
        if result.ips.iter().any(|ip| ip.address.family() == family) {
            forward(socket, family)?;
        }
    }
    let pod = pair.configure(socket, &netns, &result, &call.deadline)?;
    if let Some(backend) = conf.masquerade {
        call.deadline.enter("masquerading for the pod")?;
        made.masquerade = true;
        let ips = addresses(&result);
        masquerade::set(call, backend, &ips)?;
    }
    result.interfaces =
        vec![interface(&pair.host, ""), interface(&pod, &call.env.netns)];
    Ok(result)
}

/// Interface and gateway of each address, and the configuration's own name
/// resolution. Without a gateway from IPAM it is the first address of the
/// network (PT-3: upstream cannot do without).
fn complete(conf: &Conf, result: &mut CniResult) -> Result<(), CniError> {
    result.interfaces.clear();
    for ip in &mut result.ips {
        ip.interface = Some(1);
        let first = ip.address.network().map(|net| net.gateway());
        let gateway = ip.gateway.or(first);
        ip.gateway = gateway.filter(|gateway| *gateway != ip.address.ip);
        if ip.gateway.is_none() {
            return Err(CniError::config(format!(
                "address {} comes without a gateway, and has none to spare \
                 in its network; give ipam a gateway",
                ip.address
            )));
        }
    }
    if let Some(dns) = &conf.dns {
        result.dns = dns.clone();
    }
    Ok(())
}

/// The host's end has the gateways, and leads to the pod.
fn check_host(
    pod: &LinkInfo,
    previous: &CniResult,
    found: &mut Differences,
) -> Result<(), CniError> {
    let mut socket = Socket::open().map_err(CniError::from)?;
    let Some(host) = host_end(&mut socket, pod, found)? else {
        return Ok(());
    };
    let there = addr::list(&mut socket, None, Some(host.index))
        .and_then(Dump::complete)
        .map_err(CniError::from)?;
    let pod = &pod.name;
    for ip in &previous.ips {
        if let Some(gateway) = ip.gateway {
            found.expect(
                there.iter().any(|a| a.ip == gateway),
                format_args!(
                    "the host's end of {pod} lacks the gateway {gateway}"
                ),
            );
        }
        // an error is the kernel's way to say that there is none
        let way = route::lookup(&mut socket, ip.address.ip);
        found.expect(
            way.ok().and_then(|way| way.oif) == Some(host.index),
            format_args!("the host's way to {} is not {pod}", ip.address.ip),
        );
    }
    Ok(())
}

fn addresses(result: &CniResult) -> Vec<Cidr> {
    result.ips.iter().map(|ip| ip.address).collect()
}

fn interface(link: &LinkInfo, sandbox: &str) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: mac::text(link.mac),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

// === impl Conf ===

impl Conf {
    fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let ipam = ipam_kind(conf)?;
        if ipam.is_empty() {
            return Err(CniError::config(
                "ipam.type is missing: a pod is reached by its address only, \
                 so an IPAM plugin must be named, such as host-local",
            ));
        }
        Ok(Self {
            mtu: conf.integer::<u32>("mtu")?.filter(|mtu| *mtu != 0),
            masquerade: masquerade::wanted(conf)?,
            dns: dns(conf)?,
            ipam,
        })
    }
}

// === impl Made ===

impl Made {
    /// As the bridge does it: a link that cannot be removed keeps its
    /// address, until the runtime's DEL.
    fn undo(&self, call: &Call, ipam: &Ipam<'_>, socket: &mut Socket) {
        call.deadline.grant(bridge::UNDO);
        let unlinked = self.port.as_ref().map_or(Ok(()), |name| {
            gone(socket.request(&netlink::link::delete_by_name(name)))
        });
        let rules = match self.masquerade {
            true => masquerade::remove(call),
            false => Ok(()),
        };
        let released = unlinked.map_err(CniError::from).and_then(|()| {
            if self.addresses { ipam.del(call).map(drop) } else { Ok(()) }
        });
        if let Err(e) = gather([rules, released]) {
            log(format_args!("undoing a failed ADD: {e}"));
        }
    }
}
