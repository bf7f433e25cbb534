//! The pod's side: settings, addresses, routes (BR-32..BR-35).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipam::Family;
use netlink::link::LinkInfo;
use netlink::route::{RouteKind, RouteSpec, Scope, TABLE_MAIN};
use netlink::{NetNs, Request, Socket, addr, link, route, sysctl};

use super::conf::Conf;
use super::util::{address, all, enable_ipv6, ignore};
use crate::protocol::{CniError, Deadline};
use crate::result::{CniResult, IpConfig, Route};

/// How long duplicate address detection may take (BR-34), or the kernel to
/// take an address into use: seconds where all namespaces change at once.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);

/// The pod's interface.
#[derive(Debug)]
pub(crate) struct Pod {
    /// As it was before it came up.
    pub(crate) link: LinkInfo,
    /// Where it is.
    socket: Socket,
}

// === impl Pod ===

impl Pod {
    /// Sets the interface up: from then on the kernel works on the port, and
    /// does so while an address is found.
    pub(crate) fn set_up(
        netns: &NetNs,
        conf: &Conf,
        ifname: &str,
    ) -> Result<Self, CniError> {
        let mut socket = netns.enter(|| {
            detection(ifname, conf.detect_duplicates);
            Socket::open().map_err(CniError::from)
        })??;
        // asked for now: about a link that came up the kernel answers when it
        // has told everybody
        let link =
            link::by_name(&mut socket, ifname).map_err(CniError::from)?;
        // what changes of a link that is up, many are told
        let set = || link::set(link.index);
        all(socket.batch(&[set().arp_notify().build(), set().up().build()]))
            .map_err(CniError::from)?;
        Ok(Self { link, socket })
    }

    /// Gives the interface its addresses and routes. Everything works when
    /// this returns, but for the port's own state.
    pub(crate) fn configure(
        &mut self,
        netns: &NetNs,
        conf: &Conf,
        result: &CniResult,
        deadline: &Deadline,
    ) -> Result<(), CniError> {
        let Self { link, socket } = self;
        let detect = conf.detect_duplicates;
        let v6 = result.ips.iter().any(|ip| ip.address.ip.is_ipv6());
        if v6 {
            netns.enter(|| for_v6(&link.name))??;
        }
        let address = |ip: &IpConfig| address(link.index, &ip.address, detect);
        let mut requests: Vec<Request> =
            result.ips.iter().map(|ip| addr::add(&address(ip))).collect();
        let routes = routes(link, result)?;
        if detect && v6 {
            all(socket.batch(&requests)).map_err(CniError::from)?;
            requests = Vec::new();
            wait_undisputed(socket, link, deadline)?;
        }
        requests.extend(routes.iter().map(route::prepend));
        all(socket.batch(&requests)).map_err(CniError::from)?;
        let mut ips = result.ips.iter().map(|ip| ip.address.ip);
        ips.try_for_each(|ip| wait_usable(socket, ip, deadline))
    }

    /// The interface, which is left down (BR-15).
    pub(crate) fn untouched(
        netns: &NetNs,
        ifname: &str,
    ) -> Result<LinkInfo, CniError> {
        Socket::open_in(netns)
            .and_then(|mut socket| link::by_name(&mut socket, ifname))
            .map_err(CniError::from)
    }

    /// Tells the neighbours at which link-layer address the pod's addresses
    /// are now: another pod may have had them a moment ago.
    ///
    /// When the link came up, the port did not pass frames yet. The kernel
    /// does so by itself (`arp_notify`) when the link-layer address is set,
    /// also to what it is.
    pub(crate) fn announce(&mut self) -> Result<(), CniError> {
        let Some(mac) = self.link.mac else { return Ok(()) };
        self.socket
            .request(&link::set(self.link.index).mac(mac).build())
            .map_err(CniError::from)
    }
}

/// Whether the interface looks for others with its IPv6 addresses (BR-32).
pub(crate) fn detection(ifname: &str, detect: bool) {
    let set = |key: &str, value| {
        let key = format!("net/ipv6/conf/{ifname}/{key}");
        ignore(sysctl::write_if_different(&key, value));
    };
    if detect {
        set("enhanced_dad", "1");
    }
    set("accept_dad", if detect { "1" } else { "0" });
}

