use std::os::unix::fs::PermissionsExt;

use std::fs;

use super::*;

fn saved() -> Saved {
    Saved {
        config: Some(r#"{"Network":"10.5.0.0/16"}"#.to_owned()),
        former: vec!["{}".to_owned()],
        lease: Some(SavedLease {
            key: "10.5.7.0-24&fd00:5:7::-64".parse().unwrap(),
            lease_id: i64::MAX,
            mod_revision: 42,
            expires: Some(1_800_000_000),
            expires_since_boot: Some(SinceBoot {
                boot_id: "b".to_owned(),
                seconds: 86_400,
            }),
        }),
        lost: Some("it was deleted from the store".to_owned()),
        macs: PerFamily { v4: Some(Mac([2, 0, 0, 0, 0, 1])), v6: None },
        machine: Machine::this(),
    }
}

/// What a machine has that has saved nothing.
fn nothing() -> Saved {
    Saved { machine: Machine::this(), ..Saved::default() }
}

fn state(dir: &Path) -> StateDir {
    StateDir::new(dir, Path::new("/run/flannel/subnet.env")).unwrap()
}

#[test]
fn what_is_saved_is_loaded() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("lib/flannel");
    state(&dir).save(&saved());
    assert_eq!(state(&dir).load(), saved());
    let file = dir.join("run-flannel-subnet.env.json");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("\"version\": 1"), "{text}");
    assert!(text.contains("\"02:00:00:00:00:01\""), "{text}");
}

#[test]
fn nothing_saved_is_nothing_loaded() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(state(root.path()).load(), nothing());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn unusable_files_are_ignored_and_replaced() {
    let root = tempfile::tempdir().unwrap();
    let file = state(root.path()).file().to_owned();
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"{\"version\": 2}",
        b"{\"version\": 1, \"macs\": {\"v4\": \"nonsense\"}}",
        b"{\"version\": 1, \"lease\": {\"key\": \"10.5.7.1-24\"}}",
        b"\xff\xfe",
        &vec![b' '; 2 << 20],
    ] {
        fs::write(&file, bad).unwrap();
        let mut state = state(root.path());
        assert_eq!(state.load(), nothing());
        state.save(&saved());
        assert_eq!(state.load(), saved());
    }
}

#[test]
fn fields_of_a_later_daemon_do_not_hurt() {
    let root = tempfile::tempdir().unwrap();
    let mut state = state(root.path());
    fs::write(state.file(), r#"{"version": 1, "config": "{}", "new": 1}"#)
        .unwrap();
    assert_eq!(state.load().config.as_deref(), Some("{}"));
}

#[test]
fn an_equal_state_is_not_written_again() {
    let root = tempfile::tempdir().unwrap();
    let mut state = state(root.path());
    state.save(&saved());
    fs::remove_file(state.file()).unwrap();
    state.save(&saved());
    assert!(!state.file().exists());
    state.save(&Saved::default());
    assert!(state.file().exists());
}

#[test]
fn a_directory_that_cannot_be_written_stops_nothing() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let mut state = state(&file.join("dir"));
    state.save(&saved());
    assert!(state.complained);
    state.save(&saved());
    fs::remove_file(&file).unwrap();
    state.save(&saved());
    assert!(!state.complained);
    assert_eq!(state.load(), saved());
}

#[test]
fn each_subnet_file_has_its_own_state() {
    let mut seen = std::collections::BTreeSet::new();
    for path in [
        "/run/flannel/subnet.env",
        "/run/flannel-subnet.env",
        "/run/flannel_2dsubnet.env",
        "/run/flannel/subnet/env",
        "/run/flannel/b.env",
    ] {
        assert!(seen.insert(slug(Path::new(path))), "{path}");
    }
    assert!(seen.iter().all(|s| !s.contains('/')));
}

#[test]
fn former_configurations_are_remembered_until_one_is_complete() {
    let mut saved = Saved::default();
    saved.set_config("a");
    saved.set_config("a");
    assert_eq!(saved.former, [""; 0]);
    saved.set_config("b");
    saved.set_config("c");
    assert_eq!(saved.former, ["a", "b"]);
    saved.set_config("a");
    assert_eq!(saved.config.as_deref(), Some("a"));
    assert_eq!(saved.former, ["b", "c"]);
}

#[test]
fn what_a_copied_disk_brings_along_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let here = |id: &str| {
        let machine = format!(r#"{{"id":"{id}"}}"#);
        let machine = serde_json::from_str(&machine).unwrap();
        StateDir { machine, ..state(root.path()) }
    };
    let mut original = here("a");
    let machine = original.machine.clone();
    let saved = Saved { machine, ..saved() };
    original.save(&saved);
    assert_eq!(here("a").load(), saved);

    let mut copy = here("b");
    let machine = copy.machine.clone();
    let fresh = Saved { machine, ..Saved::default() };
    assert_eq!(copy.load(), fresh);
    copy.save(&Saved { config: saved.config.clone(), ..fresh });
    assert_eq!(here("b").load().config, saved.config);

    // a version that did not say whose it is
    let text = fs::read_to_string(copy.file()).unwrap();
    let text = text.replace("machine", "nobody");
    fs::write(copy.file(), text).unwrap();
    assert_eq!(here("c").load().config, saved.config);
}
