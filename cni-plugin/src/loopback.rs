//! Type `loopback`: the interface `lo` of the pod (LO-1, LO-2). CNI_IFNAME
//! does not matter.

use ipam::Family;
use netlink::{Dump, Socket, addr, link};

use crate::cidr::Cidr;
use crate::protocol::{Call, CniError, Plugin, code};
use crate::result::{CniResult, Interface, IpConfig};

const LO: &str = "lo";

/// The plugin.
#[derive(Debug)]
pub(crate) struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let previous = call.previous()?;
        let mut socket = open(call)?;
        let lo = link::by_name(&mut socket, LO).map_err(CniError::from)?;
        if !lo.up {
            socket
                .request(&link::set(lo.index).up().build())
                .map_err(CniError::from)?;
        }
        let addresses = addr::list(&mut socket, None, Some(lo.index))
            .and_then(Dump::complete)
            .map_err(CniError::from)?;
        if let Some(other) = addresses.iter().find(|a| !a.ip.is_loopback()) {
            return Err(CniError::internal(format_args!(
                "loopback interface has non-loopback address {}",
                other.ip
            )));
        }
        if let Some(previous) = previous {
            return Ok(previous);
        }
        // the first of each family, IPv4 first
        let first = |family| {
            let ip = addresses.iter().find(|a| Family::of(a.ip) == family)?;
            Some(IpConfig {
                interface: Some(0),
                address: Cidr { ip: ip.ip, len: ip.len },
                gateway: None,
            })
        };
        Ok(CniResult {
            interfaces: vec![Interface {
                name: LO.to_owned(),
                mac: "00:00:00:00:00:00".to_owned(),
                sandbox: call.env.netns.clone(),
                ..Interface::default()
            }],
            ips: Family::ALL.into_iter().filter_map(first).collect(),
            ..CniResult::default()
        })
    }

    /// A namespace that is gone, or whose path holds something else, needs
    /// nothing.
    fn del(&self, call: &Call) -> Result<(), CniError> {
        let Some(netns) = call.living_netns()? else { return Ok(()) };
        let mut socket = Socket::open_in(&netns).map_err(CniError::from)?;
        let lo = link::by_name(&mut socket, LO).map_err(CniError::from)?;
        socket
            .request(&link::set(lo.index).down().build())
            .map_err(CniError::from)
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let mut socket = open(call)?;
        let lo = link::by_name(&mut socket, LO).map_err(CniError::from)?;
        match lo.up {
            true => Ok(()),
            false => {
                let msg = "loopback interface is down";
                Err(CniError::new(code::DIFFERS, msg))
            }
        }
    }

    /// Nothing is kept about an attachment, so nothing can be left over.
    fn gc(&self, call: &Call) -> Result<(), CniError> {
        call.valid_attachments().map(drop)
    }

    /// Nothing is needed.
    fn status(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }
}

fn open(call: &Call) -> Result<Socket, CniError> {
    Socket::open_in(&call.netns()?).map_err(CniError::from)
}
