//! Which modules a module needs, as it says itself (`modinfo -F depends`):
//! packages that are only unpacked have no `modules.dep`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The files of the modules `names` and of all that they need, in an order in
/// which they can be loaded. What is built into the kernel of the tree needs no
/// file.
///
/// # Errors
/// When there is no such module.
pub fn closure(tree: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    find(&tree.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(tree.join("modules.builtin"))?;
    let built_in: Vec<_> =
        built_in.lines().filter_map(|l| name(l.as_ref())).collect();
    let mut loaded = Vec::new();
    for one in names {
        load(one, &files, &built_in, &mut loaded)?;
    }
    Ok(loaded)
}

fn load(
    wanted: &str,
    files: &BTreeMap<String, PathBuf>,
    built_in: &[String],
    loaded: &mut Vec<PathBuf>,
) -> Result<()> {
    let wanted = wanted.replace('-', "_");
    if built_in.contains(&wanted) {
        return Ok(());
    }
    let file = files.get(&wanted);
    let file = file.with_context(|| format!("no module {wanted}"))?;
    if loaded.contains(file) {
        return Ok(());
    }
    for needed in depends(&fs::read(file)?) {
        load(&needed, files, built_in, loaded)?;
    }
    loaded.push(file.clone());
    Ok(())
}

/// What a module's file says that it needs.
fn depends(bytes: &[u8]) -> Vec<String> {
    let texts = bytes.split(|b| *b == 0);
    let mut said = texts.filter_map(|t| t.strip_prefix(b"depends="));
    let text = String::from_utf8_lossy(said.next().unwrap_or_default());
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// All modules of a folder, by their names.
fn find(folder: &Path, out: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, out)?;
        } else if let Some(name) = name(&path) {
            out.insert(name, path);
        }
    }
    Ok(())
}

/// A module's name: that of its file, where `-` and `_` are the same.
fn name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn what_a_module_says() {
        let info = b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0";
        assert_eq!(depends(info), ["stp", "llc"]);
        assert_eq!(depends(b"depends=\0x"), [""; 0]);
        assert_eq!(depends(b"softdep=depends\0"), [""; 0]);
    }
}
