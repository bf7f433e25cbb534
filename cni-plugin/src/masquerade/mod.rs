//! Masquerading for single pods, as `bridge` and `ptp` do it where `ipMasq`
//! is asked for (BR-49..BR-56). Rules are found by owner: neither the pod nor
//! its addresses are needed to remove them (CW-2, CW-9).

mod iptables;
mod nftables;

use ipam::Family;
use ipam::gojson::Object;
use netlink::nft;

use crate::cidr::Cidr;
use crate::owner::Owner;
use crate::protocol::{
    Call, CniError, Deadline, Differences, ValidAttachments, code, gather,
};
use crate::xtables::Xtables;

/// Who carries the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Upstream's choice: iptables where it is installed, else nf_tables.
    Any,
    /// iptables and ip6tables.
    Iptables,
    /// nf_tables, in the kernel.
    Nftables,
}

/// What a configuration asks for; `None` for no masquerading.
///
/// # Errors
/// Code 7 for a backend that is none.
pub(crate) fn wanted(conf: &Object<'_>) -> Result<Option<Backend>, CniError> {
    let backend = match conf.string("ipMasqBackend")?.as_deref() {
        None | Some("") => Backend::Any,
        Some("iptables") => Backend::Iptables,
        Some("nftables") => Backend::Nftables,
        Some(other) => {
            return Err(CniError::config(format!(
                "unknown ipmasq backend {other:?}: it must be iptables or \
                 nftables"
            )));
        }
    };
    let on = conf.bool("ipMasq")?.unwrap_or_default();
    Ok(on.then_some(backend))
}

/// Whether this host can (S-63); which families pods will have is not known
/// yet.
///
/// # Errors
/// Code 50, or code 11 for what passes by itself.
pub(crate) fn available(
    backend: Option<Backend>,
    deadline: &Deadline,
) -> Result<(), CniError> {
    let Some(backend) = backend else { return Ok(()) };
    if backend != Backend::Iptables
        && nft::supported().map_err(|e| CniError::from(e).unavailable())?
    {
        return Ok(());
    }
    if backend == Backend::Nftables {
        return Err(CniError::new(
            code::NOT_AVAILABLE,
            "ipMasqBackend is nftables, but this kernel has no nf_tables; \
             choose another backend",
        ));
    }
    match Xtables::all(deadline).next() {
        Some(_) => Ok(()),
        None => Xtables::required(Family::V4, deadline).map(drop),
    }
}

/// Masquerades what the owner sends from `ips` to other networks than the
/// addresses'.
///
/// # Errors
/// Code 50 without iptables where it is named, code 999. Some of it may be
/// there then: [`remove`] it.
pub(crate) fn set(
    call: &Call,
    backend: Backend,
    ips: &[Cidr],
) -> Result<(), CniError> {
    let owner = Owner::of(call);
    match backend.choose(ips, &call.deadline) {
        Backend::Nftables => nftables::set(owner, ips),
        Backend::Any | Backend::Iptables => {
            each(ips, &call.deadline, |tool, ips| {
                iptables::set(tool, owner, ips)
            })
        }
    }
}

/// Says what is missing of what [`set`] makes.
///
/// # Errors
/// Code 100.
pub(crate) fn check(
    call: &Call,
    backend: Backend,
    ips: &[Cidr],
) -> Result<(), CniError> {
    let owner = Owner::of(call);
    match backend.choose(ips, &call.deadline) {
        Backend::Nftables => nftables::check(owner, ips),
        Backend::Any | Backend::Iptables => {
            let mut found = Differences::default();
            each(ips, &call.deadline, |tool, ips| {
                found.note(iptables::check(tool, owner, ips))
            })?;
            found.end()
        }
    }
}

/// Removes the owner's rules from wherever they may be (BR-55). Where there
/// are none, no program is run.
///
/// # Errors
/// Code 999, all of them together.
pub(crate) fn remove(call: &Call) -> Result<(), CniError> {
    let owner = Owner::of(call);
    let tools = Xtables::all(&call.deadline);
    let over_iptables = tools.map(|tool| iptables::remove(&tool, owner));
    let over_nftables = without_nft(nftables::remove(owner));
    gather(over_iptables.chain([over_nftables]))
}

/// Removes the rules of this network's attachments that are not valid.
///
/// # Errors
/// Code 999, all of them together.
pub(crate) fn gc(
    call: &Call,
    valid: &ValidAttachments,
) -> Result<(), CniError> {
    let network = &call.name;
    let tools = Xtables::all(&call.deadline);
    let over_iptables = tools.map(|tool| iptables::gc(&tool, network, valid));
    let over_nftables = without_nft(nftables::gc(network, valid));
    gather(over_iptables.chain([over_nftables]))
}

/// A kernel without nf_tables has nothing in it: what was to be removed there
/// is gone.
pub(crate) fn without_nft(
    result: Result<(), CniError>,
) -> Result<(), CniError> {
    result.or_else(|e| match nft::supported() {
        Ok(false) => Ok(()),
        _ => Err(e),
    })
}

/// The addresses of each family, with its programs.
fn each(
    ips: &[Cidr],
    deadline: &Deadline,
    mut work: impl FnMut(&Xtables<'_>, &[Cidr]) -> Result<(), CniError>,
) -> Result<(), CniError> {
    for family in Family::ALL {
        let of = |ip: &&Cidr| ip.family() == family;
        let ips: Vec<Cidr> = ips.iter().filter(of).copied().collect();
        if !ips.is_empty() {
            work(&Xtables::required(family, deadline)?, &ips)?;
        }
    }
    Ok(())
}

// === impl Backend ===

impl Backend {
    fn choose(self, ips: &[Cidr], deadline: &Deadline) -> Self {
        let missing =
            |ip: &Cidr| Xtables::find(ip.family(), deadline).is_none();
        let nft = || matches!(nft::supported(), Ok(true));
        match self {
            Self::Any if ips.iter().any(missing) && nft() => Self::Nftables,
            Self::Any => Self::Iptables,
            Self::Iptables | Self::Nftables => self,
        }
    }
}
