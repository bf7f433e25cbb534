//! The binary as a whole: names, VERSION, the about text, what goes where.

use std::process::Command;

use std::os::unix::process::CommandExt;

use crate::node::{Answer, feed};

fn bare(name: &str, vars: &[(&str, &str)], stdin: &str) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
    command.arg0(name).env_clear().envs(vars.iter().copied());
    Answer::of(&feed(&mut command, stdin.as_bytes()))
}

#[test]
fn version_needs_nothing() {
    for name in ["flannel", "/opt/cni/bin/flannel", "loopback"] {
        let answer = bare(name, &[("CNI_COMMAND", "VERSION")], "");
        assert!(answer.ok);
        assert_eq!(
            answer.stdout,
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\
             \"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        );
    }
}

#[test]
fn by_hand() {
    let answer = bare("flannel", &[], "");
    assert!(answer.ok && answer.stdout.is_empty());
    assert!(answer.stderr.starts_with("CNI Plugin flannel version "));
}

#[test]
fn under_another_name() {
    for name in ["macvlan", "", "flannel2"] {
        let (code, msg) = bare(name, &[("CNI_COMMAND", "VERSION")], "").error();
        assert_eq!(code, 7);
        assert!(
            msg.contains("this binary answers to: flannel, loopback"),
            "{msg}"
        );
    }
}

#[test]
fn missing_variables() {
    let (code, msg) = bare("flannel", &[("CNI_COMMAND", "ADD")], "{}").error();
    assert_eq!(code, 4);
    assert_eq!(
        msg,
        "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,\
         CNI_PATH] missing"
    );
}

#[test]
fn errors_are_laid_out_as_go_does() {
    let answer = bare("flannel", &[("CNI_COMMAND", "STATUS")], "{}");
    assert_eq!(
        answer.stdout,
        "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 7,\n    \"msg\": \
         \"missing network name\"\n}"
    );
    assert_eq!(answer.stderr, "");
}

/// P02: one file is enough to make a folder of plugins.
#[test]
fn install_makes_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("loopback");
    std::fs::write(&foreign, "another program").unwrap();
    let install = |more: &[&str], vars: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flannel"));
        command.env_clear().envs(vars.iter().copied());
        command.arg("install").arg("--dir").arg(dir.path()).args(more);
        Answer::of(&feed(&mut command, b""))
    };
    let first = install(&[], &[]);
    assert!(first.ok, "{first:?}");
    assert!(first.stdout.contains("loopback: left alone"), "{first:?}");
    let mut made = Command::new(dir.path().join("flannel"));
    made.env_clear().env("CNI_COMMAND", "VERSION");
    assert!(Answer::of(&feed(&mut made, b"")).ok);
    assert!(!install(&["loopback"], &[]).ok, "asked for and not made");
    let forced = install(&["--force"], &[]);
    assert!(forced.stdout.contains("flannel: already"), "{forced:?}");
    assert!(forced.stdout.contains("loopback: made in place"), "{forced:?}");
    // a runtime's call is never taken for it
    let call = install(&[], &[("CNI_COMMAND", "ADD")]);
    assert_eq!(call.error().0, 4);
}

/// The list that is shipped: every version it names is one that its plugins
/// know, and the oldest is kube-flannel's.
#[test]
fn the_shipped_list() {
    let list: serde_json::Value =
        serde_json::from_str(include_str!("../../10-flannel.conflist"))
            .unwrap();
    assert_eq!(list["cniVersion"], "0.3.1");
    let named = list["cniVersions"].as_array().unwrap();
    assert_eq!(named.last().unwrap(), "1.1.0");
    for plugin in list["plugins"].as_array().unwrap() {
        let name = plugin["type"].as_str().unwrap();
        let answer = bare(name, &[("CNI_COMMAND", "VERSION")], "");
        for version in named {
            assert!(answer.stdout.contains(version.as_str().unwrap()));
        }
    }
}