/// What an interface with IPv6 addresses needs (BR-33), and `ndisc_notify`,
/// which is for them what `arp_notify` is for others. A pod without has its
/// link-local address to itself: to announce that one would only hold up other
/// links' changes.
pub(crate) fn for_v6(ifname: &str) -> Result<(), CniError> {
    let key = |key: &str| format!("net/ipv6/conf/{ifname}/{key}");
    for link in ["lo", ifname] {
        enable_ipv6(link)?;
    }
    sysctl::write_if_different(&key("keep_addr_on_down"), "1")
        .map_err(CniError::from)?;
    ignore(sysctl::write_if_different(&key("ndisc_notify"), "1"));
    Ok(())
}

/// The kernel takes an IPv6 address into use on a work queue, also one that
/// is exempt from duplicate address detection: packets to it are for us only
/// once it has a local route.
pub(crate) fn wait_usable(
    socket: &mut Socket,
    ip: IpAddr,
    deadline: &Deadline,
) -> Result<(), CniError> {
    if ip.is_ipv4() {
        return Ok(());
    }
    let began = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        let kind = route::lookup(socket, ip).map(|route| route.kind);
        if matches!(kind, Ok(RouteKind::Local)) {
            return Ok(());
        }
        if began.elapsed() >= ADDRESS_WAIT {
            return Err(CniError::internal(format_args!(
                "address {ip} is not in use after {ADDRESS_WAIT:?}"
            ))
            .details(
                "see `ip -6 address`: duplicate address detection may have \
                 found it on another host",
            ));
        }
        deadline.check()?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Waits for duplicate address detection where it is asked for (BR-34).
fn wait_undisputed(
    socket: &mut Socket,
    pod: &LinkInfo,
    deadline: &Deadline,
) -> Result<(), CniError> {
    let began = Instant::now();
    loop {
        let addresses = addr::list(socket, Some(Family::V6), Some(pod.index))
            .and_then(netlink::Dump::complete)
            .map_err(CniError::from)?;
        if let Some(a) = addresses.iter().find(|a| a.flags.dad_failed()) {
            return Err(CniError::internal(format_args!(
                "address {} is in use on this network by another host",
                a.ip
            )));
        }
        if !addresses.iter().any(|a| a.flags.tentative()) {
            return Ok(());
        }
        if began.elapsed() >= ADDRESS_WAIT {
            return Err(CniError::internal(format_args!(
                "duplicate address detection on {} has not ended after \
                 {ADDRESS_WAIT:?}",
                pod.name
            )));
        }
        deadline.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The result's routes as the kernel gets them (BR-35), equal ones once.
pub(crate) fn routes(
    pod: &LinkInfo,
    result: &CniResult,
) -> Result<Vec<RouteSpec>, CniError> {
    let mut out = Vec::new();
    for route in &result.routes {
        let spec = spec(pod, &result.ips, route)?;
        if !out.contains(&spec) {
            out.push(spec);
        }
    }
    Ok(out)
}

fn spec(
    pod: &LinkInfo,
    ips: &[IpConfig],
    route: &Route,
) -> Result<RouteSpec, CniError> {
    let number = |key: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            CniError::config(format!(
                "route to {}: {key} is {value}, but must be from 0 to {}",
                route.dst,
                u32::MAX
            ))
        })
    };
    let optional = |key, value: i64| {
        number(key, value).map(|n| Some(n).filter(|n| *n != 0))
    };
    let dst = route.dst.network().ok_or_else(|| {
        CniError::config(format!("route to {}: bad length", route.dst))
    })?;
    let scope = match route.scope {
        None => Scope::Universe,
        Some(n) => u8::try_from(n).map(Scope::from).map_err(|_| {
            CniError::config(format!(
                "route to {dst}: scope is {n}, but must be from 0 to 255"
            ))
        })?,
    };
    let table = match route.table {
        None | Some(0) => TABLE_MAIN,
        Some(n) => number("table", n)?,
    };
    Ok(RouteSpec {
        gateway: gateway_of(ips, route),
        oif: Some(pod.index),
        metric: optional("priority", route.priority)?,
        mtu: optional("mtu", route.mtu)?,
        advmss: optional("advmss", route.advmss)?,
        scope,
        table,
        ..RouteSpec::to(dst)
    })
}

/// A route's own gateway, else the first one of its family.
pub(crate) fn gateway_of(ips: &[IpConfig], route: &Route) -> Option<IpAddr> {
    let of_family = |ip: &&IpConfig| {
        ip.address.family() == route.dst.family() && ip.gateway.is_some()
    };
    route.gw.or_else(|| ips.iter().find(of_family)?.gateway)
}
