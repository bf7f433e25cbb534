//! IPAM of type `host-local`, done in this process (HL ids). The pool and its
//! files are [`ipam::pool`]'s; this is its configuration and its result.

mod conf;
mod flush;
mod heal;
mod plugin;
mod resolvconf;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use ipam::gojson::Object;
use ipam::pool::{
    AllocateError, Allocated, Attachment, DEFAULT_DATA_DIR, Pool, PoolError,
};

use crate::cidr::Cidr;
use crate::protocol::{Call, CniError, Differences, code};
use crate::result::{CniResult, IpConfig};

use conf::Conf;
pub(crate) use plugin::HostLocalPlugin;

/// The `type` it is known by.
pub(crate) const TYPE: &str = "host-local";

/// Whether the configuration `text` is one. A resolv.conf it names is read.
///
/// # Errors
/// As [`HostLocal::add`] has them for what it reads.
pub(crate) fn judge(call: &Call, text: &str) -> Result<(), CniError> {
    Conf::read(&Object::parse(text)?, call).map(drop)
}

/// One attachment's view of its network's pool.
#[derive(Debug)]
pub(crate) struct HostLocal {
    network: String,
    data_dir: PathBuf,
    attachment: Attachment,
    /// Whether every living address of the pool is on a link that
    /// [`Alive`](crate::alive::Alive) can see.
    on_links: bool,
}

// === impl HostLocal ===

impl HostLocal {
    /// The pool that `conf` names. Nothing else of `conf` is looked at, so
    /// that an address can be released whatever became of the rest (HL-38).
    pub(crate) fn of(conf: &Object<'_>, network: &str, call: &Call) -> Self {
        let data_dir = conf
            .object("ipam")
            .ok()
            .flatten()
            .and_then(|ipam| ipam.string("dataDir").ok().flatten())
            .filter(|dir| !dir.is_empty());
        Self {
            network: network.to_owned(),
            data_dir: data_dir
                .unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned())
                .into(),
            attachment: Attachment::new(
                &call.env.container_id,
                &call.env.ifname,
            ),
            on_links: true,
        }
    }

    /// For a plugin that is not ours: what it does with the addresses is not
    /// known. A virtual machine or a user-space driver has them on no link of
    /// the kernel, so only the runtime's GC tells that they are free.
    pub(crate) fn for_others(self) -> Self {
        Self { on_links: false, ..self }
    }

    /// Reserves an address of each range set; all or none.
    ///
    /// # Errors
    /// Code 7 for a configuration that is wrong, code 11 when no address is
    /// free or the pool is busy.
    pub(crate) fn add(
        &self,
        conf: &Object<'_>,
        call: &Call,
    ) -> Result<CniResult, CniError> {
        let conf = Conf::read(conf, call)?;
        call.deadline.enter("reserving an address")?;
        let deadline = call.deadline.at();
        let mut pool = Pool::open(&self.data_dir, &self.network, deadline)
            .map_err(|e| failed(&e))?;
        let take = |pool: &mut Pool| {
            pool.allocate(&self.attachment, &conf.sets, &conf.requested)
        };
        let taken = match take(&mut pool) {
            Err(e) if is_taken(&e) && self.heal(&mut pool) => take(&mut pool),
            other => other,
        }
        .map_err(|e| failed(&e))?;
        drop(pool);
        flush::connections(taken.iter().filter(|t| t.recent).map(|t| t.ip));
        Ok(CniResult {
            interfaces: Vec::new(),
            ips: taken.iter().map(ip_config).collect(),
            routes: conf.routes,
            dns: conf.dns,
        })
    }

    /// Gives the attachment's addresses back and returns them; none is no
    /// error.
    ///
    /// # Errors
    /// Code 5 or 11; it may be called again.
    pub(crate) fn release(&self, call: &Call) -> Result<Vec<IpAddr>, CniError> {
        call.deadline.enter("releasing the address")?;
        let deadline = call.deadline.at();
        let opened =
            Pool::open_existing(&self.data_dir, &self.network, deadline);
        match opened {
            Ok(Some(mut pool)) => {
                pool.release(&self.attachment).map_err(|e| failed(&e))
            }
            Ok(None) => Ok(Vec::new()),
            // where no folder can be, nothing can be reserved
            Err(PoolError::Disk(e))
                if e.io().kind() == ErrorKind::NotADirectory =>
            {
                Ok(Vec::new())
            }
            Err(e) => Err(failed(&e)),
        }
    }

    /// Checks that the attachment has a reservation (HL-39) and, beyond
    /// host-local, that it is for the addresses of `previous`.
    ///
    /// # Errors
    /// Code 100 when it has not.
    pub(crate) fn check(
        &self,
        call: &Call,
        previous: &CniResult,
    ) -> Result<(), CniError> {
        call.deadline.enter("looking for the reservation")?;
        let held = match self.existing(call)? {
            Some(mut pool) => {
                pool.find(&self.attachment).map_err(|e| failed(&e))?
            }
            None => Vec::new(),
        };
        if held.is_empty() {
            return Err(CniError::new(
                code::DIFFERS,
                format!(
                    "host-local: Failed to find address added by container {}",
                    call.env.container_id
                ),
            ));
        }
        let mut found = Differences::default();
        for ip in &previous.ips {
            found.expect(
                held.contains(&ip.address.ip),
                format_args!(
                    "host-local: {} is not reserved for container {} \
                     interface {}, which has {held:?}",
                    ip.address.ip, call.env.container_id, call.env.ifname
                ),
            );
        }
        found.end()
    }
}

fn ip_config(from: &Allocated) -> IpConfig {
    IpConfig {
        interface: None,
        address: Cidr { ip: from.ip, len: from.prefix_len },
        gateway: Some(from.gateway),
    }
}

/// Whether an address was wanted that is another's.
const fn is_taken(e: &PoolError) -> bool {
    matches!(
        e,
        PoolError::Allocate {
            source: AllocateError::Exhausted(_) | AllocateError::Taken { .. },
            ..
        }
    )
}

/// The texts are host-local's, which do not say what to do.
fn failed(e: &PoolError) -> CniError {
    let (code, remedy) = match e {
        PoolError::Network(_) => (code::CONFIG, ""),
        PoolError::Disk(disk) => {
            return CniError::io(disk.io(), e.to_string());
        }
        PoolError::Busy { .. } => (code::TRY_AGAIN, ""),
        PoolError::Requested(_) => (
            code::INTERNAL,
            "each address that is asked for must be in a range set, and in \
             another one than the others",
        ),
        PoolError::Allocate { source, .. } => match source {
            AllocateError::Exhausted(_) => (
                code::TRY_AGAIN,
                "all are reserved: let pods end, or give the network larger \
                 ranges (flannel: SubnetLen)",
            ),
            AllocateError::Taken { .. } => {
                (code::TRY_AGAIN, "another pod holds it")
            }
            AllocateError::Gateway(_) => (code::INTERNAL, ""),
            AllocateError::Duplicate { .. } => (
                code::INTERNAL,
                "an earlier ADD of this attachment reserved it; run DEL",
            ),
        },
    };
    CniError::new(code, e.to_string()).details(remedy)
}
