//! The pair and what makes it a way (PT-2).

use std::time::{Duration, Instant};

use ipam::Subnet;
use netlink::link::veth::{VethEnd, VethSpec};
use netlink::link::{self, LinkInfo, OperState};
use netlink::route::{
    self, PROTOCOL_KERNEL, RouteMatch, RouteSpec, Scope, TABLE_MAIN,
};
use netlink::{NetNs, Request, Socket, addr, sysctl};

use crate::bridge::device::wait_link_local;
use crate::bridge::pod::{detection, for_v6, routes, wait_usable};
use crate::bridge::util::{
    QUEUES, address, all, enable_ipv6, gone, ignore, no_pattern,
};
use crate::cidr::Cidr;
use crate::owner::{self, Owner};
use crate::protocol::{Call, CniError, Deadline, code};
use crate::result::{CniResult, IpConfig};

/// How long the host's end may take to pass packets.
const UP_WAIT: Duration = Duration::from_secs(3);

/// A pair of this attachment.
#[derive(Debug)]
pub(super) struct Pair {
    /// The host's end.
    pub(super) host: LinkInfo,
    ifname: String,
}

// === impl Pair ===

impl Pair {
    /// Makes it; the host's end is up, and marked as this attachment's in the
    /// same call. Its name is in `made` as soon as it may be there.
    pub(super) fn make(
        call: &Call,
        mtu: Option<u32>,
        netns: &NetNs,
        socket: &mut Socket,
        made: &mut Option<String>,
    ) -> Result<Self, CniError> {
        let ifname = &call.env.ifname;
        no_pattern("CNI_IFNAME", ifname, code::ENVIRONMENT)?;
        let owner = Owner::of(call);
        let (name, mac) = owner.link();
        let end = |name: &str, mac| VethEnd {
            name: name.to_owned(),
            mtu,
            mac,
            txqlen: None,
            queues: QUEUES,
        };
        let spec = VethSpec {
            end: end(&name, Some(mac)),
            master: None,
            up: true,
            peer: end(ifname, None),
            peer_namespace: Some(netns.clone()),
        };
        let mut results = socket
            .batch(&[
                link::veth::add(&spec),
                link::set_named(&name).alias(&owner.alias()).build(),
            ])
            .into_iter();
        match results.next().unwrap_or(Ok(())) {
            Err(e) if e.is_exists() => {
                return Err(owner::already_there(socket, call));
            }
            Err(e) => {
                *made = e.is_outcome_unknown().then_some(name);
                return Err(e.into());
            }
            Ok(()) => *made = Some(name.clone()),
        }
        all(results.collect()).map_err(CniError::from)?;
        for key in ["accept_ra", "accept_dad"] {
            let key = format!("net/ipv6/conf/{name}/{key}");
            ignore(sysctl::write_if_different(&key, "0"));
        }
        let host = link::by_name(socket, &name).map_err(CniError::from)?;
        Ok(Self { host, ifname: ifname.clone() })
    }

    /// Addresses and routes of both ends. The pod's interface is returned;
    /// its addresses are in use.
    pub(super) fn configure(
        &self,
        socket: &mut Socket,
        netns: &NetNs,
        result: &CniResult,
        deadline: &Deadline,
    ) -> Result<LinkInfo, CniError> {
        let v6 = result.ips.iter().any(|ip| ip.address.ip.is_ipv6());
        let mut inside = netns.enter(|| {
            detection(&self.ifname, false);
            if v6 {
                for_v6(&self.ifname)?;
            }
            Socket::open().map_err(CniError::from)
        })??;
        let pod =
            link::by_name(&mut inside, &self.ifname).map_err(CniError::from)?;
        let mut requests: Vec<Request> = result
            .ips
            .iter()
            .map(|ip| addr::add(&address(pod.index, &ip.address, false)))
            .collect();
        requests.push(link::set(pod.index).up().arp_notify().build());
        all(inside.batch(&requests)).map_err(CniError::from)?;
        // the way to the gateways, which may be in no network of the pod's
        let to_gateways = result.ips.iter().filter_map(|ip| {
            let to = Subnet::host(ip.gateway?);
            Some(route::replace(&RouteSpec {
                oif: Some(pod.index),
                scope: Scope::Link,
                src: Some(ip.address.ip),
                ..RouteSpec::to(to)
            }))
        });
        let mut ways: Vec<Request> = to_gateways.collect();
        // while the pod has its networks on the link: their gateways may be
        // others of them
        let routes = routes(&pod, result)?;
        ways.extend(routes.iter().map(route::prepend));
        all(inside.batch(&ways)).map_err(CniError::from)?;
        for ip in &result.ips {
            self.lead(socket, &mut inside, &pod, ip)?;
        }
        for ip in &result.ips {
            wait_usable(&mut inside, ip.address.ip, deadline)?;
            if let Some(gateway) = ip.gateway {
                wait_usable(socket, gateway, deadline)?;
            }
        }
        self.wait_up(socket, deadline)?;
        if v6 {
            // the host asks for the pod from there
            wait_link_local(socket, &self.host)?;
        }
        Ok(pod)
    }

    /// Waits until the host's end passes packets: the kernel notices on a
    /// work queue that the other end is up.
    fn wait_up(
        &self,
        socket: &mut Socket,
        deadline: &Deadline,
    ) -> Result<(), CniError> {
        let began = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let now = link::by_index(socket, self.host.index)
                .map_err(CniError::from)?;
            if now.operstate == OperState::Up {
                return Ok(());
            }
            if began.elapsed() >= UP_WAIT {
                return Err(CniError::internal(format_args!(
                    "link {} is not up after {UP_WAIT:?}",
                    self.host.name
                )));
            }
            deadline.check()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Leads one address of the pod: inside, also what is for the own network
    /// goes to the gateway; outside, the address goes to the pod.
    fn lead(
        &self,
        outside: &mut Socket,
        inside: &mut Socket,
        pod: &LinkInfo,
        ip: &IpConfig,
    ) -> Result<(), CniError> {
        let Some(gateway) = ip.gateway else { return Ok(()) };
        let own = ip.address.ip;
        let network = ip.address.network();
        let network = network.unwrap_or_else(|| Subnet::host(own));
        let to_gateway = Subnet::host(gateway);
        // the kernel has none for a network of one address
        gone(inside.request(&route::delete(&RouteMatch {
            dst: network,
            table: TABLE_MAIN,
            metric: None,
            gateway: None,
            oif: Some(pod.index),
            nexthop: None,
            protocol: Some(PROTOCOL_KERNEL),
            kind: None,
        })))
        .map_err(CniError::from)?;
        if network != Subnet::host(own) && network != to_gateway {
            let by_gateway = route::replace(&RouteSpec {
                gateway: Some(gateway),
                oif: Some(pod.index),
                src: Some(own),
                ..RouteSpec::to(network)
            });
            inside.request(&by_gateway).map_err(CniError::from)?;
        }
        if gateway.is_ipv6() {
            enable_ipv6(&self.host.name)?;
        }
        let gateway = Cidr { ip: gateway, len: to_gateway.len() };
        all(outside.batch(&[
            // several addresses may have one gateway
            addr::replace(&address(self.host.index, &gateway, false)),
            route::replace(&RouteSpec {
                oif: Some(self.host.index),
                scope: Scope::Host,
                ..RouteSpec::to(Subnet::host(own))
            }),
        ]))
        .map_err(|e| {
            CniError::from(e).context(format_args!("link {}", self.host.name))
        })
    }
}
