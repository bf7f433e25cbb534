//! Real container runtimes on a host of ours: Debian's containerd (its CRI
//! and `ctr`) and podman, unpacked by `integration/setup run`, not installed.
//!
//! | module | what |
//! |---|---|
//! | [`boot`] | everything that runs from a machine's boot to its end |
//! | [`image`] | an image made here: no registry is asked |
//! | [`containerd`] | the daemon, and `ctr` |
//! | [`cri`] | what kubelet says to it |
//! | [`podman`] | podman with its CNI backend |
//!
//! What these need of the machine, found by trying:
//!
//! - `CAP_SYS_RESOURCE` may be missing: no `oom_score_adj` below the own
//!   (`restrict_oom_score_adj`), no raised limits (podman's
//!   `default_ulimits`).
//! - crun refuses cgroups of both versions beside each other; runc works.
//! - cgroups have names on the machine, as the only thing here: each boot has
//!   a cgroup of its own name, which it removes, as the next one does when a
//!   test was killed.

pub mod boot;
mod cgroup;
pub mod containerd;
pub mod cri;
pub mod image;
pub mod podman;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::daemon::binary;
use crate::host::Host;

/// Where runtimes look for plugins.
pub const PLUGINS: &str = "/opt/cni/bin";

/// Where runtimes look for lists.
pub const LISTS: &str = "/etc/cni/net.d";

/// A program of the unpacked packages.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let root = root();
    let folders = ["usr/bin", "usr/sbin", "bin"];
    let mut files = folders.map(|f| root.join(f).join(name)).into_iter();
    let found = files.find(|file| file.is_file());
    ensure!(
        found.is_some(),
        "{name} is not in {}: `integration/setup run` unpacks it, \
         FLANNEL_TEST_RUNTIMES names the folder",
        root.display()
    );
    Ok(found.unwrap_or_default())
}

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("FLANNEL_TEST_RUNTIMES").unwrap_or_default())
}

/// The search path of a runtime: its own package's programs first.
fn search_path() -> String {
    let root = root();
    format!(
        "{0}/usr/sbin:{0}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        root.display()
    )
}

/// Prepares `host` for a runtime: an `/etc` of its own with `list`, the image,
/// and the plugins.
///
/// # Errors
/// When a step fails.
pub fn prepare(host: &Host, list: &str) -> Result<()> {
    host.run(|| own_folder("/etc"))?;
    image::write(host)?;
    prepare_plugins(host)?;
    host.write(&format!("{LISTS}/10-flannel.conflist"), list)
}

/// Our plugin under every name it answers to, as a user installs it, in an
/// `/opt` of `host`'s own.
///
/// # Errors
/// When `flannel install` fails.
pub fn prepare_plugins(host: &Host) -> Result<()> {
    host.run(|| -> Result<()> {
        own_folder("/opt")?;
        Ok(std::fs::create_dir_all(PLUGINS)?)
    })?;
    let plugin = binary("flannel")?.display().to_string();
    host.cmd(&[plugin.as_str(), "install"]).map(drop)
}

/// Covers `folder`, for the calling thread's mounts, with what looks the same
/// and keeps what is written to itself.
fn own_folder(folder: &str) -> Result<()> {
    let own = format!("/var/lib/flannel-it/own{folder}");
    let (upper, work) = (format!("{own}/upper"), format!("{own}/work"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let options = format!("lowerdir={folder},upperdir={upper},workdir={work}");
    let overlay = Some("overlay");
    let data = Some(options.as_str());
    mount(overlay, folder, overlay, MsFlags::empty(), data)
        .with_context(|| format!("an own {folder}: {options}"))
}

/// Puts a plugin that is not ours beside them, or in place of one.
///
/// # Errors
/// When it cannot be copied.
pub fn install_plugin(host: &Host, file: &Path) -> Result<()> {
    let file = file.display().to_string();
    host.cmd(&["cp", "--remove-destination", &file, PLUGINS]).map(drop)
}
