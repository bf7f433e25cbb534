//! What the log says at WARN and ERROR is explained in docs/operations.md:
//! every line of it, as the sources have it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that log.
const CRATES: [&str; 4] = ["flanneld", "ipam", "netlink", "overlay"];
/// A part of a line is told from others by at least …
const TELLING: usize = 16;
/// … or, where there is none so long, by this much of it.
const LEAST: usize = 8;
/// So much of it is looked for: pages may leave out the rest.
const LEADING: usize = 30;

/// Lines whose words come from elsewhere, by file: how these words begin. Each
/// is looked for in the sources and on the page.
const PASSED_ON: &[(&str, &[&str])] = &[
    (
        "flanneld/src/daemon/events.rs",
        &[
            "the kernel has not answered for",
            "the network config has changed in",
            "and it could not be renewed",
            "upstream's daemon with IPv6 only takes over any lease",
            "cannot be written (",
            "of what is done by the thread",
        ],
    ),
    (
        "flanneld/src/daemon.rs",
        &[
            "the kernel has not answered for",
            "has not answered for",
            "waiting for the interface: ",
            "waiting for the kernel: ",
        ],
    ),
    (
        "flanneld/src/cli/options.rs",
        &["etcd is used without logging in, because"],
    ),
    (
        "flanneld/src/files/subnet_file.rs",
        &["holds", "cannot be read, so this node may get another"],
    ),
    (
        "flanneld/src/reconcile/turn.rs",
        &[
            "is flannel's by name but was",
            "the underlay is another one",
            "was renamed",
            "is left out",
            "it names no backend",
            "its backend is",
            "it publishes no address",
            "it has published no device address yet",
            "its backend data cannot be used",
            "an address of this node",
            "its device has this node's Ethernet address",
            "it overlaps this node's subnet",
            "no pod can have an address in its subnet",
            "its subnet is outside the flannel network and holds",
            "has the same subnet and leads elsewhere",
            "has the same Ethernet address",
            "the backend's MTU option",
            "bytes inside the",
            "publish the same address",
        ],
    ),
    (
        "flanneld/src/rules.rs",
        &[
            "rules may have been left behind",
            "drops what none of its own rules accepts",
        ],
    ),
    (
        "flanneld/src/store/ledger.rs",
        &[
            "is deleted: ",
            "for this node is not used: ",
            "is not kept: ",
            "was renewed by somebody else",
        ],
    ),
    (
        "flanneld/src/store/status.rs",
        &[
            "cannot read the network config",
            "does not exist in etcd at",
            "the one in use stays in use",
            "the network config in ",
            "peers' leases",
            "subnet is free",
            "cannot get a lease",
            "cannot renew lease",
            "other nodes were faster",
        ],
    ),
    (
        "flanneld/src/main.rs",
        &[
            "already serves",
            "the lock file",
            "the health server cannot listen on",
            "is not a URL",
            "sockets in the file system are not supported",
            "belong together",
            "in PEM form in it",
            "no interface found for traffic between nodes",
            "needs CAP_NET_ADMIN",
        ],
    ),
];

/// A place that logs a warning or an error.
#[derive(Debug)]
struct Place {
    /// The file, from the workspace's root.
    file: String,
    line: usize,
    /// The message as the source has it.
    message: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The source files of a crate that are not tests, with the part of each that
/// is not.
fn sources(name: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut folders = vec![root().join(name).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let is_test = ["tests", "testing"].iter().any(|t| {
                file == *t || file.trim_end_matches(".rs").ends_with(t)
            }) || file == "documented.rs";
            if is_test {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if file.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = match text.split_once("#[cfg(test)]\nmod tests {") {
                    Some((code, _)) => code.to_owned(),
                    None => text,
                };
                let shown = path.strip_prefix(root()).unwrap();
                out.push((shown.to_str().unwrap().to_owned(), text));
            }
        }
    }
    out
}

/// The string literal at the beginning of `text`, as the compiler reads it.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.chars().peekable();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

fn places(sources: &[(String, String)]) -> Vec<Place> {
    let mut out = Vec::new();
    for (file, text) in sources {
        for start in ["warn!(", "error!("] {
            for (at, _) in text.match_indices(start) {
                let (before, after) = text.split_at(at);
                let quote = after.find('"').unwrap();
                let message = literal(after.get(quote..).unwrap()).unwrap();
                let line = before.lines().count();
                out.push(Place { file: file.clone(), line, message });
            }
        }
    }
    out
}

/// What of a message always is the same and tells it from others.
fn telling(message: &str) -> Option<String> {
    let mut parts = Vec::new();
    let mut rest = message;
    while let Some((part, more)) = rest.split_once('{') {
        parts.push(part.trim());
        rest = more.split_once('}')?.1;
    }
    parts.push(rest.trim());
    let long = parts.iter().find(|part| part.len() >= TELLING);
    let part = long
        .or_else(|| parts.iter().max_by_key(|part| part.len()))
        .filter(|part| part.len() >= LEAST)?;
    Some(part.chars().take(LEADING).collect::<String>().trim().to_owned())
}

/// Whatever `page` lacks of what `sources` can log, one line each.
fn missing(sources: &[(String, String)], page: &str) -> Vec<String> {
    let words =
        |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(page);
    // with the ends of lines inside literals taken out
    let code = sources.iter().map(|(_, text)| text.replace("\\\n", " "));
    let code = words(&code.collect::<String>());
    let passed_on: BTreeMap<_, _> = PASSED_ON.iter().copied().collect();
    let mut out = Vec::new();
    for Place { file, line, message } in places(sources) {
        match telling(&message) {
            Some(text) if page.contains(&text) => {}
            None if passed_on.contains_key(file.as_str()) => {}
            Some(text) => out.push(format!("{file}:{line}: {text:?}")),
            None => out.push(format!(
                "{file}:{line}: {message:?} says nothing by itself: add what \
                 it can say to PASSED_ON"
            )),
        }
    }
    for text in PASSED_ON.iter().flat_map(|(_, texts)| *texts) {
        let text = text.trim();
        if !code.contains(text) {
            out.push(format!("{text:?} of PASSED_ON is not in the sources"));
        } else if !page.contains(text) {
            out.push(format!("{text:?}"));
        }
    }
    out
}

fn all() -> (Vec<(String, String)>, String) {
    let sources = CRATES.iter().flat_map(|name| sources(name)).collect();
    let page = root().join("docs/operations.md");
    (sources, fs::read_to_string(page).unwrap())
}

#[test]
fn every_warning_and_error_is_on_the_page() {
    let (sources, page) = all();
    assert!(places(&sources).len() > 30, "the sources are not read");
    let missing = missing(&sources, &page);
    assert!(
        missing.is_empty(),
        "docs/operations.md does not explain:\n{}",
        missing.join("\n")
    );
}

#[test]
fn a_line_that_is_not_on_the_page_is_named() {
    let (mut sources, page) = all();
    let without = page.replace("kernel notifications broke off", "");
    let said = missing(&sources, &without);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("kernel notifications broke off"), "{said:?}");

    let text = "fn f() {\n    tracing::error!(\n        \"the {} is \\\n         \
                upside down\", 1\n    );\n    tracing::warn!(\"{x}\");\n}";
    sources.push(("flanneld/src/new.rs".to_owned(), text.to_owned()));
    let said = missing(&sources, &page);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().any(|s| s.contains("new.rs:6: \"{x}\" says nothing")));
    assert!(said.iter().any(|s| s.contains("new.rs:2: \"is upside down\"")));
}
