//! A network configuration list, and how a runtime finds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Object;

/// The newest version that this runtime speaks.
const NEWEST: [u32; 3] = [1, 1, 0];

/// A network as a runtime uses it (S-39).
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// Its name.
    pub name: String,
    /// The chosen version (S-40).
    pub version: String,
    /// No CHECK is called.
    pub disable_check: bool,
    /// No GC is called.
    pub disable_gc: bool,
    /// The plugins' entries, in order.
    pub plugins: Vec<Object>,
    /// The list as it was written; it is kept beside the results.
    pub text: String,
}

/// Whether CNI version `version` is `least` or newer; one that is no version
/// is not.
#[must_use]
pub fn at_least(version: &str, least: &str) -> bool {
    parse_version(version) >= parse_version(least)
}

fn parse_version(text: &str) -> Option<[u32; 3]> {
    let parts = text.split('.').map(|part| part.parse().ok());
    let parts: Option<Vec<u32>> = parts.collect();
    parts?.try_into().ok()
}

/// What a plugin's entry is in a file of its own: a list of one.
const SINGLE: [&str; 2] = ["conf", "json"];

// === impl List ===

impl List {
    /// Reads a list. `folder` is where it was found: unless the list forbids
    /// it, the entries in `folder`'s sub-folder of the network's name follow
    /// its own (S-41).
    ///
    /// # Errors
    /// When a runtime would refuse it.
    pub fn parse(text: &str, folder: Option<&Path>) -> Result<Self> {
        let list: Value = serde_json::from_str(text).context("no JSON")?;
        let name = list["name"].as_str().unwrap_or_default().to_owned();
        ensure!(!name.is_empty(), "the list has no name");
        let mut plugins = Vec::new();
        for entry in list["plugins"].as_array().into_iter().flatten() {
            let entry = entry.as_object().context("an entry is no object")?;
            plugins.push(entry.clone());
        }
        let inlined_only = flag(&list, "loadOnlyInlinedPlugins")?;
        if let (Some(folder), false) = (folder, inlined_only) {
            for file in files(&folder.join(&name), &["conf"])? {
                let text = std::fs::read_to_string(&file)?;
                plugins.push(serde_json::from_str(&text)?);
            }
        }
        ensure!(!plugins.is_empty(), "no plugins in the list");
        Ok(Self {
            name,
            version: version(&list)?,
            disable_check: flag(&list, "disableCheck")?,
            disable_gc: flag(&list, "disableGC")?,
            plugins,
            text: text.to_owned(),
        })
    }

    /// The network `name` among the files in `folder`: lists first, then
    /// single entries, each in the order of their names (S-42).
    ///
    /// # Errors
    /// When a file that is looked into is broken, or none has this name.
    pub fn find(folder: &Path, name: &str) -> Result<Self> {
        for file in files(folder, &["conflist"])? {
            let list =
                Self::parse(&std::fs::read_to_string(&file)?, Some(folder))
                    .with_context(|| file.display().to_string())?;
            if list.name == name {
                return Ok(list);
            }
        }
        for file in files(folder, &SINGLE)? {
            let text = std::fs::read_to_string(&file)?;
            let entry: Value = serde_json::from_str(&text)
                .with_context(|| file.display().to_string())?;
            if entry["name"].as_str() == Some(name) {
                let mut list = Object::new();
                for key in ["name", "cniVersion"] {
                    let value = entry.get(key).cloned();
                    list.extend(value.map(|value| (key.to_owned(), value)));
                }
                list.insert("plugins".to_owned(), Value::Array(vec![entry]));
                return Self::parse(&Value::Object(list).to_string(), None);
            }
        }
        bail!("no network {name:?} in {}", folder.display())
    }
}

/// The highest version of the list's that is not newer than ours (S-40);
/// without any, the oldest (S-15).
fn version(list: &Value) -> Result<String> {
    let several = list["cniVersions"].as_array().into_iter().flatten();
    let one = list.get("cniVersion");
    let mut best = None;
    for entry in several.chain(one) {
        let text = entry.as_str().context("a version is no text")?;
        if text.is_empty() {
            continue;
        }
        let parsed = parse_version(text)
            .with_context(|| format!("{text:?} is no version"))?;
        if parsed <= NEWEST {
            best = best.max(Some((parsed, text)));
        }
    }
    Ok(best.map_or("0.1.0", |(_, text)| text).to_owned())
}

/// A switch; absent is off.
fn flag(list: &Value, key: &str) -> Result<bool> {
    match list.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) => match text.to_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => bail!("{key}: {text:?} is neither true nor false"),
        },
        Some(other) => bail!("{key}: {other} is neither true nor false"),
    }
}

/// The files in `folder` with one of these endings, by name; none without the
/// folder.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if path.is_file() && ending.is_some_and(|e| endings.contains(&e)) {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<List> {
        List::parse(text, None)
    }

    #[test]
    fn the_highest_version_that_both_speak_is_used() {
        let of = |versions: &str| {
            let text = format!(
                r#"{{"name":"n",{versions}"plugins":[{{"type":"t"}}]}}"#
            );
            parse(&text).map(|list| list.version)
        };
        assert_eq!(of("").unwrap(), "0.1.0");
        assert_eq!(of(r#""cniVersion":"0.3.1","#).unwrap(), "0.3.1");
        let both =
            r#""cniVersion":"0.3.1","cniVersions":["1.1.0","0.4.0","9.0.0"],"#;
        assert_eq!(of(both).unwrap(), "1.1.0");
        assert!(of(r#""cniVersions":["x"],"#).is_err());
    }

    #[test]
    fn switches_are_booleans_or_their_names() {
        let of = |value: &str| {
            let text = format!(
                r#"{{"name":"n","disableGC":{value},"plugins":[{{}}]}}"#
            );
            parse(&text).map(|list| list.disable_gc)
        };
        assert!(of("true").unwrap());
        assert!(of(r#""True""#).unwrap());
        assert!(!of(r#""false""#).unwrap());
        assert!(of(r#""yes""#).is_err());
        assert!(of("1").is_err());
    }

    #[test]
    fn lists_come_before_single_entries_and_are_completed_by_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("10-a.conf", r#"{"name":"a","type":"single"}"#);
        write("20-a.conflist", r#"{"name":"a","plugins":[{"type":"first"}]}"#);
        write("30-b.json", r#"{"name":"b","type":"alone"}"#);
        write("a/2.conf", r#"{"type":"third"}"#);
        write("a/1.conf", r#"{"type":"second"}"#);
        write("a/3.json", r#"{"type":"not read"}"#);
        let types = |name: &str| -> Vec<String> {
            let list = List::find(dir.path(), name).unwrap();
            let text = |p: &Object| p["type"].as_str().unwrap().to_owned();
            list.plugins.iter().map(text).collect()
        };
        assert_eq!(types("a"), ["first", "second", "third"]);
        assert_eq!(types("b"), ["alone"]);
        assert!(List::find(dir.path(), "c").is_err());
        write(
            "20-a.conflist",
            r#"{"name":"a","loadOnlyInlinedPlugins":"true","plugins":[]}"#,
        );
        assert!(List::find(dir.path(), "a").is_err(), "an empty list");
    }
}
