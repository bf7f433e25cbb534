//! What libcni keeps of an ADD until its DEL (S-43).

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, List, Object};

/// A kept result, in libcni's own format.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    kind: String,
    container_id: String,
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    #[serde(default)]
    capability_args: Object,
    result: Value,
}

// === impl Kept ===

impl Kept {
    /// What is kept of `result`.
    pub(super) fn of(list: &List, of: &Attachment, result: &Value) -> Self {
        Self {
            kind: "cniCacheV1".to_owned(),
            container_id: of.id.clone(),
            config: base64(list.text.as_bytes()),
            if_name: of.ifname.clone(),
            network_name: list.name.clone(),
            netns: of.netns.clone(),
            cni_args: of.args.clone(),
            capability_args: of.capabilities.clone(),
            result: result.clone(),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        Attachment {
            id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.if_name.clone(),
            args: self.cni_args.clone(),
            capabilities: self.capability_args.clone(),
        }
    }

    /// The result in the form of `version`, which may have changed since.
    pub(super) fn result_as(&self, version: &str) -> Result<Value> {
        let mut result = self.result.clone();
        let was = result["cniVersion"].as_str().unwrap_or(version).to_owned();
        if was == version {
            return Ok(result);
        }
        let newest_form = |v: &str| super::at_least(v, "1.0.0");
        if !super::at_least(&was, "0.3.0") {
            bail!("a kept result of CNI {was} cannot be converted here");
        }
        result["cniVersion"] = version.into();
        let ips = result["ips"].as_array_mut().into_iter().flatten();
        for ip in ips.filter_map(Value::as_object_mut) {
            let address = ip.get("address").and_then(Value::as_str);
            let v6 = address.is_some_and(|a| a.contains(':'));
            if newest_form(version) {
                ip.remove("version");
            } else {
                let family = if v6 { "6" } else { "4" };
                ip.insert("version".to_owned(), family.into());
            }
        }
        Ok(result)
    }

    pub(super) fn write(&self, cache: &Path) -> Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
        let path = file(cache, &self.network_name, &self.attachment());
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        Ok(file.write_all(&serde_json::to_vec(self)?)?)
    }

    pub(super) fn read(
        cache: &Path,
        list: &List,
        of: &Attachment,
    ) -> Result<Option<Self>> {
        let path = file(cache, &list.name, of);
        if !path.exists() {
            return Ok(None);
        }
        parse(&path).map(Some)
    }

    pub(super) fn remove(
        cache: &Path,
        list: &List,
        of: &Attachment,
    ) -> Result<()> {
        match fs::remove_file(file(cache, &list.name, of)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("removing a kept result")
            }
            _ => Ok(()),
        }
    }

    /// All that is kept for the network `name`.
    ///
    /// # Errors
    /// When a file is broken.
    pub fn all(cache: &Path, name: &str) -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(cache) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for entry in entries {
            let kept = parse(&entry?.path())?;
            if kept.network_name == name {
                out.push(kept);
            }
        }
        Ok(out)
    }
}

fn file(cache: &Path, network: &str, of: &Attachment) -> PathBuf {
    cache.join(format!("{network}-{}-{}", of.id, of.ifname))
}

fn parse(path: &Path) -> Result<Kept> {
    serde_json::from_slice(&fs::read(path)?)
        .with_context(|| format!("kept result {}", path.display()))
}

/// RFC 4648, as Go writes bytes into JSON.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |n: usize| u32::from(chunk.get(n).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit > chunk.len() {
                out.push('=');
            } else {
                let index = (word >> (18 - 6 * digit)) & 63;
                out.push(char::from(DIGITS[index as usize]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_padded() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foob", "Zm9vYg==")]
        {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
