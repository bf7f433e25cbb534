//! Type `bandwidth`: limits what goes to the pod and what comes from it (BW
//! ids), by a token bucket on the host's end of its cable, and one on a
//! device of its own over which what it sends is led.

mod conf;
mod links;
#[cfg(test)]
mod tests;

use netlink::link::LinkInfo;
use netlink::tc::{self, Bucket};
use netlink::{Dump, Request, Socket, link};

use crate::mac;
use crate::protocol::{
    Call, CniError, Differences, Plugin, Version, gather, log,
};
use crate::result::{CniResult, Interface};

use conf::Limits;
use links::Device;

/// The plugin.
#[derive(Debug)]
pub(crate) struct Bandwidth;

impl Plugin for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn oldest(&self) -> Version {
        Version::V030
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let limits = Limits::read(&call.conf()?)?;
        let mut result = call.required_previous()?;
        if limits.is_empty() {
            return Ok(result);
        }
        call.deadline.enter("limiting the pod's rate")?;
        let port = links::host_end(call, &result)?;
        let mut socket = Socket::open().map_err(CniError::from)?;
        let mut made = Vec::new();
        match set(call, &mut socket, &limits, &port, &mut made) {
            Ok(Some(ifb)) => result.interfaces.push(ifb),
            Ok(None) => {}
            Err(error) => {
                // newest first; the device takes along what is on it
                for undo in made.iter().rev() {
                    if let Err(e) = socket.request(undo) {
                        log(format_args!("undoing a failed ADD: {e}"));
                    }
                }
                return Err(error);
            }
        }
        Ok(result)
    }

    /// What is on the cable goes with it.
    fn del(&self, call: &Call) -> Result<(), CniError> {
        call.deadline.enter("removing the pod's limit")?;
        let mut socket = Socket::open().map_err(CniError::from)?;
        links::remove_ifb(call, &mut socket)
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let limits = Limits::read(&call.conf()?)?;
        let previous = call.required_previous()?;
        if limits.is_empty() {
            return Ok(());
        }
        let port = links::host_end(call, &previous)?;
        let mut socket = Socket::open().map_err(CniError::from)?;
        let mut found = Differences::default();
        if let Some(bucket) = &limits.to_pod {
            check_bucket(&mut socket, &port, bucket, &mut found)?;
        }
        let Some(bucket) = &limits.from_pod else { return found.end() };
        match links::ifb(call, &mut socket)? {
            Some(ifb) => {
                check_bucket(&mut socket, &ifb, bucket, &mut found)?;
            }
            None => found.add(format_args!(
                "the device over which what {} takes in is led is missing",
                port.name
            )),
        }
        let on_port = qdiscs(&mut socket, &port)?;
        found.expect(
            on_port.iter().any(|q| q.kind == "ingress"),
            format_args!("{} has no ingress", port.name),
        );
        found.end()
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        call.deadline.enter("removing the limits of pods that are gone")?;
        let mut socket = Socket::open().map_err(CniError::from)?;
        let stale = links::stale(call, &mut socket, &valid)?;
        let removed = stale.iter().map(|ifb| link::delete(ifb.index));
        let removed: Vec<_> = removed.collect();
        gather(socket.batch(&removed).into_iter().map(|r| match r {
            Err(e) if e.is_not_found() => Ok(()),
            other => other.map_err(CniError::from),
        }))
    }

    /// What limits may be missing in a kernel is seen only by making one.
    fn status(&self, call: &Call) -> Result<(), CniError> {
        Limits::read(&call.conf()?)?;
        Socket::open().map(drop).map_err(|e| CniError::from(e).unavailable())
    }
}

/// Sets the limits; returns the device that one of them needs. `made` is what
/// takes back whatever this call has made so far, and nothing that an ADD
/// before this one has made: the pod may be running.
fn set(
    call: &Call,
    socket: &mut Socket,
    limits: &Limits,
    port: &LinkInfo,
    made: &mut Vec<Request>,
) -> Result<Option<Interface>, CniError> {
    let ifb = match &limits.from_pod {
        Some(bucket) => Some(lead_over(call, socket, bucket, port, made)?),
        None => None,
    };
    // at the end, in one step, as it may replace a limit that must stay when
    // another step fails
    if let Some(bucket) = &limits.to_pod {
        socket.request(&tc::limit(port.index, bucket)).map_err(unsupported)?;
    }
    Ok(ifb)
}

/// Leads what the pod sends over a device, and limits it there.
fn lead_over(
    call: &Call,
    socket: &mut Socket,
    bucket: &Bucket,
    port: &LinkInfo,
    made: &mut Vec<Request>,
) -> Result<Interface, CniError> {
    let Device { link: ifb, is_new } = links::add_ifb(call, socket, port)?;
    if is_new {
        made.push(link::delete(ifb.index));
    }
    socket.request(&tc::limit(ifb.index, bucket)).map_err(unsupported)?;
    // nothing can lead to a new one
    let is_led = !is_new
        && tc::led_to(socket, ifb.index)
            .map_err(CniError::from)?
            .contains(&port.index);
    if !is_led {
        // in place of one that leads to a device that is gone, or nowhere
        let _ = socket.request(&tc::delete_ingress(port.index));
        socket.request(&tc::add_ingress(port.index)).map_err(unsupported)?;
        made.push(tc::delete_ingress(port.index));
        socket
            .request(&tc::redirect(port.index, ifb.index))
            .map_err(unsupported)?;
    }
    Ok(Interface {
        name: ifb.name,
        mac: mac::text(ifb.mac),
        ..Interface::default()
    })
}

/// The kernel's refusal, with what it lacks where that is the reason.
fn unsupported(e: netlink::Error) -> CniError {
    use netlink::Errno;
    let missing = [Errno::EOPNOTSUPP, Errno::ENOENT];
    let is_missing = e.errno().is_some_and(|errno| missing.contains(&errno));
    let error = CniError::from(e);
    match is_missing {
        true => error.details(
            "the kernel may lack one of ifb, sch_tbf, sch_ingress, cls_u32, \
             act_mirred",
        ),
        false => error,
    }
}

fn check_bucket(
    socket: &mut Socket,
    link: &LinkInfo,
    want: &Bucket,
    found: &mut Differences,
) -> Result<(), CniError> {
    let all = qdiscs(socket, link)?;
    match all.iter().find_map(|q| q.bucket) {
        None => found.add(format_args!("{} has no limit", link.name)),
        Some(is) if want.is(&is) => {}
        Some(is) => found.add(format_args!(
            "{} is limited to {} B/s with {} B waiting at most, but should \
             be to {} B/s with bursts of {} B and {} B",
            link.name, is.rate, is.limit, want.rate, want.burst, want.limit
        )),
    }
    Ok(())
}

fn qdiscs(
    socket: &mut Socket,
    link: &LinkInfo,
) -> Result<Vec<tc::QdiscInfo>, CniError> {
    tc::list(socket, link.index)
        .and_then(Dump::complete)
        .map_err(CniError::from)
}
