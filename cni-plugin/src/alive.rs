//! Which addresses are in use on this host: what an address pool goes by
//! before it takes an address back that nobody released.
//!
//! The files do not tell: a reservation may be a living pod's, a pod's that a
//! restart of the machine ended, or one that another plugin makes right now.
//! So the kernel is asked, in every network namespace there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipam::Family;
use ipam::pool::{Attachment, Reservation};
use netlink::link::{Filter, LinkInfo};
use netlink::route::{self, RouteInfo, TABLE_MAIN};
use netlink::{Dump, NetNs, Socket, addr, link, nsid};

use crate::owner::{self, Owner};
use crate::protocol::CniError;

/// Reservations younger than that are left alone: a plugin may have reserved
/// an address that it has not put on a link yet.
const YOUNG: Duration = Duration::from_secs(120);

/// What the kernel says of a process that ended (errno(3)).
const ESRCH: i32 = 3;
/// The bit of CAP_SYS_PTRACE.
const SYS_PTRACE: u32 = 19;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alive {
    addresses: BTreeSet<IpAddr>,
    /// Aliases of the network's links.
    aliases: BTreeSet<String>,
    /// A port of a bridge that leads to a namespace which was not found, or
    /// into one where it has no address: a pod whose state is not known, or
    /// that is being made.
    unknown: Option<String>,
}

/// A link in a namespace other than the host's, by the host's number for the
/// namespace and the link's index there.
type Place = (i32, u32);

// === impl Alive ===

impl Alive {
    /// Only the links of ours, by which most addresses are known to be in
    /// use.
    ///
    /// # Errors
    /// The kernel did not tell.
    pub(crate) fn links(network: &str) -> Result<Self, CniError> {
        let mut host = Socket::open()?;
        let links = owner::links_of(&mut host, network)?;
        let aliases = links.into_iter().map(|(alias, _)| alias).collect();
        Ok(Self { aliases, ..Self::default() })
    }

    /// Looks at the whole host, for the pool of `network`.
    ///
    /// # Errors
    /// Something could not be looked at: then nothing may be taken back.
    pub(crate) fn survey(network: &str) -> Result<Self, CniError> {
        let mut out = Self::links(network)?;
        let mut host = Socket::open().map_err(CniError::from)?;
        let mut seen = BTreeSet::new();
        for netns in namespaces()? {
            out.look_into(&netns, &mut host, &mut seen)?;
        }
        out.add_addresses(&mut host, &mut BTreeSet::new())?;
        out.add_host_routes(&mut host)?;
        let veths =
            link::list(&mut host, Filter { kind: Some("veth"), master: None })
                .and_then(Dump::complete)
                .map_err(CniError::from)?;
        let unknown = veths.into_iter().find(|veth| {
            let ours = veth.alias.as_deref().is_some_and(owner::is_alias);
            !ours && veth.master.is_some() && leads_elsewhere(veth, &seen)
        });
        out.unknown = unknown.map(|veth| veth.name);
        Ok(out)
    }

    /// Whether an address is on some link of this host.
    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
    }

    /// Whether there is the link that this build makes for `of`.
    pub(crate) fn has_link(&self, network: &str, of: &Attachment) -> bool {
        self.aliases.contains(&Owner::holding(network, of).alias())
    }

    /// The dead among `all` of `network`: nobody uses them, nor is about to.
    ///
    /// # Errors
    /// There may be a pod whose addresses are not known.
    pub(crate) fn dead(
        &self,
        network: &str,
        all: &[Reservation],
    ) -> Result<Vec<IpAddr>, CniError> {
        if let Some(port) = &self.unknown {
            return Err(CniError::internal(format_args!(
                "port {port} leads to a namespace that is not known or has \
                 no address"
            )));
        }
        let dead = |r: &&Reservation| {
            !self.has_address(r.ip)
                && match &r.attachment {
                    // its writer held the lock until it was done (HL-42)
                    None => true,
                    Some(of) => !self.has_link(network, of) && r.age >= YOUNG,
                }
        };
        Ok(all.iter().filter(dead).map(|r| r.ip).collect())
    }

    /// Takes up a namespace's addresses and, in `seen`, its links that have
    /// one.
    fn look_into(
        &mut self,
        path: &Path,
        host: &mut Socket,
        seen: &mut BTreeSet<Place>,
    ) -> Result<(), CniError> {
        // a namespace may end while we look
        let netns = match NetNs::open(path) {
            Err(e) if e.is_missing() || e.is_not_a_namespace() => return Ok(()),
            Err(_) if fs::metadata(path).is_err_and(|e| is_over(&e)) => {
                return Ok(());
            }
            other => other?,
        };
        let mut socket = Socket::open_in(&netns).map_err(CniError::from)?;
        let mut holders = BTreeSet::new();
        self.add_addresses(&mut socket, &mut holders)?;
        let number = nsid::number_of(host, &netns).map_err(CniError::from)?;
        if let Some(number) = number {
            seen.extend(holders.iter().map(|index| (number, *index)));
        }
        Ok(())
    }

    /// Takes up the addresses that have a route of their own: of a pod on a
    /// link of its own (`ptp`), whose namespace may not be known. The route
    /// goes with the link.
    fn add_host_routes(&mut self, host: &mut Socket) -> Result<(), CniError> {
        for family in Family::ALL {
            let main = route::Filter {
                family,
                table: Some(TABLE_MAIN),
                oif: None,
                protocol: None,
            };
            let routes = route::list(host, main).and_then(Dump::complete)?;
            let single = |r: &&RouteInfo| r.dst.len() == family.bits();
            let routes = routes.iter().filter(single);
            self.addresses.extend(routes.map(|r| r.dst.base()));
        }
        Ok(())
    }

    /// Takes up the addresses of a socket's namespace and, in `holders`, the
    /// links that have one of more than the link's scope.
    fn add_addresses(
        &mut self,
        socket: &mut Socket,
        holders: &mut BTreeSet<u32>,
    ) -> Result<(), CniError> {
        let all = addr::list(socket, None, None)
            .and_then(Dump::complete)
            .map_err(CniError::from)?;
        for one in all {
            let local = match one.ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            if !local {
                holders.insert(one.index);
                self.addresses.insert(one.ip);
            }
        }
        Ok(())
    }
}

