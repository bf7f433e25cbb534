//! nf_tables: upstream's rules, written by us and by `nft`.

use std::io::Write;
use std::process::{Command, Stdio};

use ipam::{Family, Subnet};
use netlink::nft::{
    Batch, Chain, ChainKind, Expr, Hook, NftSocket, PRIORITY_FILTER,
    PRIORITY_SRCNAT, Rule, Table, TableId,
};

use crate::ns::{fresh, net, sh};

mod changes;
mod forms;
mod masquerade;
mod monitor;
mod upstream;

/// Runs `nft -f -`; fails the test when it fails.
fn nft(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(script.as_bytes()).expect("write");
    drop(stdin);
    let out = child.wait_with_output().expect("nft");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{errors}{script}");
}

/// Runs `test` in a fresh namespace with an nf_tables socket there.
fn with_nft(test: impl FnOnce(&mut NftSocket) + Send + 'static) {
    fresh(|_| test(&mut NftSocket::open().expect("socket")));
}
