//! A node's kernel state as iproute2 prints it: an eye that is not our own
//! netlink code.

use anyhow::Result;

use crate::host::Host;

/// All that concerns the overlay, sorted, without what changes by itself.
///
/// # Errors
/// When a command fails.
pub fn overlay(node: &Host) -> Result<String> {
    let mut out = String::new();
    for (title, words) in [
        ("links", vec!["ip", "-d", "-o", "link", "show", "type", "vxlan"]),
        ("addresses", vec!["ip", "-o", "addr", "show", "up"]),
        ("routes", vec!["ip", "route"]),
        ("routes6", vec!["ip", "-6", "route"]),
        ("nexthops", vec!["ip", "nexthop"]),
        ("neighbours", vec!["ip", "neigh", "show", "nud", "permanent"]),
        ("neighbours6", vec!["ip", "-6", "neigh", "show", "nud", "permanent"]),
        ("fdb", vec!["bridge", "fdb", "show"]),
    ] {
        let text = node.cmd(&words)?;
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| concerns(title, line))
            .map(without_lifetimes)
            .collect();
        lines.sort();
        out.push_str(&format!("== {title}\n{}\n", lines.join("\n")));
    }
    Ok(out)
}

/// Whether a line is about what the daemon does. Link-local addresses come
/// and go by themselves.
fn concerns(title: &str, line: &str) -> bool {
    match title {
        "fdb" | "addresses" => {
            line.contains("flannel") && !line.contains("fe80")
        }
        _ => !line.contains("fe80"),
    }
}

/// Drops counters of remaining time, and that duplicate address detection
/// still runs.
fn without_lifetimes(line: &str) -> String {
    let mut words = line.split_whitespace().filter(|w| *w != "tentative");
    let mut out = Vec::new();
    while let Some(word) = words.next() {
        if matches!(word, "expires" | "valid_lft" | "preferred_lft" | "used") {
            words.next();
        } else {
            out.push(word);
        }
    }
    out.join(" ")
}
