use std::fs;

use super::*;

#[test]
fn written_only_when_different() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("forward");
    fs::write(&path, "0\n").expect("write");
    assert_eq!(read_at(&path).expect("read"), "0");
    assert!(!write_at(path.clone(), "0").expect("equal"));
    assert_eq!(fs::read_to_string(&path).expect("read"), "0\n");
    assert!(write_at(path.clone(), "1").expect("written"));
    assert_eq!(read_at(&path).expect("read"), "1");
    fs::write(&path, "1024\t65000\n").expect("write");
    assert!(!write_at(path.clone(), "1024 65000").expect("equal"));
    assert!(write_at(path, "102 465000").expect("written"));
}

#[test]
fn the_messages_name_file_and_values() {
    let dir = tempfile::tempdir().expect("directory");
    let missing = write_at(dir.path().join("none"), "1").expect_err("missing");
    assert!(missing.is_missing());
    let text = missing.to_string();
    assert!(text.contains("/none: read: No such file"), "{text}");
}
