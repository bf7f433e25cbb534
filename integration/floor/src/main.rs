//! What a CNI verb cannot be faster than on this machine: a minimal static
//! program that does nothing but the netlink work of plugging a pod in or
//! out; without arguments, one that only starts. No configuration is parsed,
//! no address chosen, nothing checked.
//!
//! ```text
//! floor
//! floor add NETNS BRIDGE HOST-END ADDRESS/LENGTH GATEWAY [QUEUES]
//! floor del NETNS
//! floor rule
//! floor unrule HANDLE
//! ```
//!
//! The last two are what a port of the node costs: one rule of nf_tables, in
//! the chain `ports` of the table `ip floor`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::IpAddr;

use netlink::addr::{self, AddrSpec};
use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::nft::{Batch, ChainId, Expr, Family, NftSocket, Rule, TableId};
use netlink::route::{self, RouteSpec};
use netlink::{NetNs, Socket, link};

/// The pod's end of the cable.
const POD_END: &str = "eth0";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => Ok(()),
        ["add", netns, bridge, end, address, gateway] => {
            add(netns, bridge, end, address, gateway, None)
        }
        ["add", netns, bridge, end, address, gateway, queues] => {
            let queues = Some(queues.parse()?);
            add(netns, bridge, end, address, gateway, queues)
        }
        ["del", netns] => {
            let mut socket = Socket::open_in(&NetNs::open(netns)?)?;
            Ok(socket.request(&link::delete_by_name(POD_END))?)
        }
        ["rule"] => {
            let mut batch = Batch::new();
            batch.append_rule(&ports(), &Rule::new([Expr::accept()]));
            Ok(NftSocket::open()?.commit(&batch)?)
        }
        ["unrule", handle] => {
            let mut batch = Batch::new();
            batch.delete_rule(&ports(), handle.parse()?);
            Ok(NftSocket::open()?.commit(&batch)?)
        }
        _ => Err("usage: floor [add NETNS BRIDGE HOST-END \
                  ADDRESS/LENGTH GATEWAY [QUEUES] | del NETNS | rule | unrule HANDLE]"
            .into()),
    }
}

fn ports() -> ChainId {
    TableId::new(Family::Ip, "floor").chain("ports")
}

fn add(
    netns: &str,
    bridge: &str,
    end: &str,
    address: &str,
    gateway: &str,
    queues: Option<u32>,
) -> Result<(), Box<dyn Error>> {
    let (ip, len) = address.split_once('/').ok_or("no /LENGTH")?;
    let gateway: IpAddr = gateway.parse()?;
    let namespace = NetNs::open(netns)?;
    let mut socket = Socket::open()?;
    let bridge = link::by_name(&mut socket, bridge)?.index;
    socket.request(&veth::add(&VethSpec {
        end: VethEnd { name: end.to_owned(), queues, ..VethEnd::default() },
        master: Some(bridge),
        up: true,
        peer: VethEnd {
            name: POD_END.to_owned(),
            queues,
            ..VethEnd::default()
        },
        peer_namespace: Some(namespace.clone()),
    }))?;
    let mut socket = Socket::open_in(&namespace)?;
    let index = link::by_name(&mut socket, POD_END)?.index;
    let own = AddrSpec {
        index,
        ip: ip.parse()?,
        len: len.parse()?,
        nodad: true,
        broadcast: None,
    };
    let all = "0.0.0.0/0".parse()?;
    let default = RouteSpec {
        gateway: Some(gateway),
        oif: Some(index),
        ..RouteSpec::to(all)
    };
    let answers = socket.batch(&[
        link::set(index).up().build(),
        addr::add(&own),
        route::add(&default),
    ]);
    answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(())
}
