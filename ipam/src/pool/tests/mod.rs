//! Tests of the pool: on a disk in memory that can stop anywhere, and on a
//! real one.

use std::net::IpAddr;

use super::{Attachment, RangeConf, RangeSet};

mod crash;
mod folder;
mod heal;
mod index;
mod mem;
mod model;
mod processes;
mod range;
mod turn;

const NONE: [IpAddr; 0] = [];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|t| ip(t)).collect()
}

/// A range of nothing but a subnet.
fn subnet(text: &str) -> RangeConf {
    RangeConf { subnet: Some(text.to_owned()), ..RangeConf::default() }
}

/// A set of such ranges.
fn set(subnets: &[&str]) -> RangeSet {
    let conf = subnets.iter().map(|s| subnet(s)).collect();
    RangeSet::from_conf(&[conf], "1.0.0").unwrap().remove(0)
}

/// `subnet`, or `subnet start end`, or with a gateway as the fourth word;
/// `-` is absent.
fn range(text: &str) -> RangeConf {
    let mut words = text.split(' ').map(|w| match w {
        "-" => None,
        w => Some(w.to_owned()),
    });
    RangeConf {
        subnet: words.next().flatten(),
        range_start: words.next().flatten(),
        range_end: words.next().flatten(),
        gateway: words.next().flatten(),
    }
}

fn eth0(id: &str) -> Attachment {
    Attachment::new(id, "eth0")
}
