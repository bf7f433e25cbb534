//! Type `sbr`: source based routing. What the pod sends from an address of
//! this interface leaves by this interface: each address has a table of its
//! own, with the interface's routes, and a rule that leads there (SB ids).
//!
//! Everything is inside the pod and goes with it.

mod tables;

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use ipam::gojson::Object;
use ipam::{Family, PerFamily, Subnet, pool};
use netlink::link::LinkInfo;
use netlink::route::{self, RouteInfo, RouteMatch, RouteSpec, TABLE_MAIN};
use netlink::{Dump, Request, Socket, addr, link, rule};

use crate::bridge::util::{all, gone};
use crate::cidr::parse_ip;
use crate::files::failed;
use crate::owner;
use crate::protocol::{Call, CniError, Differences, Plugin, Version, log};
use crate::result::{CniResult, IpConfig};

use tables::{copied, is_local, spec_of, unused};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Sbr;

/// What the configuration says (SB-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conf {
    /// A table that others fill.
    table: Option<u32>,
    /// Instead of the addresses' own.
    gateways: PerFamily<IpAddr>,
    /// Routes to the own network stay in the main table, with the address as
    /// their source.
    source_hints: bool,
}

impl Plugin for Sbr {
    fn name(&self) -> &'static str {
        "sbr"
    }

    fn oldest(&self) -> Version {
        Version::V030
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let previous = call.required_previous()?;
        let ips = own(call, &previous)?;
        call.deadline.enter("setting up the pod's routing by source")?;
        let (mut socket, link) = open(call)?;
        let _turn = turn(call)?;
        let mut made = Vec::new();
        set(&conf, &mut socket, &link, &ips, &mut made).inspect_err(|_| {
            // in this order: what left the main table comes back first
            for result in socket.batch(&made) {
                if let Err(e) = gone(result) {
                    log(format_args!("sbr: undoing a failed ADD: {e}"));
                }
            }
        })?;
        Ok(previous)
    }

    /// The rules; the routes go with the interface. Without the namespace
    /// there is nothing to do, and nothing is made at its path (SB-3).
    fn del(&self, call: &Call) -> Result<(), CniError> {
        let Some(netns) = call.living_netns()? else { return Ok(()) };
        let mut socket = Socket::open_in(&netns).map_err(CniError::from)?;
        let link = match link::by_name(&mut socket, &call.env.ifname) {
            Err(e) if e.is_not_found() => return Ok(()),
            other => other.map_err(CniError::from)?,
        };
        if owner::is_for_another(call, &netns, &link)? {
            log(format_args!(
                "sbr: {} in {} is another attachment's, and so are its rules",
                link.name, call.env.netns
            ));
            return Ok(());
        }
        let addresses = addr::list(&mut socket, None, Some(link.index))
            .and_then(Dump::complete)
            .map_err(CniError::from)?;
        let sources: Vec<Subnet> =
            addresses.iter().map(|a| Subnet::host(a.ip)).collect();
        let mut requests = Vec::new();
        for family in Family::ALL {
            for found in rules(&mut socket, family)? {
                if let Some(src) = found.src.filter(|s| sources.contains(s)) {
                    requests.push(rule::delete(src, found.table));
                }
            }
        }
        let results = socket.batch(&requests).into_iter().map(gone);
        all(results.collect()).map_err(CniError::from)
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(&call.conf()?)?;
        let previous = call.required_previous()?;
        let ips = own(call, &previous)?;
        let (mut socket, link) = open(call)?;
        let mut differences = Differences::default();
        for ip in &ips {
            let family = ip.address.family();
            let src = Subnet::host(ip.address.ip);
            let there = rules(&mut socket, family)?;
            let found = there.iter().find(|r| r.src == Some(src));
            let Some(found) = found else {
                differences.add(format_args!("there is no rule from {src}"));
                continue;
            };
            if let Some(table) = conf.table {
                differences.expect(
                    table == found.table,
                    format_args!(
                        "packets from {src} go by table {}, not {table}",
                        found.table
                    ),
                );
            }
            let Some(gateway) = conf.gateway(ip) else { continue };
            let routes = routes(&mut socket, family, &link, found.table)?;
            let leads =
                |r: &RouteInfo| r.dst.len() == 0 && r.gateway == Some(gateway);
            differences.expect(
                conf.table.is_some() || routes.iter().any(leads),
                format_args!(
                    "table {} lacks the default route via {gateway}",
                    found.table
                ),
            );
        }
        differences.end()
    }

    /// Nothing is outside of the pods.
    fn gc(&self, call: &Call) -> Result<(), CniError> {
        call.valid_attachments().map(drop)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        Conf::read(&call.conf()?).map(drop)
    }
}