/// Whether the other end of `veth` is in another namespace and not among
/// `seen`.
fn leads_elsewhere(veth: &LinkInfo, seen: &BTreeSet<Place>) -> bool {
    match (veth.peer_netns, veth.peer) {
        (Some(number), Some(index)) => !seen.contains(&(number, index)),
        _ => false,
    }
}

/// A path for each network namespace but the caller's own: those that some
/// thread is in, and those that are mounted somewhere.
fn namespaces() -> Result<Vec<PathBuf>, CniError> {
    let failed = |path: &Path, e: &std::io::Error| {
        CniError::internal(format_args!("{}: {e}", path.display()))
    };
    let mut found = BTreeMap::new();
    let mounts = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read_to_string(mounts).map_err(|e| failed(mounts, &e))?;
    for line in text.lines() {
        if let Some((name, path)) = mounted_namespace(line) {
            found.insert(name, path);
        }
    }
    let sees_all = sees_all_processes();
    let proc = Path::new("/proc");
    let processes = fs::read_dir(proc).map_err(|e| failed(proc, &e))?;
    for process in processes.flatten() {
        let numeric = process.file_name().to_string_lossy().parse::<u32>();
        if numeric.is_err() {
            continue;
        }
        let path = process.path().join("task");
        let tasks = match fs::read_dir(&path) {
            Err(e) if is_over(&e) => continue,
            other => other.map_err(|e| failed(&path, &e))?,
        };
        for task in tasks.flatten() {
            let path = task.path().join("ns/net");
            match fs::read_link(&path) {
                Ok(name) => {
                    found.insert(name.to_string_lossy().into_owned(), path);
                }
                Err(e) if is_over(&e) => {}
                // of somebody outside, as it is hidden even so: no pod's
                Err(e) if is_hidden(&e) && sees_all => {}
                Err(e) => return Err(unreadable(&path, &e)),
            }
        }
    }
    if let Ok(own) = fs::read_link("/proc/thread-self/ns/net") {
        found.remove(own.to_string_lossy().as_ref());
    }
    Ok(found.into_values().collect())
}

/// Whether a process or thread ended while we looked. Any other error hides
/// a namespace that may well be a pod's.
fn is_over(e: &io::Error) -> bool {
    e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(ESRCH)
}

fn is_hidden(e: &io::Error) -> bool {
    e.kind() == ErrorKind::PermissionDenied
}

/// Whether this process has CAP_SYS_PTRACE (capabilities(7)): without it the
/// namespaces of processes that may more than it are hidden, as pods' may.
fn sees_all_processes() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status");
    let status = status.unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    own.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << SYS_PTRACE) != 0)
}

fn unreadable(path: &Path, e: &io::Error) -> CniError {
    CniError::internal(format_args!(
        "{}: {e}: which namespaces there are is not known; the plugin must \
         run as root with CAP_SYS_PTRACE",
        path.display()
    ))
}

/// The name (`net:[4026531840]`) and path of a namespace that this line of
/// mountinfo (proc_pid_mountinfo(5)) mounts.
fn mounted_namespace(line: &str) -> Option<(String, PathBuf)> {
    let (mount, source) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    let network = source.starts_with("nsfs ") && root.starts_with("net:[");
    network.then(|| (root.to_owned(), unescape(at).into()))
}

/// Blanks and the like are `\040` in mountinfo.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|c| u8::from_str_radix(c, 8).ok());
        match (code, part.get(3..)) {
            (Some(code), Some(rest)) => {
                out.push(char::from(code));
                out.push_str(rest);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_in_mountinfo() {
        let line = "612 25 0:4 net:[4026532450] /run/netns/a\\040b rw \
                    shared:300 - nsfs nsfs rw";
        assert_eq!(
            mounted_namespace(line),
            Some(("net:[4026532450]".into(), "/run/netns/a b".into()))
        );
        for other in [
            "25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw",
            "612 25 0:4 mnt:[4026532450] /x rw shared:300 - nsfs nsfs rw",
            "",
        ] {
            assert_eq!(mounted_namespace(other), None);
        }
    }
}
