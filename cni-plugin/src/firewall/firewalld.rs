//! firewalld, told by its own program: the pod's addresses become sources of
//! a zone (FW-4).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipam::Subnet;
use netlink::program::{self, ProgramError};

use crate::protocol::{CniError, Deadline, Differences, code, gather};

/// What it ends with when the answer to a question is no.
const NO: i32 = 1;

/// Whether it is there and running.
pub(super) fn runs(until: &Deadline) -> bool {
    tool().is_some_and(|tool| ask(&tool, &["--state"], until).is_ok())
}

/// Makes the addresses sources of the zone; those that are already are left.
///
/// # Errors
/// Code 999, such as for an address in another zone.
pub(super) fn add(
    zone: &str,
    ips: &BTreeSet<IpAddr>,
    until: &Deadline,
) -> Result<(), CniError> {
    for ip in ips {
        if !is_source(zone, *ip, until)? {
            run(zone, "--add-source", *ip, until).map_err(failed)?;
        }
    }
    Ok(())
}

/// Takes them out; all that can be.
///
/// # Errors
/// Code 999.
pub(super) fn remove(
    zone: &str,
    ips: &BTreeSet<IpAddr>,
    until: &Deadline,
) -> Result<(), CniError> {
    gather(ips.iter().map(|ip| match is_source(zone, *ip, until)? {
        true => run(zone, "--remove-source", *ip, until).map_err(failed),
        false => Ok(()),
    }))
}

/// # Errors
/// Code 100 for an address that is no source of the zone.
pub(super) fn check(
    zone: &str,
    ips: &BTreeSet<IpAddr>,
    until: &Deadline,
) -> Result<(), CniError> {
    let mut found = Differences::default();
    for ip in ips {
        found.expect(
            is_source(zone, *ip, until)?,
            format_args!("{ip} is no source of firewalld's zone {zone}"),
        );
    }
    found.end()
}

/// # Errors
/// Code 50 when it does not run.
pub(super) fn status(until: &Deadline) -> Result<(), CniError> {
    match runs(until) {
        true => Ok(()),
        false => Err(CniError::new(
            code::NOT_AVAILABLE,
            "firewalld does not run; start it, or say \"iptables\" as the \
             backend",
        )),
    }
}

fn is_source(
    zone: &str,
    ip: IpAddr,
    until: &Deadline,
) -> Result<bool, CniError> {
    match run(zone, "--query-source", ip, until) {
        Ok(()) => Ok(true),
        Err(Failed::Program(ProgramError::Failed { status, .. }))
            if status.code() == Some(NO) =>
        {
            Ok(false)
        }
        Err(e) => Err(failed(e)),
    }
}

enum Failed {
    Missing,
    Program(ProgramError),
}

fn run(
    zone: &str,
    what: &str,
    ip: IpAddr,
    until: &Deadline,
) -> Result<(), Failed> {
    let tool = tool().ok_or(Failed::Missing)?;
    let (zone, ip) = (format!("--zone={zone}"), Subnet::host(ip));
    let args = [&*zone, &*format!("{what}={ip}")];
    ask(&tool, &args, until).map_err(Failed::Program)
}

/// Runs it for no longer than the verb has time.
fn ask(
    tool: &Path,
    args: &[&str],
    until: &Deadline,
) -> Result<(), ProgramError> {
    program::run_for(tool, args, None, until.left()).map(drop)
}

fn failed(e: Failed) -> CniError {
    match e {
        Failed::Program(e) => e.into(),
        Failed::Missing => CniError::new(
            code::NOT_AVAILABLE,
            "firewall-cmd is not in PATH; install firewalld, or say \
             \"iptables\" as the backend",
        ),
    }
}

fn tool() -> Option<PathBuf> {
    program::which(&std::env::var_os("PATH")?, "firewall-cmd")
}