/// Makes tables and rules, and takes the interface's routes out of the main
/// table at the very end. What undoes all of it is in `made`, in order.
fn set(
    conf: &Conf,
    socket: &mut Socket,
    link: &LinkInfo,
    ips: &[&IpConfig],
    made: &mut Vec<Request>,
) -> Result<(), CniError> {
    let mut taken = Vec::new();
    let mut moved: Vec<RouteInfo> = Vec::new();
    for ip in ips {
        let family = ip.address.family();
        let src = Subnet::host(ip.address.ip);
        let rules = rules(socket, family)?;
        // an ADD before this one may have come as far as this
        let there = rules.iter().find(|r| r.src == Some(src)).map(|r| r.table);
        let table = match (conf.table, there) {
            (Some(table), _) | (None, Some(table)) => table,
            (None, None) => unused(socket, &taken)?,
        };
        taken.push(table);
        if conf.table.is_none() {
            let main = routes(socket, family, link, TABLE_MAIN)?;
            let mut specs: Vec<RouteSpec> =
                copied(&main, ips, ip).map(|r| spec_of(r, table)).collect();
            specs.sort_by_key(|spec| spec.gateway.is_some());
            if let Some(gateway) = conf.gateway(ip) {
                specs.retain(|spec| spec.dst.len() > 0);
                specs.push(RouteSpec {
                    gateway: Some(gateway),
                    oif: Some(link.index),
                    // it need not be in a network that is still known here
                    onlink: true,
                    table,
                    ..RouteSpec::to(subnet_of_all(family))
                });
            }
            // what an ADD before this one has made its rule still leads to
            let new = specs.iter().filter(|_| there.is_none());
            made.extend(new.map(|spec| {
                route::delete(&RouteMatch {
                    table,
                    oif: Some(link.index),
                    ..RouteMatch::to(spec.dst)
                })
            }));
            let requests: Vec<_> = specs.iter().map(route::replace).collect();
            all(socket.batch(&requests)).map_err(CniError::from)?;
            for route in copied(&main, ips, ip) {
                let stays = conf.source_hints && route.gateway.is_none();
                if !is_local(route) && !stays && !moved.contains(route) {
                    moved.push(route.clone());
                }
            }
        }
        if there != Some(table) {
            made.push(rule::delete(src, table));
            socket.request(&rule::add(src, table)).map_err(CniError::from)?;
        }
    }
    if conf.source_hints {
        hint(socket, link, ips)?;
    }
    let requests: Vec<_> =
        moved.iter().map(|r| route::delete(&RouteMatch::of(r))).collect();
    let results = socket.batch(&requests);
    // before the tables lose them
    let back = taken_out(&moved, &results);
    made.splice(0..0, back.iter().map(route::add));
    let results = results.into_iter().map(gone);
    all(results.collect()).map_err(CniError::from)
}

/// Routes that are in the main table no longer, or may not be: those of a link
/// first, by which gateways of the others are reached.
fn taken_out(
    moved: &[RouteInfo],
    results: &[Result<(), netlink::Error>],
) -> Vec<RouteSpec> {
    let mut out: Vec<_> = moved
        .iter()
        .zip(results)
        .filter(|(_, result)| match result {
            Ok(()) => true,
            Err(e) => e.is_outcome_unknown(),
        })
        .map(|(route, _)| spec_of(route, TABLE_MAIN))
        .collect();
    out.sort_by_key(|spec| spec.gateway.is_some());
    out
}

/// Gives routes to the addresses' own networks their address as source.
fn hint(
    socket: &mut Socket,
    link: &LinkInfo,
    ips: &[&IpConfig],
) -> Result<(), CniError> {
    for ip in ips {
        let Some(network) = ip.address.network() else { continue };
        let main = routes(socket, ip.address.family(), link, TABLE_MAIN)?;
        let own = main
            .iter()
            .find(|r| r.dst == network && r.gateway.is_none())
            .filter(|r| r.src != Some(ip.address.ip));
        if let Some(route) = own {
            let spec = RouteSpec {
                src: Some(ip.address.ip),
                ..spec_of(route, TABLE_MAIN)
            };
            socket.request(&route::replace(&spec)).map_err(CniError::from)?;
        }
    }
    Ok(())
}

/// The addresses of this attachment's interface.
fn own<'a>(
    call: &Call,
    previous: &'a CniResult,
) -> Result<Vec<&'a IpConfig>, CniError> {
    let ifname = &call.env.ifname;
    let ours = |index: i64| {
        let at = usize::try_from(index).ok();
        let interface = at.and_then(|at| previous.interfaces.get(at));
        interface.is_some_and(|i| i.name == *ifname && !i.sandbox.is_empty())
    };
    let ips: Vec<_> = previous
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(ours))
        .collect();
    match ips.is_empty() {
        false => Ok(ips),
        true => Err(CniError::config(format!(
            "prevResult has no address for interface {ifname}"
        ))),
    }
}

