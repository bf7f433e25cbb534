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

/// One of its zones, for as long as a verb has time.
#[derive(Debug)]
pub(super) struct Zone<'a> {
    name: &'a str,
    until: &'a Deadline,
}

enum Failed {
    Missing,
    Program(ProgramError),
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

// === impl Zone ===

impl<'a> Zone<'a> {
    pub(super) const fn of(name: &'a str, until: &'a Deadline) -> Self {
        Self { name, until }
    }

    /// Makes the addresses sources of the zone; those that are already are
    /// left.
    ///
    /// # Errors
    /// Code 999, such as for an address in another zone.
    pub(super) fn add(&self, ips: &BTreeSet<IpAddr>) -> Result<(), CniError> {
        for ip in ips {
            if !self.has(*ip)? {
                self.run("--add-source", *ip).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Takes them out; all that can be.
    ///
    /// # Errors
    /// Code 999.
    pub(super) fn remove(
        &self,
        ips: &BTreeSet<IpAddr>,
    ) -> Result<(), CniError> {
        gather(ips.iter().map(|ip| match self.has(*ip)? {
            true => self.run("--remove-source", *ip).map_err(failed),
            false => Ok(()),
        }))
    }

    /// # Errors
    /// Code 100 for addresses that are no sources of the zone.
    pub(super) fn check(&self, ips: &BTreeSet<IpAddr>) -> Result<(), CniError> {
        let (mut found, zone) = (Differences::default(), self.name);
        for ip in ips {
            found.expect(
                self.has(*ip)?,
                format_args!("{ip} is no source of firewalld's zone {zone}"),
            );
        }
        found.end()
    }

    fn has(&self, ip: IpAddr) -> Result<bool, CniError> {
        match self.run("--query-source", ip) {
            Ok(()) => Ok(true),
            Err(Failed::Program(ProgramError::Failed { status, .. }))
                if status.code() == Some(NO) =>
            {
                Ok(false)
            }
            Err(e) => Err(failed(e)),
        }
    }

    fn run(&self, what: &str, ip: IpAddr) -> Result<(), Failed> {
        let tool = tool().ok_or(Failed::Missing)?;
        let zone = format!("--zone={}", self.name);
        let args = [&*zone, &*format!("{what}={}", Subnet::host(ip))];
        ask(&tool, &args, self.until).map_err(Failed::Program)
    }
}
