//! What an interface was like before (TU-3), in upstream's file, with
//! members of our own that say whose it is.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipam::gojson::Object;
use serde_json::{Map, Value};

use super::conf::Attributes;
use crate::files::{failed, remove};
use crate::mac;
use crate::owner::{self, Owner};
use crate::protocol::{Call, CniError, ValidAttachments, gather};

/// The longest part of a file's name that a container's id can be, in bytes:
/// with an interface's name (15) and what is around it they are 255.
const CONTAINER_MAX: usize = 234;

/// The files.
#[derive(Clone, Debug)]
pub(super) struct Backups {
    folder: PathBuf,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backup {
    /// As they were.
    pub(super) attributes: Attributes,
    /// Network, container and interface; `None` in one of the Go plugin's.
    owner: Option<[String; 3]>,
}

// === impl Backups ===

impl Backups {
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Keeps what was before. What is kept already stays: it was before an
    /// ADD that did not come to its end.
    ///
    /// # Errors
    /// Code 5.
    pub(super) fn keep(
        &self,
        call: &Call,
        before: &Attributes,
    ) -> Result<(), CniError> {
        let kept = self.kept(call).map(|kept| kept.attributes);
        let all = kept.unwrap_or_default().over(before.clone());
        let (path, temporary) = (self.path(call), self.temporary(call));
        let write = || -> io::Result<()> {
            let mut folder = DirBuilder::new();
            folder.recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(render(&all, call).as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|e| failed("write", &path, &e))
    }

    /// What is kept for the attachment.
    pub(super) fn kept(&self, call: &Call) -> Option<Backup> {
        read(&self.path(call))
    }

    /// # Errors
    /// Code 5.
    pub(super) fn remove(&self, call: &Call) -> Result<(), CniError> {
        remove(&self.temporary(call)).and_then(|()| remove(&self.path(call)))
    }

    /// Removes those of this network's attachments that are not valid, also
    /// what was not whole when its ADD ended: their interfaces are gone with
    /// their namespaces.
    ///
    /// # Errors
    /// Code 5, all of them together.
    pub(super) fn collect(
        &self,
        network: &str,
        valid: &ValidAttachments,
    ) -> Result<(), CniError> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let kept = owner::aliases(network, valid);
        let prefix = owner::prefix(network);
        let stale = paths.filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            let name = name.unwrap_or_default();
            if name.starts_with(&prefix) {
                return !kept.contains(&*name);
            }
            let owner = read(path).and_then(|backup| backup.owner);
            owner.is_some_and(|[of, id, ifname]| {
                of == network && !valid.contains(&id, &ifname)
            })
        });
        gather(stale.map(|path| remove(&path)))
    }

    fn path(&self, call: &Call) -> PathBuf {
        let env = &call.env;
        let container = owner::short(&env.container_id, CONTAINER_MAX);
        self.folder.join(format!("{container}_{}.json", env.ifname))
    }

    /// Where it is written until it is whole: under a name that says whose it
    /// is, as what is in it may be cut.
    fn temporary(&self, call: &Call) -> PathBuf {
        self.folder.join(Owner::of(call).alias())
    }
}

fn render(attributes: &Attributes, call: &Call) -> String {
    let Attributes { mac, promisc, mtu, allmulti, txqlen } = attributes;
    let mut out = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(key.to_owned(), value);
        }
    };
    put("mac", mac.map(|mac| mac::text(Some(mac)).into()));
    put("promisc", promisc.map(Value::from));
    put("mtu", mtu.map(Value::from));
    put("allmulti", allmulti.map(Value::from));
    put("txQLen", txqlen.map(Value::from));
    put("network", Some(call.name.clone().into()));
    put("containerID", Some(call.env.container_id.clone().into()));
    put("ifname", Some(call.env.ifname.clone().into()));
    Value::Object(out).to_string()
}

/// `None` for what is not there, or holds nothing of use.
fn read(path: &Path) -> Option<Backup> {
    let text = fs::read_to_string(path).ok()?;
    let from = Object::parse(&text).ok()?;
    let owner = ["network", "containerID", "ifname"]
        .map(|key| from.string(key).ok().flatten());
    let owner = match owner {
        [Some(network), Some(id), Some(ifname)] => Some([network, id, ifname]),
        _ => None,
    };
    let mac = from.string("mac").ok().flatten();
    let attributes = Attributes {
        mac: mac.and_then(|text| mac::parse(&text)),
        promisc: from.bool("promisc").ok()?,
        mtu: from.integer("mtu").ok()?,
        allmulti: from.bool("allmulti").ok()?,
        txqlen: from.integer("txQLen").ok()?,
    };
    Some(Backup { attributes, owner })
}