/// One ADD at a time in a namespace, as each looks for a table that nobody
/// uses: the lock of upstream's plugin, which is the namespace itself.
fn turn(call: &Call) -> Result<File, CniError> {
    let path = Path::new(&call.env.netns);
    let taken = File::open(path)
        .and_then(|file| pool::hold_lock(file, call.deadline.at()));
    match taken {
        Ok(Some(turn)) => Ok(turn),
        Ok(None) => Err(call.deadline.error()),
        Err(e) => Err(failed("lock", path, &e)),
    }
}

fn open(call: &Call) -> Result<(Socket, LinkInfo), CniError> {
    let mut socket = Socket::open_in(&call.netns()?).map_err(CniError::from)?;
    let link =
        link::by_name(&mut socket, &call.env.ifname).map_err(CniError::from)?;
    Ok((socket, link))
}

fn rules(
    socket: &mut Socket,
    family: Family,
) -> Result<Vec<rule::RuleInfo>, CniError> {
    rule::list(socket, family).and_then(Dump::complete).map_err(CniError::from)
}

fn routes(
    socket: &mut Socket,
    family: Family,
    link: &LinkInfo,
    table: u32,
) -> Result<Vec<RouteInfo>, CniError> {
    let filter = route::Filter {
        family,
        table: Some(table),
        oif: Some(link.index),
        protocol: None,
    };
    route::list(socket, filter).and_then(Dump::complete).map_err(CniError::from)
}

/// `0.0.0.0/0` or `::/0`.
fn subnet_of_all(family: Family) -> Subnet {
    let any = family.unspecified();
    // a length of 0 fits every family
    Subnet::new(any, 0).unwrap_or_else(|_| Subnet::host(any))
}

// === impl Conf ===

impl Conf {
    fn read(conf: &Object<'_>) -> Result<Self, CniError> {
        let mut gateways = PerFamily::default();
        for text in conf.strings("gateways")?.unwrap_or_default() {
            let gateway = parse_ip(&text).ok_or_else(|| {
                CniError::config(format!(
                    "gateways has {text:?}, which is no address"
                ))
            })?;
            let family = Family::of(gateway);
            if gateways.get(family).is_some() {
                return Err(CniError::config(format!(
                    "gateways has two of {family}, but one of each family is \
                     all that can be used"
                )));
            }
            gateways.set(family, Some(gateway));
        }
        Ok(Self {
            table: conf.integer::<u32>("table")?.filter(|table| *table != 0),
            gateways,
            source_hints: conf.bool("addSourceHints")?.unwrap_or_default(),
        })
    }

    fn gateway(&self, ip: &IpConfig) -> Option<IpAddr> {
        let given = self.gateways.get(ip.address.family());
        given.copied().or(ip.gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<Conf, CniError> {
        Conf::read(&Object::parse(&format!("{{{members}}}"))?)
    }

    /// A partial failure: back comes what this call took, and no more.
    #[test]
    fn what_comes_back() {
        use netlink::Errno;
        let route = |dst: &str, gateway: Option<&str>| RouteInfo {
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            dst: dst.parse().unwrap(),
            oif: Some(2),
            onlink: false,
            nexthop: None,
            protocol: route::PROTOCOL_BOOT,
            metric: 0,
            kind: route::RouteKind::Unicast,
            src: None,
            scope: route::Scope::Universe,
            table: TABLE_MAIN,
            mtu: None,
            advmss: None,
            multipath: Vec::new(),
            flags: 0,
            tos: 0,
            src_len: 0,
        };
        let refused = |errno| {
            let object = "delete".into();
            Err(netlink::Error::Refused { object, errno, kernel: None })
        };
        let lost =
            netlink::Error::Unknown { object: "delete".into(), reason: "lost" };
        let (moved, results): (Vec<_>, Vec<_>) = [
            (route("0.0.0.0/0", Some("10.0.0.1")), Ok(())),
            (route("10.1.0.0/16", None), refused(Errno::ENOBUFS)),
            (route("10.2.0.0/16", None), refused(Errno::ESRCH)),
            (route("10.3.0.0/16", None), Err(lost)),
            (route("10.0.0.0/24", None), Ok(())),
        ]
        .into_iter()
        .unzip();
        let back = taken_out(&moved, &results);
        let back: Vec<_> = back.iter().map(|r| r.dst.to_string()).collect();
        assert_eq!(back, ["10.3.0.0/16", "10.0.0.0/24", "0.0.0.0/0"]);
    }

    #[test]
    fn configurations() {
        assert_eq!(read("").unwrap(), Conf::default());
        let conf = read(
            r#""table":55,"gateways":["10.0.0.1","fd00::1"],
            "addSourceHints":true"#,
        )
        .unwrap();
        assert_eq!((conf.table, conf.source_hints), (Some(55), true));
        assert_eq!(conf.gateways.v6, Some("fd00::1".parse().unwrap()));
        for members in [
            r#""gateways":["10.0.0.1","10.0.0.2"]"#,
            r#""gateways":["x"]"#,
            r#""table":-1"#,
        ] {
            assert_eq!(read(members).unwrap_err().code, 7, "{members}");
        }
    }
}
