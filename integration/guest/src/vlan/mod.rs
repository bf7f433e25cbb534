//! `bridge` with VLANs (BR-10..BR-12, BR-22, BR-28, BR-37; CT-10, CT-11,
//! CT-24, CT-25). What is expected of each port is written down here; that
//! Go's plugin makes the same of it is in [`beside_go`].

pub(crate) mod beside_go;
pub(crate) mod gateways;
pub(crate) mod killed;
pub(crate) mod ports;
pub(crate) mod restricted;
pub(crate) mod traffic;

use std::collections::BTreeMap;

use netlink::link::LinkInfo;
use netlink::{addr, link, vlan};
use serde_json::Value;

use crate::node::{find, links, socket};

/// The VLANs of every port of every bridge, by the link's index, in words.
fn ports() -> BTreeMap<u32, String> {
    let all = vlan::list(&mut socket()).unwrap().complete().unwrap();
    all.into_iter().map(|p| (p.index, vlan::describe(&p.vlans))).collect()
}

/// The VLANs of one port.
fn of(port: &LinkInfo) -> String {
    ports().remove(&port.index).unwrap_or_else(|| "none".to_owned())
}

/// The host's end of the pod of `result`.
fn host_end(result: &Value) -> LinkInfo {
    find(result["interfaces"][1]["name"].as_str().unwrap())
}

/// The other end of a pair that is on the node.
fn peer(link: &LinkInfo) -> LinkInfo {
    link::by_index(&mut socket(), link.peer.unwrap()).unwrap()
}

/// The global addresses of a link.
fn addresses(link: &LinkInfo) -> Vec<String> {
    let all = addr::list(&mut socket(), None, Some(link.index)).unwrap();
    let all = all.complete().unwrap();
    let all = all.iter().map(|a| format!("{}/{}", a.ip, a.len));
    let mut all: Vec<_> = all.filter(|a| !a.starts_with("fe80")).collect();
    all.sort();
    all
}

/// The plain addresses of a result.
fn ips(result: &Value) -> Vec<std::net::IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter();
    let text = ips.map(|ip| ip["address"].as_str().unwrap());
    text.map(|a| a.split_once('/').unwrap().0.parse().unwrap()).collect()
}

/// Whether the bridge keeps VLANs apart.
fn filters(bridge: &str) -> bool {
    find(bridge).bridge.unwrap().vlan_filtering
}

/// The names of the node's links, sorted.
fn names() -> Vec<String> {
    let mut names: Vec<_> = links().into_iter().map(|l| l.name).collect();
    names.sort();
    names
}
