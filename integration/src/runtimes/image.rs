//! An image made here, in the form that `docker save` writes and every
//! runtime reads: one layer with busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::program;
use crate::host::Host;

/// The image's name.
pub const NAME: &str = "localhost/busybox:1";

/// Where [`write`] leaves it on a host.
pub const ARCHIVE: &str = "/var/lib/flannel-it/image.tar";

/// What a container of it runs when it is told nothing else: nothing, long
/// enough.
pub const SLEEP: [&str; 2] = ["/bin/sleep", "86400"];

/// The programs in it.
const APPLETS: [&str; 6] = ["sh", "sleep", "ping", "ip", "wget", "httpd"];

/// Writes it to [`ARCHIVE`] of `host`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(host: &Host) -> Result<()> {
    let busybox = program("busybox")?;
    host.run(move || make(&busybox))
        .with_context(|| format!("making {ARCHIVE}"))
}

fn make(busybox: &Path) -> Result<()> {
    let archive = Path::new(ARCHIVE);
    let work = archive.with_file_name("image");
    let (root, files) = (work.join("root"), work.join("files"));
    for folder in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::create_dir_all(&files)?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    tar(&root, &files.join("layer.tar"))?;
    let layer = digest(&files.join("layer.tar"))?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": SLEEP, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    fs::write(files.join("config.json"), config.to_string())?;
    let config = format!("{}.json", digest(&files.join("config.json"))?);
    fs::rename(files.join("config.json"), files.join(&config))?;
    let manifest = json!([
        { "Config": config, "RepoTags": [NAME], "Layers": ["layer.tar"] }
    ]);
    fs::write(files.join("manifest.json"), manifest.to_string())?;
    tar(&files, archive)?;
    Ok(fs::remove_dir_all(work)?)
}

fn tar(folder: &Path, out: &Path) -> Result<()> {
    let names: Result<Vec<_>, std::io::Error> =
        fs::read_dir(folder)?.map(|e| e.map(|e| e.file_name())).collect();
    let status = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(out)
        .arg("--directory")
        .arg(folder)
        .args(names?)
        .status()?;
    ensure!(status.success(), "tar of {}: {status}", folder.display());
    Ok(())
}

/// The SHA-256 of a file, in hexadecimal.
fn digest(file: &Path) -> Result<String> {
    let sum = Sha256::digest(fs::read(file)?);
    Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect())
}
