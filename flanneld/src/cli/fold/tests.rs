use proptest::prelude::*;

use super::super::flags;
use super::*;

fn folded(args: &[&str]) -> Result<Folded, String> {
    fold(&flags::command(), args.iter().map(OsString::from))
}

fn words(args: &[&str]) -> Vec<String> {
    match folded(args) {
        Ok(Folded::Words(words)) => words.iter().map(Word::to_clap).collect(),
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn one_dash_or_two_value_glued_or_next() {
    assert_eq!(
        words(&["-iface=eth0", "--iface", "eth1", "-ip-masq", "-v", "4"]),
        ["--iface=eth0", "--iface=eth1", "--ip-masq=true", "--v=4"]
    );
    assert_eq!(
        words(&["-ip-masq=T", "-v=0x10", "-iptables-resync", "-5"]),
        ["--ip-masq=T", "--v=0x10", "--iptables-resync=-5"]
    );
}

#[test]
fn the_next_word_is_the_value_whatever_it_looks_like() {
    assert_eq!(words(&["-iface", "-weird"]), ["--iface=-weird"]);
    assert_eq!(words(&["-iface", "--"]), ["--iface=--"]);
    assert_eq!(words(&["-iface", ""]), ["--iface="]);
    assert_eq!(words(&["-etcd-prefix=a=b"]), ["--etcd-prefix=a=b"]);
    assert_eq!(words(&["-etcd-prefix="]), ["--etcd-prefix="]);
    assert_eq!(
        words(&["--iface-regex", "^eth[0-9]$"]),
        ["--iface-regex=^eth[0-9]$"]
    );
}

#[test]
fn words_that_stop_go_are_refused_by_name() {
    for args in [
        &["stray", "-v=1"][..],
        &["-ip-masq", "false", "-iface=x"],
        &["-v", "1", "-"],
        &["--", "stray"],
        &[""],
    ] {
        let error = folded(args).unwrap_err();
        assert!(error.starts_with("unexpected word"), "{args:?}: {error}");
    }
    let error = folded(&["-ip-masq", "false"]).unwrap_err();
    assert!(error.contains("\"false\""), "{error}");
    assert!(error.contains("-ip-masq=false"), "{error}");
    assert_eq!(words(&["-v=1", "--"]), ["--v=1"]);
}

#[test]
fn unknown_flags_are_named_with_the_nearest() {
    assert_eq!(
        folded(&["--ip-mask"]),
        Err("flag provided but not defined: -ip-mask \
             (did you mean -ip-masq?)"
            .to_owned())
    );
    assert_eq!(
        folded(&["-qqqqqqqq=1"]),
        Err("flag provided but not defined: -qqqqqqqq".to_owned())
    );
    // Go knows no bundles and no abbreviations.
    assert!(folded(&["-vv"]).is_err());
    assert!(folded(&["-etcd-end=x"]).is_err());
}

#[test]
fn bad_syntax_and_missing_values() {
    for bad in ["---v=1", "-=1", "--=1"] {
        assert_eq!(folded(&[bad]), Err(format!("bad flag syntax: {bad}")));
    }
    assert_eq!(folded(&["-v"]), Err("flag needs an argument: -v".to_owned()));
}

#[test]
fn help_counts_where_it_stands() {
    for help in ["-h", "--h", "-help", "--help", "-h=x"] {
        assert_eq!(folded(&["-v=1", help, "-nonsense"]), Ok(Folded::Help));
    }
    assert!(folded(&["-nonsense", "-h"]).is_err());
    assert_eq!(words(&["-iface", "-h"]), ["--iface=-h"]);
}

#[test]
fn words_must_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let word = OsString::from_vec(b"-iface=\xff".to_vec());
    let error = fold(&flags::command(), [word]).unwrap_err();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn passwords_are_not_shown() {
    let word = |flag: &str, value: &str| Word {
        flag: flag.to_owned(),
        value: value.to_owned(),
    };
    assert_eq!(word("etcd-password", "x").shown(), "<secret>");
    assert_eq!(word("etcd-endpoints", "http://u:p@h:1").shown(), "<secret>");
    assert_eq!(word("etcd-endpoints", "http://h:1").shown(), "http://h:1");
}

/// What Go's documentation says a flag's value is, written the other way
/// round: from the intended flags to the words.
fn spelled() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let one = (
        prop::sample::select(vec!["iface", "etcd-prefix", "v", "ip-masq"]),
        "[-=a-z0-9 ]{0,6}",
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(flag, value, two, glued)| {
            let dashes = if two { "--" } else { "-" };
            let want = format!("--{flag}={value}");
            // A boolean's value can only be glued on.
            if glued || flag == "ip-masq" {
                (vec![format!("{dashes}{flag}={value}")], want)
            } else {
                (vec![format!("{dashes}{flag}"), value], want)
            }
        });
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let (args, want): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (args.concat(), want)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_spelling_is_understood((args, want) in spelled()) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        prop_assert_eq!(words(&args), want);
    }

    #[test]
    fn never_panics(
        args in prop::collection::vec(
            prop_oneof![
                "\\PC{0,8}",
                "-{0,3}(v|h|iface|ip-masq|version)=?[-a-z0-9]{0,3}",
            ],
            0..8,
        ),
    ) {
        let command = flags::command();
        let _ = fold(&command, args.into_iter().map(OsString::from));
    }
}
